// Attention forward with mma.sync: sm_80 and later. A CTA computes one tile of queries, each of its warps 16 rows.
//
//   S = Q K^T       mma, K from shared memory, Q from registers (or shared memory where heads are wide)
//   P = weights(S)  the variant's score, mask and weights, in registers
//   O += P V        mma, P from registers, V from shared memory
//
// Blocks of keys come from the last to the first through two rings of kStages, K and V, which all warps fill with cp.async:
//
//   K of a block is here, V of the block before has been read   ->  V of the newest block starts, S is computed
//   V of a block is here, its K has been read                   ->  K of the next block starts, P and O are computed
//
// so that even with one stage a copy runs under all mathematics. Rows that are not 16-byte aligned are copied element by element, without
// overlap.
//
// Small problems, so that all multiprocessors read keys:
//
//   kKeyWarps     so many warps have the same 16 rows and share the keys of each block; what they have is added up at the end
//   kPacksHeads   rows of a tile are pairs of a query and a head of the group of one key head: row / group, row % group
//   kSplits       p.splits CTAs share the blocks of a tile; the last of them to arrive adds up what all of them left in p.parts
//
// Parts are added in the order of their keys, whoever comes last: the bits are the same every time.
//
// The grid is p.tiles (times p.splits) CTAs of kWarps warps, with Layout<Config>::kBytes of shared memory. Launch bounds are (threads, 1):
// with the threads alone ptxas aims at one CTA more, and now and then spills for it. Where to begin; registers on sm_80, sigmoid and
// softmax with a sink:
//
//   head_dim, v_dim   warps  block_n  stages   shared bytes   registers
//   <= 64             4      64       2        32 Ki + 64     152, 155
//   <= 96             4      64       2        48 Ki + 64     191, 190
//   <= 128            4      64       1        32 Ki + 64     218, 215      2 stages: 64 Ki + 64, for sm_80 and sm_90
//   <= 128            8      64       2        80 Ki + 128    220, 215      long sequences: half the reads of K and V
//   192, 128          4      64       1        48 Ki + 64     234, 229
//   <= 256            8      32       1        96 Ki + 128    250, 242
//   <= 256            4      32       1        64 Ki + 64     250, 244      few rows
//   few rows: kKeyWarps = kWarps = 4, block_n 64, 2 stages up to head_dim + v_dim = 256, else 1

// Shared memory, in bytes.
template <typename Config>
struct Layout {
  using K = Matrix<Config::kHeadDim>;
  using V = Matrix<Config::kVDim>;
  static constexpr int kThreads = Config::kWarps * kWarp, kRowWarps = Config::kWarps / Config::kKeyWarps, kRowsQ = kRowWarps * 16;
  static constexpr int kKeys = Config::kBlockN / Config::kKeyWarps;  // of a block, that one warp works on
  // Q stays in registers where they suffice for it, O and S.
  static constexpr bool kKeepsQ = K::kColumns / 4 + V::kColumns / 2 + kKeys / 2 <= 144;
  static constexpr int kBytesK = Config::kBlockN * K::kPitch, kBytesV = Config::kBlockN * V::kPitch;
  static constexpr int kK = 0, kV = Config::kStages * kBytesK;
  // Then Q is read before the last stage of V is first written.
  static constexpr int kQ = kV + (kKeepsQ ? Config::kStages - 1 : Config::kStages) * kBytesV;
  static constexpr int kEndV = kV + Config::kStages * kBytesV, kEndQ = kQ + kRowsQ * K::kPitch, kEndO = kRowsQ * V::kPitch;  // O from 0 on
  // Behind O: the parts of all but the first of the warps with the same rows. A part is pieces of 16 bytes for each lane: O, and the
  // statistics of its two rows.
  static constexpr int kPieces = V::kColumns / 8 + 1, kBytesPart = kPieces * kWarp * 16;
  static constexpr int kParts = kEndO, kEndParts = kParts + (Config::kWarps - kRowWarps) * kBytesPart;
  static constexpr int kEnd = kEndV > kEndQ ? kEndV : kEndQ;
  static constexpr int kSearch = kEnd > kEndParts ? kEnd : kEndParts;  // two windows of kept and full blocks, in parts by the warps
  static constexpr int kBytes = kSearch + 2 * 2 * 4 * Config::kWarps;
};

