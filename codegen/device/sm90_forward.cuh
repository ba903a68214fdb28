// Attention forward on Hopper: a producer warp copies tiles into shared memory, a writer warp copies results out of it, consumer
// warpgroups hold 64 query rows each.
//
//   S = Q K^T       wgmma, both operands from shared memory
//   P = weights(S)  the variant's score, mask and weights, in registers
//   O += P V        wgmma, P from registers
//
// A CTA works through a stream of key blocks that runs on from one tile of queries to the next: the first S of a tile is computed under the
// last P V of the one before it, so the tensor cores do not drain in between (where shared memory holds two tiles of Q).
//
// A tile may turn out to need more care than it got; it is put on a list and computed again in Tile::kExact, in the same launch.
//
// Softmax with kStale takes its reference maximum from the first and from the masked blocks of a row; later blocks subtract it without
// looking for a greater one. A row whose sum grows too far shifts the reference by a power of two; one that overflows needs its tile
// computed again with exact maxima.

// What functions of pairs get: a Column, or one with what feeders have brought of the pair.
template <typename Variant, typename = decltype(sizeof(int))>
struct PairOf {
  using Type = typename Variant::Column;
};
template <typename Variant>
struct PairOf<Variant, decltype(sizeof(typename Variant::Pair))> {
  using Type = typename Variant::Pair;
};

// What a consumer knows of its feeder.
template <int kStages>
struct Fed {
  Ring<kStages> ring = {0};
  int seen = 0;  // whether what this step needs is known to be there
  u32 base = 0;  // of the stage at hand
};
template <>
struct Fed<0> {};

// What a thread keeps of its two rows: places 0 and 1 are rows r and r + 8 of its warp's 16.
struct Statistics {
  float reference[2];  // subtracted from the scores, in powers of two; -inf: none yet
  float sum[2];        // of this thread's columns; sigmoid: of u^2
};

template <typename Config, typename Variant>
struct Consumer {
  using L = Layout<Config>;
  using Column = typename Variant::Column;
  using Pair = typename PairOf<Variant>::Type;
  static constexpr bool kSoftmax = Variant::kWeight == Weight::kSoftmax, kSigmoid = Variant::kWeight == Weight::kSigmoid;
  static constexpr int kS = Config::kBlockN / 2, kO = Config::kColumnsO / 2, kP = Config::kBlockN / 4;  // registers of S, O, P
  // A sum beyond this shifts the reference: 16-bit P must hold its terms.
  static constexpr float kGreatestSum = Config::Element::kGreatest > 0x1p40f ? 0x1p40f : 0x1p15f;

  const Params& p;
  const Places at;
  const int wg, warp, lane;
  Ring<Config::kStages> k = {0}, v = {0};
  Ring<Config::kBuffersQ> q = {0};
  Ring<L::kPlacesT> t = {0};
  Fed<L::kFeedStages> fed;

  // The tile whose scores are being computed: its kind, the first of this thread's rows.
  int kind, first_row;
  int block, first_block;
  int word;       // kSearch: the block's, see Producer::search_blocks
  KeyRange full;  // blocks of which all rows of the warpgroup keep all keys
  typename Variant::Uniform uniform;
  typename Variant::Row rows[2];
  Statistics stats;
  bool needs_exact;            // softmax: a row has no reference yet, or scores are not fit for kNear
  int late_skips = 0;          // blocks of V that nobody will look at
  int seen_k = 0, seen_v = 0;  // whether the next K and V are known to be there

  DEVICE Consumer(const Params& params, Places places, int wg_, int warp_, int lane_)
      : p(params), at(places), wg(wg_), warp(warp_), lane(lane_) {}

  DEVICE void release(u32 barrier) {
    if (lane == 0) mbarrier_arrive(barrier);
  }
  DEVICE int first_row_of(int m) const { return m * L::kRowsQ + wg * 64 + warp * 16 + lane / 4; }

