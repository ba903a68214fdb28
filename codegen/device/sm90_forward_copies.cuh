// What stands beside the consumers of sm90_forward.cuh: shared memory, tiles of queries, and the warps that copy. A producer brings K, V
// and Q, a writer takes results away, feeders bring what the program reads of tensors.

// What feeder warps bring of each block of keys, for each warpgroup: nothing, unless the Config says so.
template <typename Config, typename = const int>
struct FeedOf {
  static constexpr int kStages = 0, kBytes = 0;
};
template <typename Config>
struct FeedOf<Config, decltype(Config::kFeedStages)> {
  static constexpr int kStages = Config::kFeedStages, kBytes = Config::kFeedBytes;
};

// Shared memory, in bytes from a 1024-aligned address on.
template <typename Config>
struct Layout {
  static constexpr int kRowsQ = Config::kWarpgroups * 64;
  static constexpr int kChunk = 64;  // columns of a swizzled row: 128 bytes
  static constexpr int kChunksQ = (Config::kHeadDim + kChunk - 1) / kChunk, kChunksV = (Config::kVDim + kChunk - 1) / kChunk;
  static constexpr int kChunksO = kChunksQ > kChunksV ? kChunksQ : kChunksV;  // O is staged over Q
  static constexpr int kBytesQ = 64 * kChunksO * 128;                         // of one warpgroup
  static constexpr int kBytesK = Config::kBlockN * kChunksQ * 128, kBytesV = Config::kBlockN * kChunksV * 128;
  static constexpr int kQ = 0, kK = kQ + Config::kBuffersQ * Config::kWarpgroups * kBytesQ, kV = kK + Config::kStages * kBytesK;
  static constexpr int kFeedStages = FeedOf<Config>::kStages, kBytesF = FeedOf<Config>::kBytes;
  static constexpr int kFeeders = kFeedStages > 0 ? Config::kWarpgroups : 0;
  static constexpr int kF = kV + Config::kStages * kBytesV;             // rings of feeders, a warpgroup's stages side by side
  static constexpr int kTiles = kF + kFeeders * kFeedStages * kBytesF;  // ring of tiles
  static constexpr int kPlacesT = 4, kWordsT = (6 + 3 * Config::kWarpgroups + 3) / 4 * 4;
  static constexpr int kBlocks = kTiles + kPlacesT * kWordsT * 4;  // kSearch: which block stands in each stage of K
  static constexpr int kBarriers = (kBlocks + 4 * Config::kStages + 7) / 8 * 8;
  static constexpr int kFullQ = kBarriers, kEmptyQ = kFullQ + 8 * Config::kBuffersQ;
  static constexpr int kFullK = kEmptyQ + 8 * Config::kBuffersQ, kEmptyK = kFullK + 8 * Config::kStages;
  static constexpr int kFullV = kEmptyK + 8 * Config::kStages, kEmptyV = kFullV + 8 * Config::kStages;
  static constexpr int kSaid = kEmptyV + 8 * Config::kStages;  // kSearch: of a stage of K, to feeders, which begin while it is on its way
  static constexpr int kFullT = kSaid + 8 * Config::kStages, kEmptyT = kFullT + 8 * kPlacesT;
  static constexpr int kFullO = kEmptyT + 8 * kPlacesT;  // one for each buffer of Q
  static constexpr int kDrained = kFullO + 8 * Config::kBuffersQ;
  static constexpr int kFullF = kDrained + 8, kEmptyF = kFullF + 8 * kFeeders * kFeedStages;
  static constexpr int kRedoCount = kEmptyF + 8 * kFeeders * kFeedStages, kRedo = (kRedoCount + 4 + 15) / 16 * 16;
  static constexpr int kMaxRedo = 96;  // at most six tiles are on their way, with an entry of each of up to 16 consumer warps
  static constexpr int kBytes = kRedo + (Config::kRedoes ? 16 * kMaxRedo : 0);
  // Blocks that a warpgroup may give back unread at once: for more, the producer would wait for it to finish the tile before.
  static constexpr int kMostSkips = Config::kBuffersQ == 1 ? 1 : Config::kStages;
  // What setmaxnreg leaves for each role.
  static constexpr int kProducerRegisters = Config::kWarpgroups == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = Config::kWarpgroups == 2 ? 232 : Config::kWarpgroups == 3 ? 160 : 112;
  static constexpr int kConsumerWarps = 4 * Config::kWarpgroups;
};

