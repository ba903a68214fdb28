#include "codegen/scalar_math_builder.h"

#include <bit>
#include <cmath>
#include <stdexcept>

namespace attune::codegen {

using Value = MathBuilder::Value;

Value ScalarMath::make(const Slot& slot) {
  if (used_ == kCapacity) throw std::logic_error("a math form of more values than ScalarMath holds");
  slots_[static_cast<size_t>(used_)] = slot;
  return {&slots_[static_cast<size_t>(used_++)]};
}

template <typename Function>
Value ScalarMath::number(Value a, Value b, const Function& function) {
  Slot result;
  result.is_f64 = slot(a).is_f64;
  if (result.is_f64) {
    result.d = function(slot(a).d, slot(b).d);
  } else {
    result.f = function(slot(a).f, slot(b).f);
  }
  return make(result);
}

template <typename Function>
Value ScalarMath::integer(Value a, Value b, const Function& function) {
  return i32(static_cast<int32_t>(function(static_cast<uint32_t>(slot(a).i), static_cast<uint32_t>(slot(b).i))));
}

Value ScalarMath::f32(float value) {
  return make({.f = value});
}
Value ScalarMath::f64(double value) {
  return make({.is_f64 = true, .d = value});
}
Value ScalarMath::i32(int32_t value) {
  return make({.i = value});
}
Value ScalarMath::boolean(bool value) {
  return make({.i = value});
}

Value ScalarMath::fadd(Value a, Value b) {
  return number(a, b, [](auto x, auto y) { return x + y; });
}
Value ScalarMath::fsub(Value a, Value b) {
  return number(a, b, [](auto x, auto y) { return x - y; });
}
Value ScalarMath::fmul(Value a, Value b) {
  return number(a, b, [](auto x, auto y) { return x * y; });
}
Value ScalarMath::fdiv(Value a, Value b) {
  return number(a, b, [](auto x, auto y) { return x / y; });
}
Value ScalarMath::fma(Value a, Value b, Value c) {
  if (!fused_) return fadd(fmul(a, b), c);
  if (slot(a).is_f64) return f64(std::fma(slot(a).d, slot(b).d, slot(c).d));
  return f32(std::fma(slot(a).f, slot(b).f, slot(c).f));
}
Value ScalarMath::fneg(Value a) {
  return number(a, a, [](auto x, auto) { return -x; });
}
Value ScalarMath::fabs(Value a) {
  return number(a, a, [](auto x, auto) { return std::abs(x); });
}
Value ScalarMath::fsqrt(Value a) {
  return number(a, a, [](auto x, auto) { return std::sqrt(x); });
}
Value ScalarMath::ffloor(Value a) {
  return number(a, a, [](auto x, auto) { return std::floor(x); });
}
Value ScalarMath::fround(Value a) {
  return number(a, a, [](auto x, auto) { return std::nearbyint(x); });
}
Value ScalarMath::fmin_fast(Value a, Value b) {
  return number(a, b, [](auto x, auto y) { return x < y ? x : y; });
}
Value ScalarMath::fmax_fast(Value a, Value b) {
  return number(a, b, [](auto x, auto y) { return x > y ? x : y; });
}

namespace {

template <typename Number>
bool compare(Compare predicate, Number x, Number y) {
  switch (predicate) {
    case Compare::kEq:
      return x == y;
    case Compare::kNe:
      return x != y;
    case Compare::kLt:
      return x < y;
    case Compare::kLe:
      return x <= y;
    case Compare::kGt:
      return x > y;
    case Compare::kGe:
      return x >= y;
  }
  return false;
}

}  // namespace

Value ScalarMath::fcompare(Compare predicate, Value a, Value b) {
  return boolean(slot(a).is_f64 ? compare(predicate, slot(a).d, slot(b).d) : compare(predicate, slot(a).f, slot(b).f));
}

Value ScalarMath::iadd(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x + y; });
}
Value ScalarMath::isub(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x - y; });
}
Value ScalarMath::imul(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x * y; });
}
Value ScalarMath::iand(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x & y; });
}
Value ScalarMath::ior(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x | y; });
}
Value ScalarMath::ixor(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x ^ y; });
}
Value ScalarMath::shl(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x << y; });
}
Value ScalarMath::lshr(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return x >> y; });
}
Value ScalarMath::ashr(Value a, Value b) {
  return i32(slot(a).i >> slot(b).i);
}
Value ScalarMath::umulhi(Value a, Value b) {
  return integer(a, b, [](uint32_t x, uint32_t y) { return static_cast<uint32_t>((uint64_t{x} * y) >> 32); });
}
Value ScalarMath::sdiv(Value a, Value b) {
  return i32(slot(a).i / slot(b).i);
}
Value ScalarMath::icompare(Compare predicate, Value a, Value b) {
  return boolean(compare(predicate, slot(a).i, slot(b).i));
}

Value ScalarMath::logical_and(Value a, Value b) {
  return boolean(as_bool(a) && as_bool(b));
}
Value ScalarMath::logical_or(Value a, Value b) {
  return boolean(as_bool(a) || as_bool(b));
}
Value ScalarMath::logical_not(Value a) {
  return boolean(!as_bool(a));
}
Value ScalarMath::select(Value condition, Value a, Value b) {
  return as_bool(condition) ? a : b;
}

Value ScalarMath::bits_to_f32(Value a) {
  return f32(std::bit_cast<float>(slot(a).i));
}
Value ScalarMath::f32_to_bits(Value a) {
  return i32(std::bit_cast<int32_t>(slot(a).f));
}
Value ScalarMath::i32_to_f32(Value a) {
  return f32(static_cast<float>(slot(a).i));
}
Value ScalarMath::u32_to_f32(Value a) {
  return f32(static_cast<float>(static_cast<uint32_t>(slot(a).i)));
}
Value ScalarMath::f32_to_i32(Value a) {
  return i32(static_cast<int32_t>(slot(a).f));
}
Value ScalarMath::bool_to_i32(Value a) {
  return i32(slot(a).i);
}
Value ScalarMath::i32_to_f64(Value a) {
  return f64(slot(a).i);
}
Value ScalarMath::f32_to_f64(Value a) {
  return f64(slot(a).f);
}
Value ScalarMath::f64_to_i32(Value a) {
  return i32(static_cast<int32_t>(slot(a).d));
}

float evaluate(ScalarMath& math, MathForm form, float x) {
  math.reset();
  return ScalarMath::as_f32(form(math, math.f32(x)));
}

}  // namespace attune::codegen
