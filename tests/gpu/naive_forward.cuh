// Attention forward by plain loops: what a Variant says, without the machinery of the real skeletons. A CTA has one tile of queries of one
// head, a thread one row. It looks at every tile as the real ones do, and at every pair of what they skip: a pair that is kept after all,
// and one of a full tile that is not, make the row NaN.

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

// What a row adds up. Softmax: exp2(score2 - reference), the reference being the greatest score so far.
template <typename Config, typename Variant>
struct Row {
  using Uniform = typename Variant::Uniform;
  static constexpr bool kSoftmax = Variant::kWeight == Weight::kSoftmax;

  const Params& p;
  const Uniform& u;
  const int q_idx;
  const typename Variant::Row row;
  float reference = -kInfinity, sum = 0.0f, o[Config::kVDim] = {};
  bool is_wrong = false;

  DEVICE Row(const Params& params, const Uniform& uniform, int q)
      : p(params), u(uniform), q_idx(q), row(Variant::template row<true>(q, params, uniform)) {}

  DEVICE const Raw* at(const Raw* tensor, const i64 (&stride)[3], int first, int index, int head) const {
    return tensor + u.b * stride[0] + static_cast<i64>(first + index) * stride[1] + head * stride[2];
  }
  DEVICE float qk(int k_idx) const {
    const Raw* q = at(p.q, p.q_stride, u.first_q, q_idx, u.h);
    const Raw* k = at(p.k, p.k_stride, u.first_k, k_idx, u.kv_h);
    float dot = 0.0f;
    for (int d = 0; d < Config::kHeadDim; ++d) dot += load<typename Config::Element>(q + d) * load<typename Config::Element>(k + d);
    return dot;
  }
  DEVICE bool keep(int k_idx) const {
    if constexpr (Variant::kMask == Mask::kAll)
      return true;
    else
      return Variant::keep(q_idx, k_idx, p, u, row, Variant::template column<true>(k_idx, p, u));
  }

  DEVICE void add(float weight, int k_idx) {
    const Raw* v = at(p.v, p.v_stride, u.first_k, k_idx, u.kv_h);
    for (int d = 0; d < Config::kVDim; ++d) o[d] += weight * load<typename Config::Element>(v + d);
  }
  DEVICE void rescale(float greatest) {
    const float factor = reference == -kInfinity ? 0.0f : exp2f(reference - greatest);
    for (int d = 0; d < Config::kVDim; ++d) o[d] *= factor;
    sum *= factor;
    reference = greatest;
  }

  // One pair that is kept.
  template <bool kGuarded>
  DEVICE void pair(int k_idx) {
    const auto column = Variant::template column<kGuarded>(k_idx, p, u);
    const float dot = qk(k_idx);
    if constexpr (kSoftmax) {
      const float score2 = Variant::template score2<kGuarded>(dot, q_idx, k_idx, p, u, row, column, true);
      if (score2 == -kInfinity) return;
      if (!(score2 <= reference)) rescale(score2);
      const float e = exp2f(score2 - reference);
      sum += e;
      float factor = 1.0f;
      if constexpr (Variant::kFactor) factor = Variant::template factor<kGuarded>(dot, q_idx, k_idx, p, u, row, column, true);
      add(e * factor, k_idx);
    } else {
      const float weight = Variant::template weight<kGuarded>(dot, q_idx, k_idx, p, u, row, column, true);
      if constexpr (Variant::kWeight == Weight::kSigmoid) {
        const float other = sigmoid_log2(Variant::template exponent2<kGuarded>(dot, q_idx, k_idx, p, u, row, column, true));
        const float half = 0.5f + 0.5f * tanh_accurate(Variant::template half<kGuarded>(dot, q_idx, k_idx, p, u, row, column, true));
        is_wrong |= fabsf(other - weight) > 1e-4f || fabsf(half - weight) > 1e-4f;
      }
      add(weight, k_idx);
    }
  }

  DEVICE void tile(TileClass kind, int first_k, int last_k) {
    for (int k_idx = first_k; k_idx <= last_k; ++k_idx) {
      const bool keeps = keep(k_idx);
      is_wrong |= kind == TileClass::kSkip ? keeps : kind == TileClass::kFull && !keeps;
      if (!keeps) continue;
      if (kind == TileClass::kFull) {
        pair<false>(k_idx);
      } else {
        pair<true>(k_idx);
      }
    }
  }

  DEVICE void finish() {
    float inverse = 1.0f;
    if constexpr (kSoftmax) {
      if constexpr (Variant::kSink) {
        if (!(row.sink2 <= reference) && row.sink2 != -kInfinity) rescale(row.sink2);
        if (row.sink2 != -kInfinity) sum += exp2f(row.sink2 - reference);
      }
      inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
      if (p.lse) {
        const i64 at = u.b * p.lse_stride[0] + u.h * p.lse_stride[1] + static_cast<i64>(u.first_q + q_idx) * p.lse_stride[2];
        p.lse[at] = sum == 0.0f ? -kInfinity : (reference + log2f(sum)) * kLn2;
      }
    }
    if (is_wrong) inverse = __uint_as_float(0x7FC00000);
    Raw* out = p.out + u.b * p.out_stride[0] + static_cast<i64>(u.first_q + q_idx) * p.out_stride[1] + u.h * p.out_stride[2];
    for (int d = 0; d < Config::kVDim; ++d) out[d] = static_cast<Raw>(Config::Element::pack(o[d] * inverse, 0.0f));
  }
};

template <typename Config, typename Variant>
DEVICE TileClass class_of(KeyRange kept, KeyRange full, int first_k, int last_k) {
  if (first_k >= full.begin && last_k < full.end) return TileClass::kFull;
  return last_k < kept.begin || first_k >= kept.end ? TileClass::kSkip : TileClass::kPartial;
}

template <typename Config, typename Variant>
DEVICE void attention_forward_naive(const Params& p) {
  constexpr int kRows = 16 * Config::kWarps;
  const int number = static_cast<int>(blockIdx.x), head = number / p.tiles_m, first_q = number % p.tiles_m * kRows;
  if (number >= p.tiles) return;
  const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
  if (first_q >= u.q_len) return;
  const int last_q = min(first_q + kRows, u.q_len) - 1, q_idx = first_q + static_cast<int>(threadIdx.x);
  Row<Config, Variant> row(p, u, min(q_idx, last_q));
  for (int first_k = 0; first_k < u.k_len; first_k += Config::kBlockN) {
    const int last_k = min(first_k + Config::kBlockN, u.k_len) - 1;
    TileClass kind;
    if constexpr (Variant::kMask == Mask::kSearch) {
      const auto rows = Variant::row_extent(first_q, last_q, p, u);
      const auto columns = Variant::column_extent(first_k, last_k, p, u);
      kind = Variant::classify(rows, columns, first_q, last_q, first_k, last_k, p, u);
    } else {
      kind =
          class_of<Config, Variant>(Variant::kept_keys(first_q, last_q, p, u), Variant::full_keys(first_q, last_q, p, u), first_k, last_k);
    }
    row.tile(kind, first_k, last_k);
  }
  if (q_idx <= last_q) row.finish();
}
