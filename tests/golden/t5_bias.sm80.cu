struct Config {
  static constexpr int kHeadDim = 64;
  static constexpr int kVDim = 64;
  static constexpr int kColumnsO = 64;        // columns of the accumulator
  static constexpr int kBlockN = 64;          // key columns of a tile
  static constexpr int kStages = 2;           // depth of the K and V rings
  static constexpr int kWarps = 4;            // of 16 query rows each
  static constexpr int kKeyWarps = 1;         // of them with the same rows, each with its own keys
  static constexpr bool kPacksHeads = false;  // rows are pairs of a query and a head of one key head
  static constexpr bool kSplits = false;      // CTAs may share the keys of a tile
  static constexpr bool kQuick = false;       // compiled in half the time
  static constexpr bool kFast = true;         // accuracy
  static constexpr bool kPacked = false;      // sequences by cu_q and cu_k
  using Element = BF16;
};

struct Params {
  const Raw *q, *k, *v;
  Raw* out;
  float* lse;
  void* parts;
  i64 q_stride[3], k_stride[3], v_stride[3], out_stride[3], lse_stride[3];
  int *counter, *index_flag;
  int batch, heads, kv_heads, q_len, k_len, tiles_m, tiles, section_heads, vector_loads, vector_stores, splits;
  const float* t_table;
  i64 t_table_stride[2];
  int t_table_dim[2];
};
static_assert(sizeof(Params) == 264);

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

  template <bool kGuarded>
  static DEVICE float score2(float qk, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column,
      bool keeps) {
    bool outside = false;
    const int v3 = k_idx - (q_idx + (u.k_len - u.q_len));
    const int v4 = absolute(v3);
    const float v5 = log_fast(nan_max(absolute(column.v1 - row.v2), 1.0f) * 0.125f) * 2.88539f;
    const int v6 = wrapping_add(v3 > 0 ? 16 : 0, v4 < 8 ? v4 : min(wrapping_add(to_i32(v5), 8), 15));
    const float table_h = load_f32(p.t_table + clamped(v6, p.t_table_dim[0], outside) * p.t_table_stride[0] + u.h * p.t_table_stride[1]);
    const float score2 = (qk + table_h) * 1.442695f;
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

extern "C" __global__ __launch_bounds__(128, 1) void t5_bias_forward(GRID_CONSTANT const Params p) {
  attention_forward_sm80<Config, Variant>(p);
}
