// Attention forward on Hopper: a producer warpgroup copies tiles into shared memory, consumer warpgroups hold 64 query rows each.
//
//   S = Q K^T       wgmma, both operands from shared memory
//   P = weights(S)  the variant's score, mask and weights, in registers
//   O += P V        wgmma, P from registers
//
// A CTA works through a stream of key blocks that runs on from one tile of queries to the next: the first S of a tile is computed under the
// last P V of the one before it, so the tensor cores do not drain in between (where shared memory holds two tiles of Q).
//
// Softmax takes its reference maximum from the first and from the masked blocks of a row; later blocks subtract it without looking for a
// greater one. A row whose sum grows too far shifts the reference by a power of two; one that overflows puts its tile on a list, which is
// computed again with exact maxima.

// Depth-two rings and the like: a place and the parity of its barrier.
template <int kPlaces>
struct Ring {
  int place;
  u32 parity;
  DEVICE void next() {
    if (++place == kPlaces) {
      place = 0;
      parity ^= 1;
    }
  }
};

template <typename Config>
struct Layout {
  static constexpr int kRowsQ = Config::kWarpgroups * 64;
  static constexpr int kChunk = 64;  // columns of a swizzled row: 128 bytes
  static constexpr int kChunksQ = (Config::kHeadDim + kChunk - 1) / kChunk, kChunksV = (Config::kVDim + kChunk - 1) / kChunk;
  static constexpr int kChunksO = kChunksQ > kChunksV ? kChunksQ : kChunksV;  // O is staged over Q
  static constexpr int kBytesQ = 64 * kChunksO * 128;                         // of one warpgroup
  static constexpr int kBytesK = Config::kBlockN * kChunksQ * 128, kBytesV = Config::kBlockN * kChunksV * 128;
  static constexpr int kQ = 0, kK = kQ + Config::kBuffersQ * Config::kWarpgroups * kBytesQ, kV = kK + Config::kStages * kBytesK;
  static constexpr int kTiles = kV + Config::kStages * kBytesV;  // ring of tiles, 16 bytes each
  static constexpr int kPlacesT = 4;
  static constexpr int kBarriers = kTiles + kPlacesT * 16;
  static constexpr int kFullQ = kBarriers, kEmptyQ = kFullQ + 8 * Config::kBuffersQ;
  static constexpr int kFullK = kEmptyQ + 8 * Config::kBuffersQ, kEmptyK = kFullK + 8 * Config::kStages;
  static constexpr int kFullV = kEmptyK + 8 * Config::kStages, kEmptyV = kFullV + 8 * Config::kStages;
  static constexpr int kFullT = kEmptyV + 8 * Config::kStages, kEmptyT = kFullT + 8 * kPlacesT;
  static constexpr int kFullO = kEmptyT + 8 * kPlacesT;  // one for each buffer of Q
  static constexpr int kDrained = kFullO + 8 * Config::kBuffersQ;
  static constexpr int kRedoCount = kDrained + 8, kRedo = kRedoCount + 8, kMaxRedo = 128;
  static constexpr int kBytes = kRedo + (Config::kStale ? 16 * kMaxRedo : 0);
  // Registers: what setmaxnreg leaves for each role.
  static constexpr int kProducerRegisters = Config::kWarpgroups == 2 ? 24 : 32;
  static constexpr int kConsumerRegisters = Config::kWarpgroups == 2 ? 240 : 160;
  static constexpr int kConsumerWarps = 4 * Config::kWarpgroups;
};

// One tile of queries, as the producer hands it on.
struct Tile {
  enum Kind { kWork, kExact, kDrain, kEnd };
  int m;  // kBlockM rows from m * kBlockM on
  int h, b;
  int kind;
};

struct Places {
  u32 base;  // of shared memory
  DEVICE u32 operator()(int offset) const { return base + offset; }
  DEVICE u32 operator()(int offset, int place) const { return base + offset + 8 * place; }
};

