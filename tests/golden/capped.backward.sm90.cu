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
  float p_cap;
  const float* t_slopes;
  i64 t_slopes_stride[1];
  int t_slopes_dim[1];
  float* g_slopes;
  i64 g_slopes_stride[1], g_slopes_count;
  int g_slopes_size[1];
  const float* t_sinks;
  i64 t_sinks_stride[1];
  int t_sinks_dim[1];
  float* g_sinks;
  i64 g_sinks_stride[1], g_sinks_count;
  int g_sinks_size[1];
};
static_assert(sizeof(Params) == 1280);

struct Variant {
  static constexpr Weight kWeight = Weight::kSoftmax;
  static constexpr Mask kMask = Mask::kRange;
  static constexpr bool kUsesDelta = true, kFromWeight = false, kGradients = true, kRowGradients = true;
  static constexpr bool kSums = false, kDistanceSums = false, kQkSums = false, kEachPair = false;

  struct Uniform {
    int b, h, kv_h, q_len, k_len, first_q, first_k;
    float scale, cap2, slopes2, sinks2, v1;
  };
  static DEVICE Uniform uniform(const Params& p, int b, int h) {
    Uniform u = {b, h, h / (p.heads / p.kv_heads), p.q_len, p.k_len, 0, 0};
    u.scale = 1.0f / p.p_cap * 0.125f;
    u.cap2 = p.p_cap * 1.442695f;
    u.slopes2 = load_f32(p.t_slopes + u.h * p.t_slopes_stride[0]) * 1.442695f;
    u.sinks2 = load_f32(p.t_sinks + u.h * p.t_sinks_stride[0]) * 1.442695f;
    u.v1 = u.scale * p.p_cap;
    return u;
  }
  struct Row {
    float v3;
  };
  template <bool kGuarded>
  static DEVICE Row row(int q_idx, const Params& p, const Uniform& u) {
    Row row;
    row.v3 = to_f32(q_idx + (u.k_len - u.q_len));
    return row;
  }
  struct Column {
    float v2;
  };
  template <bool kGuarded>
  static DEVICE Column column(int k_idx, const Params& p, const Uniform& u) {
    Column column;
    column.v2 = to_f32(k_idx);
    return column;
  }
  struct Gradients {
    float slopes_h = 0.0f;
    float sinks_h = 0.0f;
  };
  struct KeyGradients {};

  template <bool kGuarded>
  static DEVICE float weight(float qk, float lse2, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row,
      const Column& column, bool keeps) {
    const float v4 = tanh_accurate(qk * u.scale) * u.cap2 - (row.v3 - column.v2) * u.slopes2;
    return exp2_approx(v4 - lse2);
  }
  template <bool kGuarded, bool kAdds = true>
  static DEVICE void pair(float qk, float dp, float lse2, float delta, int q_idx, int k_idx, const Params& p, const Uniform& u,
      const Row& row, const Column& column, bool keeps, float& weight, float& dqk, Gradients& gradients, KeyGradients& key_gradients) {
    const float v5 = tanh_accurate(qk * u.scale);
    const float v6 = row.v3 - column.v2;
    const float v7 = exp2_approx(v5 * u.cap2 - v6 * u.slopes2 - lse2);
    const float v8 = v7 * (dp - delta);
    weight = keeps ? v7 : 0.0f;
    dqk = keeps ? v8 * (1.0f - v5 * v5) : 0.0f;
    if (!kAdds || !keeps) return;
    gradients.slopes_h += -(v8 * v6);
  }
  static DEVICE void row_gradients(int q_idx, float lse2, float delta, const Params& p, const Uniform& u, const Row& row,
      Gradients& gradients) {
    gradients.sinks_h += -(exp2_approx(u.sinks2 - lse2) * delta);
  }
  static DEVICE void flush(Gradients& gradients, const Params& p, const Uniform& u) {
    if (p.g_slopes) add_of_warp(p.g_slopes + u.h * p.g_slopes_stride[0], gradients.slopes_h);
    gradients.slopes_h = 0.0f;
    if (p.g_sinks) add_of_warp(p.g_sinks + u.h * p.g_sinks_stride[0], gradients.sinks_h);
    gradients.sinks_h = 0.0f;
  }
  static DEVICE void flush(KeyGradients& key_gradients, int k_idx, bool counts, const Params& p, const Uniform& u) {
  }
  static DEVICE void clear_gradients(const Params& p, i64 thread, i64 threads) {
    if (p.g_slopes) clear_strided(p.g_slopes, p.g_slopes_stride, p.g_slopes_size, p.g_slopes_count, thread, threads);
    if (p.g_sinks) clear_strided(p.g_sinks, p.g_sinks_stride, p.g_sinks_size, p.g_sinks_count, thread, threads);
  }
  // A factor of the derivatives by qk that dqk() and pair() leave out.
  static DEVICE float dqk_scale(const Params& p, const Uniform& u) {
    return u.v1;
  }
  static DEVICE bool keep(int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column) {
    const int v9 = q_idx + (u.k_len - u.q_len) - k_idx;
    return v9 >= 0 && v9 < 4096;
  }

  static DEVICE KeyRange kept_queries(int first_k, int last_k, const Params& p, const Uniform& u) {
    const int v12 = min(max(first_k - (u.k_len - u.q_len), 0), u.q_len);
    const int v13 = int(min(i64(u.q_len), i64(last_k) + i64(u.q_len - u.k_len + 4095) + i64(1)));
    return {v12, max(v13, v12)};
  }
  static DEVICE KeyRange full_queries(int first_k, int last_k, const Params& p, const Uniform& u) {
    const int v10 = min(max(last_k - (u.k_len - u.q_len), 0), u.q_len);
    const int v11 = int(min(i64(u.q_len), i64(first_k) + i64(u.q_len - u.k_len + 4095) + i64(1)));
    return {v10, max(v11, v10)};
  }
  static DEVICE KeyRange kept_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    const int v15 = min(max(0, first_q - (u.q_len - u.k_len + 4095)), u.k_len);
    return {v15, max(min(last_q + (u.k_len - u.q_len) + 1, u.k_len), v15)};
  }
  static DEVICE KeyRange full_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    const int v14 = min(max(0, last_q - (u.q_len - u.k_len + 4095)), u.k_len);
    return {v14, max(min(first_q + (u.k_len - u.q_len) + 1, u.k_len), v14)};
  }
};

extern "C" __global__ __launch_bounds__(128, 1) void capped_backward_prepare(GRID_CONSTANT const Params p) {
  attention_backward_prepare_sm90<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(384, 1) void capped_backward(GRID_CONSTANT const Params p) {
  attention_backward_sm90<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(128, 1) void capped_backward_finish(GRID_CONSTANT const Params p) {
  attention_backward_finish<Config, Variant>(p);
}
