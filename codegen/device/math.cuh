// What the operators of the language are called in CUDA, and do there, where C++ has nothing that does just that.

DEVICE int floor_div(int a, int b) {
  if (b == 0) return 0;
  if (b == -1) return static_cast<int>(0u - static_cast<u32>(a));  // the most negative number wraps
  const int quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0));
}
DEVICE float floor_div(float a, float b) {
  return b == 0 ? 0.0f : floorf(a / b);
}
DEVICE int floor_mod(int a, int b) {
  if (b == 0 || b == -1) return 0;
  const int rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
DEVICE float floor_mod(float a, float b) {
  return b == 0 ? 0.0f : a - b * floorf(a / b);
}
DEVICE int ipow(int x, int exponent) {
  u32 result = 1;
  for (u32 base = static_cast<u32>(x); exponent > 0; exponent >>= 1, base *= base) {
    if (exponent & 1) result *= base;
  }
  return static_cast<int>(result);
}

DEVICE i64 floor_div(i64 a, i64 b) {
  const i64 quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0));
}
// Where i32 may leave its range: signed arithmetic must not wrap in C++.
DEVICE int wrapping_add(int a, int b) {
  return static_cast<int>(static_cast<u32>(a) + static_cast<u32>(b));
}
DEVICE int wrapping_sub(int a, int b) {
  return static_cast<int>(static_cast<u32>(a) - static_cast<u32>(b));
}
DEVICE int wrapping_mul(int a, int b) {
  return static_cast<int>(static_cast<u32>(a) * static_cast<u32>(b));
}
DEVICE int absolute(int x) {
  return x < 0 ? wrapping_sub(0, x) : x;
}
DEVICE i64 absolute(i64 x) {
  return x < 0 ? -x : x;
}
DEVICE float absolute(float x) {
  return fabsf(x);
}
DEVICE double absolute(double x) {
  return fabs(x);
}