// Tiles are numbered so that those with the most keys of a causal mask come first, and that the heads at work share the second-level cache.
template <typename Config>
DEVICE Tile tile_at(int number, const Params& p) {
  const int of_section = p.section_heads * p.tiles_m;
  const int section = number / of_section, rest = number % of_section;
  const int first_head = section * p.section_heads;
  const int heads = min(p.section_heads, p.batch * p.heads - first_head);
  const int head = first_head + rest % heads;
  return {p.tiles_m - 1 - rest / heads, head % p.heads, head / p.heads, Tile::kWork};
}

// Key blocks of the rows [first_q, last_q]: from the last to the first; at least one, which may be wholly masked.
struct Blocks {
  int first, last;
};
template <typename Config, typename Variant>
DEVICE Blocks blocks_of(int first_q, int last_q, const Params& p, const typename Variant::Uniform& u) {
  const KeyRange kept = Variant::kept_keys(first_q, min(last_q, p.q_len - 1), p, u);
  const int first = kept.begin / Config::kBlockN;
  return {first, max(first, (kept.end + Config::kBlockN - 1) / Config::kBlockN - 1)};
}

template <typename Config, typename Variant>
struct Producer {
  using L = Layout<Config>;
  const Params& p;
  Places at;
  Ring<Config::kStages> k = {0, 1}, v = {0, 1};
  Ring<Config::kBuffersQ> q = {0, 1};
  Ring<L::kPlacesT> t = {0, 1};

  DEVICE Producer(const Params& params, Places places) : p(params), at(places) {}

  DEVICE void announce(Tile tile) {
    mbarrier_wait(at(L::kEmptyT, t.place), t.parity);
    store_shared_x4(at(L::kTiles) + 16 * t.place, {tile.m, tile.h, tile.b, tile.kind});
    mbarrier_arrive(at(L::kFullT, t.place));
    t.next();
  }
  DEVICE void load_q(const Tile& tile) {
    mbarrier_wait(at(L::kEmptyQ, q.place), q.parity);
    const u32 full = at(L::kFullQ, q.place);
    mbarrier_expect_bytes(full, Config::kWarpgroups * 64 * L::kChunksQ * 128);
    for (int wg = 0; wg < Config::kWarpgroups; ++wg) {
      const u32 to = at(L::kQ) + (q.place * Config::kWarpgroups + wg) * L::kBytesQ;
      for (int c = 0; c < L::kChunksQ; ++c)
        tma_load_4d(to + c * 64 * 128, &p.q, full, c * L::kChunk, tile.m * L::kRowsQ + wg * 64, tile.h, tile.b);
    }
    q.next();
  }
  DEVICE void load_k(int block, int kv_h, int b) {
    mbarrier_wait(at(L::kEmptyK, k.place), k.parity);
    const u32 full = at(L::kFullK, k.place), to = at(L::kK) + k.place * L::kBytesK;
    mbarrier_expect_bytes(full, L::kBytesK);
    for (int c = 0; c < L::kChunksQ; ++c)
      tma_load_4d(to + c * Config::kBlockN * 128, &p.k, full, c * L::kChunk, block * Config::kBlockN, kv_h, b);
    k.next();
  }
  DEVICE void load_v(int block, int kv_h, int b) {
    mbarrier_wait(at(L::kEmptyV, v.place), v.parity);
    const u32 full = at(L::kFullV, v.place), to = at(L::kV) + v.place * L::kBytesV;
    mbarrier_expect_bytes(full, L::kBytesV);
    for (int c = 0; c < L::kChunksV; ++c)
      tma_load_4d(to + c * Config::kBlockN * 128, &p.v, full, c * L::kChunk, block * Config::kBlockN, kv_h, b);
    v.next();
  }

