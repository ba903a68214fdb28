// Attention backward on Hopper. A CTA holds one block of keys of one key head, and streams the blocks of queries of all query heads of that
// group: a producer warp copies them into shared memory, consumer warpgroups hold 64 keys each.
//
//   S^T = K Q^T,  dP^T = V dO^T   wgmma, both operands from shared memory
//   P = weights(S),  dS           the variant's score, mask, weights and their derivatives, in registers
//   dV += P^T dO,  dK += dS^T Q   wgmma, P and dS from registers
//   dQ += dS K                    wgmma, dS by way of shared memory, since it needs the keys of all warpgroups; added to f32 sums in memory
//
// A product has 64 rows at least: of fewer queries it is dQ^T += K^T dS^T.
//
// A step begins with nothing in flight, S and dP of its block in registers. dQ comes one step late: when its product starts, no warpgroup
// waits for the dS of another. Where dK and dV of 64 keys are too wide for the registers of one warpgroup (kSplit == 2), two of them hold
// the same keys: both compute S and dP, each has half of the columns of dK and dV.
//
// kPersistent: a CTA takes one block of keys after the other, a tile, and has two places for K and V: the next ones are on their way, with
// the first Q and dO, while those before are worked on. The last dQ of a tile is computed with the first S of the next one, and dK and dV
// are staged, in the place of their own K and V, under its dP. All of that is done of a tile -1, too, of which nothing comes: a branch
// around products that are under way would serialise them.
//
// kSums: Q has more columns behind those of the head, 1 and the query's place in its block, so that dK's are sums over the pairs of a key.

template <typename Config, typename Variant>
struct Consumer {
  using L = Layout<Config>;
  static constexpr bool kSoftmax = Variant::kWeight == Weight::kSoftmax, kSigmoid = Variant::kWeight == Weight::kSigmoid;
  static constexpr int kS = L::kM / 2, kW = L::kM / 4;  // registers of S and dP; of P and dS as operands
  static constexpr int kDK = (L::kColumnsK + L::kSumColumns) / 2, kDV = L::kColumnsV / 2, kDQ = L::kUnitSize / kWarpgroup;
  // lse2 and delta of a block are read before the wait for its S and dP, where there are registers for them.
  static constexpr bool kReadsAhead = kSoftmax && Variant::kFromWeight && !Variant::kGradients && !Config::kSums && L::kM <= 64;
  // What keeps the next weights above the wait for dP. With 64 queries there are no registers for both, and reading ahead does the same.
  static constexpr bool kStaysAbove = Variant::kFromWeight && (!kReadsAhead || L::kM < 64);

  struct RowValues {
    float2 pairs[kReadsAhead ? L::kM / 8 : 1];
  };

  const Params& p;
  Places at;
  int wg, warp, lane;
  Ring<Config::kStages> j = {0};  // the step whose scores are in registers

  typename Variant::Uniform uniform;
  typename Variant::Column columns[2];  // of this thread's keys: rows r and r + 8 of its warp's 16
  int first_key;
  bool is_fast;  // kSigmoid: by the unit's tanh
  int flags;     // of the step
  float passed = 0.0f;  // see pass_sums
  typename Variant::Gradients gradients = {};
  typename Variant::KeyGradients key_gradients[2] = {};

  DEVICE Consumer(const Params& params, Places places) : p(params), at(places) { find_self(); }
  DEVICE void find_self() {
    const u32 thread = read_thread_index();
    wg = __shfl_sync(~0u, thread / kWarpgroup, 0) - 1;
    warp = thread / kWarp % 4;
    lane = thread % kWarp;
  }
  DEVICE int group() const { return wg / L::kSplit; }  // of 64 keys
  DEVICE int part() const { return wg % L::kSplit; }   // of the columns
  // The first of this part's chunks, and the first that no other part has, too.
  DEVICE int first_chunk(int chunks) const { return part() * (chunks / 2); }
  DEVICE int first_own_chunk(int chunks) const { return part() * ((chunks + 1) / 2); }

  DEVICE void release(u32 barrier) {
    __syncwarp();  // lane 0 speaks for what all have read
    if (lane < kArrivalsOfWarp) mbarrier_arrive(barrier);
  }
  // What is derived from these is computed again in each step rather than kept in registers.
  DEVICE void forget_addresses() {
    at.base = anew(at.base);
    wg = anew(wg);
    lane = anew(lane);
    warp = anew(warp);
  }
  // Read when it is needed: registers are dear.
  DEVICE int of_step(u32 count, int field) const { return load_shared(at(L::kSteps) + count % L::kPlacesT * 16 + field); }

  // The weights lie about the sigmoid of the score's constant part; the error of the unit's tanh, 4e-7, must be small against them.
  static constexpr float kLeastCenter = -8.5f;
  DEVICE void set_head(int b, int h) {
    uniform = Variant::uniform(p, b, h);
#pragma unroll
    for (int place = 0; place < 2; ++place)
      columns[place] = Variant::template column<true>(min(first_key + 8 * place, uniform.k_len - 1), p, uniform);
    if constexpr (kSigmoid) is_fast = Config::kFast && Variant::center(p, uniform) >= kLeastCenter;
  }
  DEVICE void flush_head() {
    if constexpr (Variant::kGradients) {
      Variant::flush(gradients, p, uniform);
#pragma unroll
      for (int place = 0; place < 2; ++place) {
        const int k_idx = first_key + 8 * place;
        Variant::flush(key_gradients[place], min(k_idx, uniform.k_len - 1), k_idx < uniform.k_len, p, uniform);
      }
    }
  }