// One tile of queries.
struct Tile {
  enum Kind { kWork, kExact, kEmpty, kDrain, kEnd };  // kEmpty: for a warpgroup that has no rows of it
  int m;                                              // rows from m * Layout::kRowsQ on
  int h, b;
  int kind;
};

// Tiles are numbered so that those with the most keys of a causal mask come first, and that the heads at work share the second-level cache.
DEVICE Tile tile_at(int number, const Params& p) {
  const int of_section = p.section_heads * p.tiles_m;
  const int section = number / of_section, rest = number % of_section;
  const int first_head = section * p.section_heads;
  const int heads = min(p.section_heads, p.batch * p.heads - first_head);
  const int head = first_head + rest % heads;
  return {p.tiles_m - 1 - rest / heads, head % p.heads, head / p.heads, Tile::kWork};
}

// Key blocks from the last to the first; at least one, which may be wholly masked.
struct Blocks {
  int first, last;
};
template <typename Config>
DEVICE Blocks blocks_of(KeyRange keys) {
  const int first = min(keys.begin, max(keys.end - 1, 0)) / Config::kBlockN;
  return {first, max(first, (keys.end + Config::kBlockN - 1) / Config::kBlockN - 1)};
}

// Blocks that lie in a range wholly.
template <typename Config>
DEVICE KeyRange full_blocks(KeyRange keys) {
  return {(keys.begin + Config::kBlockN - 1) / Config::kBlockN, keys.end / Config::kBlockN};
}

// One warp. Every lane knows all; lane 0 speaks to barriers and the copy engine.
template <typename Config, typename Variant>
struct Producer {
  using L = Layout<Config>;
  using Uniform = typename Variant::Uniform;
  const Params& p;
  const Places at;
  const int lane = threadIdx.x % kWarp;
  Ring<Config::kStages> k = {0}, v = {0};
  Ring<Config::kBuffersQ> q = {0};
  Ring<L::kPlacesT> t = {0};

  DEVICE Producer(const Params& params, Places places) : p(params), at(places) {}

