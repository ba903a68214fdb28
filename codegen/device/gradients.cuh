// Gradients of parameters: sums of threads, and what becomes of them in memory.

// A sum of f32 terms, up to 2^39 of them, that has the same bits in any order: whole numbers do. A term is 24 bits somewhere among the
// digits of base 2^24, the lowest of which counts multiples of the least f32; it is added to one or two of them. Digits take either sign
// and carry over only in the end. All is zero between calls.
struct ExactSum {
  static constexpr int kDigitBits = 24, kDigits = 12;
  i64 digits[kDigits];
  float others;  // the sum of terms that are infinite or NaN, which has the same bits in any order, too

  DEVICE float take();
};

// Without branches, of which there would be some for each pair. Nothing is added to a null of a zero.
DEVICE void add_global(ExactSum* to, float value) {
  constexpr u32 kInfinite = 0xFF;
  const u32 word = __builtin_bit_cast(u32, value), exponent = word >> 23 & 0xFF;
  const u32 mantissa = (word & 0x7FFFFF) | (exponent != 0 ? 0x800000 : 0), place = exponent != 0 ? exponent - 1 : 0;
  const u64 shifted = static_cast<u64>(mantissa) << place % ExactSum::kDigitBits;
  const int low = shifted & 0xFFFFFF, high = shifted >> ExactSum::kDigitBits, sign = word >> 31 != 0 ? -1 : 1;
  i64* const digit = to->digits + place / ExactSum::kDigitBits;
  add_global_if(low != 0 && exponent != kInfinite, digit, static_cast<i64>(low * sign));
  add_global_if(high != 0 && exponent != kInfinite, digit + 1, static_cast<i64>(high * sign));
  add_global_if(exponent == kInfinite, &to->others, value);
}
DEVICE void add_unless_zero(ExactSum* to, float value) {
  add_global(to, value);
}
DEVICE void add_unless_zero(float* to, float value) {
  if (value != 0.0f) add_global(to, value);
}

// The nearest f32, but for what a sum of doubles errs by; leaves zero.
DEVICE float ExactSum::take() {
  i64 carry = 0, plain[kDigits];
#pragma unroll
  for (int i = 0; i < kDigits; ++i) {
    carry += digits[i];
    plain[i] = carry & 0xFFFFFF;
    carry >>= kDigitBits;
    digits[i] = 0;
  }
  double sum = static_cast<double>(carry);
#pragma unroll
  for (int i = kDigits - 1; i >= 0; --i) sum = sum * 0x1p24 + static_cast<double>(plain[i]);
  const float unusual = others;
  others = 0.0f;
  return unusual == 0.0f ? static_cast<float>(sum * 0x1p-149) : unusual;
}

// What a sum over pairs gives to a gradient; none of them, nothing.
DEVICE float times_sum(float factor, float sum) {
  return sum == 0.0f ? 0.0f : factor * sum;
}

// By all lanes of a warp: adds up what they have.
template <typename Sum>
DEVICE void add_of_warp(Sum* to, float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  if (threadIdx.x % kWarp == 0) add_unless_zero(to, value);
}

// By each lane for itself, as data and not as a branch: behind one, or behind a shuffle, the compiler no longer takes addresses of a loop for
// those of all lanes.
DEVICE void add_of_lane(bool adds, float* to, float value) {
  add_global_if(adds && value != 0.0f, to, value);
}
DEVICE void add_of_lane(bool adds, ExactSum* to, float value) {
  add_global(to, adds ? value : 0.0f);
}

// What has come for one address since another one did.
template <typename Sum>
struct RunningSumOf {
  Sum* to = nullptr;
  float sum = 0.0f;

  DEVICE void add(Sum* at, float value) {
    if (at != to) flush();
    to = at;
    sum += value;
  }
  DEVICE void flush() {
    add_unless_zero(to, sum);
    sum = 0.0f;
  }
};
using RunningSum = RunningSumOf<float>;
using RunningExactSum = RunningSumOf<ExactSum>;

// An element of a gradient by query and key, whose rows are less than 2^31 bytes apart: one instruction for an address.
DEVICE float* place_of_pair(float* head, i64 q, i64 q_stride, i64 k, i64 k_stride) {
  const int row_bytes = static_cast<int>(q_stride * 4);
  return reinterpret_cast<float*>(reinterpret_cast<char*>(head + k * k_stride) + static_cast<i64>(static_cast<int>(q)) * row_bytes);
}

// The place of element `i` of a tensor.
template <int kRank>
DEVICE i64 strided_place(i64 i, const i64 (&stride)[kRank], const int (&size)[kRank]) {
  i64 at = 0;
#pragma unroll
  for (int axis = kRank - 1; axis >= 0; --axis) {
    at += i % size[axis] * stride[axis];
    i /= size[axis];
  }
  return at;
}

// Zeros in a tensor of `count` elements, by all threads of a grid: as they lie in memory, where they lie side by side.
template <int kRank>
DEVICE void clear_strided(float* tensor, const i64 (&stride)[kRank], const int (&size)[kRank], i64 count, i64 thread, i64 threads) {
  i64 dense = 1;
#pragma unroll
  for (int axis = kRank - 1; axis >= 0; --axis) {
    if (size[axis] == 1 || stride[axis] == dense) dense *= size[axis];
  }
  if (dense == count && reinterpret_cast<u64>(tensor) % 16 == 0) {
    for (i64 i = thread; i < count / 4; i += threads) reinterpret_cast<float4*>(tensor)[i] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (thread < count % 4) tensor[count - 1 - thread] = 0.0f;
  } else {
    for (i64 i = thread; i < count; i += threads) tensor[strided_place(i, stride, size)] = 0.0f;
  }
}
// Sums, which lie side by side, become the elements of a tensor.
template <int kRank>
DEVICE void take_strided(ExactSum* sums, float* tensor, const i64 (&stride)[kRank], const int (&size)[kRank], i64 count, i64 thread,
                         i64 threads) {
  for (i64 i = thread; i < count; i += threads) tensor[strided_place(i, stride, size)] = sums[i].take();
}

// Deterministic: behind all others.
template <typename Config, typename Variant, typename Arguments>
DEVICE void attention_backward_sums(const Arguments& p) {
  Variant::take_gradients(p, static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, static_cast<i64>(gridDim.x) * blockDim.x);
}