  // Of the columns behind dK's a thread has four numbers: of both of its keys the sum of dS and that of dS times the query's place in its
  // block. Places are those of the last block: `passed` is what all blocks before it would have too little of, each moved on by the next.
  DEVICE void pass_sums(const float (&dk)[kDK]) {
    if constexpr (Config::kSums && Variant::kDistanceSums) {
      const int blocks = of_step(j.count, Step::kBlock) - of_step(j.count - 1, Step::kBlock);
      const float* const sums = dk + L::kColumnsK / 2;  // 0 where there is no step before
      passed = fmaf(static_cast<float>(blocks * L::kM), sums[0] + sums[2], passed);
    }
  }
  // Of the steps of a head, `step` is the last.
  DEVICE void flush_sums(float (&dk)[kDK], u32 step) {
    if constexpr (Config::kSums && Variant::kSums) {
      float* const sums = dk + L::kColumnsK / 2;
      const auto u = Variant::uniform(p, uniform.b, of_step(step, Step::kFlags) >> Step::kHeadShift);
      const int distance = of_step(step, Step::kBlock) * L::kM - first_key;
      float of_distances = -passed;
#pragma unroll
      for (int place = 0; place < 2; ++place)
        of_distances += fmaf(static_cast<float>(distance - 8 * place), sums[2 * place], sums[2 * place + 1]);
      const bool has_sums = lane % 4 == 0;  // other columns have no meaning
      Variant::flush_sums(has_sums ? sums[0] + sums[2] : 0.0f, has_sums ? of_distances : 0.0f, p, u);
      passed = 0.0f;
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] = 0.0f;
    }
  }

  // Where K and V of the tile at hand lie, from those of the first place on.
  DEVICE u32 place_of_tile() const { return Config::kPersistent ? (flags >> Step::kPlaceShift & 1) * L::kBytesTile : 0; }

  // S^T or dP^T, 64 keys x kM queries: both operands with rows along the columns of the head.
  DEVICE u64 own_keys(int tiles) const { return k_major(at(tiles) + place_of_tile() + group() * (64 * 128)); }
  DEVICE void issue_s(float (&s)[kS]) {
    mbarrier_wait(at(L::kFullQ, j.place()), j.parity());
    products_s(s, own_keys(L::kK), k_major(at(L::kQ) + j.place() * L::kBytesQ));
  }
  DEVICE void issue_dp(float (&dp)[kS]) {
    mbarrier_wait(at(L::kFullO, j.place()), j.parity());
    products_dp(dp, own_keys(L::kV), k_major(at(L::kO) + j.place() * L::kBytesO));
  }
  DEVICE void issue_dv(float (&dv)[kDV], const u32 (&w)[kW]) {
    products_dv(dv, w, mn_major(at(L::kO) + j.place() * L::kBytesO + first_chunk(L::kChunksV) * (L::kM * 128), L::kM * 128));
  }
  DEVICE void issue_dk(float (&dk)[kDK], const u32 (&w)[kW]) {
    const int tile = L::kQ + j.place() * L::kBytesQ;
    products_dk(dk, w, mn_major(at(tile) + first_chunk(L::kChunksQ) * (L::kM * 128), L::kSharesSums ? L::kSharedSums - tile : L::kM * 128));
  }

  // dQ of the step `late`, the unit `i` of this warpgroup's. Where some have one more than others, they change places with each step; or the
  // others compute one that is thrown away.
  static constexpr bool kIsUneven = L::kUnits % Config::kWarpgroups != 0;
  static constexpr bool kTakesTurns = kIsUneven && L::kTransposesDq && L::kUnitsOfOne > 1;
  DEVICE int unit(Ring<L::kPlacesS> ds, int i) const {
    return i * Config::kWarpgroups + (kTakesTurns ? (wg + ds.count) % Config::kWarpgroups : wg);
  }
  DEVICE void issue_dq(float (&dq)[kDQ], Ring<L::kPlacesS> ds, int i) {
    const int u = kIsUneven ? min(unit(ds, i), L::kUnits - 1) : unit(ds, i);
    const int row = L::kTransposesDq ? 0 : u / L::kChunksQ, chunk = L::kTransposesDq ? u : u % L::kChunksQ;
    const u64 queries = k_major(at(L::kS) + ds.place() * L::kBytesS + row * (64 * 128));
    const u64 columns = mn_major(at(L::kK) + place_of_tile() + chunk * (L::kN * 128), L::kN * 128);
    if constexpr (!L::kTransposesDq) {
      products_dq(dq, queries, columns);
    } else if (kTakesTurns && i == L::kUnitsOfOne - 1) {
      products_dq_if(unit(ds, i) < L::kUnits, dq, columns, queries);
    } else {
      products_dq(dq, columns, queries);
    }
  }
  // In the order in which the threads have them: the pieces of a warp lie side by side.
  DEVICE void add_dq(const float (&dq)[kDQ], Ring<L::kPlacesS> ds, int number, int i) {
    if (kIsUneven && unit(ds, i) >= L::kUnits) return;
    float* to = p.dq_sum + (static_cast<i64>(number) * L::kUnits + unit(ds, i)) * L::kUnitSize + (warp * kWarp + lane) * 4;
#pragma unroll
    for (int k = 0; k < kDQ / 4; ++k) add_global_x4(to + k * 512, dq[4 * k], dq[4 * k + 1], dq[4 * k + 2], dq[4 * k + 3]);
  }

  DEVICE u32 lse_address() const { return at(L::kLse) + j.place() * (L::kM * 4) + lane % 4 * 8; }
  DEVICE u32 delta_address() const { return at(L::kDelta) + j.place() * (L::kM * 4) + lane % 4 * 8; }
  static DEVICE void read_ahead(RowValues& values, u32 from) {
    if constexpr (kReadsAhead) {
#pragma unroll
      for (int i = 0; i < L::kM / 8; ++i) values.pairs[i] = load_shared_f32_x2(from + 32 * i);
    }
  }
  template <bool kIsThere>
  static DEVICE float2 row_values(const RowValues& values, u32 from, int i) {
    if constexpr (!kIsThere) {
      return {0.0f, 0.0f};
    } else if constexpr (kReadsAhead) {
      return values.pairs[i];
    } else {
      return load_shared_f32_x2(from + 32 * i);
    }
  }

  // Calls f(element, column, place of its key, lse2, delta, query, key, row, keeps) for all elements of the block; kGuarded: queries and keys
  // are clamped to those there are. kFed: the column is a Pair, with what the copy engine has brought.
  template <bool kGuarded, bool kLse, bool kDelta, bool kFed = false, typename Function>
  DEVICE void for_each(const RowValues& values, const Function& f) {
    const int first_q = of_step(j.count, Step::kBlock) * L::kM + lane % 4 * 2;
    PairsOf<Variant, kFed> pairs(at(L::kP), group(), warp, lane, columns);
#pragma unroll
    for (int i = 0; i < L::kM / 8; ++i) {
      const float2 lse2 = row_values<kLse>(values, lse_address(), i), delta = row_values<kDelta>(values, delta_address(), i);
      pairs.read(i);
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const int q_idx = first_q + 8 * i + second, safe_q = kGuarded ? min(q_idx, uniform.q_len - 1) : q_idx;
        const auto row = Variant::template row<kGuarded>(safe_q, p, uniform);
#pragma unroll
        for (int place = 0; place < 2; ++place) {
          const int k_idx = first_key + 8 * place, safe_k = kGuarded ? min(k_idx, uniform.k_len - 1) : k_idx;
          bool keeps = true;
          if constexpr (kGuarded) {
            keeps = q_idx < uniform.q_len && k_idx < uniform.k_len;
            if constexpr (Variant::kMask != Mask::kAll) keeps = keeps && Variant::keep(safe_q, safe_k, p, uniform, row, columns[place]);
          }
          f(4 * i + 2 * place + second, pairs.column(second, place), place, second ? lse2.y : lse2.x, second ? delta.y : delta.x, safe_q, safe_k, row, keeps);
        }
      }
    }
  }

  // P in place of S, for programs whose derivative needs nothing else of the score.
  enum class Form { kWeight, kTanh, kExact };  // kTanh: (1 + tanh(x / 2)) / 2
  template <bool kGuarded, Form kForm>
  DEVICE void weights_by(float (&s)[kS], const RowValues& lse) {
    constexpr bool kFed = Config::kFeedBytes > 0;
    if constexpr (kFed) mbarrier_wait(at(L::kFullP), Ring<1>{j.count}.parity());
    for_each<kGuarded, kSoftmax, false, kFed>(
        lse, [&](int i, const typename PairsOf<Variant, kFed>::Column& column, int, float lse2, float, int q_idx, int k_idx, const typename Variant::Row& row, bool keeps) {
          float weight;
          if constexpr (kForm == Form::kTanh) {
            const float half = Variant::template half<kGuarded>(s[i], q_idx, k_idx, p, uniform, row, column, keeps);
            weight = fmaf(tanh_approx(half), 0.5f, 0.5f);
          } else if constexpr (kForm == Form::kExact) {
            weight = sigmoid_log2(Variant::template exponent2<kGuarded>(s[i], q_idx, k_idx, p, uniform, row, column, keeps));
          } else {
            weight = Variant::template weight<kGuarded>(s[i], lse2, q_idx, k_idx, p, uniform, row, column, keeps);
          }
          s[i] = keeps ? weight : 0.0f;
        });
    if constexpr (kFed) {
      hold(s);
      release(at(L::kEmptyP));
    }
  }
  template <bool kGuarded>
  DEVICE void weights_of(float (&s)[kS], const RowValues& lse) {
    if constexpr (!Variant::kFromWeight) {
      return;
    } else if constexpr (!kSigmoid) {
      weights_by<kGuarded, Form::kWeight>(s, lse);
    } else if (Config::kFast && is_fast) {
      weights_by<kGuarded, Form::kTanh>(s, lse);
    } else {
      weights_by<kGuarded, Form::kExact>(s, lse);
    }
  }
  // Most whole blocks are in plain steps. The branch stays: without it ptxas begins too much at once, and spills.
  DEVICE bool is_guarded() const { return flags & Step::kGuarded; }
  DEVICE void weights(float (&s)[kS], const RowValues& lse) {
    if (is_guarded()) {
      weights_of<true>(s, lse);
    } else {
      weights_of<false>(s, lse);
    }
  }

  // dS, but for dqk_scale, in place of dP; P in place of S where it is not there yet.
  template <bool kGuarded>
  DEVICE void derivatives(float (&s)[kS], float (&dp)[kS], const RowValues& deltas) {
    if (L::kSplit > 1 && Variant::kGradients && part() > 0) {
      derivatives_of<kGuarded, false>(s, dp, deltas);  // the pairs of another warpgroup, which adds to gradients
    } else {
      derivatives_of<kGuarded, true>(s, dp, deltas);
    }
  }
  template <bool kGuarded, bool kAdds>
  DEVICE void derivatives_of(float (&s)[kS], float (&dp)[kS], const RowValues& deltas) {
    constexpr bool kLse = kSoftmax && (!Variant::kFromWeight || Variant::kGradients);
    constexpr bool kHasZeros = (kSoftmax || kSigmoid) && !Variant::kGradients;  // dS is the weight times something: 0 where that is
    for_each<kGuarded, kLse, Variant::kUsesDelta>(
        deltas, [&](int i, const typename Variant::Column& column, int place, float lse2, float delta, int q_idx, int k_idx, const typename Variant::Row& row,
                    bool keeps) {
          if constexpr (Variant::kFromWeight) {
            const float d = Variant::template dqk<kGuarded>(s[i], dp[i], delta, q_idx, k_idx, p, uniform, row, column, keeps);
            if constexpr (Variant::kGradients && kAdds)
              Variant::template gradients<kGuarded>(s[i], dp[i], lse2, delta, q_idx, k_idx, p, uniform, row, column, keeps, gradients,
                                                    key_gradients[place]);
            dp[i] = kHasZeros || keeps ? d : 0.0f;
          } else {
            float weight, d;
            Variant::template pair<kGuarded, kAdds>(s[i], dp[i], lse2, delta, q_idx, k_idx, p, uniform, row, column, keeps, weight, d,
                                                    gradients, key_gradients[place]);
            s[i] = weight;
            dp[i] = d;
          }
        });
  }

  // dS to gradients that have an element for each pair.
  template <bool kGuarded>
  DEVICE void add_pairs(const float (&ds)[kS]) {
    if constexpr (Variant::kEachPair) {
      if (!Variant::wants_pairs(p) || (L::kSplit > 1 && part() > 0)) return;
      for_each<kGuarded, false, false>(
          {}, [&](int i, const typename Variant::Column& column, int, float, float, int q_idx, int k_idx, const typename Variant::Row& row, bool keeps) {
            if (keeps) Variant::add_pair(ds[i], q_idx, k_idx, p, uniform, row, column);
          });
    }
  }

  static DEVICE void convert(const float (&s)[kS], u32 (&w)[kW]) {
#pragma unroll
    for (int i = 0; i < kW; ++i) w[i] = Config::Element::pack(s[2 * i], s[2 * i + 1]);
  }
  // Of the place of dS of a step: the first one released is that of step -1, which there is not.
  static DEVICE u32 parity_of_release(u32 step) { return Ring<L::kPlacesS>{step + 1}.parity(); }
  // Hands dS to all warpgroups, with queries as rows. Those that hold the same keys write half of the queries each.
  DEVICE void store_ds(const u32 (&w)[kW]) {
    const Ring<L::kPlacesS> ds = {j.count};
    mbarrier_wait(at(L::kEmptyS, ds.place()), parity_of_release(j.count - L::kPlacesS));
    const u32 to = at(L::kS) + ds.place() * L::kBytesS + group() * (L::kM * 128) + (lane / 16 * 8 + lane % 8) * 128 +
                   (((warp * 2 + lane / 8 % 2) ^ (lane % 8)) << 4);
    constexpr int kTiles = L::kM / 16;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      if (L::kSplit == 1 || i / (kTiles / L::kSplit) == part())
        store_matrix_transposed_x4(to + i * 2048, w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
    }
  }
  DEVICE void publish_ds() {
    fence_async_proxy();
    __syncwarp();
    release(at(L::kFullS, Ring<L::kPlacesS>{j.count}.place()));
  }
  DEVICE void wait_ds(Ring<L::kPlacesS> ds) { mbarrier_wait(at(L::kFullS, ds.place()), ds.parity()); }

  // Deterministic: before the first unit of a dQ is added, and behind the last one.
  DEVICE void begin_adding(Ring<L::kPlacesS> ds, int i) {
    if (Config::kDeterministic && i == 0) mbarrier_wait(at(L::kTurn, ds.place()), ds.parity());
  }
  DEVICE void end_adding(Ring<L::kPlacesS> ds, int i) {
    if (Config::kDeterministic && i == L::kUnitsOfOne - 1) release(at(L::kAdded, ds.place()));
  }

  // One whole dQ, with nothing else to do meanwhile. Arrives at `read` when its operands have been read.
  DEVICE void finish_dq(float (&dq)[kDQ], Ring<L::kPlacesS> ds, u32 read) {
    wait_ds(ds);
#pragma unroll
    for (int i = 0; i < L::kUnitsOfOne; ++i) {
      issue_dq(dq, ds, i);
      wait_products<0>(dq);
      if (i == L::kUnitsOfOne - 1) release(read);
      begin_adding(ds, i);
      add_dq(dq, ds, of_step(ds.count, Step::kNumber), i);
      end_adding(ds, i);
    }
  }

  // That of the first step is of nothing, and is thrown away; but nobody writes what it reads before it is done.
  DEVICE void add_late_dq(const float (&dq)[kDQ], Ring<L::kPlacesS> late, int number, int i) {
    if (i == L::kUnitsOfOne - 1) release(at(L::kEmptyS, late.place()));
    if (Config::kPersistent ? (flags & Step::kFirst) != 0 : static_cast<int>(late.count) < 0) return;
    begin_adding(late, i);
    add_dq(dq, late, number, i);
    end_adding(late, i);
  }

  // P and dS as operands, dS for all warpgroups too.
  template <bool kPlain>
  DEVICE void make_operands(float (&s)[kS], float (&dp)[kS], const RowValues& deltas, u32 (&w)[kW], u32 (&dw)[kW]) {
    derivatives<!kPlain>(s, dp, deltas);  // one copy for all steps that are not plain: two of them cost registers
    add_pairs<!kPlain>(dp);
    convert(dp, dw);
    store_ds(dw);
    convert(s, w);
    publish_ds();
  }
  // dV and dK of this step, dQ of the one before up to its last unit, which is not waited for.
  DEVICE void begin_products(float (&dk)[kDK], float (&dv)[kDV], float (&dq)[kDQ], Ring<L::kPlacesS> late, const u32 (&w)[kW],
                             const u32 (&dw)[kW]) {
    pass_sums(dk);
    issue_dv(dv, w);
    wait_ds(late);
    issue_dq(dq, late, 0);
    issue_dk(dk, dw);
    wait_products<2>(dv);
    release(at(L::kEmptyO, j.place()));
#pragma unroll
    for (int i = 1; i < L::kUnitsOfOne; ++i) {
      wait_products<1>(dq);
      add_late_dq(dq, late, of_step(late.count, Step::kNumber), i - 1);
      issue_dq(dq, late, i);
    }
  }
  // These, S and dP of the next step, its weights under dP.
  template <bool kPlain>
  DEVICE void go_on(float (&dk)[kDK], float (&dv)[kDV], float (&s)[kS], float (&dp)[kS], RowValues& lse, RowValues& deltas,
                    const u32 (&w)[kW], const u32 (&dw)[kW]) {
    const Ring<L::kPlacesS> late = {j.count - 1};
    float dq[kDQ];
    begin_products(dk, dv, dq, late, w, dw);
    j.next();
    issue_s(s);
    const int number = of_step(late.count, Step::kNumber);
    if constexpr (L::kUnitsOfOne == 1) {
      wait_products<2>(dq);
    } else {
      wait_products<1>(dq, dk);
    }
    add_late_dq(dq, late, number, L::kUnitsOfOne - 1);
    wait_products<1>(dk);
    release(at(L::kEmptyQ, Ring<Config::kStages>{j.count - 1}.place()));
    issue_dp(dp);
    flags = of_step(j.count, Step::kFlags);
    read_ahead(lse, lse_address());
    wait_products<1>(s);
    if constexpr (kPlain) {
      weights_of<false>(s, lse);
      if constexpr (kStaysAbove) stay_above(s, p.tiles);
    } else {
      weights(s, lse);
    }
    read_ahead(deltas, delta_address());
    wait_products<0>(s, dp);
  }
  // Steps between whole blocks of one head, most of all: without branches, so that the compiler orders them as one.
  DEVICE void run_plain(float (&dk)[kDK], float (&dv)[kDV], float (&s)[kS], float (&dp)[kS], RowValues& lse, RowValues& deltas) {
#pragma unroll 1
    while (flags & Step::kPlain) {
      forget_addresses();
      u32 w[kW], dw[kW];
      make_operands<true>(s, dp, deltas, w, dw);
      go_on<true>(dk, dv, s, dp, lse, deltas, w, dw);
    }
  }

  template <int kCount>
  static DEVICE void clear(float (&acc)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) acc[i] = 0.0f;
  }
  // The weights of a tile's first step, S and dP of which are under way.
  DEVICE void first_weights(float (&s)[kS], float (&dp)[kS], RowValues& lse, RowValues& deltas) {
    read_ahead(lse, lse_address());
    wait_products<1>(s);
    weights(s, lse);
    read_ahead(deltas, delta_address());
    wait_products<0>(s, dp);
  }
  // What is left to do of dV, dK and dQ in a tile's last step; kPersistent: but for its own dQ. All at once where registers suffice: ptxas
  // says that they do not where those of dK and dV are 128 (C7512), and 32 less in flight.
  static constexpr bool kEndsAsOne = Config::kPersistent && kDK + kDV < 128;
  DEVICE void end_steps(float (&dk)[kDK], float (&dv)[kDV], const u32 (&w)[kW], const u32 (&dw)[kW]) {
    float dq[kDQ];
    const Ring<L::kPlacesS> late = {j.count - 1};
    if constexpr (kEndsAsOne) {
      begin_products(dk, dv, dq, late, w, dw);
      wait_products<L::kUnitsOfOne == 1>(dq);
      add_late_dq(dq, late, of_step(late.count, Step::kNumber), L::kUnitsOfOne - 1);
      wait_products<0>(dk);
      release(at(L::kEmptyQ, j.place()));
      return;
    }
    pass_sums(dk);
    issue_dv(dv, w);
    issue_dk(dk, dw);
    wait_products<0>(dv, dk);
    if constexpr (Config::kPersistent) {
      release(at(L::kEmptyO, j.place()));
      release(at(L::kEmptyQ, j.place()));
      if (flags & Step::kFirst) {
        release(at(L::kEmptyS, late.place()));
      } else {
        finish_dq(dq, late, at(L::kEmptyS, late.place()));
      }
    } else {
      if (j.count > 0) finish_dq(dq, late, at(L::kEmptyS, late.place()));
      const Ring<L::kPlacesS> ds = {j.count};
      finish_dq(dq, ds, at(L::kEmptyS, ds.place()));
    }
  }
  // The steps of a tile, from the weights of the first one on.
  DEVICE void run_steps(float (&dk)[kDK], float (&dv)[kDV], float (&s)[kS], float (&dp)[kS], RowValues& lse, RowValues& deltas) {
    for (;;) {
      run_plain(dk, dv, s, dp, lse, deltas);
      forget_addresses();
      u32 w[kW], dw[kW];
      make_operands<false>(s, dp, deltas, w, dw);
      if (flags & Step::kLast) {
        end_steps(dk, dv, w, dw);
        break;
      }
      if (flags & Step::kChangesHead) {
        flush_head();
        set_head(uniform.b, of_step(j.count, Step::kNextH));
      }
      go_on<false>(dk, dv, s, dp, lse, deltas, w, dw);
      if (Config::kSums && (of_step(j.count - 1, Step::kFlags) & Step::kChangesHead) != 0) flush_sums(dk, j.count - 1);
    }
    flush_head();
    flush_sums(dk, j.count);
  }

  DEVICE void begin_tile(const KeyTile& tile) { first_key = tile.n * L::kN + group() * 64 + warp * 16 + lane / 4; }
  DEVICE void run(const KeyTile& tile) {
    float dk[kDK], dv[kDV], s[kS], dp[kS];
    RowValues lse, deltas;
    clear(dk);
    clear(dv);
    begin_tile(tile);
    const int h = tile.h * (p.heads / p.kv_heads);
    set_head(tile.b, h);
    mbarrier_wait(at(L::kFullK), 0);
    mbarrier_wait(at(L::kFullQ), 0);
    flags = of_step(0, Step::kFlags);
    if (flags >> Step::kHeadShift != h) set_head(tile.b, flags >> Step::kHeadShift);  // the first head may have no blocks
    issue_s(s);
    mbarrier_wait(at(L::kFullV), 0);
    issue_dp(dp);
    first_weights(s, dp, lse, deltas);
    run_steps(dk, dv, s, dp, lse, deltas);
    finish(dk, dv, {0});
  }

  // kPersistent.
  DEVICE void run_tiles() {
    float dk[kDK], dv[kDV], s[kS], dp[kS];
    RowValues lse, deltas;
    clear(dk);
    clear(dv);
    flags = 0;
    Ring<L::kPlacesK> t = {0};
    for (;;) {
      mbarrier_wait(at(L::kFullK, t.place()), t.parity());
      const int4 words = load_shared_x4(at(L::kTile) + 16 * t.place());
      if (words.x < 0) break;
      float dq[kDQ];
      const Ring<L::kPlacesS> last = {j.count - 1};
      wait_ds(last);
#pragma unroll
      for (int i = 0; i < L::kUnitsOfOne; ++i) {
        issue_dq(dq, last, i);
        if (i + 1 == L::kUnitsOfOne) break;
        wait_products<0>(dq);
        if (t.count > 0) add_dq(dq, last, of_step(last.count, Step::kNumber), i);
      }
      begin_tile({words.x, words.y, words.z});
      mbarrier_wait(at(L::kFullQ, j.place()), j.parity());
      flags = of_step(j.count, Step::kFlags);
      set_head(words.z, flags >> Step::kHeadShift);
      issue_s(s);
      wait_products<1>(dq, dv, dk);
      release(at(L::kReadK));
      if (t.count > 0) add_dq(dq, last, of_step(last.count, Step::kNumber), L::kUnitsOfOne - 1);
      mbarrier_wait(at(L::kFullV, t.place()), t.parity());
      issue_dp(dp);
      finish(dk, dv, {t.count - 1});
      clear(dk);
      clear(dv);
      first_weights(s, dp, lse, deltas);
      // As late as the producer can wait for it: the tile after this one comes into this place.
      if (lane == 0) tma_store_wait_read();
      release(at(L::kDrained, Ring<L::kPlacesK>{t.count - 1}.place()));
      run_steps(dk, dv, s, dp, lse, deltas);
      forget_addresses();
      t.count = load_shared(at(L::kTile) + 16 * (flags >> Step::kPlaceShift & 1) + 12) + 1;  // which has cost no register until now
      ++j.count;
    }
    float dq[kDQ];
    finish_dq(dq, {j.count - 1}, at(L::kReadK));
    finish(dk, dv, {t.count - 1});
    if (lane == 0) tma_store_wait_read();
  }

  // Stages 16 rows a warp over the keys, and copies them out.
  template <int kColumns, int kAcc>
  DEVICE void stage(const float (&acc)[kAcc], u32 to, int chunks, float scale) {
    using Element = typename Config::Element;
    const int row = warp * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < kColumns / 16; ++i) {
      const int chunk = first_chunk(chunks) + i / 4, piece = (2 * i + lane / 16) % 8;
      if (L::kSplit > 1 && chunk < first_own_chunk(chunks)) continue;
      store_matrix_x4(
          to + (group() * 64 + row) * 128 + chunk * (L::kN * 128) + ((piece ^ (row & 7)) << 4),
          Element::pack(acc[8 * i] * scale, acc[8 * i + 1] * scale), Element::pack(acc[8 * i + 2] * scale, acc[8 * i + 3] * scale),
          Element::pack(acc[8 * i + 4] * scale, acc[8 * i + 5] * scale), Element::pack(acc[8 * i + 6] * scale, acc[8 * i + 7] * scale));
    }
  }
  template <int kDim>
  DEVICE void copy_out(u32 from, const TensorMap* map, Raw* to, const i64 (&stride)[3], const KeyTile& tile,
                       const typename Variant::Uniform& u) {
    constexpr int kChunks = (kDim + 63) / 64;
    const int of_block = group() * 64 + warp * 16, first = tile.n * L::kN + of_block;
    if constexpr (Config::kPersistent) fence_async_proxy();  // also for what is loaded there, if nothing is copied out
    if (!to || first >= u.k_len) return;
    const int begin_chunk = L::kSplit == 1 ? 0 : first_own_chunk(kChunks),
              end_chunk = L::kSplit == 1 || part() == 1 ? kChunks : (kChunks + 1) / 2;
    if constexpr (Config::kPacked) {
      // Sequences end anywhere: row by row.
      __syncwarp();
      Raw* rows = to + (static_cast<i64>(u.first_k) + first) * stride[1] + tile.h * stride[2];
      const int begin = begin_chunk * 8, pieces = min(end_chunk * 8, kDim / 8) - begin;
      for (int i = lane; i < 16 * pieces; i += kWarp) {
        const int r = i / pieces, piece = begin + i % pieces;
        if (first + r >= u.k_len) break;
        *reinterpret_cast<int4*>(rows + r * stride[1] + piece * 8) =
            load_shared_x4(from + piece / 8 * (L::kN * 128) + (of_block + r) * 128 + ((piece % 8 ^ r % 8) << 4));
      }
    } else {
      // Through the copy engine, which clips at the tensor's end.
      if constexpr (!Config::kPersistent) fence_async_proxy();
      __syncwarp();
      if (lane != 0) return;
      for (int c = begin_chunk; c < end_chunk; ++c)
        tma_store_4d(map, from + c * (L::kN * 128) + of_block * 128, c * L::kChunk, first, tile.h, tile.b);
      tma_store_commit();
    }
  }
  // Of the tile `t`.
  DEVICE void finish(const float (&dk)[kDK], const float (&dv)[kDV], Ring<L::kPlacesK> t) {
    find_self();
    const int4 words = load_shared_x4(at(L::kTile) + 16 * t.place());
    const KeyTile tile = {words.x, words.y, words.z};
    const auto u = Variant::uniform(p, tile.b, tile.h * (p.heads / p.kv_heads));
    const u32 of_tile = t.place() * L::kBytesTile;
    stage<L::kColumnsV>(dv, at(L::kV) + of_tile, L::kChunksV, 1.0f);
    copy_out<Config::kVDim>(at(L::kV) + of_tile, &p.dv_map, p.dv, p.dv_stride, tile, u);
    // Nobody reads K any more.
    if constexpr (Config::kPersistent) {
      mbarrier_wait(at(L::kReadK), (t.count + 1) % 2);  // the first time of tile -1
    } else {
      mbarrier_wait(at(L::kEmptyS, Ring<L::kPlacesS>{j.count}.place()), parity_of_release(j.count));
    }
    stage<L::kColumnsK>(dk, at(L::kK) + of_tile, L::kChunksQ, Variant::dqk_scale(p, u));
    copy_out<Config::kHeadDim>(at(L::kK) + of_tile, &p.dk_map, p.dk, p.dk_stride, tile, u);
    if (!Config::kPersistent && !Config::kPacked && lane == 0) tma_store_wait_read();
  }
};

