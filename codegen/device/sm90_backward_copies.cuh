// The backward pass on Hopper: what lies where in shared memory, the order of work, and the warp that copies K, V, Q, dO and what the program
// reads of tensors into it.

// Shared memory, in bytes from a 1024-aligned address on.
template <typename Config>
struct Layout {
  static constexpr int kM = Config::kBlockM, kN = Config::kBlockN;
  static constexpr int kChunk = 64;  // columns of a swizzled row: 128 bytes
  static constexpr int kChunksQ = (Config::kHeadDim + kChunk - 1) / kChunk, kChunksV = (Config::kVDim + kChunk - 1) / kChunk;
  static constexpr int kSplit = Config::kWarpgroups * 64 / kN;  // warpgroups that hold the same keys
  // Columns of a warpgroup's accumulators: all, or the first or last chunks; the one in the middle may be of both.
  static constexpr int kColumnsK = kSplit == 1 ? (Config::kHeadDim + 15) / 16 * 16 : (kChunksQ + 1) / 2 * kChunk;
  static constexpr int kColumnsV = kSplit == 1 ? (Config::kVDim + 15) / 16 * 16 : (kChunksV + 1) / 2 * kChunk;
  static constexpr int kSumColumns = Config::kSums ? 8 : 0;
  // dQ of a block, in units of 64 queries x 64 columns, or of 64 columns x all queries.
  static constexpr bool kTransposesDq = kM < 64;
  static constexpr int kUnitQueries = kTransposesDq ? kM : 64, kUnitSize = kUnitQueries * kChunk;
  static constexpr int kUnits = kM / kUnitQueries * kChunksQ, kSizeDq = kUnits * kUnitSize;
  static constexpr int kUnitsOfOne = (kUnits + Config::kWarpgroups - 1) / Config::kWarpgroups;
  static constexpr int kPlacesS = 2;  // of dS
  static constexpr int kPlacesK = Config::kPersistent ? 2 : 1;  // of K and V, and of what is said of the tile

  static constexpr int kBytesK = kN * kChunksQ * 128, kBytesV = kN * kChunksV * 128;
  // kSums: the columns behind those of the head. All stages share them where a head has one chunk: the next chunk may lie anywhere then.
  static constexpr bool kSharesSums = Config::kSums && kChunksQ == 1;
  static constexpr int kBytesQ = kM * (kChunksQ + (Config::kSums && !kSharesSums)) * 128, kBytesO = kM * kChunksV * 128, kBytesS = kM * kN * 2;
  static constexpr int kBytesTile = kBytesK + kBytesV, kK = 0, kV = kK + kBytesK;
  static constexpr int kQ = kPlacesK * kBytesTile, kO = kQ + Config::kStages * kBytesQ;
  static constexpr int kS = kO + Config::kStages * kBytesO;
  static constexpr int kP = kS + kPlacesS * kBytesS;  // of tensors by pair, what the weights of one step need
  static constexpr int kSharedSums = kP + Config::kFeedBytes;
  static constexpr int kLse = kSharedSums + (kSharesSums ? kM * 128 : 0), kDelta = kLse + Config::kStages * kM * 4;
  // A ring of what the consumers have to know of each step. Its places outlive the stages: dQ comes a step late.
  static constexpr int kSteps = kDelta + Config::kStages * kM * 4, kPlacesT = Config::kStages + 2;
  static constexpr int kTile = kSteps + kPlacesT * 16, kBarriers = kTile + kPlacesK * 16;
  static constexpr int kFullK = kBarriers, kFullV = kFullK + 8 * kPlacesK;
  static constexpr int kFullQ = kFullV + 8 * kPlacesK, kEmptyQ = kFullQ + 8 * Config::kStages;
  static constexpr int kFullO = kEmptyQ + 8 * Config::kStages, kEmptyO = kFullO + 8 * Config::kStages;
  static constexpr int kFullS = kEmptyO + 8 * Config::kStages, kEmptyS = kFullS + 8 * kPlacesS;
  static constexpr int kTurn = kEmptyS + 8 * kPlacesS, kAdded = kTurn + 8 * kPlacesS;  // deterministic
  static constexpr int kFullP = kAdded + 8 * kPlacesS, kEmptyP = kFullP + 8;
  // kPersistent: dK and dV have been read, and their place may be loaded again; nobody reads K any more, where dK is staged.
  static constexpr int kDrained = kEmptyP + 8, kReadK = kDrained + 8 * kPlacesK;
  static constexpr int kBytes = kReadK + 8;