  // Hands a tile to the consumers and the writer, with its key blocks and what each warpgroup knows of the mask: where it begins, and which
  // blocks are whole. Returns the blocks of all.
  DEVICE Blocks announce(const Tile& tile, const Uniform& u) {
    mbarrier_wait(at(L::kEmptyT, t.place()), t.parity() ^ 1);
    const u32 to = at(L::kTiles) + 4 * L::kWordsT * t.place();
    Blocks blocks = {0, 0};
    if constexpr (Variant::kMask != Mask::kSearch) {
      // Lane w asks for warpgroup w.
      const int first_q = tile.m * L::kRowsQ + min(lane, Config::kWarpgroups - 1) * 64;
      const int first = min(first_q, u.q_len - 1), last = min(first_q + 63, u.q_len - 1);
      const Blocks own = blocks_of<Config>(Variant::kept_keys(first, last, p, u));
      const KeyRange full = full_blocks<Config>(Variant::full_keys(first, last, p, u));
      blocks = {__reduce_min_sync(~0u, own.first), __reduce_max_sync(~0u, own.last)};
#pragma unroll
      for (int wg = 0; wg < Config::kWarpgroups; ++wg) {
        const int last_block = max(__shfl_sync(~0u, own.last, wg), blocks.last - L::kMostSkips), begin = __shfl_sync(~0u, full.begin, wg),
                  end = __shfl_sync(~0u, full.end, wg);
        if (lane != 0) continue;
        store_shared(to + 24 + 12 * wg, last_block);
        store_shared(to + 28 + 12 * wg, begin);
        store_shared(to + 32 + 12 * wg, end);
      }
    }
    if (lane == 0) {
      store_shared_x4(to, {tile.m, tile.h, tile.b, tile.kind});
      store_shared(to + 16, blocks.first);
      store_shared(to + 20, blocks.last);
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(at(L::kFullT, t.place()));
    t.next();
    return blocks;
  }
  DEVICE void end_stream(int kind) {
    mbarrier_wait(at(L::kEmptyT, t.place()), t.parity() ^ 1);
    if (lane == 0) {
      store_shared_x4(at(L::kTiles) + 4 * L::kWordsT * t.place(), {0, 0, 0, kind});
      mbarrier_arrive(at(L::kFullT, t.place()));
    }
    t.next();
  }

  DEVICE void load_q(const Tile& tile, const Uniform& u) {
    mbarrier_wait(at(L::kEmptyQ, q.place()), q.parity() ^ 1);
    if (lane == 0) {
      const u32 full = at(L::kFullQ, q.place());
      mbarrier_expect_bytes(full, Config::kWarpgroups * 64 * L::kChunksQ * 128);
      for (int wg = 0; wg < Config::kWarpgroups; ++wg) {
        const u32 to = at(L::kQ) + (q.place() * Config::kWarpgroups + wg) * L::kBytesQ;
        for (int c = 0; c < L::kChunksQ; ++c)
          tma_load_4d(to + c * 64 * 128, &p.q_map, full, c * L::kChunk, u.first_q + tile.m * L::kRowsQ + wg * 64, tile.h,
                      Config::kPacked ? 0 : tile.b);
      }
    }
    q.next();
  }
  template <int kChunks>
  DEVICE void load_keys(u32 full, u32 to, const TensorMap* map, int row, const Uniform& u) {
    mbarrier_expect_bytes(full, Config::kBlockN * kChunks * 128);
    for (int c = 0; c < kChunks; ++c)
      tma_load_4d(to + c * Config::kBlockN * 128, map, full, c * L::kChunk, row, u.kv_h, Config::kPacked ? 0 : u.b);
  }
  // `word`, for kSearch: what read_block() wants to know.
  DEVICE void load_k(int block, int word, const Uniform& u) {
    mbarrier_wait(at(L::kEmptyK, k.place()), k.parity() ^ 1);
    if (lane == 0) {
      if constexpr (Variant::kMask == Mask::kSearch) {
        store_shared(at(L::kBlocks) + 4 * k.place(), word);
        mbarrier_arrive(at(L::kSaid, k.place()));
      }
      load_keys<L::kChunksQ>(at(L::kFullK, k.place()), at(L::kK) + k.place() * L::kBytesK, &p.k_map, u.first_k + block * Config::kBlockN,
                             u);
    }
    k.next();
  }
  DEVICE void load_v(int block, const Uniform& u) {
    mbarrier_wait(at(L::kEmptyV, v.place()), v.parity() ^ 1);
    if (lane == 0)
      load_keys<L::kChunksV>(at(L::kFullV, v.place()), at(L::kV) + v.place() * L::kBytesV, &p.v_map, u.first_k + block * Config::kBlockN,
                             u);
    v.next();
  }

  // K runs one block ahead of V, from tile to tile.
  int late_block = -1;
  Uniform late;
  DEVICE void load_late_v() {
    if (late_block >= 0) load_v(late_block, late);
    late_block = -1;
  }
  DEVICE void load_block(int block, int word, bool is_first, const Tile& tile, const Uniform& u) {
    load_k(block, word, u);
    if (is_first) load_q(tile, u);
    load_late_v();
    late_block = block;
    late = u;
  }
  DEVICE void load_tile(const Tile& tile) {
    const Uniform u = Variant::uniform(p, tile.b, tile.h);
    if (Config::kPacked && tile.m * L::kRowsQ >= u.q_len) return;
    const Blocks blocks = announce(tile, u);
    if (Config::kBuffersQ == 1) load_late_v();  // consumers finish a tile before they look at the next
    if constexpr (Variant::kMask == Mask::kSearch) {
      search_blocks(tile, u);
    } else {
      for (int block = blocks.last; block >= blocks.first; --block) load_block(block, 0, block == blocks.last, tile, u);
    }
  }

  // Classifies 128 blocks at a time, four a lane: time goes by while extents are on their way.
  DEVICE void search_blocks(const Tile& tile, const Uniform& u) {
    constexpr int kAtOnce = 4;
    const int first_q = tile.m * L::kRowsQ, last_q = min(first_q + L::kRowsQ, u.q_len) - 1;
    const int count = (u.k_len + Config::kBlockN - 1) / Config::kBlockN;
    const auto rows = Variant::stored_row_extents(p, u.b, u.h)[tile.m];
    const auto* extents = Variant::stored_extents(p, u.b, u.h);
    constexpr int kBlocksAtOnce = kAtOnce * kWarp;
    int base = (count + kBlocksAtOnce - 1) / kBlocksAtOnce * kBlocksAtOnce, pending = -1;
    u32 kept = 0, full = 0;  // of blocks base + 32 * lane and those behind it
    // A block's word says whether it is the last of its tile, and whether the next one is whole: each waits for the next one.
    for (bool is_first = true, is_last = false; !is_last;) {
      u32 lanes = __ballot_sync(~0u, kept != 0);
      while (lanes == 0 && base > 0) {
        base -= kBlocksAtOnce;
        typename Variant::ColumnExtent columns[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) columns[i] = extents[min(base + i * kWarp + lane, count - 1)];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int block = base + i * kWarp + lane, first_k = block * Config::kBlockN,
                    last_k = min(first_k + Config::kBlockN, u.k_len) - 1;
          TileClass kind = TileClass::kSkip;
          if (block < count) kind = Variant::classify(rows, columns[i], first_q, last_q, first_k, last_k, p, u);
          if (kind == TileClass::kFull && first_k + Config::kBlockN > u.k_len) kind = TileClass::kPartial;
          const u32 some = __ballot_sync(~0u, kind != TileClass::kSkip), all = __ballot_sync(~0u, kind == TileClass::kFull);
          if (lane == i) kept = some, full = all;
        }
        lanes = __ballot_sync(~0u, kept != 0);
      }
      is_last = lanes == 0;
      if (is_last) pending = max(pending, 0);  // a tile without keys has one block, wholly masked
      const int from = is_last ? 0 : 31 - __clz(lanes), place = 31 - __clz(__shfl_sync(~0u, kept, from));
      if (pending >= 0) {
        load_block(pending, pending << 2 | (is_last ? 2 : __shfl_sync(~0u, full, from) >> place & 1), is_first, tile, u);
        is_first = false;
      }
      if (lane == from) kept &= ~(1u << (place & 31));
      pending = base + from * kWarp + place;
    }
  }

