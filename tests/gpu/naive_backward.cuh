// Attention backward by plain loops: what a Variant says, without the machinery of the real skeletons. A thread has one key of a key head,
// or one row of queries. It looks at every tile as the real ones do, and at every pair of what they skip: a pair that is kept after all,
// one of a full tile that is not, and two ways to the same weight that differ, make the results of the thread NaN.
// kBlockN keys, or rows, a CTA; as many threads.

template <typename Element>
DEVICE float load(const Raw* at);
template <>
DEVICE float load<F16>(const Raw* at) {
  return load_f16(at);
}
template <>
DEVICE float load<BF16>(const Raw* at) {
  return load_bf16(at);
}

DEVICE bool differ(float a, float b) {
  return fabsf(a - b) > 1e-4f * (fabsf(a) + fabsf(b)) + 1e-6f;
}

DEVICE TileClass class_of(KeyRange kept, KeyRange full, int first, int last) {
  if (first >= full.begin && last < full.end) return TileClass::kFull;
  return last < kept.begin || first >= kept.end ? TileClass::kSkip : TileClass::kPartial;
}

// The pairs of one head.
template <typename Config, typename Variant>
struct Head {
  using Element = typename Config::Element;
  static constexpr bool kSoftmax = Variant::kWeight == Weight::kSoftmax;

  const Params& p;
  const typename Variant::Uniform u;
  bool is_wrong = false;

  DEVICE Head(const Params& params, int b, int h) : p(params), u(Variant::uniform(params, b, h)) {}

  template <typename Pointer>
  DEVICE Pointer query_row(Pointer tensor, const i64 (&stride)[3], int q_idx) const {
    return tensor + u.b * stride[0] + static_cast<i64>(u.first_q + q_idx) * stride[1] + u.h * stride[2];
  }
  template <typename Pointer>
  DEVICE Pointer key_row(Pointer tensor, const i64 (&stride)[3], int k_idx) const {
    return tensor + u.b * stride[0] + static_cast<i64>(u.first_k + k_idx) * stride[1] + u.kv_h * stride[2];
  }
  static DEVICE float dot(const Raw* a, const Raw* b, int dim) {
    float sum = 0.0f;
    for (int d = 0; d < dim; ++d) sum += load<Element>(a + d) * load<Element>(b + d);
    return sum;
  }
  DEVICE i64 row_value(int q_idx) const { return (static_cast<i64>(u.b) * p.heads + u.h) * p.blocks_m * Config::kBlockM + q_idx; }

  DEVICE bool keep(int q_idx, int k_idx, const typename Variant::Row& row, const typename Variant::Column& column) const {
    if constexpr (Variant::kMask == Mask::kAll)
      return true;
    else
      return Variant::keep(q_idx, k_idx, p, u, row, column);
  }

  // Calls f(q_idx, k_idx, weight, dqk) for the pair if it counts. Keys take turns in how they come to their gradients.
  template <bool kGuarded, bool kAdds, typename Function>
  DEVICE void pair(int q_idx, int k_idx, typename Variant::Gradients& gradients, typename Variant::KeyGradients& key_gradients,
                   const Function& f) {
    const auto row = Variant::template row<kGuarded>(q_idx, p, u);
    const auto column = Variant::template column<kGuarded>(k_idx, p, u);
    const float qk = dot(query_row(p.q, p.q_stride, q_idx), key_row(p.k, p.k_stride, k_idx), Config::kHeadDim);
    const float dp = dot(query_row(p.dout, p.dout_stride, q_idx), key_row(p.v, p.v_stride, k_idx), Config::kVDim);
    float lse2 = 0.0f, delta = 0.0f, weight, dqk;
    if constexpr (kSoftmax) {
      lse2 = p.lse2[row_value(q_idx)];
      delta = p.delta[row_value(q_idx)];
    }
    constexpr bool kSeparate = Variant::kFromWeight && Variant::kGradients && kAdds;
    if (kSeparate && k_idx % 2 == 1) {
      Variant::template pair<kGuarded, false>(qk, dp, lse2, delta, q_idx, k_idx, p, u, row, column, true, weight, dqk, gradients,
                                              key_gradients);
      if constexpr (kSeparate)
        Variant::template gradients<kGuarded>(weight, dp, lse2, delta, q_idx, k_idx, p, u, row, column, true, gradients, key_gradients);
    } else {
      Variant::template pair<kGuarded, kAdds>(qk, dp, lse2, delta, q_idx, k_idx, p, u, row, column, true, weight, dqk, gradients,
                                              key_gradients);
    }
    if constexpr (Variant::kFromWeight) {
      const float other = Variant::template weight<kGuarded>(qk, lse2, q_idx, k_idx, p, u, row, column, true);
      is_wrong |= differ(other, weight);
      is_wrong |= differ(Variant::template dqk<kGuarded>(other, dp, delta, q_idx, k_idx, p, u, row, column, true), dqk);
    }
    if constexpr (Variant::kWeight == Weight::kSigmoid) {
      const float other = sigmoid_log2(Variant::template exponent2<kGuarded>(qk, q_idx, k_idx, p, u, row, column, true));
      const float half = 0.5f + 0.5f * tanh_accurate(Variant::template half<kGuarded>(qk, q_idx, k_idx, p, u, row, column, true));
      is_wrong |= fabsf(other - weight) > 1e-4f || fabsf(half - weight) > 1e-4f;
    }
    f(q_idx, k_idx, weight, dqk);
  }