  static constexpr int kArrivals = 4 * Config::kWarpgroups * kArrivalsOfWarp;  // of the consumers
  // What setmaxnreg leaves for each role.
  static constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
  static_assert(!Config::kPersistent || (!Config::kDeterministic && !Config::kPacked));
  static_assert(!Config::kSums || (kSplit == 1 && Config::kHeadDim % kChunk == 0));
  static_assert(kN % 64 == 0 && kM % kUnitQueries == 0 && kM % 16 == 0);
  static_assert((kSplit == 1 || kSplit == 2) && kSplit * kN == 64 * Config::kWarpgroups);
};

// A block of keys of a key head.
struct KeyTile {
  int n, h, b;
};

// The first blocks have the most queries of a causal mask. Heads at work together share the second-level cache; they are those of one number
// in all of a batch first, which may read the same bias and add to the same gradient. Deterministic: the last blocks come first, see
// sm90_turns.cuh.
template <typename Config>
DEVICE KeyTile key_tile_of(int number, const Params& p) {
  const int of_section = p.section_heads * p.blocks_n;
  const int section = number / of_section, rest = number % of_section;
  const int first_head = section * p.section_heads;
  const int heads = min(p.section_heads, p.batch * p.kv_heads - first_head);
  const int head = first_head + rest % heads;
  const int n = rest / heads;
  return {Config::kDeterministic ? p.blocks_n - 1 - n : n, head / p.batch, head % p.batch};
}

// What is said of a step, beside its tiles.
struct Step {
  // kPlain: see run_plain; and the place of the tile's keys, and the head.
  enum Flags { kGuarded = 1, kFirst = 2, kLast = 4, kChangesHead = 8, kPlain = 16, kPlaceShift = 5, kHeadShift = 6 };
  int block;   // of queries
  int number;  // of the block, over all heads
  int next_h;  // the head of the step behind it
  int flags;
  static constexpr int kBlock = 0, kNumber = 4, kNextH = 8, kFlags = 12;  // where they are
};

// One warp. Every lane knows all; lane 0 speaks to barriers and the copy engine. `Arguments`: Params, whose members a template may name
// where a program does not have them.
template <typename Config, typename Variant, typename Arguments>
struct Producer {
  using L = Layout<Config>;
  using Uniform = typename Variant::Uniform;
  static constexpr bool kSoftmax = Variant::kWeight == Weight::kSoftmax;
  const Arguments& p;
  const Places at;
  KeyTile tile;
  const int lane = threadIdx.x % kWarp;
  Ring<Config::kStages> j = {0};
  Ring<L::kPlacesK> t = {0};  // of tiles
  int counted = 0;            // lane 0: what the counter of tiles said

  // The step that is known but not loaded: it is told of the one behind it.
  int pending_block = -1, pending_h = 0, pending_flags = 0;

  DEVICE Producer(const Arguments& params, Places places, KeyTile key_tile) : p(params), at(places), tile(key_tile) {}