  // What the list has grown by. An entry may still be on its way; several warps may have asked for the same tile. The list is a ring with
  // room for all tiles that are on their way. Which tiles are done again depends on their values alone, not on the schedule.
  int redone = 0;
  int last_redone[2] = {-1, -1};
  DEVICE bool takes_from_list(Tile& tile) {
    for (const int count = load_shared(at(L::kRedoCount)); redone < count;) {
      const u32 entry = at(L::kRedo) + 16 * (redone % L::kMaxRedo);
      const int4 listed = load_shared_x4(entry);
      if (listed.x < 0) return false;
      __syncwarp();
      if (lane == 0) store_shared(entry, -1);
      ++redone;
      const int number = (listed.z * p.heads + listed.y) * p.tiles_m + listed.x;
      bool is_done = false;
#pragma unroll
      for (const int other : last_redone) is_done = is_done || other == number;
      if (is_done) continue;
      last_redone[1] = last_redone[0];
      last_redone[0] = number;
      tile = {listed.x, listed.y, listed.z, Tile::kExact};
      return true;
    }
    return false;
  }

  // In this order, so that tiles are done again while other CTAs can still take over work.
  bool is_drained = !Config::kRedoes;
  int counted = blockIdx.x - gridDim.x;  // lane 0: what the counter said, asked one tile ahead
  DEVICE Tile next_tile() {
    Tile tile = {0, 0, 0, Tile::kEnd};
    if (Config::kRedoes && takes_from_list(tile)) return tile;
    const int number = gridDim.x + __shfl_sync(~0u, counted, 0);
    if (number < p.tiles) {
      if (lane == 0) counted = atomicAdd(p.counter, 1);
      return tile_at(number, p);
    }
    if (!is_drained) tile.kind = Tile::kDrain;
    is_drained = true;
    return tile;
  }

