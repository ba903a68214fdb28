// Attention backward with mma.sync: sm_80 and later. Two kernels of one kind, so that nothing is summed in memory and all bits of dQ, dK
// and dV are the same from call to call. A CTA holds 16 rows a warp, its *own* rows, and streams blocks of kBlockM rows of the other side:
//
//   keys       own: K and V of a key head   streamed: Q and dO of all query heads of the group   S^T = K Q^T, dP^T = V dO^T
//                                                                                                dV += P^T dO, dK += dS^T Q
//   queries    own: Q and dO of a head      streamed: K and V                                    S = Q K^T, dP = dO V^T, dQ += dS K
//
// P and dS go from the accumulators of S and dP straight into the operands of the next product. Where dK and dV are too wide for the
// registers together, the kernel of keys makes dV first, then dK.
//
// The grid of keys: p.tiles CTAs; of queries: one for every 16 * kWarps queries of each head. Both have kWarps warps and
// Layout<Config>::kBytes of shared memory. Where to begin; registers on sm_80 of the two kernels, for a causal softmax:
//
//   head_dim, v_dim   warps  block_m  stages   shared bytes   keys, queries
//   <= 64             4      64       2        48 Ki + 64     228, 206
//   <= 96             4      64       2        72 Ki + 64     248, 202
//   <= 128            4      32       2        64 Ki + 64     231, 164
//   192, 128          4      16       2        60 Ki + 64     243, 189      32 spills 28 bytes
//   <= 256            4      16       2        96 Ki + 64     251, 235      32 spills 20 bytes
//
// `vector_loads`: rows of q, k, v and dout are 16-byte aligned; `vector_stores`: of dq, dk and dv.

// Shared memory, in bytes.
template <typename Config>
struct Layout {
  using K = Matrix<Config::kHeadDim>;
  using V = Matrix<Config::kVDim>;
  static constexpr int kThreads = Config::kWarps * kWarp, kRows = Config::kWarps * 16;
  // Own rows as wide as heads (K or Q) and as values (V or dO); then the stages with the same of the other side.
  static constexpr int kOwnK = 0, kOwnV = kOwnK + kRows * K::kPitch, kStream = kOwnV + kRows * V::kPitch;
  static constexpr int kBytesK = Config::kBlockM * K::kPitch, kBytesStage = kBytesK + Config::kBlockM * V::kPitch;
  static constexpr int kSearch = kStream + Config::kStages * kBytesStage;  // two windows of kept and full blocks, in parts by the warps
  static constexpr int kBytes = kSearch + 2 * 2 * 4 * Config::kWarps;
  static_assert(Config::kBlockN == kRows, "a CTA has 16 keys a warp");
};

// Rows from index * Layout::kRows on, of a head; heads at work together share the second-level cache.
struct Tile {
  int index, head;
};
DEVICE Tile tile_at(int number, int tiles, int all_heads, const Params& p) {
  const int of_section = p.section_heads * tiles;
  const int section = number / of_section, rest = number % of_section;
  const int first_head = section * p.section_heads, heads = min(p.section_heads, all_heads - first_head);
  return {rest / heads, first_head + rest % heads};
}

// What is said of masks, seen from one side.
template <typename Variant, bool kOfKeys>
struct Bounds {
  static DEVICE KeyRange kept(int first, int last, const Params& p, const typename Variant::Uniform& u) {
    if constexpr (kOfKeys)
      return Variant::kept_queries(first, last, p, u);
    else
      return Variant::kept_keys(first, last, p, u);
  }
  static DEVICE KeyRange full(int first, int last, const Params& p, const typename Variant::Uniform& u) {
    if constexpr (kOfKeys)
      return Variant::full_queries(first, last, p, u);
    else
      return Variant::full_keys(first, last, p, u);
  }
};

template <typename Variant, bool kOfKeys>
struct Extents {
  using Own = typename Variant::RowExtent;
  static DEVICE Own own(int first, int last, const Params& p, const typename Variant::Uniform& u) {
    return Variant::row_extent(first, last, p, u);
  }
  static DEVICE TileClass classify(const Own& own, int own_first, int own_last, int first, int last, const Params& p,
                                   const typename Variant::Uniform& u) {
    return Variant::classify(own, Variant::column_extent(first, last, p, u), own_first, own_last, first, last, p, u);
  }
};
template <typename Variant>
struct Extents<Variant, true> {
  using Own = typename Variant::ColumnExtent;
  static DEVICE Own own(int first, int last, const Params& p, const typename Variant::Uniform& u) {
    return Variant::column_extent(first, last, p, u);
  }
  static DEVICE TileClass classify(const Own& own, int own_first, int own_last, int first, int last, const Params& p,
                                   const typename Variant::Uniform& u) {
    return Variant::classify(Variant::row_extent(first, last, p, u), own, first, last, own_first, own_last, p, u);
  }
};