  template <int kChunks, int kRows>
  DEVICE void load(u32 full, u32 to, const TensorMap* map, int row, int h, int more_bytes) {
    mbarrier_expect_bytes(full, kRows * kChunks * 128 + more_bytes);
    for (int c = 0; c < kChunks; ++c) tma_load_4d(to + c * kRows * 128, map, full, c * L::kChunk, row, h, Config::kPacked ? 0 : tile.b);
  }
  DEVICE void load_k(const Uniform& u) {
    load<L::kChunksQ, L::kN>(at(L::kFullK, t.place()), at(L::kK) + t.place() * L::kBytesTile, &p.k_map, u.first_k + tile.n * L::kN, tile.h,
                             0);
  }
  DEVICE void load_v(const Uniform& u) {
    load<L::kChunksV, L::kN>(at(L::kFullV, t.place()), at(L::kV) + t.place() * L::kBytesTile, &p.v_map, u.first_k + tile.n * L::kN, tile.h,
                             0);
  }
  DEVICE void load_pending(int next_h, bool is_last, bool is_next_guarded, const Uniform& u) {
    const int head = tile.b * p.heads + pending_h, number = head * p.blocks_m + pending_block;
    const int row = u.first_q + pending_block * L::kM;
    constexpr int kRowBytes = L::kM * 4;
    mbarrier_wait(at(L::kEmptyQ, j.place()), j.parity() ^ 1);
    if (lane == 0) {
      int flags = pending_flags;
      if (is_last) {
        flags |= Step::kLast;
      } else if (next_h != pending_h) {
        flags |= Step::kChangesHead;
      } else if (!is_next_guarded && (flags & Step::kGuarded) == 0) {
        flags |= Step::kPlain;
      }
      store_shared_x4(at(L::kSteps) + 16 * (j.count % L::kPlacesT), {pending_block, number, next_h, flags});
      const u32 full = at(L::kFullQ, j.place());
      load<L::kChunksQ, L::kM>(full, at(L::kQ) + j.place() * L::kBytesQ, &p.q_map, row, pending_h, kSoftmax ? kRowBytes : 0);
      if constexpr (kSoftmax) bulk_load(at(L::kLse) + j.place() * kRowBytes, p.lse2 + static_cast<i64>(number) * L::kM, kRowBytes, full);
      if (!Config::kPersistent && j.count == 0) load_v(u);
    }
    mbarrier_wait(at(L::kEmptyO, j.place()), j.parity() ^ 1);
    if (lane == 0) {
      const u32 full = at(L::kFullO, j.place());
      load<L::kChunksV, L::kM>(full, at(L::kO) + j.place() * L::kBytesO, &p.dout_map, row, pending_h, Variant::kUsesDelta ? kRowBytes : 0);
      if constexpr (Variant::kUsesDelta)
        bulk_load(at(L::kDelta) + j.place() * kRowBytes, p.delta + static_cast<i64>(number) * L::kM, kRowBytes, full);
    }
    if constexpr (Config::kFeedBytes > 0) load_pairs(u);
    j.next();
  }
  // There is one place, free again when the weights of the step before are there.
  DEVICE void load_pairs(const Uniform& u) {
    const Ring<1> pairs = {j.count};
    mbarrier_wait(at(L::kEmptyP), pairs.parity() ^ 1);
    if (lane != 0) return;
    mbarrier_expect_bytes(at(L::kFullP), Config::kFeedBytes);
    const Uniform own = u.h == pending_h ? u : Variant::uniform(p, tile.b, pending_h);
    for (int i = 0; i < L::kM / 64; ++i)
      Variant::load_pairs(at(L::kP) + i * Variant::kPairBytes, at(L::kFullP), pending_block * L::kM + 64 * i, tile.n * L::kN, p, own);
  }
  DEVICE void add_step(int block, bool is_guarded, const Uniform& u) {
    const bool is_first = pending_block < 0;
    if (!is_first) load_pending(u.h, false, is_guarded, u);
    pending_block = block;
    pending_h = u.h;
    pending_flags = u.h << Step::kHeadShift | (is_guarded ? Step::kGuarded : 0);
    if constexpr (Config::kPersistent) pending_flags |= t.place() << Step::kPlaceShift | (is_first ? Step::kFirst : 0);
  }

