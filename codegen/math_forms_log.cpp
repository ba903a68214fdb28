// log2, log, softplus and pow. Coefficients: scripts/minimax.py NAME, for the name at each.
#include <cmath>
#include <limits>

#include "codegen/math_forms_detail.h"

namespace attune::codegen {

using namespace detail;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// x = (1 + f) * 2^exponent with 1 + f in [sqrt(1/2), sqrt(2)); any f and exponent unless 0 < x < inf.
struct Parts {
  Value f;
  Value exponent;  // f32
};

Parts split(MathBuilder& b, Value x) {
  constexpr int32_t kRootHalfBits = 0x3f3504f3;
  const Value is_denormal = b.fcompare(Compare::kLt, x, b.f32(0x1p-126f));
  const Value bits = b.f32_to_bits(b.select(is_denormal, b.fmul(x, b.f32(0x1p23f)), x));
  const Value exponent = b.ashr(b.isub(bits, b.i32(kRootHalfBits)), b.i32(kMantissaBits));
  const Value m = b.bits_to_f32(b.isub(bits, b.shl(exponent, b.i32(kMantissaBits))));
  const Value shift = b.select(is_denormal, b.f32(kMantissaBits), b.f32(0));
  return {b.fsub(m, b.f32(1)), b.fsub(b.i32_to_f32(exponent), shift)};
}

// `result`, but as a logarithm must be at x <= 0, inf and NaN.
Value log_edges(MathBuilder& b, Value x, Value result) {
  result = b.select(b.fcompare(Compare::kLt, x, b.f32(kInfinity)), result, x);
  const Value not_positive = b.select(b.fcompare(Compare::kEq, x, b.f32(0)), b.f32(-kInfinity), b.f32(kNan));
  return b.select(b.fcompare(Compare::kLe, x, b.f32(0)), not_positive, result);
}

}  // namespace

// minimax.py log2: log2(1 + f) = f + f * P(f); f in [sqrt(1/2) - 1, sqrt(2) - 1], degree 9, error 7.3e-9.
Value form_log2(MathBuilder& b, Value x) {
  const Parts parts = split(b, x);
  const Value p = horner(b, parts.f,
                         {-0x1.db9878p-4f, 0x1.850a9p-3f, -0x1.857d16p-3f, 0x1.a16e48p-3f, -0x1.eaca4cp-3f, 0x1.278c72p-2f, -0x1.715a9ep-2f,
                          0x1.ec7036p-2f, -0x1.71547p-1f, 0x1.c551dap-2f});
  return log_edges(b, x, b.fadd(parts.exponent, b.fma(parts.f, p, parts.f)));
}

// minimax.py log: log(1 + f) = f - f^2 / 2 + f^3 * P(f); f in [sqrt(1/2) - 1, sqrt(2) - 1], degree 7, error 6.7e-9.
Value form_log(MathBuilder& b, Value x) {
  const Parts parts = split(b, x);
  const Value f = parts.f;
  const Value p = horner(
      b, f,
      {-0x1.38d9f2p-4f, 0x1.0562ep-3f, -0x1.0d8138p-3f, 0x1.22d88ep-3f, -0x1.547292p-3f, 0x1.99a022p-3f, -0x1.000226p-2f, 0x1.555554p-2f});
  const Value rest = b.fmul(b.fmul(f, f), b.fma(f, p, b.f32(-0.5f)));
  const Value sum = b.fadd(f, b.fma(parts.exponent, b.f32(kLn2Low), rest));
  return log_edges(b, x, b.fma(parts.exponent, b.f32(kLn2High), sum));
}

// minimax.py log1p: log(1 + u) = u * P(u); u in [0, 1], degree 9, error 6.5e-9. Relative to u: a very negative x keeps its accuracy.
Value form_softplus(MathBuilder& b, Value x) {
  const Value u = form_exp(b, b.fneg(b.fabs(x)));
  const Value p = horner(b, u,
                         {-0x1.b22f7ep-9f, 0x1.4a9412p-6f, -0x1.d7f0e8p-5f, 0x1.b53caep-4f, -0x1.3a6746p-3f, 0x1.93556ap-3f,
                          -0x1.ff2556p-3f, 0x1.554ddap-2f, -0x1.ffffd2p-2f, 0x1p0f});
  return b.fma(u, p, at_least(b, x, 0));
}