// A block of streamed rows that some own row may need; index -1: there is none.
struct Block {
  int index;
  bool is_full;  // kSearch: all pairs are kept
};

// The blocks of a tile, in their order. `length`: of the streamed side.
template <typename Config, typename Variant, bool kOfKeys>
struct Blocks {
  int next, end;
  template <typename Uniform>
  DEVICE Blocks(const Params& p, const Uniform& u, int first, int last, int length, u32) {
    KeyRange rows = {0, length};
    if constexpr (Variant::kMask == Mask::kRange) rows = Bounds<Variant, kOfKeys>::kept(first, last, p, u);
    next = rows.begin / Config::kBlockM;
    end = rows.begin < rows.end ? (rows.end + Config::kBlockM - 1) / Config::kBlockM : 0;
  }
  DEVICE Block take() { return next < end ? Block{next++, false} : Block{-1, false}; }
};

// Those of a mask that has to be searched: windows of 32 blocks, each of which one warp classifies.
template <typename Config, typename Variant, bool kOfKeys>
struct SearchedBlocks {
  using Uniform = typename Variant::Uniform;
  using E = Extents<Variant, kOfKeys>;
  const Params& p;
  const Uniform& u;
  const int own_first, own_last, length;
  const u32 shared;  // of Layout::kSearch
  const typename E::Own own;
  int window = -kWarp;     // its first block
  u32 kept = 0, full = 0;  // of the window, a bit for each block that has not been taken
  int parity = 0;          // windows take turns in shared memory

  DEVICE SearchedBlocks(const Params& params, const Uniform& uniform, int first, int last, int streamed, u32 words)
      : p(params),
        u(uniform),
        own_first(first),
        own_last(last),
        length(streamed),
        shared(words),
        own(E::own(first, last, params, uniform)) {}

  // By all threads.
  DEVICE Block take() {
    while (kept == 0) {
      if ((window + kWarp) * Config::kBlockM >= length) return {-1, false};
      window += kWarp;
      search();
    }
    const int place = __ffs(kept) - 1;
    kept ^= 1u << place;
    return {window + place, (full >> place & 1) != 0};
  }

  DEVICE void search() {
    const int warp = threadIdx.x / kWarp;
    u32 own_kept = 0, own_full = 0;
    for (int place = warp; place < kWarp; place += Config::kWarps) {
      const int first = (window + place) * Config::kBlockM, last = min(first + Config::kBlockM, length) - 1;
      if (first > last) break;
      const TileClass kind = E::classify(own, own_first, own_last, first, last, p, u);
      if (kind != TileClass::kSkip) own_kept |= 1u << place;
      if (kind == TileClass::kFull && first + Config::kBlockM <= length) own_full |= 1u << place;
    }
    const u32 words = shared + parity * 2 * 4 * Config::kWarps;
    if (threadIdx.x % kWarp == 0) {
      store_shared(words + 8 * warp, own_kept);
      store_shared(words + 8 * warp + 4, own_full);
    }
    __syncthreads();
    kept = full = 0;
    for (int i = 0; i < Config::kWarps; ++i) {
      kept |= load_shared(words + 8 * i);
      full |= load_shared(words + 8 * i + 4);
    }
    parity ^= 1;
  }
};

template <Mask, typename Config, typename Variant, bool kOfKeys>
struct BlocksOf {
  using Type = Blocks<Config, Variant, kOfKeys>;
};
template <typename Config, typename Variant, bool kOfKeys>
struct BlocksOf<Mask::kSearch, Config, Variant, kOfKeys> {
  using Type = SearchedBlocks<Config, Variant, kOfKeys>;
};

