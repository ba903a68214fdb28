// sin and cos. Coefficients: scripts/minimax.py NAME, for the name at each.
#include "codegen/math_forms_detail.h"

namespace attune::codegen {

using namespace detail;

namespace {

// pi / 2 in three parts. The first two have 8 bits: their products with a whole number up to 2^16 are exact, also without a fused
// multiply-add.
constexpr float kHalfPi0 = 0x1.92p0f;
constexpr float kHalfPi1 = 0x1.fap-12f;
constexpr float kHalfPi2 = 0x1.54442ep-20f;
constexpr float kTwoOverPi = 0x1.45f306p-1f;

// sin(x + quarters * pi / 2)
Value shifted_sin(MathBuilder& b, Value x, int quarters) {
  const Value sum = b.fma(x, b.f32(kTwoOverPi), b.f32(kRound));
  const Value n = b.fsub(sum, b.f32(kRound));
  Value r = b.fma(n, b.f32(-kHalfPi0), x);
  r = b.fma(n, b.f32(-kHalfPi1), r);
  r = b.fma(n, b.f32(-kHalfPi2), r);
  // Only where x is too large to be reduced; then the value is at least bounded.
  r = at_least(b, at_most(b, r, 1), -1);

  const Value y = b.fmul(r, r);
  // minimax.py sin: sin(r) = r + r^3 * P(r^2); |r| <= pi / 4 + 0.02, degree 2, error 4.8e-9.
  const Value sine = b.fma(b.fmul(r, y), horner(b, y, {-0x1.98e06ep-13f, 0x1.11060cp-7f, -0x1.555542p-3f}), r);
  // minimax.py cos: cos(r) = 1 - r^2 / 2 + r^4 * P(r^2); |r| <= pi / 4 + 0.02, degree 2, error 1.5e-10.
  const Value fourth = horner(b, y, {0x1.9993d6p-16f, -0x1.6c0afap-10f, 0x1.555548p-5f});
  const Value cosine = b.fma(b.fmul(y, y), fourth, b.fma(y, b.f32(-0.5f), b.f32(1)));

  const Value quadrant = b.iadd(b.f32_to_bits(sum), b.i32(quarters));
  const Value is_odd = b.icompare(Compare::kNe, b.iand(quadrant, b.i32(1)), b.i32(0));
  const Value sign = b.shl(b.iand(quadrant, b.i32(2)), b.i32(30));
  return b.bits_to_f32(b.ixor(b.f32_to_bits(b.select(is_odd, cosine, sine)), sign));
}

}  // namespace

Value form_sin(MathBuilder& b, Value x) {
  return shifted_sin(b, x, 0);
}
Value form_cos(MathBuilder& b, Value x) {
  return shifted_sin(b, x, 1);
}

}  // namespace attune::codegen
