#include "codegen/op_llvm_forms.h"

#include "codegen/math_forms.h"

namespace attune::codegen {

MathValue arithmetic(MathBuilder& b, std::span<const MathValue> x, Type type, MathBinary integer, MathBinary floating) {
  return (b.*(type == Type::kI32 ? integer : floating))(x[0], x[1]);
}

MathValue compare_form(MathBuilder& b, std::span<const MathValue> x, Type operand, Compare predicate) {
  if (operand == Type::kI32) return b.icompare(predicate, x[0], x[1]);
  if (operand != Type::kBool) return b.fcompare(predicate, x[0], x[1]);
  const MathValue opposite = b.logical_not(x[1]);
  return predicate == Compare::kEq ? b.select(x[0], x[1], opposite) : b.select(x[0], opposite, x[1]);
}

MathValue min_form(MathBuilder& b, MathValue x, MathValue y, Type type) {
  return type == Type::kI32 ? b.select(b.icompare(Compare::kLt, x, y), x, y) : form_min(b, x, y);
}

MathValue max_form(MathBuilder& b, MathValue x, MathValue y, Type type) {
  return type == Type::kI32 ? b.select(b.icompare(Compare::kGt, x, y), x, y) : form_max(b, x, y);
}

MathValue abs_form(MathBuilder& b, MathValue x, Type type) {
  if (type != Type::kI32) return b.fabs(x);
  return b.select(b.icompare(Compare::kLt, x, b.i32(0)), b.isub(b.i32(0), x), x);
}

MathValue neg_form(MathBuilder& b, MathValue x, Type type) {
  return type == Type::kI32 ? b.isub(b.i32(0), x) : b.fneg(x);
}

MathValue floor_div_form(MathBuilder& b, std::span<const MathValue> x, Type type) {
  if (type == Type::kI32) return form_floor_div(b, x[0], x[1]);
  const MathValue zero = b.f32(0);
  return b.select(b.fcompare(Compare::kEq, x[1], zero), zero, b.ffloor(b.fdiv(x[0], x[1])));
}

MathValue mod_form(MathBuilder& b, std::span<const MathValue> x, Type type) {
  if (type == Type::kI32) return form_floor_mod(b, x[0], x[1]);
  const MathValue zero = b.f32(0);
  const MathValue rest = b.fsub(x[0], b.fmul(x[1], b.ffloor(b.fdiv(x[0], x[1]))));
  return b.select(b.fcompare(Compare::kEq, x[1], zero), zero, rest);
}

MathValue ipow_form(MathBuilder& b, MathValue x, double exponent) {
  MathValue result = b.i32(1);
  bool is_one = true;
  for (auto rest = static_cast<uint32_t>(exponent); rest != 0; rest >>= 1) {
    if (rest & 1) {
      result = is_one ? x : b.imul(result, x);
      is_one = false;
    }
    if (rest > 1) x = b.imul(x, x);
  }
  return result;
}

MathValue bit_form(MathBuilder& b, MathValue x, MathValue index) {
  const MathValue shift = b.iand(index, b.i32(31));
  const MathValue is_set = b.icompare(Compare::kNe, b.iand(b.lshr(x, shift), b.i32(1)), b.i32(0));
  return b.logical_and(b.icompare(Compare::kEq, shift, index), is_set);
}

MathValue to_f32_form(MathBuilder& b, MathValue x, Type operand) {
  return b.i32_to_f32(operand == Type::kBool ? b.bool_to_i32(x) : x);
}

MathValue to_i32_form(MathBuilder& b, MathValue x, Type operand) {
  return operand == Type::kBool ? b.bool_to_i32(x) : form_f32_to_i32(b, x);
}

MathValue to_f64_form(MathBuilder& b, MathValue x, Type operand) {
  return operand == Type::kI32 ? b.i32_to_f64(x) : b.f32_to_f64(x);
}

MathValue f64_to_i32_form(MathBuilder& b, MathValue x) {
  const MathValue number = b.select(b.fcompare(Compare::kEq, x, x), x, b.f64(0));
  return b.f64_to_i32(b.fmin_fast(b.fmax_fast(number, b.f64(-2147483648.0)), b.f64(2147483647.0)));
}

}  // namespace attune::codegen