  // K runs one block ahead of V, from tile to tile.
  int late_block = -1, late_h = 0, late_b = 0;
  DEVICE void load_late_v() {
    if (late_block >= 0) load_v(late_block, late_h, late_b);
    late_block = -1;
  }
  DEVICE void load_tile(const Tile& tile) {
    announce(tile);
    const auto u = Variant::uniform(p, tile.b, tile.h);
    const Blocks blocks = blocks_of<Config, Variant>(tile.m * L::kRowsQ, tile.m * L::kRowsQ + L::kRowsQ - 1, p, u);
    const int kv_h = tile.h / (p.heads / p.kv_heads);
    if (Config::kBuffersQ == 1) load_late_v();  // consumers finish a tile before they look at the next
    for (int block = blocks.last; block >= blocks.first; --block) {
      load_k(block, kv_h, tile.b);
      if (block == blocks.last) load_q(tile);
      load_late_v();
      late_block = block;
      late_h = kv_h;
      late_b = tile.b;
    }
  }

  DEVICE void run() {
    for (int number = blockIdx.x; number < p.tiles;) {
      load_tile(tile_at<Config>(number, p));
      number = gridDim.x + atomicAdd(p.counter, 1);
    }
    load_late_v();
    if (Config::kStale) {
      announce({0, 0, 0, Tile::kDrain});
      mbarrier_wait(at(L::kDrained), 0);
      const int count = min(load_shared(at(L::kRedoCount)), L::kMaxRedo);
      for (int i = 0; i < count; ++i) {
        const int4 tile = load_shared_x4(at(L::kRedo) + 16 * i);
        load_tile({tile.x, tile.y, tile.z, Tile::kExact});
      }
      load_late_v();
    }
    announce({0, 0, 0, Tile::kEnd});
    // The last CTA leaves the counters as it found them.
    if (atomicAdd(p.counter + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      p.counter[0] = 0;
      p.counter[1] = 0;
    }
  }
};

// Writes finished tiles of O to memory, out of the buffer of Q over which they were staged, and gives the buffer back.
template <typename Config>
struct Writer {
  using L = Layout<Config>;

  static DEVICE void run(const Params& p, Places at) {
    Ring<L::kPlacesT> t = {0, 0};
    Ring<Config::kBuffersQ> q = {0, 0};
    for (;;) {
      mbarrier_wait(at(L::kFullT, t.place), t.parity);
      const int4 tile = load_shared_x4(at(L::kTiles) + 16 * t.place);
      mbarrier_arrive(at(L::kEmptyT, t.place));
      t.next();
      if (tile.w == Tile::kEnd) break;
      if (tile.w == Tile::kDrain) continue;
      mbarrier_wait(at(L::kFullO, q.place), q.parity);
      for (int wg = 0; wg < Config::kWarpgroups; ++wg) {
        const int row = tile.x * L::kRowsQ + wg * 64;
        if (row >= p.q_len) continue;
        const u32 from = at(L::kQ) + (q.place * Config::kWarpgroups + wg) * L::kBytesQ;
        for (int c = 0; c < L::kChunksV; ++c) tma_store_4d(&p.out, from + c * 64 * 128, c * L::kChunk, row, tile.y, tile.z);
      }
      tma_store_commit();
      tma_store_wait_read();
      mbarrier_arrive(at(L::kEmptyQ, q.place));
      q.next();
    }
    tma_store_wait_all();
  }
};

// What a thread keeps of its two rows: places 0 and 1 are rows r and r + 8 of its warp's 16.
struct Statistics {
  float reference[2];  // subtracted from the scores, in powers of two; -inf: none yet
  float sum[2];        // of this thread's columns
};

template <typename Config, typename Variant>
struct Consumer {
  using L = Layout<Config>;
  static constexpr bool kSoftmax = Variant::kSoftmax;
  static constexpr int kS = Config::kBlockN / 2, kO = Config::kColumnsO / 2, kP = Config::kBlockN / 4;  // registers of S, O, P
  // A sum beyond this shifts the reference: 16-bit P must hold its terms.
  static constexpr float kGreatestSum = Config::kGreatestSum;

  const Params& p;
  const Places at;
  const int wg, warp, lane;
  Ring<Config::kStages> k = {0, 0}, v = {0, 0};
  Ring<Config::kBuffersQ> q = {0, 0};
  Ring<L::kPlacesT> t = {0, 0};