// A tile as one of its threads sees it. Its own rows, places 0 and 1, are rows r and r + 8 of its warp's 16. kMakesK: dK, or dQ; kMakesV:
// dV.
template <typename Config, typename Variant, bool kOfKeys, bool kMakesK, bool kMakesV>
struct Backward {
  using L = Layout<Config>;
  using Element = typename Config::Element;
  static constexpr bool kSoftmax = Variant::kWeight == Weight::kSoftmax;
  static constexpr bool kAdds = kOfKeys && kMakesK && Variant::kGradients;
  static constexpr int kS = Config::kBlockM / 8, kStages = Config::kStages;  // fragments of S and dP
  static constexpr int kColumnsK = kMakesK ? L::K::kColumns / 8 : 1, kColumnsV = kMakesV ? L::V::kColumns / 8 : 1;
  static_assert(Config::kBlockM % 16 == 0, "block_m is a multiple of 16");
  static_assert(Config::kHeadDim <= 256 && Config::kVDim <= 256, "head dims are at most 256");

  // What an own row needs: of a query or of a key.
  struct OwnRow {
    typename Variant::Row row;
    float lse2 = 0.0f, delta = 0.0f;
  };
  struct OwnColumn {
    typename Variant::Column column;
  };
  template <bool, typename A, typename B>
  struct Choice {
    using Type = A;
  };
  template <typename A, typename B>
  struct Choice<false, A, B> {
    using Type = B;
  };

  const Params& p;
  const int first;  // of the CTA's own rows
  typename Variant::Uniform u;
  const u32 shared;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  typename Choice<kOfKeys, OwnColumn, OwnRow>::Type own[2];
  KeyRange kept, full;  // streamed rows of which a pair with this warp's rows may be kept, of which all are
  typename Variant::Gradients gradients;
  typename Variant::KeyGradients key_gradients[kOfKeys ? 2 : 1];

  DEVICE Backward(const Params& params, int first_row, const typename Variant::Uniform& uniform, u32 shared_memory)
      : p(params), first(first_row), u(uniform), shared(shared_memory) {}

  DEVICE int length() const { return kOfKeys ? u.k_len : u.q_len; }
  DEVICE int streamed_length() const { return kOfKeys ? u.q_len : u.k_len; }
  DEVICE int own_row(int place) const { return first + warp * 16 + lane / 4 + 8 * place; }

  DEVICE static const Raw* start(const Raw* tensor, const i64 (&stride)[3], int b, int first_row, int head) {
    return tensor + b * stride[0] + first_row * stride[1] + head * stride[2];
  }
  DEVICE void load_own() {
    constexpr int kRows = L::kRows, kThreads = L::kThreads;
    const Raw* k = kOfKeys ? start(p.k, p.k_stride, u.b, u.first_k, u.kv_h) : start(p.q, p.q_stride, u.b, u.first_q, u.h);
    const Raw* v = kOfKeys ? start(p.v, p.v_stride, u.b, u.first_k, u.kv_h) : start(p.dout, p.dout_stride, u.b, u.first_q, u.h);
    const i64 k_pitch = kOfKeys ? p.k_stride[1] : p.q_stride[1], v_pitch = kOfKeys ? p.v_stride[1] : p.dout_stride[1];
    load_rows<Config::kHeadDim, kRows, kThreads>(p.vector_loads, shared + L::kOwnK, k, k_pitch, first, length());
    if constexpr (kMakesK) load_rows<Config::kVDim, kRows, kThreads>(p.vector_loads, shared + L::kOwnV, v, v_pitch, first, length());
    copy_async_commit();
  }
  DEVICE void load(Block block, int stage) {
    if (block.index >= 0) {
      constexpr int kRows = Config::kBlockM, kThreads = L::kThreads;
      const Raw* k = kOfKeys ? start(p.q, p.q_stride, u.b, u.first_q, u.h) : start(p.k, p.k_stride, u.b, u.first_k, u.kv_h);
      const Raw* v = kOfKeys ? start(p.dout, p.dout_stride, u.b, u.first_q, u.h) : start(p.v, p.v_stride, u.b, u.first_k, u.kv_h);
      const i64 k_pitch = kOfKeys ? p.q_stride[1] : p.k_stride[1], v_pitch = kOfKeys ? p.dout_stride[1] : p.v_stride[1];
      const u32 to = stage_at(stage);
      load_rows<Config::kHeadDim, kRows, kThreads>(p.vector_loads, to, k, k_pitch, block.index * kRows, streamed_length());
      load_rows<Config::kVDim, kRows, kThreads>(p.vector_loads, to + L::kBytesK, v, v_pitch, block.index * kRows, streamed_length());
    }
    copy_async_commit();
  }
  DEVICE u32 stage_at(int stage) const { return shared + L::kStream + stage * L::kBytesStage; }

