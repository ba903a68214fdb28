struct Config {
  static constexpr int kHeadDim = 64;
  static constexpr int kVDim = 64;
  static constexpr int kColumnsO = 64;        // columns of the accumulator
  static constexpr int kBlockN = 64;          // key columns of a tile
  static constexpr int kStages = 2;           // depth of the K and V rings
  static constexpr int kWarps = 4;            // of 16 query rows each
  static constexpr bool kQuick = false;       // compiled in half the time
  static constexpr bool kFast = true;         // accuracy
  static constexpr bool kPacked = false;      // sequences by cu_q and cu_k
  using Element = BF16;
};

struct Params {
  const Raw *q, *k, *v;
  Raw* out;
  float* lse;
  i64 q_stride[3], k_stride[3], v_stride[3], out_stride[3], lse_stride[3];
  int *counter, *index_flag;
  int batch, heads, kv_heads, q_len, k_len, tiles_m, tiles, section_heads, vector_loads, vector_stores;
  const float* t_table;
  i64 t_table_stride[2];
  int t_table_dim[2];
};
static_assert(sizeof(Params) == 248);

struct Variant {
  static constexpr Weight kWeight = Weight::kSoftmax;
  static constexpr Mask kMask = Mask::kAll;
  static constexpr bool kSink = false, kFactor = false, kFactorOfScore = false;

  struct Uniform {
    int b, h, kv_h, q_len, k_len, first_q, first_k;
  };
  static DEVICE Uniform uniform(const Params& p, int b, int h) {
    Uniform u = {b, h, h / (p.heads / p.kv_heads), p.q_len, p.k_len, 0, 0};
    return u;
  }
  struct Row {};
  template <bool kGuarded>
  static DEVICE Row row(int q_idx, const Params& p, const Uniform& u) {
    return {};
  }
  struct Column {};
  template <bool kGuarded>
  static DEVICE Column column(int k_idx, const Params& p, const Uniform& u) {
    return {};
  }

  template <bool kGuarded>
  static DEVICE float score2(float qk, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column,
      bool keeps) {
    bool outside = false;
    const int v1 = k_idx - (q_idx + (u.k_len - u.q_len));
    const int v2 = absolute(v1);
    const int v3 = wrapping_add(to_i32(log_fast(nan_max(to_f32(v2), 1.0f) * 0.125f) * 2.88539f), 8);
    const float table_h = load_f32(p.t_table + clamped(wrapping_add(v1 > 0 ? 16 : 0, v2 < 8 ? v2 : min(v3, 15)), p.t_table_dim[0],
        outside) * p.t_table_stride[0] + u.h * p.t_table_stride[1]);
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
