// The operators of several types as instructions: what the llvm column of op_table.def refers to beside math_forms.h.
#pragma once

#include <span>

#include "codegen/ir.h"
#include "codegen/math_builder.h"

namespace attune::codegen {

using MathValue = MathBuilder::Value;
using MathBinary = MathValue (MathBuilder::*)(MathValue, MathValue);

MathValue arithmetic(MathBuilder& b, std::span<const MathValue> x, Type type, MathBinary integer, MathBinary floating);
MathValue compare_form(MathBuilder& b, std::span<const MathValue> x, Type operand, Compare predicate);
MathValue min_form(MathBuilder& b, MathValue x, MathValue y, Type type);
MathValue max_form(MathBuilder& b, MathValue x, MathValue y, Type type);
MathValue abs_form(MathBuilder& b, MathValue x, Type type);
MathValue neg_form(MathBuilder& b, MathValue x, Type type);
MathValue floor_div_form(MathBuilder& b, std::span<const MathValue> x, Type type);
MathValue mod_form(MathBuilder& b, std::span<const MathValue> x, Type type);
MathValue ipow_form(MathBuilder& b, MathValue x, double exponent);  // by repeated squaring
MathValue bit_form(MathBuilder& b, MathValue x, MathValue index);
MathValue to_f32_form(MathBuilder& b, MathValue x, Type operand);
MathValue to_i32_form(MathBuilder& b, MathValue x, Type operand);
MathValue to_f64_form(MathBuilder& b, MathValue x, Type operand);
MathValue f64_to_i32_form(MathBuilder& b, MathValue x);

}  // namespace attune::codegen
