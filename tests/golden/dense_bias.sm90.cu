struct Config {
  static constexpr int kHeadDim = 64;
  static constexpr int kVDim = 64;
  static constexpr int kColumnsO = 64;        // columns of the accumulator
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
  const Raw* t_bias;
  i64 t_bias_stride[4];
  int t_bias_dim[4];
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
    const float bias_k_idx = load_bf16(p.t_bias + u.b * p.t_bias_stride[0] + u.h * p.t_bias_stride[1] + inside<kGuarded>(q_idx,
        p.t_bias_dim[2]) * p.t_bias_stride[2] + inside<kGuarded>(k_idx, p.t_bias_dim[3]) * p.t_bias_stride[3]);
    return (qk * 0.125f + bias_k_idx) * 1.442695f;
  }

  static DEVICE KeyRange kept_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, u.k_len};
  }
  static DEVICE KeyRange full_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, u.k_len};
  }
};

extern "C" __global__ __launch_bounds__(384, 1) void dense_bias_forward(GRID_CONSTANT const Params p) {
  attention_forward_sm90<Config, Variant>(p);
}
