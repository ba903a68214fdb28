// Before the main kernel of a backward pass: lse2 and delta of softmax, for whole blocks of rows, and zeros in the gradients of parameters.
// A CTA of 128 threads for each block of each head.

// Lanes to a row of `out` and `dout`, each with 8 elements.
template <typename Config>
struct RowLanes {
  static constexpr int kPieces = (Config::kVDim + 7) / 8;
  static constexpr int kCount = kPieces <= 1 ? 1 : kPieces <= 2 ? 2 : kPieces <= 4 ? 4 : kPieces <= 8 ? 8 : kPieces <= 16 ? 16 : 32;
};

template <typename Element>
DEVICE float product_of_pieces(const int4& a, const int4& b) {
  const int x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 u = Element::unpack(x[i]), v = Element::unpack(y[i]);
    sum = fmaf(u.y, v.y, fmaf(u.x, v.x, sum));
  }
  return sum;
}

// A lane's part of rowsum(dO O). kVectors: rows start 16-byte aligned and are whole pieces.
template <typename Config, bool kVectors>
DEVICE float row_product(const Raw* out, const Raw* dout, int lane) {
  using Element = typename Config::Element;
  if constexpr (kVectors) {
    if (lane >= RowLanes<Config>::kPieces) return 0.0f;
    return product_of_pieces<Element>(reinterpret_cast<const int4*>(out)[lane], reinterpret_cast<const int4*>(dout)[lane]);
  } else {
    float sum = 0.0f;
    for (int i = lane; i < Config::kVDim; i += RowLanes<Config>::kCount)
      sum = fmaf(Element::unpack(out[i]).x, Element::unpack(dout[i]).x, sum);
    return sum;
  }
}

DEVICE bool has_vector_rows(const Raw* tensor, const i64 (&stride)[3]) {
  return reinterpret_cast<u64>(tensor) % 16 == 0 && (stride[0] | stride[1] | stride[2]) % 8 == 0;
}

// `Arguments`: Params, whose members a template may name where a program does not have them.
template <typename Config, typename Variant, bool kVectors, typename Arguments>
DEVICE void prepare_rows(const Arguments& p) {
  constexpr int kLanes = RowLanes<Config>::kCount, kRowsAtOnce = 128 / kLanes;
  constexpr int kRows = (Config::kBlockM + kRowsAtOnce - 1) / kRowsAtOnce;  // of a thread
  const int head = blockIdx.x / p.blocks_m, block = blockIdx.x % p.blocks_m, lane = threadIdx.x % kLanes, own = threadIdx.x / kLanes;
  if (head >= p.batch * p.heads) return;
  const int b = head / p.heads, h = head % p.heads;
  const auto u = Variant::uniform(p, b, h);
  const i64 first = u.first_q + block * Config::kBlockM;
  const int rows = u.q_len - block * Config::kBlockM;  // that there are, from the block's first one on
  float delta[kRows] = {};
  // All loads before the first store.
  if constexpr (Variant::kUsesDelta) {
    const Raw* out = p.out + b * p.out_stride[0] + h * p.out_stride[2];
    const Raw* dout = p.dout + b * p.dout_stride[0] + h * p.dout_stride[2];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = i * kRowsAtOnce + own;
      if (row < rows)
        delta[i] = row_product<Config, kVectors>(out + (first + row) * p.out_stride[1], dout + (first + row) * p.dout_stride[1], lane);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) delta[i] += __shfl_xor_sync(~0u, delta[i], step);
    const int row = i * kRowsAtOnce + own;
    if (lane != 0 || row >= Config::kBlockM) continue;
    float lse = -kInfinity;
    if (row < rows) lse = p.lse[b * p.lse_stride[0] + h * p.lse_stride[1] + (first + row) * p.lse_stride[2]];
    const i64 at = static_cast<i64>(blockIdx.x) * Config::kBlockM + row;
    p.lse2[at] = lse == -kInfinity ? kInfinity : lse * kLog2E;
    p.delta[at] = delta[i];
  }
}

template <typename Config, typename Variant, typename Arguments>
DEVICE void prepare_all_rows(const Arguments& p) {
  bool has_vectors = Config::kVDim % 8 == 0;
  if constexpr (Variant::kUsesDelta)
    has_vectors = has_vectors && has_vector_rows(p.out, p.out_stride) && has_vector_rows(p.dout, p.dout_stride);
  if (has_vectors) {
    prepare_rows<Config, Variant, true>(p);
  } else {
    prepare_rows<Config, Variant, false>(p);
  }
}

template <typename Config, typename Variant>
DEVICE void attention_backward_prepare(const Params& p) {
  // Of all there are: what nothing contributes to is zero, too.
  Variant::clear_gradients(p, static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, static_cast<i64>(gridDim.x) * blockDim.x);
  if constexpr (Variant::kWeight == Weight::kSoftmax) prepare_all_rows<Config, Variant>(p);
}