  // The tile whose scores are being computed.
  Tile tile;
  int block, first_block, skip;  // skip: key blocks of the CTA's tile behind this warpgroup's last one
  KeyRange full;                 // keys that all rows of the warpgroup keep
  typename Variant::Uniform uniform;
  typename Variant::Row rows[2];
  Statistics stats;
  bool needs_exact;  // a row has no reference yet
  int late_skips = 0;  // blocks of V that nobody will look at

  DEVICE Consumer(const Params& params, Places places, int wg_, int warp_, int lane_) : p(params), at(places), wg(wg_), warp(warp_), lane(lane_) {}

  DEVICE void release(u32 barrier) {
    if (lane == 0) mbarrier_arrive(barrier);
  }
  DEVICE int first_row(const Tile& of) const { return of.m * L::kRowsQ + wg * 64; }
  DEVICE int row(const Tile& of) const { return first_row(of) + warp * 16 + lane / 4; }

  DEVICE void fetch_tile() {
    mbarrier_wait(at(L::kFullT, t.place), t.parity);
    const int4 words = load_shared_x4(at(L::kTiles) + 16 * t.place);
    __syncwarp();
    release(at(L::kEmptyT, t.place));
    t.next();
    tile = {words.x, words.y, words.z, words.w};
  }
  DEVICE bool has_work() const { return tile.kind <= Tile::kExact; }

  DEVICE void start_tile() {
    const int first = first_row(tile);
    uniform = Variant::uniform(p, tile.b, tile.h);
    const Blocks of_cta = blocks_of<Config, Variant>(tile.m * L::kRowsQ, tile.m * L::kRowsQ + L::kRowsQ - 1, p, uniform);
    first_block = of_cta.first;
    block = of_cta.last;
    if (Config::kSkips) {
      const Blocks own = blocks_of<Config, Variant>(min(first, p.q_len - 1), first + 63, p, uniform);
      const int last = max(min(own.last, of_cta.last), of_cta.first);
      skip_blocks(block - last);
      block = last;
    }
    full = Variant::full_keys(min(first, p.q_len - 1), min(first + 63, p.q_len - 1), p, uniform);
#pragma unroll
    for (int i = 0; i < 2; ++i) rows[i] = Variant::row(min(row(tile) + 8 * i, p.q_len - 1), p, uniform);
  }

  // The CTA's other warpgroups look at these blocks: give them back unread.
  DEVICE void skip_blocks(int count) {
    for (int i = 0; i < count; ++i) {
      mbarrier_wait(at(L::kFullK, k.place), k.parity);
      release(at(L::kEmptyK, k.place));
      k.next();
    }
    late_skips = count;
  }
  DEVICE void skip_late() {
    for (; late_skips > 0; --late_skips) {
      mbarrier_wait(at(L::kFullV, v.place), v.parity);
      release(at(L::kEmptyV, v.place));
      v.next();
    }
  }

  DEVICE u32 own_q(int buffer) const { return at(L::kQ) + (buffer * Config::kWarpgroups + wg) * L::kBytesQ; }

  DEVICE void issue_qk(float (&s)[kS]) {
    const u64 a = k_major(own_q(q.place)), b = k_major(at(L::kK) + k.place * L::kBytesK);
    wgmma_fence();
    wgmma_qk_first(s, a, b);
#pragma unroll
    for (int step = 1; step < (Config::kHeadDim + 15) / 16; ++step)
      wgmma_qk(s, a + (step / 4 * 64 * 128 + step % 4 * 32) / 16, b + (step / 4 * Config::kBlockN * 128 + step % 4 * 32) / 16);
    wgmma_commit();
  }
  DEVICE void issue_pv(float (&o)[kO], const u32 (&w)[kP]) {
    const u64 b = mn_major(at(L::kV) + v.place * L::kBytesV, Config::kBlockN * 128);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Config::kBlockN / 16; ++step)
      wgmma_pv(o, w[4 * step], w[4 * step + 1], w[4 * step + 2], w[4 * step + 3], b + step * 2048 / 16);
    wgmma_commit();
  }

