struct Config {
  static constexpr int kHeadDim = 64;
  static constexpr int kVDim = 64;
  static constexpr int kColumnsO = 64;        // columns of the accumulator
  static constexpr int kBlockN = 64;          // key columns of a tile
  static constexpr int kStages = 2;           // depth of the K and V rings
  static constexpr int kWarpgroups = 2;       // of 64 query rows each
  static constexpr int kBuffersQ = 2;         // tiles of Q in shared memory
  static constexpr bool kStale = true;        // softmax: stale reference instead of exact online maxima
  static constexpr bool kRedoes = true;       // tiles may be computed again
  static constexpr int kFeedStages = 3;       // depth of the rings of what feeder warps bring
  static constexpr int kFeedBytes = 1024;     // of it, of a block of keys and a warpgroup
  static constexpr bool kFast = true;         // accuracy
  static constexpr bool kPacked = false;      // sequences by cu_q and cu_k
  using Element = BF16;
};

struct Params {
  TensorMap q_map, k_map, v_map, out_map;
  const Raw *q, *k, *v;
  Raw* out;
  float* lse;
  i64 q_stride[3], k_stride[3], v_stride[3], out_stride[3], lse_stride[3];
  int *counter, *index_flag;
  int batch, heads, kv_heads, q_len, k_len, tiles_m, tiles, section_heads;
  const float* t_table;
  i64 t_table_stride[2];
  int t_table_dim[2];
};
static_assert(sizeof(Params) == 768);

struct Variant {
  static constexpr Weight kWeight = Weight::kSoftmax;
  static constexpr Mask kMask = Mask::kAll;
  static constexpr bool kSink = false, kFactor = false, kFactorOfScore = false, kNear = false, kLine = false;

  struct Uniform {
    int b, h, kv_h, q_len, k_len, first_q, first_k;
  };
  static DEVICE Uniform uniform(const Params& p, int b, int h) {
    Uniform u = {b, h, h / (p.heads / p.kv_heads), p.q_len, p.k_len, 0, 0};
    return u;
  }
  struct Row {
    float v2;
  };
  template <bool kGuarded>
  static DEVICE Row row(int q_idx, const Params& p, const Uniform& u) {
    Row row;
    row.v2 = to_f32(q_idx + (u.k_len - u.q_len));
    return row;
  }
  struct Column {
    float v1;
  };
  template <bool kGuarded>
  static DEVICE Column column(int k_idx, const Params& p, const Uniform& u) {
    Column column;
    column.v1 = to_f32(k_idx);
    return column;
  }

  static constexpr int kPairBytes = 0, kColumnWords = 0, kTableWords = 32;  // of what feeders bring
  struct Pair : Column {
    u32 tables;  // their address
  };
  static DEVICE void read_pairs(const FedPlace& from, int group, int place, Pair (&pairs)[2]) {
    pairs[0].tables = pairs[1].tables = from.tables;
  }
  static DEVICE void store_tables(u32 to, int lane, const Params& p, const Uniform& u) {
    for (int i = lane; i < 32; i += kWarp)
      store_shared(to + 0 + 4 * i, __float_as_int(load_f32(p.t_table + i * p.t_table_stride[0] + static_cast<i64>(u.h) *
          p.t_table_stride[1])));
  }

  template <bool kGuarded>
  static DEVICE float score2(float qk, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Pair& column,
      bool keeps) {
    bool outside = false;
    const int v3 = k_idx - (q_idx + (u.k_len - u.q_len));
    const int v4 = absolute(v3);
    const float v5 = log_fast(nan_max(absolute(column.v1 - row.v2), 1.0f) * 0.125f) * 2.88539f;
    const int v6 = wrapping_add(v3 > 0 ? 16 : 0, v4 < 8 ? v4 : min(wrapping_add(to_i32(v5), 8), 15));
    const float v7 = qk + read_table(column.tables + 0, clamped(v6, p.t_table_dim[0], outside));
    const float score2 = v7 * 1.442695f;
    raise(outside && keeps && q_idx < u.q_len, p.index_flag);
    return score2;
  }

  static DEVICE KeyRange kept_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, u.k_len};
  }
  static DEVICE KeyRange full_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, u.k_len};
  }
};

extern "C" __global__ __launch_bounds__(384, 1) void t5_bias_forward(GRID_CONSTANT const Params p) {
  attention_forward_sm90<Config, Variant>(p);
}