  // The next tile of the stream, and where it begins for this warpgroup. Its place in the ring is kept until the tile is finished.
  DEVICE void fetch_tile() {
    mbarrier_wait(at(L::kFullT, t.place()), t.parity());
    const u32 from = at(L::kTiles) + 4 * L::kWordsT * t.place();
    const int4 tile = load_shared_x4(from);
    kind = tile.w;
    t.next();
    if (!has_work()) return;
    first_row = first_row_of(tile.x);
    uniform = Variant::uniform(p, tile.z, tile.y);
    if (L::kFeeders == 0 && tile.x * L::kRowsQ + wg * 64 >= uniform.q_len) kind = Tile::kEmpty;
#pragma unroll
    for (int i = 0; i < 2; ++i) rows[i] = Variant::template row<true>(min(first_row + 8 * i, uniform.q_len - 1), p, uniform);
    if constexpr (Variant::kMask != Mask::kSearch) {
      first_block = load_shared(from + 16);
      const int last_block = load_shared(from + 20);
      full = {load_shared(from + 28 + 12 * wg), load_shared(from + 32 + 12 * wg)};
      block = last_block;
      if constexpr (Variant::kMask == Mask::kRange) {
        if (kind == Tile::kEmpty) return;
        block = load_shared(from + 24 + 12 * wg);
        skip_k(last_block - block);
      }
    }
  }
  DEVICE bool has_work() const { return kind <= Tile::kExact; }
  DEVICE void release_tile(int back) {
    __syncwarp();
    release(at(L::kEmptyT, (t.count - back) % L::kPlacesT));
  }

  // The CTA's other warpgroups look at these blocks first: gives them back unread, their V behind that of the tile before.
  DEVICE void skip_k(int count) {
    late_skips = count;
    if (count > 0) seen_k = 0;
#pragma unroll 1
    for (; count > 0; --count) {
      mbarrier_wait(at(L::kFullK, k.place()), k.parity());
      release(at(L::kEmptyK, k.place()));
      k.next();
    }
  }
  DEVICE void skip_late() {
    if (Variant::kMask != Mask::kRange) return;
    if (late_skips > 0) seen_v = 0;
    for (; late_skips > 0; --late_skips) {
      mbarrier_wait(at(L::kFullV, v.place()), v.parity());
      release(at(L::kEmptyV, v.place()));
      v.next();
    }
  }
  // Gives a whole tile back, between two tiles that are computed.
  DEVICE void skip_tile() {
    for (bool is_last = false; !is_last; --block) {
      wait_k(1);
      seen_k = 0;
      is_last = ends_tile();
      release(at(L::kEmptyK, k.place()));
      k.next();
      mbarrier_wait(at(L::kFullV, v.place()), v.parity());
      release(at(L::kEmptyV, v.place()));
      v.next();
    }
    seen_v = 0;
    release(at(L::kFullO, q.place()));
    q.next();
    release_tile(1);
  }
  DEVICE void wait_k(int works) {
    mbarrier_wait_if(works & ~seen_k, at(L::kFullK, k.place()), k.parity());
    if (Variant::kMask == Mask::kSearch && works) {
      word = load_shared(at(L::kBlocks) + 4 * k.place());
      __syncwarp();  // lane 0 gives the stage back for all
      block = word >> 2;
    }
  }
  // Asks for the K and V of the next step while this one's S is on its way.
  DEVICE void look_ahead(int works, int had) {
    const Ring<Config::kStages> next_k = {k.count + works}, next_v = {v.count + had};
    seen_k = mbarrier_test(at(L::kFullK, next_k.place()), next_k.parity());
    seen_v = mbarrier_test(at(L::kFullV, next_v.place()), next_v.parity());
    if constexpr (L::kFeeders > 0) fed.seen = mbarrier_test(at(L::kFullF, fed_place()), fed.ring.parity());
  }
  DEVICE int fed_place() const { return wg * L::kFeedStages + fed.ring.place(); }
  DEVICE void wait_fed(int works) {
    if constexpr (L::kFeeders > 0) {
      mbarrier_wait_if(works & ~fed.seen, at(L::kFullF, fed_place()), fed.ring.parity());
      fed.base = anew(at(L::kF) + fed_place() * L::kBytesF);
    }
  }
  DEVICE void release_fed(int works) {
    if constexpr (L::kFeeders > 0) {
      __syncwarp();
      mbarrier_arrive_if(works & (lane == 0), at(L::kEmptyF, fed_place()));
      fed.ring.count += works;
    }
  }
  DEVICE bool ends_tile() const { return Variant::kMask == Mask::kSearch ? word & 2 : block == first_block; }

  DEVICE u32 own_q(int buffer) const { return at(L::kQ) + (buffer * Config::kWarpgroups + wg) * L::kBytesQ; }

  DEVICE void issue_qk(float (&s)[kS]) { products_qk(s, k_major(own_q(q.place())), k_major(at(L::kK) + k.place() * L::kBytesK)); }
  DEVICE void issue_pv(float (&o)[kO], const u32 (&w)[kP], int accumulates) {
    products_pv(o, w, mn_major(at(L::kV) + v.place() * L::kBytesV, Config::kBlockN * 128), accumulates);
  }