  // One call of what loads a tile: it is most of the code.
  DEVICE void run() {
    for (int kind = Tile::kWork; kind != Tile::kEnd;) {
      const Tile tile = next_tile();
      kind = tile.kind;
      if (kind <= Tile::kExact) {
        load_tile(tile);
      } else {
        load_late_v();
        end_stream(kind);
        if (kind == Tile::kDrain) mbarrier_wait(at(L::kDrained), 0);
      }
    }
    // The last CTA leaves the counters as it found them.
    if (lane == 0 && atomicAdd(p.counter + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      p.counter[0] = 0;
      p.counter[1] = 0;
    }
  }
};

// One warp: writes finished tiles of O to memory, out of the buffer of Q over which they were staged, and gives the buffer back.
template <typename Config, typename Variant>
struct Writer {
  using L = Layout<Config>;

  // Through the copy engine, which clips at the tensor's end.
  static DEVICE void copy(u32 from, const Tile& tile, int row, const Params& p) {
    if (row >= p.q_len || threadIdx.x % kWarp != 0) return;
    for (int c = 0; c < L::kChunksV; ++c) tma_store_4d(&p.out_map, from + c * 64 * 128, c * L::kChunk, row, tile.h, tile.b);
  }
  // Packed sequences end anywhere: row by row.
  static DEVICE void copy_rows(u32 from, const Tile& tile, int row, const Params& p) {
    const auto u = Variant::uniform(p, tile.b, tile.h);
    constexpr int kPieces = Config::kVDim / 8;  // of 16 bytes
    Raw* to = p.out + static_cast<i64>(u.first_q + row) * p.out_stride[1] + tile.h * p.out_stride[2];
    for (int i = threadIdx.x % kWarp; i < 64 * kPieces; i += kWarp) {
      const int r = i / kPieces, piece = i % kPieces;
      if (row + r >= u.q_len) break;
      const int4 words = load_shared_x4(from + piece / 8 * (64 * 128) + r * 128 + ((piece % 8 ^ r % 8) << 4));
      *reinterpret_cast<int4*>(to + r * p.out_stride[1] + piece * 8) = words;
    }
  }

