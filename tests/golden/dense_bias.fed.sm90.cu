struct Config {
  static constexpr int kHeadDim = 128;
  static constexpr int kVDim = 128;
  static constexpr int kColumnsO = 128;       // columns of the accumulator
  static constexpr int kBlockN = 128;         // key columns of a tile
  static constexpr int kStages = 2;           // depth of the K and V rings
  static constexpr int kWarpgroups = 2;       // of 64 query rows each
  static constexpr int kBuffersQ = 2;         // tiles of Q in shared memory
  static constexpr bool kStale = true;        // softmax: stale reference instead of exact online maxima
  static constexpr bool kRedoes = true;       // tiles may be computed again
  static constexpr int kFeedStages = 1;       // depth of the rings of what feeder warps bring
  static constexpr int kFeedBytes = 16384;    // of it, of a block of keys and a warpgroup
  static constexpr bool kFast = true;         // accuracy
  static constexpr bool kPacked = false;      // sequences by cu_q and cu_k
  using Element = BF16;
};

struct Params {
  TensorMap q_map, k_map, v_map, out_map, t_bias_map;
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
static_assert(sizeof(Params) == 896);

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

  static constexpr int kPairBytes = 16384, kColumnWords = 0, kTableWords = 0;  // of what feeders bring
  struct Pair : Column {
    float bias_k_idx;
  };
  static DEVICE void load_pairs(u32 to, u32 barrier, int q_idx, int k_idx, const Params& p, const Uniform& u) {
    PairTile<2, Config::kBlockN>::load(to + 0, &p.t_bias_map, barrier, k_idx, q_idx, p.t_bias_stride[1] != 0 ? u.h : 0,
        p.t_bias_stride[0] != 0 ? u.b : 0);
  }
  static DEVICE void read_pairs(const FedPlace& from, int group, int place, Pair (&pairs)[2]) {
    const float2 bias_k_idx = read_pair<BF16>(from, 0, group, place);
    pairs[0].bias_k_idx = bias_k_idx.x;
    pairs[1].bias_k_idx = bias_k_idx.y;
  }

  template <bool kGuarded>
  static DEVICE float score2(float qk, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Pair& column,
      bool keeps) {
    return (qk * 0.088388346f + column.bias_k_idx) * 1.442695f;
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
