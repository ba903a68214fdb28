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
  static constexpr bool kPacked = true;       // sequences by cu_q and cu_k
  using Element = F16;
};

struct Params {
  const Raw *q, *k, *v;
  Raw* out;
  float* lse;
  void* parts;
  i64 q_stride[3], k_stride[3], v_stride[3], out_stride[3], lse_stride[3];
  const int *cu_q, *cu_k;
  int* counter;
  int batch, heads, kv_heads, q_len, k_len, tiles_m, tiles, section_heads, vector_loads, vector_stores, splits;
  const int* t_prefix;
  i64 t_prefix_stride[1];
  int t_prefix_dim[1];
};
static_assert(sizeof(Params) == 264);

struct Variant {
  static constexpr Weight kWeight = Weight::kSoftmax;
  static constexpr Mask kMask = Mask::kRange;
  static constexpr bool kSink = false, kFactor = false, kFactorOfScore = false, kNear = false, kLine = false;

  struct Uniform {
    int b, h, kv_h, q_len, k_len, first_q, first_k;
    int prefix_b;
  };
  static DEVICE Uniform uniform(const Params& p, int b, int h) {
    Uniform u = {b, h, h / (p.heads / p.kv_heads), p.cu_q[b + 1] - p.cu_q[b], p.cu_k[b + 1] - p.cu_k[b], p.cu_q[b], p.cu_k[b]};
    u.prefix_b = load_i32(p.t_prefix + u.b * p.t_prefix_stride[0]);
    return u;
  }
  struct Row {};
  template <bool kGuarded>
  static DEVICE Row row(int q_idx, const Params& p, const Uniform& u) {
    return {};
  }
  struct Column {
    bool v1;
  };
  template <bool kGuarded>
  static DEVICE Column column(int k_idx, const Params& p, const Uniform& u) {
    Column column;
    column.v1 = k_idx < u.prefix_b;
    return column;
  }

  template <bool kGuarded>
  static DEVICE float score2(float qk, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column,
      bool keeps) {
    return qk * 0.18033688f;
  }
  static DEVICE bool keep(int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column) {
    return k_idx <= q_idx + (u.k_len - u.q_len) || column.v1;
  }

  static DEVICE KeyRange kept_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    const int v3 = max(max(min(last_q + (u.k_len - u.q_len) + 1, u.k_len), 0), max(min(int(i64(u.prefix_b) - i64(1) + i64(1)), u.k_len),
        0));
    return {0, min(v3, u.k_len)};
  }
  static DEVICE KeyRange full_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    const int v2 = max(max(min(first_q + (u.k_len - u.q_len) + 1, u.k_len), 0), max(min(int(i64(u.prefix_b) - i64(1) + i64(1)), u.k_len),
        0));
    return {0, min(v2, u.k_len)};
  }
};

extern "C" __global__ __launch_bounds__(128, 1) void prefix_lm_forward(GRID_CONSTANT const Params p) {
  attention_forward_sm80<Config, Variant>(p);
}
