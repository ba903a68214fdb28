struct Config {
  static constexpr int kHeadDim = 64;
  static constexpr int kVDim = 64;
  static constexpr int kBlockM = 64;          // query rows of a step
  static constexpr int kBlockN = 64;          // key rows of a CTA
  static constexpr int kStages = 2;           // depth of the Q and dO rings
  static constexpr int kWarps = 4;            // of 16 key rows each
  static constexpr bool kDeterministic = false;  // the same bits from call to call
  static constexpr bool kFast = true;         // accuracy
  static constexpr bool kPacked = false;      // sequences by cu_q and cu_k
  using Element = BF16;
};

struct Params {
  const Raw *q, *k, *v, *out, *dout;
  Raw *dq, *dk, *dv;
  const float* lse;
  float *lse2, *delta;
  i64 q_stride[3], k_stride[3], v_stride[3], out_stride[3], dout_stride[3], dq_stride[3], dk_stride[3], dv_stride[3], lse_stride[3];
  int *counter, *index_flag;
  int batch, heads, kv_heads, q_len, k_len, blocks_m, blocks_n, tiles, section_heads, vector_loads, vector_stores;
  const float* t_table;
  i64 t_table_stride[2];
  int t_table_dim[2];
  float* g_table;
  i64 g_table_stride[2], g_table_count;
  int g_table_size[2];
};
static_assert(sizeof(Params) == 440);

struct Variant {
  static constexpr Weight kWeight = Weight::kSoftmax;
  static constexpr Mask kMask = Mask::kAll;
  static constexpr bool kUsesDelta = true, kFromWeight = true, kGradients = true, kRowGradients = false;

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
  struct Gradients {
    RunningSum table_h;
  };
  struct KeyGradients {};

  template <bool kGuarded>
  static DEVICE float weight(float qk, float lse2, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row,
      const Column& column, bool keeps) {
    bool outside = false;
    const int v3 = k_idx - (q_idx + (u.k_len - u.q_len));
    const int v4 = absolute(v3);
    const float v5 = log_fast(nan_max(absolute(column.v1 - row.v2), 1.0f) * 0.125f) * 2.88539f;
    const int v6 = wrapping_add(v3 > 0 ? 16 : 0, v4 < 8 ? v4 : min(wrapping_add(to_i32(v5), 8), 15));
    const float table_h = load_f32(p.t_table + clamped(v6, p.t_table_dim[0], outside) * p.t_table_stride[0] + u.h * p.t_table_stride[1]);
    const float weight = exp2_approx((qk + table_h) * 1.442695f - lse2);
    raise(outside && keeps && q_idx < u.q_len, p.index_flag);
    return weight;
  }
  template <bool kGuarded>
  static DEVICE float dqk(float weight, float dp, float delta, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row,
      const Column& column, bool keeps) {
    return weight * (dp - delta);
  }
  template <bool kGuarded, bool kAdds = true>
  static DEVICE void pair(float qk, float dp, float lse2, float delta, int q_idx, int k_idx, const Params& p, const Uniform& u,
      const Row& row, const Column& column, bool keeps, float& weight, float& dqk, Gradients& gradients, KeyGradients& key_gradients) {
    bool outside = false;
    const int v3 = k_idx - (q_idx + (u.k_len - u.q_len));
    const int v4 = absolute(v3);
    const float v5 = log_fast(nan_max(absolute(column.v1 - row.v2), 1.0f) * 0.125f) * 2.88539f;
    const int v6 = wrapping_add(v3 > 0 ? 16 : 0, v4 < 8 ? v4 : min(wrapping_add(to_i32(v5), 8), 15));
    const float table_h = load_f32(p.t_table + clamped(v6, p.t_table_dim[0], outside) * p.t_table_stride[0] + u.h * p.t_table_stride[1]);
    const float v7 = exp2_approx((qk + table_h) * 1.442695f - lse2);
    const float v8 = v7 * (dp - delta);
    weight = keeps ? v7 : 0.0f;
    dqk = keeps ? v8 : 0.0f;
    raise(outside && keeps && q_idx < u.q_len, p.index_flag);
    if (!kAdds || !keeps) return;
    if (p.g_table) gradients.table_h.add(p.g_table + clamped(v6, p.t_table_dim[0],
        outside) * p.g_table_stride[0] + u.h * p.g_table_stride[1], v8);
  }
  template <bool kGuarded>
  static DEVICE void gradients(float weight, float dp, float lse2, float delta, int q_idx, int k_idx, const Params& p, const Uniform& u,
      const Row& row, const Column& column, bool keeps, Gradients& gradients, KeyGradients& key_gradients) {
    if (!keeps) return;
    bool outside = false;
    const int v3 = k_idx - (q_idx + (u.k_len - u.q_len));
    const int v4 = absolute(v3);
    const float v5 = log_fast(nan_max(absolute(column.v1 - row.v2), 1.0f) * 0.125f) * 2.88539f;
    if (p.g_table) gradients.table_h.add(p.g_table + clamped(wrapping_add(v3 > 0 ? 16 : 0, v4 < 8 ? v4 : min(wrapping_add(to_i32(v5), 8),
        15)), p.t_table_dim[0], outside) * p.g_table_stride[0] + u.h * p.g_table_stride[1], weight * (dp - delta));
  }
  static DEVICE void flush(Gradients& gradients, const Params& p, const Uniform& u) {
    gradients.table_h.flush();
  }
  static DEVICE void flush(KeyGradients& key_gradients, int k_idx, bool counts, const Params& p, const Uniform& u) {
  }
  static DEVICE void clear_gradients(const Params& p, i64 thread, i64 threads) {
    if (p.g_table) clear_strided(p.g_table, p.g_table_stride, p.g_table_size, p.g_table_count, thread, threads);
  }
  // A factor of the derivatives by qk that dqk() and pair() leave out.
  static DEVICE float dqk_scale(const Params& p, const Uniform& u) {
    return 1.0f;
  }

  static DEVICE KeyRange kept_queries(int first_k, int last_k, const Params& p, const Uniform& u) {
    return {0, u.q_len};
  }
  static DEVICE KeyRange full_queries(int first_k, int last_k, const Params& p, const Uniform& u) {
    return {0, u.q_len};
  }
  static DEVICE KeyRange kept_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, u.k_len};
  }
  static DEVICE KeyRange full_keys(int first_q, int last_q, const Params& p, const Uniform& u) {
    return {0, u.k_len};
  }
};

extern "C" __global__ __launch_bounds__(128, 1) void t5_bias_backward_prepare(GRID_CONSTANT const Params p) {
  attention_backward_prepare<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(128, 1) void t5_bias_backward_keys(GRID_CONSTANT const Params p) {
  attention_backward_keys_sm80<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(128, 1) void t5_bias_backward_queries(GRID_CONSTANT const Params p) {
  attention_backward_queries_sm80<Config, Variant>(p);
}