  // Calls f(element, place of its row, row, key, column, whether the mask keeps the pair) for all elements of the block; kGuarded: where
  // keys may lie behind the last one.
  template <bool kGuarded, typename Function>
  DEVICE void for_each(const Function& f) {
    const int first_k = block * Config::kBlockN + lane % 4 * 2, r = first_row;
    if constexpr (L::kFeeders > 0) {
      constexpr int kTablesAt = Variant::kPairBytes + 4 * Config::kBlockN * Variant::kColumnWords;
      const FedPlace from = FedPlace::of(anew(fed.base), Variant::kPairBytes, kTablesAt, warp, lane);
#pragma unroll
      for (int group = 0; group < kS / 4; ++group) for_each_fed<kGuarded>(f, from, group, first_k + 8 * group);
    } else {
#pragma unroll
      for (int j = 0; j < kS / 2; ++j) {
        const int k_idx = first_k + j / 2 * 8 + j % 2;
        const auto column = Variant::template column<kGuarded>(k_idx, p, uniform);
#pragma unroll
        for (int place = 0; place < 2; ++place) {
          const int q_idx = min(r + 8 * place, uniform.q_len - 1);
          bool keeps = true;
          if constexpr (kGuarded) {
            keeps = k_idx < uniform.k_len;
            if constexpr (Variant::kMask != Mask::kAll) keeps = keeps && Variant::keep(q_idx, k_idx, p, uniform, rows[place], column);
          }
          f(j / 2 * 4 + 2 * place + j % 2, place, q_idx, k_idx, column, keeps);
        }
      }
    }
  }
  // The same of two neighbouring columns, of which first_k is the first, with what feeders have brought.
  template <bool kGuarded, typename Function>
  DEVICE void for_each_fed(const Function& f, const FedPlace& from, int group, int first_k) {
    Column columns[2];
    if constexpr (Variant::kColumnWords > 0) {
      Variant::read_columns(from.columns + 32 * group, first_k, p, uniform, columns);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) columns[i] = Variant::template column<kGuarded>(first_k + i, p, uniform);
    }
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      Pair pairs[2];
      if constexpr (Variant::kPairBytes + Variant::kTableWords > 0) Variant::read_pairs(from, group, place, pairs);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int q_idx = min(first_row + 8 * place, uniform.q_len - 1), k_idx = first_k + i;
        static_cast<Column&>(pairs[i]) = columns[i];
        bool keeps = true;
        if constexpr (kGuarded) {
          keeps = k_idx < uniform.k_len;
          if constexpr (Variant::kMask != Mask::kAll) keeps = keeps && Variant::keep(q_idx, k_idx, p, uniform, rows[place], columns[i]);
        }
        f(4 * group + 2 * place + i, place, q_idx, k_idx, pairs[i], keeps);
      }
    }
  }

  // Pointwise weights of one block, in place of its scores.
  template <bool kGuarded>
  DEVICE void pointwise(float (&s)[kS]) {
    for_each<kGuarded>([&](int i, int place, int q_idx, int k_idx, const Pair& column, bool keeps) {
      const float weight = Variant::template weight<kGuarded>(s[i], q_idx, k_idx, p, uniform, rows[place], column, keeps);
      s[i] = keeps ? weight : 0.0f;
    });
  }

  // sigmoid(x), by what is right for the tile:
  //   kTanh   (1 + tanh(x / 2)) / 2 by the unit's tanh, whose error of 4e-7 must be small against the weights
  //   kSmall  u - u^2 with u = exp(x), of relative error u^2, while all u are small: the sum of u^2 bounds the greatest; no maximum,
  //           since the pipe that compares is short of time
  //   kExact  1 / (1 + exp(-x))
  enum class Form { kTanh, kSmall, kExact };
  static constexpr float kGreatestSquares = 1.0f / 150;
  template <bool kGuarded, Form kForm>
  DEVICE void sigmoid_weights(float (&s)[kS]) {
    for_each<kGuarded>([&](int i, int place, int q_idx, int k_idx, const Pair& column, bool keeps) {
      if constexpr (kForm == Form::kTanh) {
        const float half = Variant::template half<kGuarded>(s[i], q_idx, k_idx, p, uniform, rows[place], column, keeps);
        s[i] = fmaf(tanh_approx(keeps ? half : -kInfinity), 0.5f, 0.5f);
      } else {
        const float x = Variant::template exponent2<kGuarded>(s[i], q_idx, k_idx, p, uniform, rows[place], column, keeps);
        if constexpr (kForm == Form::kSmall) {
          const float u = exp2_approx(keeps ? x : -kInfinity);
          stats.sum[place] = fmaf(u, u, stats.sum[place]);
          s[i] = fmaf(-u, u, u);
        } else {
          s[i] = sigmoid_log2(keeps ? x : -kInfinity);
        }
      }
    });
  }
  // The weights lie about the sigmoid of the score's constant part. Masked blocks that are not fit for kTanh, and tiles to be done again,
  // are few: they share the exact form, so that there are fewer copies to compile.
  static constexpr float kLeastCenter = -8.5f;
  // Whole blocks: code of its own for each form, without a branch. All other weights have one.
  static constexpr bool kHasTanh = kSigmoid && Config::kFast;
  static constexpr Form kPlain = kHasTanh ? Form::kSmall : Form::kExact;  // where tanh is wrong
  DEVICE bool takes_tanh() const { return Variant::center(p, uniform) >= kLeastCenter; }
  DEVICE void masked_sigmoid(float (&s)[kS]) {
    if constexpr (kHasTanh && Variant::kMask != Mask::kAll) {
      if (takes_tanh() && kind == Tile::kWork) return sigmoid_weights<true, Form::kTanh>(s);
    }
    sigmoid_weights<true, Form::kExact>(s);
  }

  DEVICE static float over_row(float x, bool is_max) {
    const float y = __shfl_xor_sync(~0u, x, 1);
    x = is_max ? fmaxf(x, y) : x + y;
    const float z = __shfl_xor_sync(~0u, x, 2);
    return is_max ? fmaxf(x, z) : x + z;
  }

  // A weight that has become `e`, times what the program multiplies it with; `qk` is read only if the factor depends on the score.
  template <bool kGuarded>
  DEVICE float times_factor(float e, float qk, int place, int q_idx, int k_idx, const Pair& column, bool keeps) {
    if constexpr (Variant::kFactor) {
      const float factor = Variant::template factor<kGuarded>(qk, q_idx, k_idx, p, uniform, rows[place], column, keeps);
      return keeps ? e * factor : 0.0f;
    } else {
      return e;
    }
  }

  // The line of both rows at this thread's first key of the block, above their references.
  DEVICE void start_lines(float (&lines)[2]) const {
    if constexpr (Variant::kLine) {
      const int k_idx = block * Config::kBlockN + lane % 4 * 2;
      const auto column = Variant::template column<false>(k_idx, p, uniform);
#pragma unroll
      for (int place = 0; place < 2; ++place) {
        const int q_idx = min(first_row + 8 * place, uniform.q_len - 1);
        lines[place] = Variant::template line<false>(q_idx, k_idx, p, uniform, rows[place], column, true) - stats.reference[place];
      }
    }
  }
  // The score of element i above the reference of its row.
  DEVICE float above_reference(float qk, float& spread, const float (&lines)[2], int i, int q_idx, int k_idx, int place,
                               const Pair& column) {
    if constexpr (!Variant::kLine) {
      return score2<false, false>(qk, spread, q_idx, k_idx, place, column, true) - stats.reference[place];
    } else {
      const float line = fmaf(Variant::slope(p, uniform), static_cast<float>(i / 4 * 8 + i % 2), lines[place]);
      if constexpr (Variant::kNear) {
        return Variant::template above_line<false>(qk, false, spread, q_idx, k_idx, p, uniform, rows[place], column, true) + line;
      } else {
        return Variant::template above_line<false>(qk, q_idx, k_idx, p, uniform, rows[place], column, true) + line;
      }
    }
  }

  // The score of a pair, in powers of two. kNear: `spread` grows, beyond kGreatestSpread if a score of the block is not fit for it.
  template <bool kGuarded, bool kExact>
  DEVICE float score2(float qk, float& spread, int q_idx, int k_idx, int place, const Pair& column, bool keeps) {
    if constexpr (Variant::kNear) {
      return Variant::template score2_near<kGuarded>(qk, kExact, spread, q_idx, k_idx, p, uniform, rows[place], column, keeps);
    } else {
      return Variant::template score2<kGuarded>(qk, q_idx, k_idx, p, uniform, rows[place], column, keeps);
    }
  }

  DEVICE void start_rows() {
    stats = {{-kInfinity, -kInfinity}, {0.0f, 0.0f}};
    needs_exact = true;
  }
  // exp2(score2 - reference) and the sums, the reference being the greatest score so far. `scale` is what O has to be multiplied with;
  // where a tile begins it stays, O being that of the tile before.
  template <bool kGuarded>
  DEVICE void softmax_exact(float (&s)[kS], float (&scale)[2], bool begins) {
    float greatest[2] = {-kInfinity, -kInfinity}, spread = 0.0f;
    float qk[Variant::kFactorOfScore ? kS : 1];
    if (Variant::kFactorOfScore) {
#pragma unroll
      for (int i = 0; i < kS; ++i) qk[i] = s[i];
    }
    for_each<kGuarded>([&](int i, int place, int q_idx, int k_idx, const Pair& column, bool keeps) {
      const float x = score2<kGuarded, true>(s[i], spread, q_idx, k_idx, place, column, keeps);
      s[i] = keeps ? x : -kInfinity;
      greatest[place] = fmaxf(greatest[place], s[i]);
    });
    float subtracted[2];
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      const float m = fmaxf(over_row(greatest[place], true), stats.reference[place]);
      subtracted[place] = m == -kInfinity ? 0.0f : m;
      const float shrinks = exp2_approx(stats.reference[place] - subtracted[place]);
      if (!begins) scale[place] = shrinks;
      stats.sum[place] *= shrinks;
      stats.reference[place] = m;
    }
    // The next block most likely is as this one was.
    const bool is_far = Variant::kNear && !(spread < kGreatestSpread / 2);
    needs_exact = __any_sync(~0u, fminf(stats.reference[0], stats.reference[1]) == -kInfinity || is_far);
