struct Config {
  static constexpr int kHeadDim = 64;
  static constexpr int kVDim = 64;
  static constexpr int kBlockM = 64;          // query rows of a step
  static constexpr int kBlockN = 128;         // key rows of a CTA
  static constexpr int kStages = 2;           // depth of the Q and dO rings
  static constexpr int kWarpgroups = 2;       // of 64 key rows each
  static constexpr int kFeedBytes = 0;        // of tensors by pair, of a step
  static constexpr bool kSums = false;        // dK has columns for sums over pairs
  static constexpr bool kPersistent = false;  // a CTA takes one block of keys after the other
  static constexpr bool kDeterministic = false;  // the same bits from call to call
  static constexpr bool kFast = true;         // accuracy
  static constexpr bool kPacked = false;      // sequences by cu_q and cu_k
  using Element = BF16;
};

struct Params {
  TensorMap q_map, k_map, v_map, dout_map, dk_map, dv_map;
  const Raw *q, *k, *v, *out, *dout;
  Raw *dq, *dk, *dv;
  const float* lse;
  float *lse2, *delta, *dq_sum;
  i64 q_stride[3], k_stride[3], v_stride[3], out_stride[3], dout_stride[3], dq_stride[3], dk_stride[3], dv_stride[3], lse_stride[3];
  int* counter;
  int batch, heads, kv_heads, q_len, k_len, blocks_m, blocks_n, tiles, section_heads;
  float p_bias;
};
static_assert(sizeof(Params) == 1152);

struct Variant {
  static constexpr Weight kWeight = Weight::kSigmoid;
  static constexpr Mask kMask = Mask::kRange;
  static constexpr bool kUsesDelta = false, kFromWeight = true, kGradients = false, kRowGradients = false;
  static constexpr bool kSums = false, kDistanceSums = false, kQkSums = false, kEachPair = false;

  struct Uniform {
    int b, h, kv_h, q_len, k_len, first_q, first_k;
    float bias, half_bias;
  };
  static DEVICE Uniform uniform(const Params& p, int b, int h) {
    Uniform u = {b, h, h / (p.heads / p.kv_heads), p.q_len, p.k_len, 0, 0};
    u.bias = p.p_bias * 1.442695f;
    u.half_bias = p.p_bias * 0.5f;
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
  struct Gradients {};
  struct KeyGradients {};

  template <bool kGuarded>
  static DEVICE float weight(float qk, float lse2, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row,
      const Column& column, bool keeps) {
    return sigmoid(qk * 0.125f + p.p_bias);
  }
  template <bool kGuarded>
  static DEVICE float exponent2(float qk, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column,
      bool keeps) {
    return qk * 0.18033688f + u.bias;
  }
  template <bool kGuarded>
  static DEVICE float half(float qk, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column,
      bool keeps) {
    return qk * 0.0625f + u.half_bias;
  }
  // The sigmoid's argument at qk = 0; -inf if that depends on the pair.
  static DEVICE float center(const Params& p, const Uniform& u) {
    return p.p_bias;
  }
  template <bool kGuarded>
  static DEVICE float dqk(float weight, float dp, float delta, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row,
      const Column& column, bool keeps) {
    return dp * fmaf(-weight, weight, weight);
  }
  template <bool kGuarded, bool kAdds = true>
  static DEVICE void pair(float qk, float dp, float lse2, float delta, int q_idx, int k_idx, const Params& p, const Uniform& u,
      const Row& row, const Column& column, bool keeps, float& weight, float& dqk, Gradients& gradients, KeyGradients& key_gradients) {
    const float v1 = sigmoid(qk * 0.125f + p.p_bias);
    weight = keeps ? v1 : 0.0f;
    dqk = keeps ? dp * fmaf(-v1, v1, v1) : 0.0f;
  }
  static DEVICE void flush(Gradients& gradients, const Params& p, const Uniform& u) {
  }
  static DEVICE void flush(KeyGradients& key_gradients, int k_idx, bool counts, const Params& p, const Uniform& u) {
  }
  static DEVICE void clear_gradients(const Params& p, i64 thread, i64 threads) {
  }
  // A factor of the derivatives by qk that dqk() and pair() leave out.
  static DEVICE float dqk_scale(const Params& p, const Uniform& u) {
    return 0.125f;
  }
  static DEVICE bool keep(int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column) {
    return k_idx <= q_idx + (u.k_len - u.q_len);
  }

  static DEVICE KeyRange kept_queries(int first_k, int last_k, const Params& p, const Uniform& u) {
    return {min(max(first_k - (u.k_len - u.q_len), 0), u.q_len), u.q_len};
  }
  static DEVICE KeyRange full_queries(int first_k, int last_k, const Params& p, const Uniform& u) {
    return {min(max(last_k - (u.k_len - u.q_len), 0), u.q_len), u.q_len};
  }
  static DEVICE KeyRange kept_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, max(min(last_q + (u.k_len - u.q_len) + 1, u.k_len), 0)};
  }
  static DEVICE KeyRange full_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, max(min(first_q + (u.k_len - u.q_len) + 1, u.k_len), 0)};
  }
};

extern "C" __global__ __launch_bounds__(128, 1) void flash_sigmoid_backward_prepare(GRID_CONSTANT const Params p) {
  attention_backward_prepare_sm90<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(384, 1) void flash_sigmoid_backward(GRID_CONSTANT const Params p) {
  attention_backward_sm90<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(128, 1) void flash_sigmoid_backward_finish(GRID_CONSTANT const Params p) {
  attention_backward_finish<Config, Variant>(p);
}