  // What depends on the head: the own rows' values and their bounds.
  DEVICE void set_head() {
    const int own_first = first + warp * 16, own_last = min(own_first + 16, length()) - 1;
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      const int at = min(own_row(place), length() - 1);
      if constexpr (kOfKeys) {
        own[place].column = Variant::template column<true>(at, p, u);
      } else {
        own[place].row = Variant::template row<true>(at, p, u);
        if constexpr (kSoftmax) {
          const i64 of_row = row_value(at);
          own[place].lse2 = p.lse2[of_row];
          own[place].delta = p.delta[of_row];
        }
      }
    }
    kept = {0, own_first < length() ? streamed_length() : 0};
    full = {0, own_first + 16 <= length() ? streamed_length() : 0};
    if constexpr (Variant::kMask == Mask::kRange) {
      if (own_first < length()) kept = Bounds<Variant, kOfKeys>::kept(own_first, own_last, p, u);
      if (own_first + 16 <= length()) full = Bounds<Variant, kOfKeys>::full(own_first, own_last, p, u);
      full.end = min(full.end, streamed_length());
    }
  }
  DEVICE i64 row_value(int q_idx) const { return (static_cast<i64>(u.b) * p.heads + u.h) * p.blocks_m * Config::kBlockM + q_idx; }

  DEVICE bool keeps_any(Block block) const {
    const int at = block.index * Config::kBlockM;
    return at < kept.end && at + Config::kBlockM > kept.begin;
  }
  DEVICE bool is_masked(Block block) const {
    const int at = block.index * Config::kBlockM;
    if (at < full.begin || at + Config::kBlockM > full.end) return true;
    return Variant::kMask == Mask::kSearch && !block.is_full;
  }

  // S = own streamed^T, of rows of kWidth.
  template <int kWidth>
  DEVICE void gemm_scores(float (&s)[kS][4], u32 own_rows, u32 streamed) const {
    using M = Matrix<kWidth>;
    clear(s);
#pragma unroll 4
    for (int step = 0; step < M::kColumns / 16; ++step) {
      u32 a[4], b[4];
      load_matrix_x4(own_rows + M::at(warp * 16 + lane % 16, 2 * step + lane / 16), a);
      const u32 column = streamed + M::at(lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2);
#pragma unroll
      for (int i = 0; i < kS; i += 2) {
        load_matrix_x4(column + 8 * i * M::kPitch, b);
        mma_16x8x16(Element{}, s[i], a, b[0], b[1]);
        mma_16x8x16(Element{}, s[i + 1], a, b[2], b[3]);
      }
    }
  }
  // sum += W streamed
  template <int kWidth, int kColumns>
  DEVICE void gemm_sum(float (&sum)[kColumns][4], const float (&w)[kS][4], u32 streamed) const {
    using M = Matrix<kWidth>;
#pragma unroll
    for (int step = 0; step < kS / 2; ++step) {
      const float(&left)[4] = w[2 * step], (&right)[4] = w[2 * step + 1];
      const u32 a[4] = {Element::pack(left[0], left[1]), Element::pack(left[2], left[3]), Element::pack(right[0], right[1]),
                        Element::pack(right[2], right[3])};
#pragma unroll
      for (int i = 0; i < kColumns; i += 2) {
        u32 b[4];
        load_matrix_transposed_x4(streamed + 16 * step * M::kPitch + M::at(lane % 16, i + lane / 16), b);
        mma_16x8x16(Element{}, sum[i], a, b[0], b[1]);
        mma_16x8x16(Element{}, sum[i + 1], a, b[2], b[3]);
      }
    }
  }

  // One pair: P in place of S, dS in place of dP.
  template <bool kGuarded>
  DEVICE void pair(float& s, float& dp, float lse2, float delta, int q, int k, int place, const typename Variant::Row& row,
                   const typename Variant::Column& column) {
    bool keeps = true;
    if constexpr (kGuarded) {
      keeps = q < u.q_len && k < u.k_len;
      q = min(q, u.q_len - 1);
      k = min(k, u.k_len - 1);
      if constexpr (Variant::kMask != Mask::kAll) keeps = keeps && Variant::keep(q, k, p, u, row, column);
    }
    float weight, dqk;
    Variant::template pair<kGuarded, kAdds>(s, dp, lse2, delta, q, k, p, u, row, column, keeps, weight, dqk, gradients,
                                            key_gradients[kOfKeys ? place : 0]);
    s = weight;
    dp = dqk;
  }

  template <bool kGuarded>
  DEVICE void pairs(float (&s)[kS][4], float (&dp)[kS][4], Block block) {
#pragma unroll
    for (int i = 0; i < kS; ++i) {
      const int at = block.index * Config::kBlockM + 8 * i + lane % 4 * 2;
      float2 lse2 = {0.0f, 0.0f}, delta = {0.0f, 0.0f};
      if constexpr (kOfKeys && kSoftmax) {
        lse2 = *reinterpret_cast<const float2*>(p.lse2 + row_value(at));
        delta = *reinterpret_cast<const float2*>(p.delta + row_value(at));
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int safe = kGuarded ? min(at + j, streamed_length() - 1) : at + j;
        if constexpr (kOfKeys) {
          const auto row = Variant::template row<kGuarded>(safe, p, u);
#pragma unroll
          for (int place = 0; place < 2; ++place)
            pair<kGuarded>(s[i][2 * place + j], dp[i][2 * place + j], j ? lse2.y : lse2.x, j ? delta.y : delta.x, at + j, own_row(place),
                           place, row, own[place].column);
        } else {
          const auto column = Variant::template column<kGuarded>(safe, p, u);
#pragma unroll
          for (int place = 0; place < 2; ++place)
            pair<kGuarded>(s[i][2 * place + j], dp[i][2 * place + j], own[place].lse2, own[place].delta, own_row(place), at + j, place,
                           own[place].row, column);
        }
      }
    }
  }

  DEVICE void step(float (&sum_k)[kColumnsK][4], float (&sum_v)[kColumnsV][4], Block block, int stage) {
    if (!keeps_any(block)) return;
    const u32 from = stage_at(stage);
    float s[kS][4], dp[kS][4];
    gemm_scores<Config::kHeadDim>(s, shared + L::kOwnK, from);
    if constexpr (kMakesK) {
      gemm_scores<Config::kVDim>(dp, shared + L::kOwnV, from + L::kBytesK);
    } else {
      clear(dp);
    }
    if (is_masked(block)) {
      pairs<true>(s, dp, block);
    } else {
      pairs<false>(s, dp, block);
    }
    if constexpr (kMakesV) gemm_sum<Config::kVDim>(sum_v, s, from + L::kBytesK);
    if constexpr (kMakesK) gemm_sum<Config::kHeadDim>(sum_k, dp, from);
  }

  // The blocks of one head.
  DEVICE void stream(float (&sum_k)[kColumnsK][4], float (&sum_v)[kColumnsV][4]) {
    typename BlocksOf<Variant::kMask, Config, Variant, kOfKeys>::Type walk(p, u, first, min(first + L::kRows, length()) - 1,
                                                                           streamed_length(), shared + L::kSearch);
    __syncthreads();  // the stages have been read
    if constexpr (kStages == 1) {
#pragma unroll 1
      for (Block block = walk.take(); block.index >= 0; block = walk.take()) {
        load(block, 0);
        copy_async_wait<0>();
        __syncthreads();
        step(sum_k, sum_v, block, 0);
        __syncthreads();
      }
    } else {
      Block blocks[kStages];  // on their way, the oldest first
#pragma unroll
      for (int i = 0; i < kStages - 1; ++i) load(blocks[i] = walk.take(), i);
      int stage = 0;
#pragma unroll 1
      while (blocks[0].index >= 0) {
        copy_async_wait<kStages - 2>();
        __syncthreads();  // this block is here, the one before has been read
        blocks[kStages - 1] = walk.take();
        load(blocks[kStages - 1], stage == 0 ? kStages - 1 : stage - 1);
        step(sum_k, sum_v, blocks[0], stage);
#pragma unroll
        for (int i = 0; i + 1 < kStages; ++i) blocks[i] = blocks[i + 1];
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
    }
  }

  // `heads`: of queries, from u.h on.
  DEVICE void run(int heads) {
    float sum_k[kColumnsK][4], sum_v[kColumnsV][4];
    clear(sum_k);
    clear(sum_v);
    load_own();
#pragma unroll 1
    for (int i = 0; i < heads; ++i) {
      if (i > 0) u = Variant::uniform(p, u.b, u.h + 1);
      set_head();
      stream(sum_k, sum_v);
      if constexpr (kAdds) {
        Variant::flush(gradients, p, u);
#pragma unroll
        for (int place = 0; place < 2; ++place)
          Variant::flush(key_gradients[place], min(own_row(place), u.k_len - 1), own_row(place) < u.k_len, p, u);
      }
    }
    add_row_gradients();
    copy_async_wait<0>();  // of a tile without blocks: its own rows
    __syncthreads();
    if constexpr (kMakesK) {
      Raw* to = kOfKeys ? p.dk : p.dq;
      const float scale = Variant::dqk_scale(p, u);
#pragma unroll
      for (int i = 0; i < kColumnsK; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum_k[i][e] *= scale;
      }
      if (to) store<Config::kHeadDim>(sum_k, shared + L::kOwnK, to, kOfKeys ? p.dk_stride : p.dq_stride);
    }
    if constexpr (kMakesV) {
      if (p.dv) store<Config::kVDim>(sum_v, shared + L::kOwnV, p.dv, p.dv_stride);
    }
  }

  // By one of the four lanes that share a row.
  DEVICE void add_row_gradients() {
    if constexpr (!kOfKeys && Variant::kRowGradients) {
#pragma unroll
      for (int place = 0; place < 2; ++place) {
        if (lane % 4 == 0 && own_row(place) < u.q_len)
          Variant::row_gradients(own_row(place), own[place].lse2, own[place].delta, p, u, own[place].row, gradients);
      }
      Variant::flush(gradients, p, u);
    }
  }

  // Each warp its rows, which pass through shared memory, over its own ones, to become whole pieces.
  template <int kWidth, int kColumns>
  DEVICE void store(const float (&sum)[kColumns][4], u32 through, Raw* tensor, const i64 (&stride)[3]) const {
    using M = Matrix<kWidth>;
    const u32 stage = through + warp * 16 * M::kPitch;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
#pragma unroll
      for (int place = 0; place < 2; ++place)
        store_shared(stage + M::at(lane / 4 + 8 * place, i) + lane % 4 * 4, Element::pack(sum[i][2 * place], sum[i][2 * place + 1]));
    }
    __syncwarp();
    const int first_row = first + warp * 16;
    Raw* to = tensor + u.b * stride[0] + ((kOfKeys ? u.first_k : u.first_q) + first_row) * stride[1] + (kOfKeys ? u.kv_h : u.h) * stride[2];
#pragma unroll 4
    for (int i = lane; i < 16 * M::kPieces; i += kWarp) {
      const int r = i / M::kPieces, piece = i % M::kPieces;
      if (first_row + r < length())
        store_piece<kWidth>(p.vector_stores, to + r * stride[1], piece, load_shared_x4(stage + M::at(r, piece)));
    }
  }
};