#pragma unroll
    for (int i = 0; i < kS; ++i) {
      s[i] = exp2_approx(s[i] - subtracted[i / 2 % 2]);
      stats.sum[i / 2 % 2] += s[i];
    }
    if constexpr (Variant::kFactor) {
      for_each<kGuarded>([&](int i, int place, int q_idx, int k_idx, const Pair& column, bool keeps) {
        s[i] = times_factor<kGuarded>(s[i], qk[Variant::kFactorOfScore ? i : 0], place, q_idx, k_idx, column, keeps);
      });
    }
  }

  // Without a maximum; true if O has to be scaled.
  DEVICE bool softmax_stale(float (&s)[kS], float (&scale)[2]) {
    float spread = 0.0f, lines[2];
    start_lines(lines);
    for_each<false>([&](int i, int place, int q_idx, int k_idx, const Pair& column, bool) {
      const float qk = s[i], e = exp2_approx(above_reference(qk, spread, lines, i, q_idx, k_idx, place, column));
      stats.sum[place] += e;
      s[i] = times_factor<false>(e, qk, place, q_idx, k_idx, column, true);
    });
    if (Variant::kNear && !(spread < kGreatestSpread)) stats.sum[0] = kInfinity;  // is_lost
    if (!__any_sync(~0u, fmaxf(stats.sum[0], stats.sum[1]) > kGreatestSum)) return false;
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      const float greatest = over_row(stats.sum[place], true);
      const float shift = fminf(floorf(log2_approx(fmaxf(greatest, 1.0f))), 126.0f);  // 2^-127 would flush to 0
      scale[place] = exp2_approx(-shift);
      stats.sum[place] *= scale[place];
      stats.reference[place] += shift;
    }