// One tile: rows from m * Layout::kRowsQ on, of head h, or of the group of heads from h on.
struct Tile {
  int m, h, b;
};

// Tiles are numbered so that those with the most keys of a causal mask come first, and that the heads at work share the second-level cache.
template <typename Config>
DEVICE Tile tile_at(int number, const Params& p) {
  const int of_batch = Config::kPacksHeads ? p.kv_heads : p.heads;
  const int of_section = p.section_heads * p.tiles_m;
  const int section = number / of_section, rest = number % of_section;
  const int first_head = section * p.section_heads;
  const int heads = min(p.section_heads, p.batch * of_batch - first_head);
  const int head = first_head + rest % heads;
  return {p.tiles_m - 1 - rest / heads, head % of_batch * (p.heads / of_batch), head / of_batch};
}

// Rows of pairs of a query and a head of the group.
struct GroupRows {
  const Raw* from;
  i64 stride, head_stride;
  int group;
  DEVICE const Raw* at(int row) const { return from + row / group * stride + row % group * head_stride; }
};

// Blocks [begin, end).
struct BlockRange {
  int begin, end;
};

// A block of keys that some row of the tile may keep; index -1: there is none.
struct Block {
  int index;
  bool is_full;  // kSearch: all rows keep all its keys
};

// The blocks of a range, from the last to the first.
template <typename Config, typename Variant>
struct Blocks {
  int first, next;
  template <typename Uniform>
  DEVICE Blocks(const Params&, const Uniform&, int, int, BlockRange range, u32) : first(range.begin), next(range.end - 1) {}
  DEVICE Block take() { return next < first ? Block{-1, false} : Block{next--, false}; }
};

// Those of a mask that has to be searched: windows of 32 blocks, each of which one warp classifies.
template <typename Config, typename Variant>
struct SearchedBlocks {
  using Uniform = typename Variant::Uniform;
  const Params& p;
  const Uniform& u;
  const int first_q, last_q;
  const BlockRange range;
  const u32 shared;  // of Layout::kSearch
  const typename Variant::RowExtent rows;
  int window;              // its first block
  u32 kept = 0, full = 0;  // of the window, a bit for each block that has not been taken
  int parity = 0;          // windows take turns in shared memory

  DEVICE SearchedBlocks(const Params& params, const Uniform& uniform, int first_row, int last_row, BlockRange searched, u32 words)
      : p(params),
        u(uniform),
        first_q(first_row),
        last_q(last_row),
        range(searched),
        shared(words),
        rows(Variant::row_extent(first_row, last_row, params, uniform)) {
    window = range.begin + (range.end - range.begin + kWarp - 1) / kWarp * kWarp;
  }

  // By all threads.
  DEVICE Block take() {
    while (kept == 0) {
      if (window <= range.begin) return {-1, false};
      window -= kWarp;
      search();
    }
    const int place = 31 - __clz(kept);
    kept ^= 1u << place;
    return {window + place, (full >> place & 1) != 0};
  }