template <typename Config, typename Variant>
DEVICE void attention_backward_keys_sm80(const Params& p) {
  extern __shared__ unsigned char shared[];
  using L = Layout<Config>;
  // More than these sums leave no registers for S and dP.
  constexpr bool kTogether = L::K::kColumns / 2 + L::V::kColumns / 2 <= 160;
  const Tile tile = tile_at(blockIdx.x, p.blocks_n, p.batch * p.kv_heads, p);
  const int group = p.heads / p.kv_heads, first_k = tile.index * L::kRows;
  const auto u = Variant::uniform(p, tile.head / p.kv_heads, tile.head % p.kv_heads * group);
  if (first_k >= u.k_len) return;  // packed: this sequence is shorter
  if constexpr (kTogether) {
    Backward<Config, Variant, true, true, true>(p, first_k, u, shared_address(shared)).run(group);
  } else {
    Backward<Config, Variant, true, false, true>(p, first_k, u, shared_address(shared)).run(group);
    __syncthreads();
    Backward<Config, Variant, true, true, false>(p, first_k, u, shared_address(shared)).run(group);
  }
}

template <typename Config, typename Variant>
DEVICE void attention_backward_queries_sm80(const Params& p) {
  extern __shared__ unsigned char shared[];
  using L = Layout<Config>;
  const int tiles = (p.q_len + L::kRows - 1) / L::kRows;
  const Tile tile = tile_at(blockIdx.x, tiles, p.batch * p.heads, p);
  const int first_q = (tiles - 1 - tile.index) * L::kRows;  // those with the most keys of a causal mask first
  const auto u = Variant::uniform(p, tile.head / p.heads, tile.head % p.heads);
  if (first_q >= u.q_len) return;
  Backward<Config, Variant, false, true, false>(p, first_q, u, shared_address(shared)).run(1);
}