  // The blocks of one query head. Those that reach past either end are guarded.
  DEVICE void add_head(const Uniform& u) {
    const int first_k = tile.n * L::kN, last_k = min(first_k + L::kN, u.k_len) - 1;
    const bool all_keys = first_k + L::kN <= u.k_len;
    if constexpr (Variant::kMask == Mask::kSearch) {
      const auto columns = Variant::column_extent(first_k, last_k, p, u);
      const auto* rows = Variant::stored_row_extents(p, u.b, u.h);
      const int count = (u.q_len + L::kM - 1) / L::kM;
      for (int base = 0; base < count; base += kWarp) {
        const int block = base + lane, first_q = block * L::kM, last_q = min(first_q + L::kM, u.q_len) - 1;
        TileClass kind = TileClass::kSkip;
        if (block < count) kind = Variant::classify(rows[block], columns, first_q, last_q, first_k, last_k, p, u);
        const u32 full = __ballot_sync(~0u, kind == TileClass::kFull && all_keys && first_q + L::kM <= u.q_len);
        for (u32 kept = __ballot_sync(~0u, kind != TileClass::kSkip); kept != 0; kept &= kept - 1) {
          const int place = __ffs(kept) - 1;
          add_step(base + place, (full >> place & 1) == 0, u);
        }
      }
    } else {
      KeyRange kept = {0, u.q_len}, full = kept;
      if constexpr (Variant::kMask == Mask::kRange) {
        kept = Variant::kept_queries(first_k, last_k, p, u);
        full = Variant::full_queries(first_k, last_k, p, u);
      }
      full.end = min(full.end, u.q_len);
      for (int first_q = kept.begin / L::kM * L::kM; first_q < kept.end; first_q += L::kM)
        add_step(first_q / L::kM, !all_keys || first_q < full.begin || first_q + L::kM > full.end, u);
    }
  }

  // The same in the order in which turns come.
  DEVICE void add_head_by_turns(const Uniform& u) {
    const bool all_keys = (tile.n + 1) * L::kN <= u.k_len;
    for_each_meeting<Config, Variant>(p, u.b * p.heads + u.h, u.q_len, u.k_len, tile.n, [&](int block, int, bool is_full) {
      add_step(block, !all_keys || !is_full || (block + 1) * L::kM > u.q_len, u);
    });
  }

  DEVICE void load_tile() {
    const int group = p.heads / p.kv_heads;
    Uniform u = Variant::uniform(p, tile.b, tile.h * group);
    if (lane == 0) {
      if constexpr (Config::kPersistent) {
        store_shared_x4(at(L::kTile) + 16 * t.place(), {tile.n, tile.h, tile.b, static_cast<int>(t.count)});
        load_k(u);
        load_v(u);
      } else {
        load_k(u);
      }
    }
    for (int i = 0;;) {
      if constexpr (Config::kDeterministic) {
        add_head_by_turns(u);
      } else {
        add_head(u);
      }
      if (++i == group) break;
      u = Variant::uniform(p, tile.b, tile.h * group + i);
    }
    if (pending_block < 0) add_step(0, true, u);  // keys that no query keeps: one block, wholly masked
    // Asked as late as the answer comes in time, since who has taken a tile has to do it.
    if (Config::kPersistent && lane == 0) counted = atomicAdd(p.counter, 1);
    load_pending(0, true, true, u);
    pending_block = -1;
  }

  // kPersistent: what is said of a tile comes with its K; behind the last one, that there is none.
  DEVICE void load_tiles() {
    for (int number = blockIdx.x;; number = gridDim.x + __shfl_sync(~0u, counted, 0)) {
      mbarrier_wait(at(L::kDrained, t.place()), Ring<L::kPlacesK>{t.count - 1}.parity());
      if (number >= p.tiles) break;
      tile = key_tile_of<Config>(number, p);
      load_tile();
      t.next();
    }
    if (lane == 0) {
      store_shared(at(L::kTile) + 16 * t.place(), -1);
      mbarrier_arrive(at(L::kFullK, t.place()));
    }
  }
};