// The columns of 1 and of places, by all threads.
template <typename Config>
DEVICE void store_sum_columns(const Places& at) {
  using L = Layout<Config>;
  constexpr int kFirst = L::kSharesSums ? L::kSharedSums : L::kQ + L::kM * L::kChunksQ * 128;
  for (int i = threadIdx.x; i < (L::kSharesSums ? 1 : Config::kStages) * L::kM; i += kWarpgroup * (Config::kWarpgroups + 1)) {
    const int row = i % L::kM;
    const u32 to = at(kFirst) + i / L::kM * L::kBytesQ + row * 128 + (row % 8 << 4);
    store_shared_x4(to, {static_cast<int>(Config::Element::pack(1.0f, static_cast<float>(row))), 0, 0, 0});
  }
  fence_async_proxy();
}

template <typename Config, typename Variant>
DEVICE void attention_backward_sm90(const Params& p) {
  using L = Layout<Config>;
  extern __shared__ unsigned char shared[];
  const Places at = {(shared_address(shared) + 1023) & ~1023u};
  const int wg = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0);
  KeyTile tile = {0, 0, 0};
  if constexpr (!Config::kPersistent) {
    int number = blockIdx.x;
    if constexpr (Config::kDeterministic) number = draw_ticket(at(L::kSteps), p);
    tile = key_tile_of<Config>(number, p);
  }
  if constexpr (Config::kPacked) {
    if (tile.n * L::kN >= Variant::uniform(p, tile.b, tile.h * (p.heads / p.kv_heads)).k_len) return;
  }
  if (threadIdx.x == 0) {
    if constexpr (Config::kPersistent) {
      store_shared_x4(at(L::kTile) + 16, {p.blocks_n, 0, 0, -1});  // tile -1, without keys
    } else {
      store_shared_x4(at(L::kTile), {tile.n, tile.h, tile.b, 0});
    }
    for (int i = 0; i < L::kPlacesK; ++i) {
      mbarrier_init(at(L::kFullK, i), 1);
      mbarrier_init(at(L::kFullV, i), 1);
      if constexpr (Config::kPersistent) mbarrier_init(at(L::kDrained, i), L::kArrivals);
    }
    if constexpr (Config::kPersistent) mbarrier_init(at(L::kReadK), L::kArrivals);
    mbarrier_init(at(L::kFullP), 1);
    mbarrier_init(at(L::kEmptyP), L::kArrivals);
    for (int i = 0; i < Config::kStages; ++i) {
      mbarrier_init(at(L::kFullQ, i), 1);
      mbarrier_init(at(L::kFullO, i), 1);
      mbarrier_init(at(L::kEmptyQ, i), L::kArrivals);
      mbarrier_init(at(L::kEmptyO, i), L::kArrivals);
    }
    for (int i = 0; i < L::kPlacesS; ++i) {
      mbarrier_init(at(L::kFullS, i), L::kArrivals);
      mbarrier_init(at(L::kEmptyS, i), L::kArrivals);
      if constexpr (Config::kDeterministic) {
        mbarrier_init(at(L::kTurn, i), 2);  // the turn has come; the place is free
        mbarrier_init(at(L::kAdded, i), L::kArrivals);
      }
    }
    mbarrier_fence_init();
  }
  if constexpr (Config::kSums) store_sum_columns<Config>(at);
  __syncthreads();
  if (wg == 0) {
    set_registers_down<L::kProducerRegisters>();
    const int warp = __shfl_sync(~0u, threadIdx.x / kWarp, 0);
    if (warp == 0) {
      Producer<Config, Variant, Params> producer(p, at, tile);
      if constexpr (Config::kPersistent) {
        producer.load_tiles();
      } else {
        producer.load_tile();
      }
    }
    if constexpr (Config::kDeterministic) {
      if (warp == 1) Turns<Config, Variant, Params>(p, at, tile.n, tile.h, tile.b).wait();
      if (warp == 2) Turns<Config, Variant, Params>(p, at, tile.n, tile.h, tile.b).publish();
    }
  } else {
    set_registers_up<L::kConsumerRegisters>();
    Consumer<Config, Variant> consumer(p, at);
    if constexpr (Config::kPersistent) {
      consumer.run_tiles();
    } else {
      consumer.run(tile);
    }
  }
}

