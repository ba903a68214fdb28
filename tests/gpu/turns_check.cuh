// Instead of a backward pass: what for_each_meeting (codegen/device/sm90_turns.cuh) says to each block of keys, written into p.dq_sum, and
// then whether every pair that is kept has its turn, and each turn is that of the next block of keys.

template <typename Config, typename Variant, typename Uniform>
DEVICE bool keeps(const Params& p, const Uniform& u, int q, int k) {
  if constexpr (Variant::kMask == Mask::kAll) return true;
  else return Variant::keep(q, k, p, u, Variant::template row<true>(q, p, u), Variant::template column<true>(k, p, u));
}
template <typename Config, typename Variant, typename Uniform>
DEVICE bool keeps_all(const Params& p, const Uniform& u, int first_q, int first_k) {
  bool all = true;
  for (int q = first_q; q < min(first_q + Config::kBlockM, u.q_len); ++q)
    for (int k = first_k; k < min(first_k + Config::kBlockN, u.k_len); ++k) all = all && keeps<Config, Variant>(p, u, q, k);
  return all;
}

template <typename Config, typename Variant, typename Arguments>
DEVICE void record_all(const Arguments& p) {
  const int n = blockIdx.x % p.blocks_n, kv_head = blockIdx.x / p.blocks_n, b = kv_head / p.kv_heads, group = p.heads / p.kv_heads;
  if (threadIdx.x >= kWarp) return;
  for (int i = 0; i < group; ++i) {
    const int h = kv_head % p.kv_heads * group + i, head = b * p.heads + h;
    const auto u = Variant::uniform(p, b, h);
    if (n * Config::kBlockN >= u.k_len) return;
    int below = -1;
    for_each_meeting<Config, Variant>(p, head, u.q_len, u.k_len, n, [&](int block, int turn, bool is_full) {
      if (threadIdx.x == 0) p.dq_sum[(static_cast<i64>(head) * p.blocks_m + block) * p.blocks_n + n] = block > below ? turn + 1 : -1;
      const int q = block * Config::kBlockM, k = n * Config::kBlockN;
      if (is_full && q < u.q_len && !keeps_all<Config, Variant>(p, u, q, k)) p.turns[head * p.blocks_m + block] = -1;
      below = block;
    });
  }
}
template <typename Config, typename Variant>
DEVICE void record_turns(const Params& p) {
  record_all<Config, Variant>(p);
}

// The first number of each row becomes -1 if anything is wrong there.
template <typename Config, typename Variant, typename Arguments>
DEVICE void check_all(const Arguments& p) {
  const int head = blockIdx.x / p.blocks_m, block = blockIdx.x % p.blocks_m;
  if (threadIdx.x != 0 || head >= p.batch * p.heads) return;
  const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
  float* const row = p.dq_sum + static_cast<i64>(blockIdx.x) * p.blocks_n;
  bool is_right = p.turns[blockIdx.x] == 0;
  int last = 0;
  for (int n = p.blocks_n - 1; n >= 0; --n) {
    const int said = static_cast<int>(row[n]);
    bool keeps_any = false;
    for (int q = block * Config::kBlockM; q < min((block + 1) * Config::kBlockM, u.q_len); ++q) {
      for (int k = n * Config::kBlockN; k < min((n + 1) * Config::kBlockN, u.k_len) && !keeps_any; ++k)
        keeps_any = keeps<Config, Variant>(p, u, q, k);
    }
    is_right = is_right && (said != 0 || !keeps_any) && (said == 0 || said == last + 1);
    if (said != 0) last = n + 1;
  }
  row[0] = is_right ? 1 : -1;
}
template <typename Config, typename Variant>
DEVICE void check_turns(const Params& p) {
  check_all<Config, Variant>(p);
}

template <typename Config, typename Variant>
DEVICE void row_extents_sm90(const Params& p) {
  const int number = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp, head = number / p.blocks_m,
            block = number % p.blocks_m, first = block * Config::kBlockM;
  if (head >= p.batch * p.heads) return;
  const auto u = Variant::uniform(p, head / p.heads, head % p.heads);
  if (first >= u.q_len) return;
  search_meetings<Config, Variant>(p, u, Variant::row_extent(first, min(first + Config::kBlockM, u.q_len) - 1, p, u), block);
}
