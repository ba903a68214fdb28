struct Config {
  static constexpr int kHeadDim = 128;
  static constexpr int kVDim = 128;
  static constexpr int kColumnsO = 128;       // columns of the accumulator
  static constexpr int kBlockN = 128;         // key columns of a tile
  static constexpr int kStages = 2;           // depth of the K and V rings
  static constexpr int kWarpgroups = 2;       // of 64 query rows each
  static constexpr int kBuffersQ = 2;         // tiles of Q in shared memory
  static constexpr bool kStale = false;       // softmax: stale reference instead of exact online maxima
  static constexpr bool kRedoes = false;      // tiles may be computed again
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
  int* counter;
  int batch, heads, kv_heads, q_len, k_len, tiles_m, tiles, section_heads;
  float p_cap;
  const float* t_slopes;
  i64 t_slopes_stride[1];
  int t_slopes_dim[1];
  const float* t_sinks;
  i64 t_sinks_stride[1];
  int t_sinks_dim[1];
};
static_assert(sizeof(Params) == 768);

struct Variant {
  static constexpr Weight kWeight = Weight::kSoftmax;
  static constexpr Mask kMask = Mask::kRange;
  static constexpr bool kSink = true, kFactor = false, kFactorOfScore = false, kNear = false, kLine = false;

  struct Uniform {
    int b, h, kv_h, q_len, k_len, first_q, first_k;
    float scale, cap2, slopes2, sinks2;
  };
  static DEVICE Uniform uniform(const Params& p, int b, int h) {
    Uniform u = {b, h, h / (p.heads / p.kv_heads), p.q_len, p.k_len, 0, 0};
    u.scale = 1.0f / p.p_cap * 0.088388346f;
    u.cap2 = p.p_cap * 1.442695f;
    u.slopes2 = load_f32(p.t_slopes + u.h * p.t_slopes_stride[0]) * 1.442695f;
    u.sinks2 = load_f32(p.t_sinks + u.h * p.t_sinks_stride[0]) * 1.442695f;
    return u;
  }
  struct Row {
    float v2;
    float sink2;
  };
  template <bool kGuarded>
  static DEVICE Row row(int q_idx, const Params& p, const Uniform& u) {
    Row row;
    row.v2 = to_f32(q_idx + (u.k_len - u.q_len));
    row.sink2 = u.sinks2;
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
    return tanh_accurate(qk * u.scale) * u.cap2 - (row.v2 - column.v1) * u.slopes2;
  }
  static DEVICE bool keep(int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column) {
    const int v3 = q_idx + (u.k_len - u.q_len) - k_idx;
    return v3 >= 0 && v3 < 4096;
  }

  static DEVICE KeyRange kept_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    const int v5 = min(max(0, first_q - (u.q_len - u.k_len + 4095)), u.k_len);
    return {v5, max(min(last_q + (u.k_len - u.q_len) + 1, u.k_len), v5)};
  }
  static DEVICE KeyRange full_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    const int v4 = min(max(0, last_q - (u.q_len - u.k_len + 4095)), u.k_len);
    return {v4, max(min(first_q + (u.k_len - u.q_len) + 1, u.k_len), v4)};
  }
};

extern "C" __global__ __launch_bounds__(384, 1) void capped_forward(GRID_CONSTANT const Params p) {
  attention_forward_sm90<Config, Variant>(p);
}