// kSearch: what is known of the rows of each block of queries, by a warp each, before the blocks are classified.
template <typename Config, typename Variant>
DEVICE void row_extents_sm90(const Params& p) {
  const int number = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp, head = number / p.blocks_m,
            block = number % p.blocks_m;
  if (head >= p.batch * p.heads) return;
  const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
  const int first = block * Config::kBlockM;
  if (first >= u.q_len) return;
  const auto extent = Variant::row_extent(first, min(first + Config::kBlockM, u.q_len) - 1, p, u);
  if (threadIdx.x % kWarp == 0) Variant::stored_row_extents(p, u.b, u.h)[block] = extent;
  if constexpr (Config::kDeterministic) search_meetings<Config, Variant>(p, u, extent, block);
}

// Gradients that are taken once for each row, of a block.
template <typename Config, typename Variant, typename Arguments>
DEVICE void add_row_gradients(const Arguments& p, const typename Variant::Uniform& u, int first) {
  typename Variant::Gradients gradients = {};
  for (int i = threadIdx.x; i < min(u.q_len - first, Config::kBlockM); i += blockDim.x) {
    const i64 at = static_cast<i64>(blockIdx.x) * Config::kBlockM + i;
    Variant::row_gradients(first + i, p.lse2[at], p.delta[at], p, u, Variant::template row<false>(first + i, p, u), gradients);
  }
  __syncwarp();
  Variant::flush(gradients, p, u);
}

