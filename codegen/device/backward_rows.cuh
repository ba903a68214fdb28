// What the backward pass does by rows of queries before and behind its main kernel.

// prepare: lse2 and delta of softmax, for whole blocks of rows, and gradients of parameters set to zero. kVectors: rows of `out` and `dout`
// start 16-byte aligned and are whole pieces of 16 bytes.
template <typename Config>
struct RowSums {
  static constexpr int kPieces = (Config::kVDim + 7) / 8;  // of 8 elements
  static constexpr int kLanes = kPieces <= 1 ? 1 : kPieces <= 2 ? 2 : kPieces <= 4 ? 4 : kPieces <= 8 ? 8 : kPieces <= 16 ? 16 : 32;
};

template <typename Config, typename Variant, bool kVectors>
DEVICE float row_product(const Raw* a, const Raw* b, int lane) {
  using Element = typename Config::Element;
  float sum = 0.0f;
  if constexpr (kVectors) {
    if (lane >= RowSums<Config>::kPieces) return 0.0f;
    const int4 x = reinterpret_cast<const int4*>(a)[lane], y = reinterpret_cast<const int4*>(b)[lane];
    const int xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 u = Element::unpack(xs[i]), v = Element::unpack(ys[i]);
      sum = fmaf(u.y, v.y, fmaf(u.x, v.x, sum));
    }
  } else {
    for (int i = lane; i < Config::kVDim; i += RowSums<Config>::kLanes) sum = fmaf(Element::unpack(a[i]).x, Element::unpack(b[i]).x, sum);
  }
  return sum;
}

template <typename Config, typename Variant, bool kVectors>
DEVICE void prepare_backward(const Params& p) {
  constexpr int kLanes = RowSums<Config>::kLanes;
  const i64 thread = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, threads = static_cast<i64>(gridDim.x) * blockDim.x;
  if constexpr (Variant::kGradients) Variant::clear_gradients(p, thread, threads);
  if constexpr (Variant::kWeight == Weight::kSoftmax) {
    const int lane = static_cast<int>(thread % kLanes), rows = p.blocks_m * Config::kBlockM;
    const i64 end = static_cast<i64>(p.batch) * p.heads * rows;
    // Whole warps go round together.
    for (i64 at = thread / kWarp * (kWarp / kLanes); at < end; at += threads / kLanes) {
      const i64 number = at + threadIdx.x % kWarp / kLanes;
      const int head = static_cast<int>(min(number, end - 1) / rows), row = static_cast<int>(number % rows), b = head / p.heads,
                h = head % p.heads;
      int q_len = p.q_len;
      i64 first = 0;
      if constexpr (Config::kPacked) {
        first = p.cu_q[b];
        q_len = p.cu_q[b + 1] - static_cast<int>(first);
      }
      const bool is_there = number < end && row < q_len;
      float delta = 0.0f;
      if (Variant::kUsesDelta && is_there) {
        const Raw* out = p.out + b * p.out_stride[0] + (first + row) * p.out_stride[1] + h * p.out_stride[2];
        const Raw* dout = p.dout + b * p.dout_stride[0] + (first + row) * p.dout_stride[1] + h * p.dout_stride[2];
        delta = row_product<Config, Variant, kVectors>(out, dout, lane);
      }
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) delta += __shfl_xor_sync(~0u, delta, step);
      if (lane != 0 || number >= end) continue;
      float lse = -kInfinity;
      if (is_there) lse = p.lse[b * p.lse_stride[0] + h * p.lse_stride[1] + (first + row) * p.lse_stride[2]];
      p.lse2[number] = lse == -kInfinity ? kInfinity : lse * kLog2E;
      if constexpr (Variant::kUsesDelta) p.delta[number] = delta;
    }
  }
}
