// exp2, exp and what is one exp away: sigmoid, silu, tanh. Coefficients: scripts/minimax.py NAME, for the name at each.
#include <limits>

#include "codegen/math_forms_detail.h"

namespace attune::codegen {
namespace detail {

Value horner(MathBuilder& b, Value x, std::initializer_list<float> coefficients) {
  const float* next = coefficients.begin();
  Value result = b.f32(*next++);
  while (next != coefficients.end()) result = b.fma(result, x, b.f32(*next++));
  return result;
}

Value at_least(MathBuilder& b, Value x, float low) {
  return b.fmax_fast(b.f32(low), x);
}
Value at_most(MathBuilder& b, Value x, float high) {
  return b.fmin_fast(b.f32(high), x);
}

Value with_sign_of(MathBuilder& b, Value x, Value sign) {
  const Value sign_bit = b.iand(b.f32_to_bits(sign), b.i32(std::numeric_limits<int32_t>::min()));
  return b.bits_to_f32(b.ior(b.f32_to_bits(x), sign_bit));
}

namespace {

// 2^n, n being what was added to kRound + kBias: the exponent field is the sum's last byte.
Value power_of_two(MathBuilder& b, Value rounding_sum) {
  return b.bits_to_f32(b.shl(b.f32_to_bits(rounding_sum), b.i32(kMantissaBits)));
}

Value multiply_by_power(MathBuilder& b, Value x, Value n) {
  return b.fmul(x, power_of_two(b, b.fadd(n, b.f32(kRound + kBias))));
}

// minimax.py exp_floor: exp(f) = 1 + f * P(f); f in [-0.001, ln 2 + 0.001], degree 5, error 0.025 ulp.
Value exp_of_fraction(MathBuilder& b, Value f) {
  const Value p = horner(b, f, {0x1.fe553p-10f, 0x1.fef9bep-8f, 0x1.5755d2p-5f, 0x1.553884p-3f, 0x1.0000bap-1f, 0x1.fffffap-1f});
  return b.fma(f, p, b.f32(1));
}

// x - n * ln 2
Value reduce_by_ln2(MathBuilder& b, Value x, Value n) {
  return b.fma(n, b.f32(-kLn2Low), b.fma(n, b.f32(-kLn2High), x));
}

}  // namespace

// minimax.py exp2_floor: 2^f = 1 + f * P(f); f in [0, 1], degree 5, error 0.024 ulp.
Value exp2_scaled(MathBuilder& b, Value f, Value n) {
  const Value p = horner(b, f, {0x1.c41756p-13f, 0x1.47473cp-10f, 0x1.3cfb82p-7f, 0x1.c68b2cp-5f, 0x1.ebfd38p-3f, 0x1.62e42cp-1f});
  return multiply_by_power(b, b.fma(f, p, b.f32(1)), n);
}

Value exp_of_sum(MathBuilder& b, Value high, Value low) {
  const Value exponent = at_least(b, b.fmul(b.fadd(high, low), b.f32(kLog2E)), -kBias);
  const Value n = b.ffloor(exponent);
  return multiply_by_power(b, exp_of_fraction(b, b.fadd(reduce_by_ln2(b, high, n), low)), n);
}

}  // namespace detail

using namespace detail;

// Rounding down, not to nearest: then 2^n overflows exactly where the result does.
Value form_exp2(MathBuilder& b, Value x) {
  x = at_least(b, at_most(b, x, 128), -127);
  const Value n = b.ffloor(x);
  return exp2_scaled(b, b.fsub(x, n), n);
}

// minimax.py exp2_round: 2^f = 1 + f * P(f); f in [-1/2, 1/2], degree 4, error 1.1 ulp.
// The scale is multiplied in, not added to the exponent, so that NaN survives. At -127 it is 0.
Value form_exp2_nonpositive(MathBuilder& b, Value x) {
  x = at_least(b, x, -kBias);
  const Value shift = b.f32(kRound + kBias);
  const Value sum = b.fadd(x, shift);
  const Value f = b.fsub(x, b.fsub(sum, shift));
  const Value p = horner(b, f, {0x1.5bf8c4p-10f, 0x1.3cea66p-7f, 0x1.c6b6a2p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f});
  return b.fmul(b.fma(f, p, b.f32(1)), power_of_two(b, sum));
}

Value form_exp(MathBuilder& b, Value x) {
  x = at_least(b, at_most(b, x, 89), -88);
  const Value n = b.ffloor(b.fmul(x, b.f32(kLog2E)));
  return multiply_by_power(b, exp_of_fraction(b, reduce_by_ln2(b, x, n)), n);
}

namespace {

// Below it exp(-x) is inf here.
constexpr float kSigmoidLow = -89;

// 1 + exp(-x) for x >= kSigmoidLow.
// minimax.py exp_round: exp(f) = 1 + f * P(f); f in [-ln(2)/2 - 0.001, ln(2)/2 + 0.001], degree 4, error 1.2 ulp.
Value sigmoid_denominator(MathBuilder& b, Value x) {
  x = at_most(b, x, 87);
  const Value shift = b.f32(kRound + kBias);
  const Value sum = b.fma(x, b.f32(-kLog2E), shift);
  const Value f = reduce_by_ln2(b, b.fneg(x), b.fsub(sum, shift));
  const Value p = horner(b, f, {0x1.0fa732p-7f, 0x1.573d52p-5f, 0x1.555a78p-3f, 0x1.fffdbep-2f, 0x1.fffff6p-1f});
  return b.fma(b.fma(f, p, b.f32(1)), power_of_two(b, sum), b.f32(1));
}

}  // namespace

Value form_sigmoid(MathBuilder& b, Value x) {
  return b.fdiv(b.f32(1), sigmoid_denominator(b, at_least(b, x, kSigmoidLow)));
}

// The limited x also above the line makes silu(-inf) 0, its limit.
Value form_silu(MathBuilder& b, Value x) {
  x = at_least(b, x, kSigmoidLow);
  return b.fdiv(x, sigmoid_denominator(b, x));
}

// minimax.py tanh: tanh(x) = x * P(x^2) / Q(x^2); |x| <= 9.1, degree 4 / 4, error 4.5e-8. All coefficients are positive: nothing cancels.
Value form_tanh(MathBuilder& b, Value x) {
  x = at_least(b, at_most(b, x, 9.02f), -9.02f);
  const Value y = b.fmul(x, x);
  const Value p = horner(b, y, {0x1.c4c8d2p-27f, 0x1.579de4p-16f, 0x1.c92792p-9f, 0x1.11e8c2p-3f, 0x1p0f});
  const Value q = horner(b, y, {0x1.9d9b9ep-21f, 0x1.5730cap-12f, 0x1.a77bcep-6f, 0x1.de49aap-2f, 0x1p0f});
  return at_least(b, at_most(b, b.fdiv(b.fmul(x, p), q), 1), -1);
}

}  // namespace attune::codegen