#pragma unroll
    for (int i = 0; i < kS; ++i) s[i] *= scale[i / 2 % 2];
    return true;
  }

  // The weights of a whole block, but for convert(); kForm: of a sigmoid. True if O has to be scaled by `scale`.
  template <Form kForm>
  DEVICE bool plain_weights(float (&s)[kS], float (&scale)[2]) {
    if constexpr (kSigmoid) {
      sigmoid_weights<false, kForm>(s);
    } else if constexpr (!kSoftmax) {
      pointwise<false>(s);
    } else if constexpr (Config::kStale) {
      return softmax_stale(s, scale);
    } else {
      softmax_exact<false>(s, scale, false);
    }
    return kSoftmax;
  }
  // Those of any block; nothing if `works` is 0. Whole blocks come here where a tile begins: without a mask that is a part of short
  // sequences, else the block most likely is masked, and a second copy would only take time to compile.
  DEVICE bool weights(float (&s)[kS], float (&scale)[2], bool begins, int works) {
    if (!works) return kSoftmax;
    if constexpr (kSoftmax) {
      softmax_exact<true>(s, scale, begins);
    } else if (Variant::kMask == Mask::kAll && kind == Tile::kWork && block < full.end) {
      if constexpr (kHasTanh) {
        if (takes_tanh()) return plain_weights<Form::kTanh>(s, scale);
      }
      return plain_weights<kPlain>(s, scale);
    } else if constexpr (kSigmoid) {
      masked_sigmoid(s);
    } else {
      pointwise<true>(s);
    }
    return kSoftmax;
  }

  static DEVICE void convert(const float (&s)[kS], u32 (&w)[kP]) {
#pragma unroll
    for (int i = 0; i < kP; ++i) w[i] = Config::Element::pack(s[2 * i], s[2 * i + 1]);
  }

  // The rows of a tile whose last scores are done, `back` places back in the ring: lse, and what O is multiplied with.
  DEVICE void close_rows(int back, const float (&sink2)[2], float (&inverse)[2]) {
    const int4 tile = load_shared_x4(at(L::kTiles) + 4 * L::kWordsT * ((t.count - back) % L::kPlacesT));
    bool is_lost = false;
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      float sum = over_row(stats.sum[place], false), m = stats.reference[place];
      is_lost |= !(sum < 1e30f);
      float to_sum = 1.0f;
      if constexpr (Variant::kSink) {
        const float greatest = fmaxf(m, sink2[place]);
        to_sum = m == -kInfinity ? 0.0f : exp2_approx(m - greatest);
        sum = sum * to_sum + (sink2[place] == -kInfinity ? 0.0f : exp2_approx(sink2[place] - greatest));
        m = greatest;
      }
      inverse[place] = sum == 0.0f ? 0.0f : to_sum * reciprocal_approx(sum);
      if (p.lse && lane % 4 == 0) {
        int row = first_row_of(tile.x) + 8 * place, q_len = p.q_len;
        i64 first_q = 0;
        if constexpr (Config::kPacked) {
          const auto u = Variant::uniform(p, tile.z, tile.y);
          q_len = u.q_len;
          first_q = u.first_q;
        }
        const float lse = sum == 0.0f ? -kInfinity : (m + log2_approx(sum)) * kLn2;
        if (row < q_len) p.lse[tile.z * p.lse_stride[0] + tile.y * p.lse_stride[1] + (first_q + row) * p.lse_stride[2]] = lse;
      }
    }
    if constexpr (Config::kStale) redo_if(is_lost, tile);
  }
  // Puts the tile on the list if a lane of the warp says so.
  DEVICE void redo_if(bool is_lost, const int4& tile) {
    if (__any_sync(~0u, is_lost) && tile.w == Tile::kWork && lane == 0)
      store_shared_x4(at(L::kRedo) + 16 * (add_shared(at(L::kRedoCount), 1) % L::kMaxRedo), {tile.x, tile.y, tile.z, 0});
  }
  DEVICE void close_tile(int back, const float (&sink2)[2], float (&inverse)[2]) {
    if constexpr (kSoftmax) close_rows(back, sink2, inverse);
    if constexpr (kSigmoid && Config::kRedoes) close_sigmoid(back);
  }
  DEVICE void close_sigmoid(int back) {
    redo_if(!(fmaxf(stats.sum[0], stats.sum[1]) < kGreatestSquares) || stats.sum[0] != stats.sum[0] || stats.sum[1] != stats.sum[1],
            load_shared_x4(at(L::kTiles) + 4 * L::kWordsT * ((t.count - back) % L::kPlacesT)));
  }

  // Stages O over the tile's Q and hands it to the writer.
  DEVICE void finish_tile(const float (&o)[kO], int buffer, int back) {
    using Element = typename Config::Element;
    const u32 to = own_q(buffer);
    const int stage_row = warp * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < Config::kColumnsO / 16; ++i) {
      const int chunk = (2 * i + lane / 16) % 8;
      store_matrix_x4(to + i / 4 * (64 * 128) + stage_row * 128 + ((chunk ^ (stage_row & 7)) << 4), Element::pack(o[8 * i], o[8 * i + 1]),
                      Element::pack(o[8 * i + 2], o[8 * i + 3]), Element::pack(o[8 * i + 4], o[8 * i + 5]),
                      Element::pack(o[8 * i + 6], o[8 * i + 7]));
    }
    fence_async_proxy();
    __syncwarp();
    release(at(L::kFullO, buffer));
    release_tile(back);
  }

  // The next block is whole and of the tile at hand, which needs no care.
  DEVICE bool is_next_plain() {
    if (Variant::kMask == Mask::kSearch) return word & 1;
    return block > max(first_block, full.begin) && block <= full.end;
  }
  // The steps of such blocks, most of all: without branches, so that the compiler orders them as one.
  template <Form kForm>
  DEVICE void run_plain_as(float (&s)[kS], float (&o)[kO], u32 (&w)[kP], float (&scale)[2], int& accumulates) {
#pragma unroll 1
    while (is_next_plain()) {
      if (Variant::kMask != Mask::kSearch) --block;
      wait_k(1);
      issue_qk(s);
      mbarrier_wait_if(!seen_v, at(L::kFullV, v.place()), v.parity());
      issue_pv(o, w, accumulates);
      look_ahead(1, 1);
      wait_products<1>(s);
      mbarrier_arrive_if(lane == 0, at(L::kEmptyK, k.place()));
      k.next();
      wait_fed(1);
      const bool scales = plain_weights<kForm>(s, scale);
      stay_above(s, p.tiles);
      release_fed(1);
      wait_products<0>(o);
      mbarrier_arrive_if(lane == 0, at(L::kEmptyV, v.place()));
      v.next();
      if (kSoftmax && scales) {
#pragma unroll
        for (int i = 0; i < kO; ++i) o[i] *= scale[i / 2 % 2];
      }
      accumulates = 1;
      convert(s, w);
    }
  }

  DEVICE void run_plain(float (&s)[kS], float (&o)[kO], u32 (&w)[kP], float (&scale)[2], int& accumulates) {
    if constexpr (kHasTanh) {
      if (takes_tanh()) return run_plain_as<Form::kTanh>(s, o, w, scale, accumulates);
    }
    run_plain_as<kPlain>(s, o, w, scale, accumulates);
  }

  // A step: S of the next block and P V of this one on the tensor cores, the next block's weights under P V. Where a stream starts the P V
  // is of nothing, and where it stops the S: such results are thrown away, so that there is one copy of the code.
  DEVICE void run() {
    float s[kS], o[kO];
    u32 w[kP];
    float scale[2];
#pragma unroll
    for (int i = 0; i < kP; ++i) w[i] = 0;
#pragma unroll
    for (int i = 0; i < kO; ++i) o[i] = 0.0f;
    int accumulates = 0;  // 0: the block that waits for its P V is the first of its tile
    fetch_tile();
    for (int had = 0;;) {  // 0: the stream starts, no block waits for its P V
      if (kind == Tile::kDrain) {
        release(at(L::kDrained));
        release_tile(1);
        fetch_tile();
        continue;
      }
      if (kind == Tile::kEnd) break;
      if (kind == Tile::kEmpty) {
        skip_tile();
        fetch_tile();
        continue;
      }
      if (had && kind == Tile::kWork && !(Config::kStale && needs_exact)) run_plain(s, o, w, scale, accumulates);
      const bool ends = !had || ends_tile();  // the next block is of another tile
      const float sinks[2] = {sink_of(rows[0]), sink_of(rows[1])};
      int works = 1;  // 0: the stream stops, there is no next block
      if (ends) {
        if (had) {
          fetch_tile();
          works = Config::kBuffersQ > 1 && has_work();
          q.count += works;
        }
        mbarrier_wait_if(works, at(L::kFullQ, q.place()), q.parity());
      } else if (Variant::kMask != Mask::kSearch) {
        --block;
      }
      wait_k(works);
      issue_qk(s);
      mbarrier_wait_if(had & ~seen_v, at(L::kFullV, v.place()), v.parity());
      issue_pv(o, w, accumulates);
      if (ends) {
        if (had) close_tile(2, sinks, scale);
        start_rows();
      }
      look_ahead(works, had);
      wait_products<1>(s);
      mbarrier_arrive_if(works & (lane == 0), at(L::kEmptyK, k.place()));
      k.count += works;
      wait_fed(works);
      const bool scales = weights(s, scale, ends, works);
      stay_above(s, p.tiles);
      release_fed(works);
      wait_products<0>(o);
      mbarrier_arrive_if(had & (lane == 0), at(L::kEmptyV, v.place()));
      v.count += had;
      if (Config::kBuffersQ > 1) skip_late();
      if (kSoftmax && (ends || scales)) {
#pragma unroll
        for (int i = 0; i < kO; ++i) o[i] *= scale[i / 2 % 2];
      }
      if (ends) {
        if (had) finish_tile(o, works ? (q.count + Config::kBuffersQ - 1) % Config::kBuffersQ : q.place(), 2);
        q.count += 1 - works;
      }
      accumulates = !ends;
      if (Config::kBuffersQ == 1) skip_late();  // V of the next tile comes behind its Q, which waits for this O
      convert(s, w);
      had = works;
    }
    release_tile(1);
  }
  static DEVICE float sink_of(const typename Variant::Row& row) {
    if constexpr (Variant::kSink) {
      return row.sink2;
    } else {
      return 0.0f;
    }
  }
};