// NaN passes.
DEVICE int nan_min(int a, int b) {
  return min(a, b);
}
DEVICE int nan_max(int a, int b) {
  return max(a, b);
}
DEVICE float nan_min(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
DEVICE float nan_max(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
template <typename T>
DEVICE T nan_clamp(T x, T low, T high) {
  return nan_min(nan_max(x, low), high);
}

DEVICE float to_f32(int x) {
  return static_cast<float>(x);
}
DEVICE float to_f32(bool x) {
  return x ? 1.0f : 0.0f;
}
// cvt.rzi saturates, and gives 0 for NaN.
DEVICE int to_i32(float x) {
  int y;
  asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}
DEVICE int to_i32(bool x) {
  return x ? 1 : 0;
}
DEVICE int to_i32(double x) {
  int y;
  asm("cvt.rzi.s32.f64 %0, %1;" : "=r"(y) : "d"(x));
  return y;
}
DEVICE int to_i32(i64 x) {
  return static_cast<int>(min(max(x, -0x80000000ll), 0x7FFFFFFFll));
}
DEVICE bool bit(int x, int i) {
  return i >= 0 && i < 32 && (static_cast<u32>(x) >> i & 1) != 0;
}

// 2 ulp; 0 for divisors beyond 2^126.
DEVICE float divide(float a, float b) {
  return __fdividef(a, b);
}
// x ** kExponent by multiplications.
template <int kExponent>
DEVICE float power(float x) {
  if constexpr (kExponent < 0) {
    return 1.0f / power<-kExponent>(x);
  } else if constexpr (kExponent == 0) {
    return 1.0f;
  } else if constexpr (kExponent % 2 == 1) {
    return power<kExponent - 1>(x) * x;
  } else {
    const float root = power<kExponent / 2>(x);
    return root * root;
  }
}
// x ** exponent, a constant that is no small whole number: relative error 2^-22 |log2(y)|. powf makes kernels that take minutes to compile.
DEVICE float power(float x, float exponent) {
  const float magnitude = fabsf(x);
  const float y = magnitude == 1.0f ? 1.0f : exp2_approx(exponent * log2_approx(magnitude));
  if (exponent != floorf(exponent)) return x < 0.0f && magnitude < kInfinity ? kInfinity - kInfinity : y;
  const float half = 0.5f * exponent;
  return half != floorf(half) ? copysignf(y, x) : y;
}
DEVICE float exp_fast(float x) {
  return exp2_approx(x * kLog2E);
}
DEVICE float log_fast(float x) {
  return log2_approx(x) * kLn2;
}
// 1 - 2 / (1 + e^2x): absolute error 3e-7, so that a cap of 50 leaves a score within 2e-5.
DEVICE float tanh_accurate(float x) {
  return fmaf(-2.0f, reciprocal_approx(1.0f + exp2_approx(2.0f * kLog2E * x)), 1.0f);
}
// tanh for |x| <= 3/4 by an odd polynomial of degree 7 (minimax.py tanh_near: absolute error 3.6e-6), which leaves the special-function
// unit alone. `spread` grows by x^4, so that the caller learns whether all x were so small: below kGreatestSpread. `exact`: tanh_accurate.
constexpr float kGreatestSpread = 0.316f;
DEVICE float tanh_near(float x, bool exact, float& spread) {
  const float y = x * x;
  spread = fmaf(y, y, spread);
  if (exact) return tanh_accurate(x);
  constexpr float c[] = {-0x1.14b5a6p-5f, 0x1.01940cp-3f, -0x1.543376p-2f, 0x1.fffa2ep-1f};
  return x * fmaf(fmaf(fmaf(c[0], y, c[1]), y, c[2]), y, c[3]);
}
// sin(x + quarters * pi / 2), as math_forms_trig.cpp has it: absolute error 2e-7 for |x| < 1e5, bounded beyond. sinf and cosf carry a
// reduction of huge arguments in each of their many copies, which takes minutes to compile.
DEVICE float shifted_sin(float x, u32 quarters) {
  constexpr float kRound = 0x1.8p23f, kTwoOverPi = 0x1.45f306p-1f, kHalfPi[] = {0x1.92p0f, 0x1.fap-12f, 0x1.54442ep-20f};
  const float sum = fmaf(x, kTwoOverPi, kRound), n = sum - kRound;
  const float r = nan_clamp(fmaf(n, -kHalfPi[2], fmaf(n, -kHalfPi[1], fmaf(n, -kHalfPi[0], x))), -1.0f, 1.0f), y = r * r;
  const float sine = fmaf(r * y, fmaf(fmaf(-0x1.98e06ep-13f, y, 0x1.11060cp-7f), y, -0x1.555542p-3f), r);
  const float fourth = fmaf(fmaf(0x1.9993d6p-16f, y, -0x1.6c0afap-10f), y, 0x1.555548p-5f), cosine = fmaf(y * y, fourth, fmaf(y, -0.5f, 1.0f));
  const u32 quadrant = __builtin_bit_cast(u32, sum) + quarters;
  return __builtin_bit_cast(float, __builtin_bit_cast(u32, quadrant & 1 ? cosine : sine) ^ (quadrant & 2) << 30);
}
DEVICE float sigmoid(float x) {
  return reciprocal_approx(1.0f + exp2_approx(-kLog2E * x));
}
// The sigmoid of x / log2(e).
DEVICE float sigmoid_log2(float x) {
  return reciprocal_approx(1.0f + exp2_approx(-x));
}
DEVICE float gelu(float x) {
  return 0.5f * x * erfcf(-0.7071067811865476f * x);
}
DEVICE float silu(float x) {
  return x * sigmoid(x);
}
DEVICE float softplus(float x) {
  return fmaxf(x, 0.0f) + log1pf(exp2_approx(-kLog2E * fabsf(x))) + (x != x ? x : 0.0f);
}

// Philox 4x32 (Salmon et al. 2011) with 7 rounds: uniform in [0, 1), 24 bits.
DEVICE float random_uniform(int seed, int b, int h, int q_idx, int k_idx) {
  constexpr u32 kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57, kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  u32 c0 = b, c1 = h, c2 = q_idx, c3 = k_idx, key0 = seed, key1 = 0;
#pragma unroll
  for (int round = 0; round < 7; ++round) {
    const u32 next0 = __umulhi(kMultiplier1, c2) ^ c1 ^ key0, next2 = __umulhi(kMultiplier0, c0) ^ c3 ^ key1;
    c1 = kMultiplier1 * c2;
    c3 = kMultiplier0 * c0;
    c0 = next0;
    c2 = next2;
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return static_cast<float>(c0 >> 8) * 0x1p-24f;
}

// Elements of tensors. An index that may lie outside is clamped.
DEVICE float load_f32(const float* at) {
  return *at;
}
DEVICE float load_f16(const Raw* at) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(*at));
  return y;
}
DEVICE float load_bf16(const Raw* at) {
  return __uint_as_float(static_cast<u32>(*at) << 16);
}
DEVICE int load_i32(const int* at) {
  return *at;
}
DEVICE int load_u8(const unsigned char* at) {
  return *at;
}
template <bool kGuarded>
DEVICE i64 inside(int index, int dim) {
  return kGuarded ? min(max(index, 0), dim - 1) : index;
}
// An index that depends on data.
DEVICE i64 clamped(int index, int dim, bool& outside) {
  const int inner = min(max(index, 0), dim - 1);
  outside = outside || inner != index;
  return inner;
}
DEVICE void raise(bool outside, int* flag) {
  if (outside && flag) *flag = 1;
}

// Over a warp, for every lane; NaN if any is.
template <typename T>
DEVICE T warp_min(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = nan_min(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
template <typename T>
DEVICE T warp_max(T x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = nan_max(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
DEVICE double nan_min(double a, double b) {
  return a != a ? a : b != b ? b : fmin(a, b);
}
DEVICE double nan_max(double a, double b) {
  return a != a ? a : b != b ? b : fmax(a, b);
}