  template <bool kAdds, typename Function>
  DEVICE void look_at(TileClass kind, int q_idx, int k_idx, typename Variant::Gradients& gradients,
                      typename Variant::KeyGradients& key_gradients, const Function& f) {
    const bool keeps = keep(q_idx, k_idx, Variant::template row<true>(q_idx, p, u), Variant::template column<true>(k_idx, p, u));
    is_wrong |= kind == TileClass::kSkip ? keeps : kind == TileClass::kFull && !keeps;
    if (!keeps) return;
    if (kind == TileClass::kFull) {
      pair<false, kAdds>(q_idx, k_idx, gradients, key_gradients, f);
    } else {
      pair<true, kAdds>(q_idx, k_idx, gradients, key_gradients, f);
    }
  }

  DEVICE TileClass searched(int first_q, int last_q, int first_k, int last_k) const {
    if constexpr (Variant::kMask == Mask::kSearch) {
      const auto rows = Variant::row_extent(first_q, last_q, p, u);
      const auto columns = Variant::column_extent(first_k, last_k, p, u);
      return Variant::classify(rows, columns, first_q, last_q, first_k, last_k, p, u);
    } else {
      return TileClass::kPartial;
    }
  }

  static DEVICE void store(Raw* to, const float* from, float scale, int dim) {
    for (int d = 0; d < dim; ++d) to[d] = static_cast<Raw>(Element::pack(from[d] * scale, 0.0f));
  }
};

template <typename Config, typename Variant>
DEVICE void attention_backward_prepare(const Params& p) {
  using Element = typename Config::Element;
  constexpr int kThreads = 128;
  const int number = static_cast<int>(blockIdx.x), head = number / max(p.blocks_m, 1);
  Variant::clear_gradients(p, static_cast<i64>(number) * kThreads + threadIdx.x, static_cast<i64>(gridDim.x) * kThreads);
  if constexpr (Variant::kWeight == Weight::kSoftmax) {
    if (head >= p.batch * p.heads) return;
    Head<Config, Variant> of(p, head / p.heads, head % p.heads);
    const auto& u = of.u;
    for (int r = threadIdx.x; r < Config::kBlockM; r += kThreads) {
      const int q_idx = number % p.blocks_m * Config::kBlockM + r;
      float lse2 = kInfinity, delta = 0.0f;
      if (q_idx < u.q_len) {
        const float lse = p.lse[u.b * p.lse_stride[0] + u.h * p.lse_stride[1] + static_cast<i64>(u.first_q + q_idx) * p.lse_stride[2]];
        if (lse != -kInfinity) lse2 = lse * kLog2E;
        if constexpr (Variant::kUsesDelta) {
          const Raw *dout = of.query_row(p.dout, p.dout_stride, q_idx), *out = of.query_row(p.out, p.out_stride, q_idx);
          for (int d = 0; d < Config::kVDim; ++d) delta += load<Element>(dout + d) * load<Element>(out + d);
        }
      }
      p.lse2[of.row_value(q_idx)] = lse2;
      p.delta[of.row_value(q_idx)] = delta;
    }
  }
}