  // Shared-memory operands with 128-byte swizzle, from 1024-aligned places on: address, leading and stride offset in units of 16 bytes.
  static DEVICE u64 k_major(u32 address) { return static_cast<u64>((address & 0x3FFFF) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62; }
  static DEVICE u64 mn_major(u32 address, u32 leading) {
    return static_cast<u64>((address & 0x3FFFF) >> 4) | static_cast<u64>(leading >> 4) << 16 | 64ull << 32 | 1ull << 62;
  }

  // Weights of one block, in place of its scores. kMasked: pairs may be dropped.
  template <bool kMasked>
  DEVICE void pointwise(float (&s)[kS]) {
    const int first_k = block * Config::kBlockN + lane % 4 * 2, r = row(tile);
#pragma unroll
    for (int i = 0; i < kS; ++i) {
      const int k_idx = first_k + i / 4 * 8 + i % 2, place = i / 2 % 2;
      const float weight = Variant::weight(s[i], r + 8 * place, k_idx, p, uniform, rows[place]);
      s[i] = !kMasked || (k_idx < p.k_len && Variant::keep(r + 8 * place, k_idx, p, uniform, rows[place])) ? weight : 0.0f;
    }
  }

  DEVICE static float over_row(float x, bool is_max) {
    const float y = __shfl_xor_sync(~0u, x, 1);
    x = is_max ? fmaxf(x, y) : x + y;
    const float z = __shfl_xor_sync(~0u, x, 2);
    return is_max ? fmaxf(x, z) : x + z;
  }

  // exp2(score2 - reference) and the sums. kFirst: the row's first block. `scale` is what O has to be multiplied with.
  template <bool kMasked, bool kFirst>
  DEVICE void softmax_exact(float (&s)[kS], float (&scale)[2]) {
    const int first_k = block * Config::kBlockN + lane % 4 * 2, r = row(tile);
    float greatest[2] = {-kInfinity, -kInfinity};
#pragma unroll
    for (int i = 0; i < kS; ++i) {
      const int k_idx = first_k + i / 4 * 8 + i % 2, place = i / 2 % 2;
      s[i] = Variant::score2(s[i], r + 8 * place, k_idx, p, uniform, rows[place]);
      if (kMasked && !(k_idx < p.k_len && Variant::keep(r + 8 * place, k_idx, p, uniform, rows[place]))) s[i] = -kInfinity;
      greatest[place] = fmaxf(greatest[place], s[i]);
    }
    float subtracted[2];
#pragma unroll
    for (int place = 0; place < 2; ++place) {
      float m = over_row(greatest[place], true);
      if (!kFirst) m = fmaxf(m, stats.reference[place]);
      subtracted[place] = m == -kInfinity ? 0.0f : m;
      scale[place] = kFirst ? 1.0f : exp2_approx(stats.reference[place] - subtracted[place]);
      stats.reference[place] = m;
      stats.sum[place] = kFirst ? 0.0f : stats.sum[place] * scale[place];
    }
    needs_exact = __any_sync(~0u, stats.reference[0] == -kInfinity || stats.reference[1] == -kInfinity);
    weigh<kMasked>(s, subtracted);
  }
  template <bool kMasked>
  DEVICE void weigh(float (&s)[kS], const float (&subtracted)[2]) {
    const int first_k = block * Config::kBlockN + lane % 4 * 2, r = row(tile);
    float sums[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < kS; ++i) {
      const int k_idx = first_k + i / 4 * 8 + i % 2, place = i / 2 % 2;
      s[i] = exp2_approx(s[i] - subtracted[place]);
      sums[place] += s[i];
    }
    stats.sum[0] += sums[0];
    stats.sum[1] += sums[1];
  }

  // Without a maximum; true if O has to be scaled.
  DEVICE bool softmax_stale(float (&s)[kS], float (&scale)[2]) {
    const int first_k = block * Config::kBlockN + lane % 4 * 2, r = row(tile);
#pragma unroll
    for (int i = 0; i < kS; ++i) {
      const int k_idx = first_k + i / 4 * 8 + i % 2, place = i / 2 % 2;
      s[i] = Variant::score2(s[i], r + 8 * place, k_idx, p, uniform, rows[place]);
    }
    weigh<false>(s, stats.reference);
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

  // True if O has to be scaled by `scale`.
  template <bool kFirst>
  DEVICE bool weights(float (&s)[kS], float (&scale)[2]) {
    const int first_k = block * Config::kBlockN;
    const bool masked = first_k < full.begin || first_k + Config::kBlockN > full.end;
    if constexpr (!kSoftmax) {
      if (masked) {
        pointwise<true>(s);
      } else {
        pointwise<false>(s);
      }
      return false;
    } else {
      if (masked) {
        softmax_exact<true, kFirst>(s, scale);
        return !kFirst;
      }
      if constexpr (kFirst) {
        softmax_exact<false, true>(s, scale);
        return false;
      } else if constexpr (Config::kStale) {
        if (!needs_exact && tile.kind != Tile::kExact) return softmax_stale(s, scale);
        softmax_exact<true, false>(s, scale);
        return true;
      } else {
        softmax_exact<false, false>(s, scale);
        return true;
      }
    }
  }

  static DEVICE void convert(const float (&s)[kS], u32 (&w)[kP]) {
#pragma unroll
    for (int i = 0; i < kP; ++i) w[i] = Config::Element::pack(s[2 * i], s[2 * i + 1]);
  }

  // Normalises O, stages it over the tile's Q and hands it to the writer; lse.
  DEVICE void finish_tile(float (&o)[kO], const Tile& of, const Statistics& done, const typename Variant::Row (&of_rows)[2], int buffer) {
    const int r = row(of);
    if constexpr (kSoftmax) {
      bool is_lost = false;
      float inverse[2];
#pragma unroll
      for (int place = 0; place < 2; ++place) {
        float sum = over_row(done.sum[place], false), m = done.reference[place];
        is_lost |= !(sum < 1e30f);
        float to_sum = 1.0f;
        if constexpr (Variant::kSink) {
          const float sink = of_rows[place].sink2;
          const float greatest = fmaxf(m, sink);
          to_sum = m == -kInfinity ? 0.0f : exp2_approx(m - greatest);
          sum = sum * to_sum + (sink == -kInfinity ? 0.0f : exp2_approx(sink - greatest));
          m = greatest;
        }
        inverse[place] = sum > 0.0f ? to_sum / sum : (sum == 0.0f ? 0.0f : sum);
        if (p.lse && lane % 4 == 0 && r + 8 * place < p.q_len) {
          const float lse = sum == 0.0f ? -kInfinity : (m + log2f(sum)) * kLn2;
          p.lse[of.b * p.lse_stride[0] + of.h * p.lse_stride[1] + static_cast<i64>(r + 8 * place) * p.lse_stride[2]] = lse;
        }
      }
      if constexpr (Config::kStale) {
        if (__any_sync(~0u, is_lost) && of.kind == Tile::kWork && lane == 0) {
          const int place = add_shared(at(L::kRedoCount), 1);
          if (place < L::kMaxRedo) store_shared_x4(at(L::kRedo) + 16 * place, {of.m, of.h, of.b, 0});
        }
      }
#pragma unroll
      for (int i = 0; i < kO; ++i) o[i] *= inverse[i / 2 % 2];
    }
    const u32 to = own_q(buffer);
    const int stage_row = warp * 16 + lane % 16;
#pragma unroll
    for (int i = 0; i < Config::kColumnsO / 16; ++i) {
      const int chunk = (2 * i + lane / 16) % 8;
      store_matrix_x4(to + i / 4 * (64 * 128) + stage_row * 128 + ((chunk ^ (stage_row & 7)) << 4), Config::Element::pack(o[8 * i], o[8 * i + 1]),
                      Config::Element::pack(o[8 * i + 2], o[8 * i + 3]), Config::Element::pack(o[8 * i + 4], o[8 * i + 5]),
                      Config::Element::pack(o[8 * i + 6], o[8 * i + 7]));
    }
    fence_async_proxy();
    __syncwarp();
    release(at(L::kFullO, buffer));
  }

  DEVICE void run() {
    float s[kS], o[kO];
    u32 w[kP];
    float scale[2];
    fetch_tile();
    while (tile.kind != Tile::kEnd) {
      if (tile.kind == Tile::kDrain) {
        release(at(L::kDrained));
        fetch_tile();
        continue;
      }
      // The first scores of the stream: nothing else to do meanwhile.
      start_tile();
      skip_late();
      mbarrier_wait(at(L::kFullQ, q.place), q.parity);
      mbarrier_wait(at(L::kFullK, k.place), k.parity);
      issue_qk(s);
      wait_qk(s);
      release(at(L::kEmptyK, k.place));
      k.next();
      weights<true>(s, scale);
      convert(s, w);
#pragma unroll
      for (int i = 0; i < kO; ++i) o[i] = 0.0f;

      // A step: S of the next block and P V of this one on the tensor cores, the next block's weights under P V.
      for (;;) {
        const bool ends_tile = block == first_block;
        const Tile done = tile;
        const Statistics done_stats = stats;
        const typename Variant::Row done_rows[2] = {rows[0], rows[1]};
        const int buffer = q.place;
        if (ends_tile) {
          fetch_tile();
          if (Config::kBuffersQ == 1 || !has_work()) {
            mbarrier_wait(at(L::kFullV, v.place), v.parity);
            issue_pv(o, w);
            wait_pv(o);
            release(at(L::kEmptyV, v.place));
            v.next();
            finish_tile(o, done, done_stats, done_rows, buffer);
            q.next();
            break;
          }
          q.next();
          start_tile();
          mbarrier_wait(at(L::kFullQ, q.place), q.parity);
        } else {
          --block;
        }
        mbarrier_wait(at(L::kFullK, k.place), k.parity);
        issue_qk(s);
        mbarrier_wait(at(L::kFullV, v.place), v.parity);
        issue_pv(o, w);
        wait_qk_under_pv(s);
        release(at(L::kEmptyK, k.place));
        k.next();
        bool scales = false;
        if (ends_tile) {
          weights<true>(s, scale);
        } else {
          scales = weights<false>(s, scale);
        }
        stay_above(s, p.q_len);
        wait_pv(o);
        release(at(L::kEmptyV, v.place));
        v.next();
        skip_late();
        if (ends_tile) {
          finish_tile(o, done, done_stats, done_rows, buffer);
#pragma unroll
          for (int i = 0; i < kO; ++i) o[i] = 0.0f;
        } else if (kSoftmax && scales) {
#pragma unroll
          for (int i = 0; i < kO; ++i) o[i] *= scale[i / 2 % 2];
        }
        convert(s, w);
      }
    }
  }
};

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
      mbarrier_init(at(L::kEmptyK, i), L::kConsumerWarps);
      mbarrier_init(at(L::kEmptyV, i), L::kConsumerWarps);
    }
    for (int i = 0; i < L::kPlacesT; ++i) {
      mbarrier_init(at(L::kFullT, i), 1);
      mbarrier_init(at(L::kEmptyT, i), L::kConsumerWarps + 1);
    }
    mbarrier_init(at(L::kDrained), L::kConsumerWarps);
    store_shared(at(L::kRedoCount), 0);
    mbarrier_fence_init();
  }
  __syncthreads();
  if (wg == 0) {
    set_registers_down<L::kProducerRegisters>();
    if (threadIdx.x == 0) Producer<Config, Variant>(p, at).run();
    if (threadIdx.x == kWarp) Writer<Config>::run(p, at);
  } else {
    set_registers_up<L::kConsumerRegisters>();
    Consumer<Config, Variant>(p, at, wg - 1, threadIdx.x / kWarp % 4, threadIdx.x % kWarp).run();
  }
}