// The sums of a block of queries of one head, which a CTA of 128 threads clears, and converts behind the main kernel. Zeros are written
// where nothing is read, which costs a third less than writing them behind the conversion.
template <typename Config>
DEVICE float4* sums_of_block(const Params& p) {
  return reinterpret_cast<float4*>(p.dq_sum) + static_cast<i64>(blockIdx.x) * (Layout<Config>::kSizeDq / 4) + threadIdx.x;
}

template <typename Config, typename Variant>
DEVICE void attention_backward_prepare_sm90(const Params& p) {
  using L = Layout<Config>;
  constexpr int kThreads = 128;
  if (static_cast<int>(blockIdx.x) < p.batch * p.heads * p.blocks_m) {
    float4* const sums = sums_of_block<Config>(p);
#pragma unroll
    for (int i = 0; i < L::kSizeDq / 4 / kThreads; ++i) sums[i * kThreads] = {0.0f, 0.0f, 0.0f, 0.0f};
  }
  if constexpr (Config::kDeterministic) prepare_turns<Config, Variant>(p);
  if (Config::kPersistent && blockIdx.x == 0 && threadIdx.x == 0) *p.counter = 0;
  attention_backward_prepare<Config, Variant>(p);
}

// What a thread has of a unit of dQ, times Q: summed up it is the sum of dS qk over pairs. `row` and `column`: of its first sum.
template <typename Config, typename Uniform, int kSums>
DEVICE float product_with_q(const Params& p, const Uniform& u, int first_q, int unit, int row, int column, const float4 (&sum)[kSums]) {
  using L = Layout<Config>;
  const int q_idx = first_q + (L::kTransposesDq ? column : unit / L::kChunksQ * 64 + row);
  const int of_head = unit % L::kChunksQ * L::kChunk + (L::kTransposesDq ? row : column);
  const Raw* const q =
      p.q + (Config::kPacked ? 0 : u.b * p.q_stride[0]) + static_cast<i64>(u.first_q) * p.q_stride[1] + u.h * p.q_stride[2];
  const auto times = [&](float value, int query, int place) {
    if (query >= u.q_len || place >= Config::kHeadDim) return 0.0f;
    return value * Config::Element::unpack(q[query * p.q_stride[1] + place]).x;
  };
  float product = 0.0f;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    if constexpr (L::kTransposesDq) {
      product += times(sum[i].x, q_idx + 8 * i, of_head) + times(sum[i].y, q_idx + 8 * i + 1, of_head);
      product += times(sum[i].z, q_idx + 8 * i, of_head + 8) + times(sum[i].w, q_idx + 8 * i + 1, of_head + 8);
    } else {
      product += times(sum[i].x, q_idx, of_head + 8 * i) + times(sum[i].y, q_idx, of_head + 8 * i + 1);
      product += times(sum[i].z, q_idx + 8, of_head + 8 * i) + times(sum[i].w, q_idx + 8, of_head + 8 * i + 1);
    }
  }
  return product;
}