// dK and dV of one key of a key head.
template <typename Config, typename Variant>
DEVICE void attention_backward_keys_naive(const Params& p) {
  using Element = typename Config::Element;
  const int number = static_cast<int>(blockIdx.x), first_k = number % p.blocks_n * Config::kBlockN, kv_head = number / p.blocks_n;
  const int group = p.heads / p.kv_heads, b = kv_head / p.kv_heads, first_h = kv_head % p.kv_heads * group;
  const int k_idx = first_k + static_cast<int>(threadIdx.x);
  float dk[Config::kHeadDim] = {}, dv[Config::kVDim] = {}, scale = 1.0f;
  bool is_wrong = false, is_there = false;
  typename Variant::Gradients gradients;
  for (int h = first_h; h < first_h + group; ++h) {
    Head<Config, Variant> head(p, b, h);
    const auto& u = head.u;
    if (first_k >= u.k_len) return;
    is_there = k_idx < u.k_len;
    typename Variant::KeyGradients key_gradients;
    const int last_k = min(first_k + Config::kBlockN, u.k_len) - 1;
    for (int first_q = 0; first_q < u.q_len; first_q += Config::kBlockM) {
      const int last_q = min(first_q + Config::kBlockM, u.q_len) - 1;
      TileClass kind = head.searched(first_q, last_q, first_k, last_k);
      if constexpr (Variant::kMask != Mask::kSearch)
        kind = class_of(Variant::kept_queries(first_k, last_k, p, u), Variant::full_queries(first_k, last_k, p, u), first_q, last_q);
      for (int q_idx = first_q; q_idx <= last_q && is_there; ++q_idx) {
        head.template look_at<true>(kind, q_idx, k_idx, gradients, key_gradients, [&](int q, int, float weight, float dqk) {
          const Raw *from_q = head.query_row(p.q, p.q_stride, q), *from_dout = head.query_row(p.dout, p.dout_stride, q);
          for (int d = 0; d < Config::kHeadDim; ++d) dk[d] += dqk * load<Element>(from_q + d);
          for (int d = 0; d < Config::kVDim; ++d) dv[d] += weight * load<Element>(from_dout + d);
        });
      }
    }
    Variant::flush(gradients, p, u);
    Variant::flush(key_gradients, k_idx, is_there, p, u);
    is_wrong |= head.is_wrong;
    scale = Variant::dqk_scale(p, u);
  }
  if (!is_there) return;
  Head<Config, Variant> head(p, b, first_h);
  const float wrong = is_wrong ? __uint_as_float(0x7FC00000) : 1.0f;
  if (p.dk) head.store(head.key_row(p.dk, p.dk_stride, k_idx), dk, scale * wrong, Config::kHeadDim);
  if (p.dv) head.store(head.key_row(p.dv, p.dv_stride, k_idx), dv, wrong, Config::kVDim);
}

// dQ of one row.
template <typename Config, typename Variant>
DEVICE void attention_backward_queries_naive(const Params& p) {
  const int tiles = (p.q_len + Config::kBlockN - 1) / Config::kBlockN, number = static_cast<int>(blockIdx.x);
  const int first_q = number % tiles * Config::kBlockN, of = number / tiles;
  Head<Config, Variant> head(p, of / p.heads, of % p.heads);
  const auto& u = head.u;
  if (first_q >= u.q_len) return;
  const int last_q = min(first_q + Config::kBlockN, u.q_len) - 1, q_idx = first_q + static_cast<int>(threadIdx.x);
  float dq[Config::kHeadDim] = {};
  typename Variant::Gradients gradients;
  typename Variant::KeyGradients key_gradients;
  for (int first_k = 0; first_k < u.k_len; first_k += Config::kBlockN) {
    const int last_k = min(first_k + Config::kBlockN, u.k_len) - 1;
    TileClass kind = head.searched(first_q, last_q, first_k, last_k);
    if constexpr (Variant::kMask != Mask::kSearch)
      kind = class_of(Variant::kept_keys(first_q, last_q, p, u), Variant::full_keys(first_q, last_q, p, u), first_k, last_k);
    for (int k_idx = first_k; k_idx <= last_k && q_idx <= last_q; ++k_idx) {
      head.template look_at<false>(kind, q_idx, k_idx, gradients, key_gradients, [&](int, int k, float, float dqk) {
        const Raw* from = head.key_row(p.k, p.k_stride, k);
        for (int d = 0; d < Config::kHeadDim; ++d) dq[d] += dqk * load<typename Config::Element>(from + d);
      });
    }
  }
  if constexpr (Variant::kRowGradients) {
    if (q_idx <= last_q) {
      const i64 at = head.row_value(q_idx);
      Variant::row_gradients(q_idx, p.lse2[at], p.delta[at], p, u, Variant::template row<true>(q_idx, p, u), gradients);
    }
    Variant::flush(gradients, p, u);
  }
  const float scale = head.is_wrong ? __uint_as_float(0x7FC00000) : Variant::dqk_scale(p, u);
  if (p.dq && q_idx <= last_q) head.store(head.query_row(p.dq, p.dq_stride, q_idx), dq, scale, Config::kHeadDim);
}
