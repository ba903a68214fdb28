// erf and gelu, by erfc. Coefficients: scripts/minimax.py NAME, for the name at each.
#include "codegen/math_forms_detail.h"

namespace attune::codegen {

using namespace detail;

namespace {

// erfc(a / sqrt(2)) * exp(a^2 / 2), for a in [0, 14.5].
// minimax.py erfcx: P(a) / Q(a); degree 4 / 5, error 2.4e-8. All coefficients are positive: nothing cancels.
Value scaled_erfc(MathBuilder& b, Value a) {
  const Value p = horner(b, a, {0x1.0dc3dep-7f, 0x1.4cdddap-4f, 0x1.7743dap-2f, 0x1.c0d056p-1f, 0x1p0f});
  const Value q = horner(b, a, {0x1.5218b6p-7f, 0x1.a1367ap-4f, 0x1.e0bcbep-2f, 0x1.33d73p0f, 0x1.acaa5cp0f, 0x1p0f});
  return b.fdiv(p, q);
}

// exp(-a^2 / 2). The square is exact in two parts, else its rounding would be up to 50 ulp of the result: the upper 12 bits of a square
// exactly, and the rest is small.
Value bell(MathBuilder& b, Value a) {
  constexpr int32_t kUpperBits = ~0xfff;
  const Value upper = b.bits_to_f32(b.iand(b.f32_to_bits(a), b.i32(kUpperBits)));
  const Value rest = b.fmul(b.fadd(a, upper), b.fsub(a, upper));
  const Value minus_half = b.f32(-0.5f);
  return exp_of_sum(b, b.fmul(b.fmul(upper, upper), minus_half), b.fmul(rest, minus_half));
}

}  // namespace

// x * Phi(x) = max(x, 0) - |x| * erfc(|x| / sqrt(2)) / 2: nothing cancels in the negative tail. At the limit of |x| the second term is 0.
Value form_gelu(MathBuilder& b, Value x) {
  const Value a = at_most(b, b.fabs(x), 14.5f);
  const Value tail = b.fmul(b.fmul(b.fmul(a, b.f32(0.5f)), scaled_erfc(b, a)), bell(b, a));
  return b.fsub(at_least(b, x, 0), tail);
}

// minimax.py erf: erf(x) = x + x * P(x^2); |x| <= 1, degree 6. Above 0.9 by 1 - erfc(|x|), where erfc is small enough not to
// matter much; from 4 on erf is 1.
Value form_erf(MathBuilder& b, Value x) {
  const Value a = at_most(b, b.fabs(x), 4);
  const Value y = b.fmul(a, a);
  const Value p =
      horner(b, y, {0x1.4916f2p-14f, -0x1.a3d7ecp-11f, 0x1.54017p-8f, -0x1.b7f88cp-6f, 0x1.ce2cf2p-4f, -0x1.81273ep-2f, 0x1.06eba8p-3f});
  const Value small = b.fma(a, p, a);
  const Value tail = b.fmul(scaled_erfc(b, b.fmul(a, b.f32(0x1.6a09e6p0f))), exp_of_sum(b, b.fneg(y), b.f32(0)));
  const Value large = b.fsub(b.f32(1), tail);
  return with_sign_of(b, b.select(b.fcompare(Compare::kLt, a, b.f32(0.9f)), small, large), x);
}

}  // namespace attune::codegen