  DEVICE void search() {
    const int warp = threadIdx.x / kWarp;
    u32 own_kept = 0, own_full = 0;
    for (int place = warp; place < kWarp; place += Config::kWarps) {
      const int first_k = (window + place) * Config::kBlockN, last_k = min(first_k + Config::kBlockN, u.k_len) - 1;
      if (window + place >= range.end) break;
      const auto columns = Variant::column_extent(first_k, last_k, p, u);
      const TileClass kind = Variant::classify(rows, columns, first_q, last_q, first_k, last_k, p, u);
      if (kind != TileClass::kSkip) own_kept |= 1u << place;
      if (kind == TileClass::kFull && first_k + Config::kBlockN <= u.k_len) own_full |= 1u << place;
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

template <Mask, typename Config, typename Variant>
struct BlocksOf {
  using Type = Blocks<Config, Variant>;
};
template <typename Config, typename Variant>
struct BlocksOf<Mask::kSearch, Config, Variant> {
  using Type = SearchedBlocks<Config, Variant>;
};

// A tile as one of its threads sees it. Its two rows, places 0 and 1, are rows r and r + 8 of its warp's 16.
template <typename Config, typename Variant>
struct Forward {
  using L = Layout<Config>;
  using Element = typename Config::Element;
  using Uniform = typename Variant::Uniform;
  using Column = typename Variant::Column;
  static constexpr bool kSoftmax = Variant::kWeight == Weight::kSoftmax, kFactor = Variant::kFactor;
  static constexpr int kS = L::kKeys / 8, kO = L::V::kColumns / 8, kStepsQ = L::K::kColumns / 16;  // fragments of S, O, Q
  static constexpr int kStages = Config::kStages, kHeads = Config::kPacksHeads ? 2 : 1;            // heads of a thread's rows
  static_assert(L::kKeys % 16 == 0, "block_n is a multiple of 16 for each of the warps that share a block");
  static_assert(Config::kHeadDim <= 256 && Config::kVDim <= 256, "head dims are at most 256");

  const Params& p;
  const Tile tile;
  const Uniform u;  // of the tile's first head
  const u32 shared;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int row_warp = warp / Config::kKeyWarps, key_warp = warp % Config::kKeyWarps;
  int group, end_row;  // heads of a tile, and the end of its sequence's rows
  int row[2];          // of the sequence; may lie behind its end
  int query[2];        // its query; that of the last row behind the end
  Uniform uniforms[kHeads];
  typename Variant::Row rows[2];
  KeyRange kept, full;                                                   // keys that a row of the warp may keep, that all of them keep
  float reference[2] = {-kInfinity, -kInfinity}, sum[2] = {0.0f, 0.0f};  // softmax: the greatest score2; the sum of this thread's columns

  DEVICE Forward(const Params& params, const Tile& of, const Uniform& uniform, u32 shared_memory)
      : p(params), tile(of), u(uniform), shared(shared_memory) {
    group = Config::kPacksHeads ? p.heads / p.kv_heads : 1;
    end_row = u.q_len * group;
    const int first_row = tile.m * L::kRowsQ + row_warp * 16;
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      row[place] = first_row + lane / 4 + 8 * place;
      const int inside = min(row[place], end_row - 1);
      query[place] = query_of(inside);
      if (place < kHeads) uniforms[place] = Config::kPacksHeads ? Variant::uniform(p, tile.b, tile.h + inside % group) : u;
      rows[place] = Variant::template row<true>(query[place], p, uniform_of(place));
    }
    kept = full = {0, first_row < end_row ? u.k_len : 0};
    if constexpr (Variant::kMask == Mask::kRange) {
      if (first_row < end_row) {
        const int first_q = query_of(first_row), last_q = query_of(min(first_row + 16, end_row) - 1);
        kept = Variant::kept_keys(first_q, last_q, p, u);
        full = Variant::full_keys(first_q, last_q, p, u);
        full.end = min(full.end, u.k_len);
      }
    }
  }
  DEVICE int query_of(int of_row) const { return Config::kPacksHeads ? of_row / group : of_row; }
  DEVICE const Uniform& uniform_of(int place) const { return uniforms[place < kHeads ? place : 0]; }

  DEVICE void run() {
    const int first_row = tile.m * L::kRowsQ, first_q = query_of(first_row), last_q = query_of(min(first_row + L::kRowsQ, end_row) - 1);
    BlockRange range = blocks_of_tile(first_q, last_q);
    int parts = 1;
    if constexpr (Config::kSplits) {
      // As many as have a block. A split that has none has nothing to add, and is not waited for.
      const int split = blockIdx.y, count = range.end - range.begin;
      parts = max(min(p.splits, count), 1);
      if (split >= parts) return;
      const int each = count / parts, longer = count % parts, begin = range.begin + each * split + min(split, longer);
      range = {begin, begin + each + (split < longer ? 1 : 0)};
    }
    typename BlocksOf<Variant::kMask, Config, Variant>::Type walk(p, u, first_q, last_q, range, shared + L::kSearch);
    Block blocks[kStages + 1];  // on their way, the oldest first
#pragma unroll
    for (int i = 0; i <= kStages; ++i) blocks[i] = {-1, false};
    u32 q[L::kKeepsQ ? kStepsQ : 1][4];
    float s[kS][4], o[kO][4];
    clear(o);
    load_q();
    // The first kStages steps only start copies.
    int stage = 0;
#pragma unroll 1
    for (int step = -kStages; step < 0 || blocks[0].index >= 0; ++step) {
      const bool works = step >= 0 && keeps_any(blocks[0]);
      if (step >= 0) await_oldest();  // K of this block; V of the block before has been read
      if (L::kKeepsQ && step == 0) fetch_q(q);
      load_v(blocks[kStages - 1], stage == 0 ? kStages - 1 : stage - 1);
      if (works) gemm_qk(s, q, stage);
      if (step >= 0) await_oldest();  // V of this block; its K has been read
      blocks[kStages] = walk.take();
      load_k(blocks[kStages], stage);
      if (works) {
        weights(s, o, blocks[0]);
        gemm_pv(o, s, stage);
      }
#pragma unroll
      for (int i = 0; i < kStages; ++i) blocks[i] = blocks[i + 1];
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    copy_async_wait<0>();  // of a tile without keys: Q
    __syncthreads();       // K and V have been read
    if constexpr (kSoftmax) {
#pragma unroll
      for (int place = 0; place < 2; ++place) sum[place] = sum_of_row(sum[place]);
    }
    add_warps(o);
    if constexpr (Config::kSplits) {
      if (parts > 1) {
        if (key_warp == 0) store_part(o, blockIdx.y);
        if (!arrives_last(parts)) return;
        reference[0] = reference[1] = -kInfinity;
        sum[0] = sum[1] = 0.0f;
        clear(o);
        const int first = parts * key_warp / Config::kKeyWarps, end = parts * (key_warp + 1) / Config::kKeyWarps;
        add_parts<0>(o, first, end);
        add_parts<1>(o, first, end);
        add_warps(o);
      }
    }
    if (key_warp == 0) finish(o);
  }

  DEVICE BlockRange blocks_of_tile(int first_q, int last_q) const {
    KeyRange keys = {0, u.k_len};
    if constexpr (Variant::kMask == Mask::kRange) keys = Variant::kept_keys(first_q, last_q, p, u);
    if (keys.begin >= keys.end) return {0, 0};
    return {keys.begin / Config::kBlockN, (keys.end - 1) / Config::kBlockN + 1};
  }

  // Copies are committed in the order Q, K, V, K, V, ...
  DEVICE void load_q() {
    const Raw* from = p.q + tile.b * p.q_stride[0] + u.first_q * p.q_stride[1] + tile.h * p.q_stride[2];
    const int first = tile.m * L::kRowsQ;
    if constexpr (Config::kPacksHeads) {
      load_rows<Config::kHeadDim, L::kRowsQ, L::kThreads>(p.vector_loads, shared + L::kQ,
                                                          GroupRows{from, p.q_stride[1], p.q_stride[2], group}, first, end_row);
    } else {
      load_rows<Config::kHeadDim, L::kRowsQ, L::kThreads>(p.vector_loads, shared + L::kQ, HeadRows{from, p.q_stride[1]}, first, end_row);
    }
    copy_async_commit();
  }
  DEVICE void load_k(Block block, int stage) {
    const Raw* from = p.k + tile.b * p.k_stride[0] + u.first_k * p.k_stride[1] + u.kv_h * p.k_stride[2];
    load_keys<Config::kHeadDim>(shared + L::kK + stage * L::kBytesK, {from, p.k_stride[1]}, block);
  }
  DEVICE void load_v(Block block, int stage) {
    const Raw* from = p.v + tile.b * p.v_stride[0] + u.first_k * p.v_stride[1] + u.kv_h * p.v_stride[2];
    load_keys<Config::kVDim>(shared + L::kV + stage * L::kBytesV, {from, p.v_stride[1]}, block);
  }
  template <int kWidth>
  DEVICE void load_keys(u32 to, const HeadRows& from, Block block) {
    if (block.index >= 0) load_rows<kWidth, Config::kBlockN, L::kThreads>(p.vector_loads, to, from, block.index * Config::kBlockN, u.k_len);
    copy_async_commit();
  }
  static DEVICE void await_oldest() {
    copy_async_wait<2 * kStages - 2>();
    __syncthreads();
  }

  // The first key of a block that this warp works on.
  DEVICE int first_key(Block block) const { return block.index * Config::kBlockN + key_warp * L::kKeys; }
  // Does a row of this warp keep any key of its part of the block; may a pair of it be masked.
  DEVICE bool keeps_any(Block block) const {
    const int first_k = first_key(block);
    return first_k < kept.end && first_k + L::kKeys > kept.begin;
  }
  DEVICE bool is_masked(Block block) const {
    if (Variant::kMask == Mask::kSearch) return !block.is_full;
    const int first_k = first_key(block);
    return first_k < full.begin || first_k + L::kKeys > full.end;
  }

  // A fragment of Q: 16 rows, 16 columns.
  DEVICE void fetch_q_step(int step, u32 (&to)[4]) const {
    load_matrix_x4(shared + L::kQ + L::K::at(row_warp * 16 + lane % 16, 2 * step + lane / 16), to);
  }
  template <int kFragments>
  DEVICE void fetch_q(u32 (&q)[kFragments][4]) const {
#pragma unroll
    for (int step = 0; step < kFragments; ++step) fetch_q_step(step, q[step]);
    __syncthreads();  // V takes its place
  }

  // S = Q K^T
  template <int kFragments>
  DEVICE void gemm_qk(float (&s)[kS][4], const u32 (&q)[kFragments][4], int stage) const {
    const u32 from = shared + L::kK + stage * L::kBytesK + key_warp * L::kKeys * L::K::kPitch;
    clear(s);
#pragma unroll(L::kKeepsQ ? kStepsQ : 4)
    for (int step = 0; step < kStepsQ; ++step) {
      u32 a[4], b[4];
      if constexpr (L::kKeepsQ) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = q[step][i];
      } else {
        fetch_q_step(step, a);
      }
      const u32 column = from + L::K::at(lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2);
#pragma unroll
      for (int i = 0; i < kS; i += 2) {
        load_matrix_x4(column + 8 * i * L::K::kPitch, b);
        mma_16x8x16(Element{}, s[i], a, b[0], b[1]);
        mma_16x8x16(Element{}, s[i + 1], a, b[2], b[3]);
      }
    }
  }

  // O += P V; P in place of S.
  DEVICE void gemm_pv(float (&o)[kO][4], const float (&w)[kS][4], int stage) const {
    const u32 from = shared + L::kV + stage * L::kBytesV + key_warp * L::kKeys * L::V::kPitch;
#pragma unroll
    for (int step = 0; step < kS / 2; ++step) {
      const float(&left)[4] = w[2 * step], (&right)[4] = w[2 * step + 1];
      const u32 a[4] = {Element::pack(left[0], left[1]), Element::pack(left[2], left[3]), Element::pack(right[0], right[1]),
                        Element::pack(right[2], right[3])};
#pragma unroll
      for (int i = 0; i < kO; i += 2) {
        u32 b[4];
        load_matrix_transposed_x4(from + 16 * step * L::V::kPitch + L::V::at(lane % 16, i + lane / 16), b);
        mma_16x8x16(Element{}, o[i], a, b[0], b[1]);
        mma_16x8x16(Element{}, o[i + 1], a, b[2], b[3]);
      }
    }
  }

  // Calls f(fragment, element of it, place of its row, row, key, column, keeps) for all elements of a block. Rows stay within the sequence;
  // with kGuarded keys do, too, and `keeps` says what the mask says.
  template <bool kGuarded, typename Function>
  DEVICE void for_each(Block block, const Function& f) const {
#pragma unroll
    for (int i = 0; i < kS; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int k_idx = first_key(block) + 8 * i + lane % 4 * 2 + j, safe_k = kGuarded ? min(k_idx, u.k_len - 1) : k_idx;
        Column column;
#pragma unroll
        for (int place = 0; place < 2; ++place) {
          if (place < kHeads) column = Variant::template column<kGuarded>(safe_k, p, uniform_of(place));
          bool keeps = true;
          if constexpr (kGuarded) {
            keeps = k_idx < u.k_len;
            if constexpr (Variant::kMask != Mask::kAll)
              keeps = keeps && Variant::keep(query[place], safe_k, p, uniform_of(place), rows[place], column);
          }
          f(i, 2 * place + j, place, query[place], safe_k, column, keeps);
        }
      }
    }
  }

  // P of one block in place of its S.
  DEVICE void weights(float (&s)[kS][4], float (&o)[kO][4], Block block) {
    const bool masked = is_masked(block);
    if constexpr (kSoftmax) {
      float qk[kFactor ? kS : 1][4], greatest[2] = {-kInfinity, -kInfinity};
      if (masked) {
        scores<true>(s, qk, greatest, block);
      } else {
        scores<false>(s, qk, greatest, block);
      }
      exponentials(s, o, greatest);
      if constexpr (kFactor) {
        if (masked) {
          factors<true>(s, qk, block);
        } else {
          factors<false>(s, qk, block);
        }
      }
    } else if (masked) {
      pointwise<true>(s, block);
    } else {
      pointwise<false>(s, block);
    }
  }

  template <bool kGuarded>
  DEVICE void pointwise(float (&s)[kS][4], Block block) const {
    for_each<kGuarded>(block, [&](int i, int e, int place, int q_idx, int k_idx, const Column& column, bool keeps) {
      const float weight = Variant::template weight<kGuarded>(s[i][e], q_idx, k_idx, p, uniform_of(place), rows[place], column, keeps);
      s[i][e] = keeps ? weight : 0.0f;
    });
  }

  // score2 in place of S, the greatest of each row, and with kFactor a copy of S.
  template <bool kGuarded, int kCopies>
  DEVICE void scores(float (&s)[kS][4], float (&qk)[kCopies][4], float (&greatest)[2], Block block) const {
    for_each<kGuarded>(block, [&](int i, int e, int place, int q_idx, int k_idx, const Column& column, bool keeps) {
      if constexpr (kFactor) qk[i][e] = s[i][e];
      const float score2 = Variant::template score2<kGuarded>(s[i][e], q_idx, k_idx, p, uniform_of(place), rows[place], column, keeps);
      s[i][e] = keeps ? score2 : -kInfinity;
      greatest[place] = fmaxf(greatest[place], s[i][e]);
    });
  }
  template <bool kGuarded>
  DEVICE void factors(float (&e2)[kS][4], const float (&qk)[kS][4], Block block) const {
    for_each<kGuarded>(block, [&](int i, int e, int place, int q_idx, int k_idx, const Column& column, bool keeps) {
      const float factor = Variant::template factor<kGuarded>(qk[i][e], q_idx, k_idx, p, uniform_of(place), rows[place], column, keeps);
      e2[i][e] = keeps ? e2[i][e] * factor : 0.0f;
    });
  }

  // exp2(score2 - reference), the reference being the greatest score of the row so far; O and the sums follow it. A NaN never becomes the
  // reference, but its exponential is NaN, and so are the row's sum and O from then on.
  DEVICE void exponentials(float (&s)[kS][4], float (&o)[kO][4], const float (&greatest)[2]) {
    float subtracted[2], scale[2];
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      const float m = fmaxf(reference[place], max_of_row(greatest[place]));
      subtracted[place] = m == -kInfinity ? 0.0f : m;
      scale[place] = exp2_approx(reference[place] - subtracted[place]);
      reference[place] = m;
      sum[place] *= scale[place];
    }
    if (__any_sync(~0u, scale[0] != 1.0f || scale[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < kO; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) o[i][e] *= scale[e / 2];
      }
    }
#pragma unroll
    for (int i = 0; i < kS; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[i][e] = exp2_approx(s[i][e] - subtracted[e / 2]);
        sum[e / 2] += s[i][e];
      }
    }
  }

  // Over the four lanes that share a row.
  static DEVICE float max_of_row(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
  }
  static DEVICE float sum_of_row(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
  }

  // Piece i of this thread's part of O at one place, of two fragments.
  template <int kPlace>
  static DEVICE float4 piece_of(const float (&o)[kO][4], int i) {
    return {o[2 * i][2 * kPlace], o[2 * i][2 * kPlace + 1], o[2 * i + 1][2 * kPlace], o[2 * i + 1][2 * kPlace + 1]};
  }
  template <int kPlace>
  static DEVICE void add_piece(float (&o)[kO][4], int i, float4 piece, float scale) {
    o[2 * i][2 * kPlace] += piece.x * scale;
    o[2 * i][2 * kPlace + 1] += piece.y * scale;
    o[2 * i + 1][2 * kPlace] += piece.z * scale;
    o[2 * i + 1][2 * kPlace + 1] += piece.w * scale;
  }
  // What multiplies a part of this reference where another one, at least as great, is subtracted.
  static DEVICE float scale_to(float of_part, float of_all) { return exp2_approx(of_part - (of_all == -kInfinity ? 0.0f : of_all)); }

  // Adds the parts of the warps that have the same rows to that of the first of them, by all threads.
  DEVICE void add_warps(float (&o)[kO][4]) {
    if constexpr (Config::kKeyWarps > 1) {
      const u32 parts = shared + L::kParts + row_warp * (Config::kKeyWarps - 1) * L::kBytesPart + lane * 16;
      if (key_warp > 0) {
        const u32 to = parts + (key_warp - 1) * L::kBytesPart;
        if constexpr (kSoftmax) store_shared_f32x4(to + kO * kWarp * 16, {reference[0], sum[0], reference[1], sum[1]});
#pragma unroll
        for (int i = 0; i < kO / 2; ++i) {
          store_shared_f32x4(to + i * kWarp * 16, piece_of<0>(o, i));
          store_shared_f32x4(to + (kO / 2 + i) * kWarp * 16, piece_of<1>(o, i));
        }
      }
      __syncthreads();
      if (key_warp > 0) return;
#pragma unroll 1
      for (int other = 0; other < Config::kKeyWarps - 1; ++other) {
        const u32 from = parts + other * L::kBytesPart;
        float of_other[2] = {1.0f, 1.0f};
        if constexpr (kSoftmax) {
          const float4 statistics = load_shared_f32x4(from + kO * kWarp * 16);
          const float references[2] = {statistics.x, statistics.z}, sums[2] = {statistics.y, statistics.w};
#pragma unroll
          for (int place = 0; place < 2; ++place) {
            const float greatest = fmaxf(reference[place], references[place]), of_this = scale_to(reference[place], greatest);
            of_other[place] = scale_to(references[place], greatest);
            sum[place] = sum[place] * of_this + sums[place] * of_other[place];
            reference[place] = greatest;
#pragma unroll
            for (int i = 0; i < kO; ++i) {
#pragma unroll
              for (int e = 2 * place; e < 2 * place + 2; ++e) o[i][e] *= of_this;
            }
          }
        }
#pragma unroll
        for (int i = 0; i < kO / 2; ++i) {
          add_piece<0>(o, i, load_shared_f32x4(from + i * kWarp * 16), of_other[0]);
          add_piece<1>(o, i, load_shared_f32x4(from + (kO / 2 + i) * kWarp * 16), of_other[1]);
        }
      }
    }
  }

  // This thread's pieces of the part that a split leaves of this tile.
  DEVICE float4* part_of(int split) const {
    const i64 number = (static_cast<i64>(blockIdx.x) * p.splits + split) * L::kRowWarps + row_warp;
    return static_cast<float4*>(p.parts) + number * (L::kPieces * kWarp) + lane;
  }
  DEVICE void store_part(const float (&o)[kO][4], int split) const {
    float4* to = part_of(split);
    if (row[0] >= end_row) return;
    if (kSoftmax) to[kO * kWarp] = {reference[0], sum[0], reference[1], sum[1]};
#pragma unroll
    for (int i = 0; i < kO / 2; ++i) to[i * kWarp] = piece_of<0>(o, i);
    if (row[1] >= end_row) return;
#pragma unroll
    for (int i = 0; i < kO / 2; ++i) to[(kO / 2 + i) * kWarp] = piece_of<1>(o, i);
  }
  // Whether no other CTA of the tile has still to come; what they have stored can be read then. Leaves the counter zero.
  DEVICE bool arrives_last(int parts) const {
    __threadfence();
    __syncthreads();
    const u32 last = static_cast<u32>(parts) - 1;
    const bool is_last = threadIdx.x == 0 && atomicInc(reinterpret_cast<u32*>(p.counter) + blockIdx.x, last) == last;
    const bool any = __syncthreads_or(is_last) != 0;
    __threadfence();
    return any;
  }
  // The parts of splits [begin, end), of the rows at one place.
  template <int kPlace>
  DEVICE void add_parts(float (&o)[kO][4], int begin, int end) {
    if (row[kPlace] >= end_row) return;
    if constexpr (kSoftmax) {
#pragma unroll 4
      for (int split = begin; split < end; ++split) {
        const float4 statistics = load_cached_x4(part_of(split) + kO * kWarp);
        reference[kPlace] = fmaxf(reference[kPlace], kPlace == 0 ? statistics.x : statistics.z);
      }
    }
#pragma unroll(kO <= 16 ? 4 : 1)
    for (int split = begin; split < end; ++split) {
      const float4* from = part_of(split);
      float scale = 1.0f;
      if constexpr (kSoftmax) {
        const float4 statistics = load_cached_x4(from + kO * kWarp);
        scale = scale_to(kPlace == 0 ? statistics.x : statistics.z, reference[kPlace]);
        sum[kPlace] += (kPlace == 0 ? statistics.y : statistics.w) * scale;
      }
#pragma unroll
      for (int i = 0; i < kO / 2; ++i) add_piece<kPlace>(o, i, load_cached_x4(from + (kPlace * kO / 2 + i) * kWarp), scale);
    }
  }

  // Where a row of `to` is, of which stride is that of rows and head_stride that of heads.
  template <typename T>
  DEVICE T* row_of(T* to, int of_row, i64 stride, i64 head_stride) const {
    const int q_idx = query_of(of_row), head = tile.h + of_row - q_idx * group;
    return to + (u.first_q + q_idx) * stride + (Config::kPacksHeads ? head : tile.h) * head_stride;
  }

  // Divides O by the row's sum, adds the sink to it, and writes lse. A row whose sum is 0 kept nothing.
  DEVICE void normalise(float (&o)[kO][4]) {
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      float total = sum[place], m = reference[place], to_total = 1.0f;
      if constexpr (Variant::kSink) {
        const float sink2 = rows[place].sink2, greatest = fmaxf(m, sink2);
        to_total = m == -kInfinity ? 0.0f : exp2_approx(m - greatest);
        total = total * to_total + (sink2 == -kInfinity ? 0.0f : exp2_approx(sink2 - greatest));
        m = greatest;
      }
      const float inverse = to_total * reciprocal_approx(total);
#pragma unroll
      for (int i = 0; i < kO; ++i) {
#pragma unroll
        for (int e = 2 * place; e < 2 * place + 2; ++e) o[i][e] = total == 0.0f ? 0.0f : o[i][e] * inverse;
      }
      if (p.lse && lane % 4 == 0 && row[place] < end_row) {
        const float lse = total == 0.0f ? -kInfinity : (m + log2_approx(total)) * kLn2;
        *row_of(p.lse + tile.b * p.lse_stride[0], row[place], p.lse_stride[2], p.lse_stride[1]) = lse;
      }
    }
  }

  // Writes O, each warp its own rows, which pass through shared memory to become whole pieces.
  DEVICE void finish(float (&o)[kO][4]) {
    using M = typename L::V;
    if constexpr (kSoftmax) normalise(o);
    const u32 stage = shared + row_warp * 16 * M::kPitch;
#pragma unroll
    for (int i = 0; i < kO; ++i) {
#pragma unroll
      for (int place = 0; place < 2; ++place)
        store_shared(stage + M::at(lane / 4 + 8 * place, i) + lane % 4 * 4, Element::pack(o[i][2 * place], o[i][2 * place + 1]));
    }
    __syncwarp();
    const int first_row = tile.m * L::kRowsQ + row_warp * 16;
    Raw* const to = p.out + tile.b * p.out_stride[0];
#pragma unroll 4
    for (int i = lane; i < 16 * M::kPieces; i += kWarp) {
      const int r = i / M::kPieces, piece = i % M::kPieces;
      if (first_row + r >= end_row) continue;
      Raw* row_to = row_of(to, first_row + r, p.out_stride[1], p.out_stride[2]);
      store_piece<Config::kVDim>(p.vector_stores, row_to, piece, load_shared_x4(stage + M::at(r, piece)));
    }
  }
};

template <typename Config, typename Variant>
DEVICE void attention_forward_sm80(const Params& p) {
  extern __shared__ unsigned char shared[];
  const Tile tile = tile_at<Config>(blockIdx.x, p);
  const typename Variant::Uniform u = Variant::uniform(p, tile.b, tile.h);
  const int rows = Config::kPacksHeads ? u.q_len * (p.heads / p.kv_heads) : u.q_len;
  if (tile.m * Layout<Config>::kRowsQ >= rows) return;  // packed: this sequence is shorter
  Forward<Config, Variant>(p, tile, u, shared_address(shared)).run();
}
