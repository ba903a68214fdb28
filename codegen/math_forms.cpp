// The forms without a polynomial: selections, integers, conversions.
#include "codegen/math_forms.h"

#include <limits>

namespace attune::codegen {

using Value = MathBuilder::Value;

Value form_rsqrt(MathBuilder& b, Value x) {
  return b.fdiv(b.f32(1), b.fsqrt(x));
}

// The fast ones give y if either is NaN. The test is for numbers, not for NaN: of select(x != x, x, select(x > y, x, y)) with x = fabs(z)
// LLVM 19's InstCombine makes z > y, which drops the fabs.
Value form_min(MathBuilder& b, Value x, Value y) {
  return b.select(b.fcompare(Compare::kEq, x, x), b.fmin_fast(x, y), x);
}
Value form_max(MathBuilder& b, Value x, Value y) {
  return b.select(b.fcompare(Compare::kEq, x, x), b.fmax_fast(x, y), x);
}

namespace {

// x / y and the rest, rounded down, for divisors other than 0 and -1; there by 1. Division by those two would trap.
struct Quotient {
  Value floor, rest;
};

Quotient divide(MathBuilder& b, Value x, Value y) {
  const Value one = b.i32(1);
  const Value is_unsafe = b.logical_or(b.icompare(Compare::kEq, y, b.i32(0)), b.icompare(Compare::kEq, y, b.i32(-1)));
  const Value divisor = b.select(is_unsafe, one, y);
  const Value quotient = b.sdiv(x, divisor);
  const Value rest = b.isub(x, b.imul(quotient, divisor));
  const Value has_rest = b.icompare(Compare::kNe, rest, b.i32(0));
  const Value signs_differ = b.icompare(Compare::kLt, b.ixor(rest, divisor), b.i32(0));
  const Value is_above = b.logical_and(has_rest, signs_differ);
  return {b.select(is_above, b.isub(quotient, one), quotient), b.select(is_above, b.iadd(rest, divisor), rest)};
}

}  // namespace

Value form_floor_div(MathBuilder& b, Value x, Value y) {
  const Value zero = b.i32(0);
  const Value by_minus_one = b.isub(zero, x);
  const Value result = b.select(b.icompare(Compare::kEq, y, b.i32(-1)), by_minus_one, divide(b, x, y).floor);
  return b.select(b.icompare(Compare::kEq, y, zero), zero, result);
}

// The rest by 1, which `divide` takes for 0 and -1, is the 0 that both want.
Value form_floor_mod(MathBuilder& b, Value x, Value y) {
  return divide(b, x, y).rest;
}

// Only what is in range is converted.
Value form_f32_to_i32(MathBuilder& b, Value x) {
  constexpr float kLow = -0x1p31f;
  const Value zero = b.f32(0);
  const Value is_high = b.fcompare(Compare::kGe, x, b.f32(-kLow));
  const Value is_number = b.fcompare(Compare::kEq, x, x);
  const Value in_range = b.fmax_fast(b.select(b.logical_or(is_high, b.logical_not(is_number)), zero, x), b.f32(kLow));
  return b.select(is_high, b.i32(std::numeric_limits<int32_t>::max()), b.f32_to_i32(in_range));
}

}  // namespace attune::codegen
