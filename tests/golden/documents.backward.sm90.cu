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
  void* extents;
  int batch, heads, kv_heads, q_len, k_len, blocks_m, blocks_n, tiles, section_heads;
  const int* t_doc;
  i64 t_doc_stride[2];
  int t_doc_dim[2];
  float p_keep;
  int p_seed;
};
static_assert(sizeof(Params) == 1216);

struct Variant {
  static constexpr Weight kWeight = Weight::kSoftmax;
  static constexpr Mask kMask = Mask::kSearch;
  static constexpr bool kUsesDelta = true, kFromWeight = false, kGradients = false, kRowGradients = false;
  static constexpr bool kSums = false, kDistanceSums = false, kQkSums = false, kEachPair = false;

  struct Uniform {
    int b, h, kv_h, q_len, k_len, first_q, first_k;
    float v1;
  };
  static DEVICE Uniform uniform(const Params& p, int b, int h) {
    Uniform u = {b, h, h / (p.heads / p.kv_heads), p.q_len, p.k_len, 0, 0};
    u.v1 = 1.0f / p.p_keep;
    return u;
  }
  struct Row {
    int doc_q_idx;
  };
  template <bool kGuarded>
  static DEVICE Row row(int q_idx, const Params& p, const Uniform& u) {
    Row row;
    row.doc_q_idx = load_i32(p.t_doc + u.b * p.t_doc_stride[0] + inside<kGuarded>(q_idx, p.t_doc_dim[1]) * p.t_doc_stride[1]);
    return row;
  }
  struct Column {
    int doc_k_idx;
  };
  template <bool kGuarded>
  static DEVICE Column column(int k_idx, const Params& p, const Uniform& u) {
    Column column;
    column.doc_k_idx = load_i32(p.t_doc + u.b * p.t_doc_stride[0] + inside<kGuarded>(k_idx, p.t_doc_dim[1]) * p.t_doc_stride[1]);
    return column;
  }
  struct Gradients {};
  struct KeyGradients {};

  template <bool kGuarded>
  static DEVICE float weight(float qk, float lse2, int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row,
      const Column& column, bool keeps) {
    const float v2 = random_uniform(p.p_seed, u.b, u.h, q_idx, k_idx) < p.p_keep ? u.v1 : 0.0f;
    return exp2_approx(qk * 0.18033688f - lse2) * v2;
  }
  template <bool kGuarded, bool kAdds = true>
  static DEVICE void pair(float qk, float dp, float lse2, float delta, int q_idx, int k_idx, const Params& p, const Uniform& u,
      const Row& row, const Column& column, bool keeps, float& weight, float& dqk, Gradients& gradients, KeyGradients& key_gradients) {
    const float v3 = exp2_approx(qk * 0.18033688f - lse2);
    const float v2 = random_uniform(p.p_seed, u.b, u.h, q_idx, k_idx) < p.p_keep ? u.v1 : 0.0f;
    weight = keeps ? v3 * v2 : 0.0f;
    dqk = keeps ? v3 * (v2 * dp - delta) : 0.0f;
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
    return row.doc_q_idx == column.doc_k_idx && k_idx <= q_idx;
  }

  struct RowExtent {
    int least_doc_q_idx;
    int greatest_doc_q_idx;
  };
  static DEVICE RowExtent row_extent(int first_q, int last_q, const Params& p, const Uniform& u) {
    RowExtent extent;
    extent.least_doc_q_idx = 0x7FFFFFFF;
    extent.greatest_doc_q_idx = -0x7FFFFFFF - 1;
    for (int first = first_q + static_cast<int>(threadIdx.x) % kWarp; first <= last_q; first += 4 * kWarp) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int q_idx = min(first + i * kWarp, last_q);
        const int doc_q_idx = load_i32(p.t_doc + u.b * p.t_doc_stride[0] + inside<true>(q_idx, p.t_doc_dim[1]) * p.t_doc_stride[1]);
        extent.least_doc_q_idx = nan_min(extent.least_doc_q_idx, doc_q_idx);
        extent.greatest_doc_q_idx = nan_max(extent.greatest_doc_q_idx, doc_q_idx);
      }
    }
    extent.least_doc_q_idx = warp_min(extent.least_doc_q_idx);
    extent.greatest_doc_q_idx = warp_max(extent.greatest_doc_q_idx);
    return extent;
  }
  struct ColumnExtent {
    int least_doc_k_idx;
    int greatest_doc_k_idx;
  };
  static DEVICE ColumnExtent column_extent(int first_k, int last_k, const Params& p, const Uniform& u) {
    ColumnExtent extent;
    extent.least_doc_k_idx = 0x7FFFFFFF;
    extent.greatest_doc_k_idx = -0x7FFFFFFF - 1;
    for (int first = first_k + static_cast<int>(threadIdx.x) % kWarp; first <= last_k; first += 4 * kWarp) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k_idx = min(first + i * kWarp, last_k);
        const int doc_k_idx = load_i32(p.t_doc + u.b * p.t_doc_stride[0] + inside<true>(k_idx, p.t_doc_dim[1]) * p.t_doc_stride[1]);
        extent.least_doc_k_idx = nan_min(extent.least_doc_k_idx, doc_k_idx);
        extent.greatest_doc_k_idx = nan_max(extent.greatest_doc_k_idx, doc_k_idx);
      }
    }
    extent.least_doc_k_idx = warp_min(extent.least_doc_k_idx);
    extent.greatest_doc_k_idx = warp_max(extent.greatest_doc_k_idx);
    return extent;
  }
  static DEVICE TileClass classify(const RowExtent& rows, const ColumnExtent& columns, int first_q, int last_q, int first_k, int last_k,
      const Params& p, const Uniform& u) {
    const bool v4 = rows.greatest_doc_q_idx < columns.least_doc_k_idx || columns.greatest_doc_k_idx < rows.least_doc_q_idx;
    const bool v5 = columns.greatest_doc_k_idx <= rows.least_doc_q_idx && rows.greatest_doc_q_idx <= columns.least_doc_k_idx;
    if (!(!v4 && first_k <= last_q)) return TileClass::kSkip;
    return v5 && last_k <= first_q ? TileClass::kFull : TileClass::kPartial;
  }
  static DEVICE RowExtent* stored_row_extents(const Params& p, int b, int h) {
    const int blocks = p.blocks_m;
    return static_cast<RowExtent*>(p.extents) + (static_cast<i64>(b) * p.heads + h) * blocks;
  }
};

extern "C" __global__ __launch_bounds__(128, 1) void documents_backward_prepare(GRID_CONSTANT const Params p) {
  attention_backward_prepare_sm90<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(128, 1) void documents_backward_extents(GRID_CONSTANT const Params p) {
  row_extents_sm90<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(384, 1) void documents_backward(GRID_CONSTANT const Params p) {
  attention_backward_sm90<Config, Variant>(p);
}

extern "C" __global__ __launch_bounds__(128, 1) void documents_backward_finish(GRID_CONSTANT const Params p) {
  attention_backward_finish<Config, Variant>(p);
}
