// Deterministic: CTAs add to the sums of dQ in a fixed order, the last keys first. Each block of queries of a head has a turn, 1 + the last
// block of keys that has added to it. A block of keys waits for its predecessor, the next greater one that meets the same queries, and its
// CTA has a lower ticket: tickets are drawn as CTAs start, so whoever is waited for is at work or done.
//
// Two warps of the producer's warpgroup see to it, and know all steps by themselves:
//
//   Turns::wait     turn of the step's block  -> mbarrier Turn  -> consumers add
//   Turns::publish  consumers have added (mbarrier Added)  -> turn of the step's block, and the place in Turn is free for the step after next
//
// Which blocks meet is written down before (two bits each, and a range for each block of keys), by one piece of code that everybody believes:
// two that round differently would wait for each other forever.

template <typename Config>
struct Layout;

// The blocks of queries that a block of keys meets lie in [begin, end).
struct Span {
  int begin, end;
};
DEVICE Span* span_of(int* spans, int head, int n, const Params& p) {
  return reinterpret_cast<Span*>(spans) + static_cast<i64>(head) * p.blocks_n + n;
}

// What is known of blocks of keys 32 n to 32 n + 31 and one block of queries. A row of these for each block of queries.
struct Meetings {
  u32 some, all;  // pairs are kept
};
DEVICE int words_of_row(const Params& p) {
  return (p.blocks_n + kWarp - 1) / kWarp;
}

// By a warp: every `step`th word of a row. class_of(n): of the pairs with block n of keys, if both are whole.
template <typename Arguments, typename Function>
DEVICE void store_meetings(const Arguments& p, i64 row, int blocks_n, int first_word, int step, const Function& class_of) {
  const int lane = threadIdx.x % kWarp, words = words_of_row(p);
#pragma unroll 1
  for (int word = first_word; word * kWarp < blocks_n; word += step) {
    const int n = word * kWarp + lane;
    const TileClass kind = n < blocks_n ? class_of(n) : TileClass::kSkip;
    const Meetings found = {__ballot_sync(~0u, kind != TileClass::kSkip), __ballot_sync(~0u, kind == TileClass::kFull)};
    if (lane == 0) reinterpret_cast<Meetings*>(p.meetings)[row * words + word] = found;
  }
}

// In the prepare kernel, which has a CTA for each block of queries of each head.
template <typename Config, typename Variant, typename Arguments>
DEVICE void prepare_turns(const Arguments& p) {
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  if (threadIdx.x == 0) {
    p.turns[blockIdx.x] = 0;
    if (blockIdx.x == 0) *p.counter = 0;
  }
  if constexpr (Variant::kMask == Mask::kRange) {
    const int head = blockIdx.x / p.blocks_m, block = blockIdx.x % p.blocks_m;
    if (head >= p.batch * p.heads) return;
    const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
    store_meetings(p, blockIdx.x, (u.k_len + Config::kBlockN - 1) / Config::kBlockN, warp, warps, [&](int n) {
      const int first_k = n * Config::kBlockN, last_k = min(first_k + Config::kBlockN, u.k_len) - 1, first_q = block * Config::kBlockM;
      const KeyRange kept = Variant::kept_queries(first_k, last_k, p, u), full = Variant::full_queries(first_k, last_k, p, u);
      Span span = {0, 0};
      if (kept.begin < kept.end) span = {kept.begin / Config::kBlockM, (kept.end + Config::kBlockM - 1) / Config::kBlockM};
      if (block == 0) *span_of(p.spans, head, n, p) = span;
      if (block < span.begin || block >= span.end) return TileClass::kSkip;
      return first_q >= full.begin && first_q + Config::kBlockM <= full.end ? TileClass::kFull : TileClass::kPartial;
    });
  } else if constexpr (Variant::kMask == Mask::kSearch) {
    const int heads = p.batch * p.heads;
    for (int i = blockIdx.x * warps + warp; i < heads * p.blocks_n; i += gridDim.x * warps) {
      const int head = i / p.blocks_n, n = i % p.blocks_n, first_k = n * Config::kBlockN;
      const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
      if (threadIdx.x % kWarp == 0) *span_of(p.spans, head, n, p) = {0x7FFFFFFF, 0};
      if (first_k >= u.k_len) continue;
      const auto extent = Variant::column_extent(first_k, min(first_k + Config::kBlockN, u.k_len) - 1, p, u);
      if (threadIdx.x % kWarp == 0) Variant::stored_column_extents(p, u.b, u.h)[n] = extent;
    }
  }
}

// kSearch, behind the prepare kernel, by the warp that knows the extent of a block of queries.
template <typename Config, typename Variant, typename Arguments, typename Extent, typename Uniform>
DEVICE void search_meetings(const Arguments& p, const Uniform& u, const Extent& rows, int block) {
  const int head = u.b * p.heads + u.h, first_q = block * Config::kBlockM, last_q = min(first_q + Config::kBlockM, u.q_len) - 1;
  const auto* columns = Variant::stored_column_extents(p, u.b, u.h);
  store_meetings(p, static_cast<i64>(head) * p.blocks_m + block, (u.k_len + Config::kBlockN - 1) / Config::kBlockN, 0, 1, [&](int n) {
    const int first_k = n * Config::kBlockN, last_k = min(first_k + Config::kBlockN, u.k_len) - 1;
    const TileClass kind = Variant::classify(rows, columns[n], first_q, last_q, first_k, last_k, p, u);
    if (kind == TileClass::kSkip) return kind;
    Span* const span = span_of(p.spans, head, n, p);
    atomicMin(&span->begin, block);
    atomicMax(&span->end, block + 1);
    return kind;
  });
}