  static DEVICE void run(const Params& p, Places at) {
    const bool speaks = threadIdx.x % kWarp == 0;
    Ring<L::kPlacesT> t = {0};
    Ring<Config::kBuffersQ> q = {0};
    for (;;) {
      mbarrier_wait(at(L::kFullT, t.place()), t.parity());
      const int4 words = load_shared_x4(at(L::kTiles) + 4 * L::kWordsT * t.place());
      const Tile tile = {words.x, words.y, words.z, words.w};
      __syncwarp();
      if (speaks) mbarrier_arrive(at(L::kEmptyT, t.place()));
      t.next();
      if (tile.kind == Tile::kEnd) break;
      if (tile.kind == Tile::kDrain) continue;
      mbarrier_wait(at(L::kFullO, q.place()), q.parity());
      if (Config::kRedoes && speaks && tile.kind == Tile::kExact) tma_store_wait_all();  // it must land behind what it replaces
      for (int wg = 0; wg < Config::kWarpgroups; ++wg) {
        const int row = tile.m * L::kRowsQ + wg * 64;
        const u32 from = at(L::kQ) + (q.place() * Config::kWarpgroups + wg) * L::kBytesQ;
        if constexpr (Config::kPacked) {
          copy_rows(from, tile, row, p);
        } else {
          copy(from, tile, row, p);
        }
      }
      if (speaks && !Config::kPacked) {
        tma_store_commit();
        tma_store_wait_read();
      }
      __syncwarp();
      if (speaks) mbarrier_arrive(at(L::kEmptyQ, q.place()));
      q.next();
    }
    if (speaks && !Config::kPacked) tma_store_wait_all();
  }
};

// One warp for each warpgroup of consumers, which follows its blocks and brings what the program reads of tensors by pair and by key.
template <typename Config, typename Variant>
struct Feeder {
  using L = Layout<Config>;
  const Params& p;
  const Places at;
  const int wg;
  const int lane = threadIdx.x % kWarp;
  Ring<L::kPlacesT> t = {0};
  Ring<Config::kStages> k = {0};
  Ring<L::kFeedStages> f = {0};

  DEVICE Feeder(const Params& params, Places places, int wg_) : p(params), at(places), wg(wg_) {}

  DEVICE void load(int block, int m, const typename Variant::Uniform& u) {
    const int place = wg * L::kFeedStages + f.place(), first_k = block * Config::kBlockN;
    const u32 to = at(L::kF) + place * L::kBytesF, full = at(L::kFullF, place);
    mbarrier_wait(at(L::kEmptyF, place), f.parity() ^ 1);
    if constexpr (Variant::kColumnWords > 0) {
      for (int i = lane; i < Config::kBlockN; i += kWarp)
        Variant::store_column(to + Variant::kPairBytes + 4 * i, Variant::template column<true>(first_k + i, p, u));
    }
    if constexpr (Variant::kTableWords > 0)
      Variant::store_tables(to + Variant::kPairBytes + 4 * Config::kBlockN * Variant::kColumnWords, lane, p, u);
    if constexpr (Variant::kColumnWords + Variant::kTableWords > 0) __syncwarp();
    if (lane == 0) {
      if constexpr (Variant::kPairBytes > 0) {
        mbarrier_expect_bytes(full, Variant::kPairBytes);
        Variant::load_pairs(to, full, m * L::kRowsQ + wg * 64, first_k, p, u);
      } else {
        mbarrier_arrive(full);
      }
    }
    f.next();
  }
  // kSearch: the blocks that the producer has found, as they stand in the stages of K.
  DEVICE void follow_keys(int m, const typename Variant::Uniform& u) {
    for (int word = 0; (word & 2) == 0;) {
      mbarrier_wait(at(L::kSaid, k.place()), k.parity());
      word = load_shared(at(L::kBlocks) + 4 * k.place());
      __syncwarp();
      if (lane == 0) mbarrier_arrive(at(L::kEmptyK, k.place()));
      k.next();
      load(word >> 2, m, u);
    }
  }

  DEVICE void run() {
    for (;;) {
      mbarrier_wait(at(L::kFullT, t.place()), t.parity());
      const u32 from = at(L::kTiles) + 4 * L::kWordsT * t.place();
      const int4 tile = load_shared_x4(from);
      const int first = load_shared(from + 16);
      int last = load_shared(from + 20);
      if (Variant::kMask == Mask::kRange) last = load_shared(from + 24 + 12 * wg);
      __syncwarp();
      if (lane == 0) mbarrier_arrive(at(L::kEmptyT, t.place()));
      t.next();
      if (tile.w == Tile::kEnd) break;
      if (tile.w == Tile::kDrain) continue;
      const auto u = Variant::uniform(p, tile.z, tile.y);
      if constexpr (Variant::kMask == Mask::kSearch) {
        follow_keys(tile.x, u);
      } else {
        for (int block = last; block >= first; --block) load(block, tile.x, u);
      }
    }
  }
};