// dQ from its sums.
template <typename Config, typename Variant>
DEVICE void attention_backward_finish(const Params& p) {
  using L = Layout<Config>;
  constexpr int kThreads = 128, kPieces = Config::kHeadDim / 8;  // of 16 bytes
  constexpr int kRowWords = L::kChunksQ * 32 + 4;                // shifted against bank conflicts
  constexpr int kSums = L::kUnitSize / 4 / kThreads;             // of a thread and unit, 4 together
  __shared__ __align__(16) u32 rows[L::kM * kRowWords];
  const int head = blockIdx.x / p.blocks_m, first = blockIdx.x % p.blocks_m * L::kM, thread = threadIdx.x;
  if (head >= p.batch * p.heads) return;
  const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
  if (first >= u.q_len && first > 0) return;
  const float scale = Variant::dqk_scale(p, u);
  const int row = thread / kWarp * 16 + thread % kWarp / 4, word = thread % 4;
  const float4* const sums = sums_of_block<Config>(p);
  float of_qk = 0.0f;
#pragma unroll
  for (int unit = 0; unit < L::kUnits; ++unit) {
    float4 sum[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] = sums[unit * (L::kUnitSize / 4) + i * kThreads];
    if constexpr (Variant::kQkSums) of_qk += product_with_q<Config>(p, u, first, unit, row, 2 * word, sum);
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      // Two neighbours of a row of the product, and two of the row 8 below.
      const u32 upper = Config::Element::pack(sum[i].x * scale, sum[i].y * scale);
      const u32 lower = Config::Element::pack(sum[i].z * scale, sum[i].w * scale);
      if constexpr (L::kTransposesDq) {
        Raw* const to = reinterpret_cast<Raw*>(rows + (8 * i + 2 * word) * kRowWords) + unit * L::kChunk + row;
        to[0] = static_cast<Raw>(upper);
        to[2 * kRowWords] = static_cast<Raw>(upper >> 16);
        to[8] = static_cast<Raw>(lower);
        to[2 * kRowWords + 8] = static_cast<Raw>(lower >> 16);
      } else {
        u32* const to = rows + (unit / L::kChunksQ * 64 + row) * kRowWords + unit % L::kChunksQ * 32 + word + 4 * i;
        to[0] = upper;
        to[8 * kRowWords] = lower;
      }
    }
  }
  __syncthreads();
  if (p.dq) {
    Raw* to =
        p.dq + (Config::kPacked ? 0 : u.b * p.dq_stride[0]) + static_cast<i64>(u.first_q + first) * p.dq_stride[1] + u.h * p.dq_stride[2];
    const int count = min(u.q_len - first, L::kM) * kPieces;
    for (int i = thread; i < count; i += kThreads)
      *reinterpret_cast<int4*>(to + i / kPieces * p.dq_stride[1] + i % kPieces * 8) =
          *reinterpret_cast<const int4*>(rows + i / kPieces * kRowWords + i % kPieces * 4);
  }
  if constexpr (Variant::kRowGradients) add_row_gradients<Config, Variant>(p, u, first);
  if constexpr (Variant::kQkSums) Variant::flush_qk(of_qk, p, u);
}