// kSearch: what is known of the columns of each block of keys and of the rows of each tile, by a warp each, before the tiles are
// classified.
template <typename Config, typename Variant>
DEVICE void extents_sm90(const Params& p) {
  constexpr int kRows = Layout<Config>::kRowsQ;
  const int blocks = (p.k_len + Config::kBlockN - 1) / Config::kBlockN, of_head = blocks + p.tiles_m;
  const int number = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp, head = number / of_head;
  if (head >= p.batch * p.heads) return;
  const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
  const int block = number % of_head, tile = block - blocks;
  if (tile < 0 && block * Config::kBlockN < u.k_len) {
    const auto extent = Variant::column_extent(block * Config::kBlockN, min((block + 1) * Config::kBlockN, u.k_len) - 1, p, u);
    if (threadIdx.x % kWarp == 0) Variant::stored_extents(p, u.b, u.h)[block] = extent;
  } else if (tile >= 0 && tile * kRows < u.q_len) {
    const auto extent = Variant::row_extent(tile * kRows, min((tile + 1) * kRows, u.q_len) - 1, p, u);
    if (threadIdx.x % kWarp == 0) Variant::stored_row_extents(p, u.b, u.h)[tile] = extent;
  }
}

template <typename Config, typename Variant>
DEVICE void attention_forward_sm90(const Params& p) {
  using L = Layout<Config>;
  extern __shared__ unsigned char shared[];
  const Places at = {(shared_address(shared) + 1023) & ~1023u};
  const int wg = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Config::kBuffersQ; ++i) {
      mbarrier_init(at(L::kFullQ, i), 1);
      mbarrier_init(at(L::kEmptyQ, i), 1);
      mbarrier_init(at(L::kFullO, i), L::kConsumerWarps);
    }
    for (int i = 0; i < Config::kStages; ++i) {
      mbarrier_init(at(L::kFullK, i), 1);
      mbarrier_init(at(L::kFullV, i), 1);
      mbarrier_init(at(L::kSaid, i), 1);
      mbarrier_init(at(L::kEmptyK, i), L::kConsumerWarps + (Variant::kMask == Mask::kSearch ? L::kFeeders : 0));
      mbarrier_init(at(L::kEmptyV, i), L::kConsumerWarps);
    }
    for (int i = 0; i < L::kPlacesT; ++i) {
      mbarrier_init(at(L::kFullT, i), 1);
      mbarrier_init(at(L::kEmptyT, i), L::kConsumerWarps + 1 + L::kFeeders);
    }
    for (int i = 0; i < L::kFeeders * L::kFeedStages; ++i) {
      mbarrier_init(at(L::kFullF, i), 1);
      mbarrier_init(at(L::kEmptyF, i), kWarpgroup / kWarp);
    }
    mbarrier_init(at(L::kDrained), L::kConsumerWarps);
    store_shared(at(L::kRedoCount), 0);
    mbarrier_fence_init();
  }
  for (int i = threadIdx.x; Config::kRedoes && i < L::kMaxRedo; i += kWarpgroup * (Config::kWarpgroups + 1))
    store_shared(at(L::kRedo) + 16 * i, -1);
  __syncthreads();
  if (wg == 0) {
    set_registers_down<L::kProducerRegisters>();
    const int warp = __shfl_sync(~0u, threadIdx.x / kWarp, 0);
    if (warp == 0) Producer<Config, Variant>(p, at).run();
    if (warp == 1) Writer<Config, Variant>::run(p, at);
    if constexpr (L::kFeeders > 0) {
      static_assert(L::kFeeders == 2, "the warps that are left");
      if (warp >= 2) Feeder<Config, Variant>(p, at, warp - 2).run();
    }
  } else {
    set_registers_up<L::kConsumerRegisters>();
    Consumer<Config, Variant>(p, at, wg - 1, threadIdx.x / kWarp % 4, threadIdx.x % kWarp).run();
  }
}