// Calls f(block, turn, is_full) for the blocks of queries of a head that block n of keys meets, by all lanes of a warp, in ascending order:
// CTAs of a causal mask or a window, which start together, each begin at their own diagonal and find their turn come from then on.
// turn: the block's when the predecessor has added, 0 if there is none. is_full: all pairs that there are are kept, if both are whole.
template <typename Config, typename Variant, typename Arguments, typename Function>
DEVICE void for_each_meeting(const Arguments& p, int head, int q_len, int k_len, int n, const Function& f) {
  const int count = (q_len + Config::kBlockM - 1) / Config::kBlockM, last_n = (k_len + Config::kBlockN - 1) / Config::kBlockN - 1;
  if constexpr (Variant::kMask == Mask::kAll) {
    for (int block = 0; block < count; ++block) f(block, n < last_n ? n + 2 : 0, true);
  } else {
    const int lane = threadIdx.x % kWarp, words = words_of_row(p), own = n / kWarp;
    const Span span = *span_of(p.spans, head, n, p);
    const Meetings* const rows = reinterpret_cast<const Meetings*>(p.meetings) + static_cast<i64>(head) * p.blocks_m * words;
    for (int base = span.begin / kWarp * kWarp; span.begin < span.end && base < min(span.end, count); base += kWarp) {
      const int block = base + lane;
      const Meetings* const row = rows + static_cast<i64>(block) * words;
      const Meetings found = block < count ? row[own] : Meetings{0, 0};
      const bool meets = found.some >> n % kWarp & 1;
      const u32 full = __ballot_sync(~0u, found.all >> n % kWarp & 1);
      u32 bits = found.some & (~1u << n % kWarp);
      int word = own;
      while (meets && bits == 0 && word < last_n / kWarp) bits = row[++word].some;
      const int turn = bits == 0 ? 0 : word * kWarp + __ffs(bits);
      for (u32 left = __ballot_sync(~0u, meets); left != 0; left &= left - 1) {
        const int place = __ffs(left) - 1;
        f(base + place, __shfl_sync(~0u, turn, place), (full >> place & 1) != 0);
      }
    }
  }
}

template <typename Config, typename Variant, typename Arguments>
struct Turns {
  using L = Layout<Config>;
  const Arguments& p;
  const Places at;
  const int n, kv_h, b;
  const int lane = threadIdx.x % kWarp;
  Ring<L::kPlacesS> j = {0};

  DEVICE Turns(const Arguments& params, Places places, int tile_n, int tile_h, int tile_b)
      : p(params), at(places), n(tile_n), kv_h(tile_h), b(tile_b) {}

  // f(number of the block over all heads, turn)
  template <typename Function>
  DEVICE void for_each(const Function& f) {
    const int group = p.heads / p.kv_heads;
    int q_len = p.q_len, k_len = p.k_len;
    if constexpr (Config::kPacked) {
      q_len = p.cu_q[b + 1] - p.cu_q[b];
      k_len = p.cu_k[b + 1] - p.cu_k[b];
    }
    for (int i = 0; i < group; ++i) {
      const int head = b * p.heads + kv_h * group + i;
      for_each_meeting<Config, Variant>(p, head, q_len, k_len, n, [&](int block, int turn, bool) { f(head * p.blocks_m + block, turn); });
    }
  }

  // The place is free when publish() has seen what was added in the step before the last one. All lanes have to have seen a phase before
  // lane 0 ends the next one.
  DEVICE void grant() {
    mbarrier_wait(at(L::kTurn, j.place()), j.parity() ^ 1);
    __syncwarp();
    if (lane == 0) mbarrier_arrive(at(L::kTurn, j.place()));
    j.next();
  }
  DEVICE void wait() {
    for_each([&](int number, int turn) {
      wait_global(p.turns + number, turn);
      grant();
    });
    if (j.count == 0) grant();  // keys that no query keeps: nothing is added
  }

  DEVICE void publish() {
    for (int i = 0; i < L::kPlacesS; ++i) {
      if (lane == 0) mbarrier_arrive(at(L::kTurn, i));
    }
    for_each([&](int number, int) {
      mbarrier_wait(at(L::kAdded, j.place()), j.parity());
      __syncwarp();
      if (lane == 0) {
        mbarrier_arrive(at(L::kTurn, j.place()));
        store_release(p.turns + number, n + 1);
      }
      j.next();
    });
  }
};

// The number of this CTA's tile, in the order in which CTAs start, by all threads. `word`: a free one of shared memory.
DEVICE int draw_ticket(u32 word, const Params& p) {
  if (threadIdx.x == 0) store_shared(word, atomicAdd(p.counter, 1));
  __syncthreads();
  return load_shared(word);
}