namespace {

// log2(x) in f64, for 0 < x < inf.
// minimax.py atanh: log2((1 + s) / (1 - s)) = s * P(s^2); |s| <= (sqrt(2) - 1) / (sqrt(2) + 1), degree 5, error 2.7e-14.
Value log2_in_double(MathBuilder& b, Value x) {
  const Parts parts = split(b, x);
  const Value f = b.f32_to_f64(parts.f);
  const Value s = b.fdiv(f, b.fadd(f, b.f64(2)));
  const Value y = b.fmul(s, s);
  Value p = b.f64(0x1.21b01a86cac51p-2);
  for (const double c : {0x1.4795642b779d5p-2, 0x1.a61a2e7617712p-2, 0x1.2776c293a5661p-1, 0x1.ec709dc53c086p-1, 0x1.71547652b8258p1}) {
    p = b.fma(p, y, b.f64(c));
  }
  return b.fma(s, p, b.f32_to_f64(parts.exponent));
}

// 2^y of an f64. The fraction goes to f32 through a fixed-point number, the only narrowing there is.
Value exp2_of_double(MathBuilder& b, Value y) {
  y = b.fmax_fast(b.f64(-127), b.fmin_fast(b.f64(128), y));
  const Value n = b.ffloor(y);
  const Value fraction = b.f64_to_i32(b.fmul(b.fsub(y, n), b.f64(0x1p30)));
  return exp2_scaled(b, b.fmul(b.i32_to_f32(fraction), b.f32(0x1p-30f)), b.i32_to_f32(b.f64_to_i32(n)));
}

bool is_whole(float x) {
  return std::floor(x) == x;
}
bool is_odd(float x) {
  return is_whole(x) && std::fmod(x, 2.0f) != 0;
}

// |x|^exponent, x finite and not 0 or not: by exp2(exponent * log2(|x|)).
Value power_of_magnitude(MathBuilder& b, Value magnitude, float exponent) {
  const float at_zero = exponent > 0 ? 0 : kInfinity;
  const float at_infinity = exponent > 0 ? kInfinity : 0;
  const Value is_number = b.fcompare(Compare::kEq, magnitude, magnitude);
  const Value argument = b.select(is_number, magnitude, b.f32(1));
  Value result = exp2_of_double(b, b.fmul(b.f64(exponent), log2_in_double(b, argument)));
  result = b.select(b.fcompare(Compare::kEq, magnitude, b.f32(0)), b.f32(at_zero), result);
  result = b.select(b.fcompare(Compare::kEq, magnitude, b.f32(kInfinity)), b.f32(at_infinity), result);
  return b.select(is_number, result, magnitude);
}

Value general_power(MathBuilder& b, Value x, float exponent) {
  const Value result = power_of_magnitude(b, b.fabs(x), exponent);
  if (is_odd(exponent)) return with_sign_of(b, result, x);
  if (is_whole(exponent)) return result;
  const Value is_negative = b.fcompare(Compare::kLt, x, b.f32(0));
  const Value is_finite = b.fcompare(Compare::kGt, x, b.f32(-kInfinity));
  return b.select(b.logical_and(is_negative, is_finite), b.f32(kNan), result);
}

// |x| below 1, at 1 and above 1; NaN passes.
Value infinite_power(MathBuilder& b, Value x, float exponent) {
  const float at_zero = exponent > 0 ? 0 : kInfinity;
  const float at_infinity = exponent > 0 ? kInfinity : 0;
  const Value magnitude = b.fabs(x);
  const Value below = b.select(b.fcompare(Compare::kLt, magnitude, b.f32(1)), b.f32(at_zero), magnitude);
  return b.select(b.fcompare(Compare::kGt, magnitude, b.f32(1)), b.f32(at_infinity), below);
}

// By squaring. `exponent` >= 1.
Value repeated_product(MathBuilder& b, Value x, int exponent) {
  if (exponent == 1) return x;
  const Value half = repeated_product(b, x, exponent / 2);
  const Value square = b.fmul(half, half);
  return exponent % 2 == 0 ? square : b.fmul(square, x);
}

// IEEE pow differs from sqrt at -0 (adding +0 makes that +0) and at -inf.
Value square_root_power(MathBuilder& b, Value x) {
  const Value root = b.fadd(b.fsqrt(x), b.f32(0));
  return b.select(b.fcompare(Compare::kEq, x, b.f32(-kInfinity)), b.f32(kInfinity), root);
}

}  // namespace

Value form_pow(MathBuilder& b, Value x, float exponent) {
  constexpr float kMostProducts = 8;
  if (exponent == 0) return b.f32(1);
  if (std::isnan(exponent)) return b.select(b.fcompare(Compare::kEq, x, b.f32(1)), x, b.f32(kNan));
  if (std::isinf(exponent)) return infinite_power(b, x, exponent);
  const float magnitude = std::abs(exponent);
  const bool is_product = is_whole(exponent) && magnitude <= kMostProducts;
  if (!is_product && magnitude != 0.5f) return general_power(b, x, exponent);
  const Value power = is_product ? repeated_product(b, x, static_cast<int>(magnitude)) : square_root_power(b, x);
  return exponent > 0 ? power : b.fdiv(b.f32(1), power);
}

}  // namespace attune::codegen
