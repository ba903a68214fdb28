// The instruction vocabulary of math_builder.h as LLVM instructions: scalars (lanes 1) or vectors.
#pragma once

#include "codegen/llvm_emitter_code.h"
#include "codegen/math_builder.h"

namespace attune::codegen {

class LlvmMath final : public MathBuilder {
 public:
  LlvmMath(Code& code, int lanes) : code_(code), lanes_(lanes) {}

  static LlvmValue llvm_value(Value value) { return static_cast<LlvmValue>(const_cast<void*>(value.handle)); }
  static Value value(LlvmValue handle) { return {handle}; }

  Value f32(float value) override;
  Value f64(double value) override;
  Value i32(int32_t value) override;
  Value boolean(bool value) override;

  Value fadd(Value a, Value b) override;
  Value fsub(Value a, Value b) override;
  Value fmul(Value a, Value b) override;
  Value fdiv(Value a, Value b) override;
  Value fma(Value a, Value b, Value c) override;
  Value fneg(Value a) override;
  Value fabs(Value a) override;
  Value fsqrt(Value a) override;
  Value ffloor(Value a) override;
  Value fround(Value a) override;
  Value fmin_fast(Value a, Value b) override;
  Value fmax_fast(Value a, Value b) override;
  Value fcompare(Compare predicate, Value a, Value b) override;

  Value iadd(Value a, Value b) override;
  Value isub(Value a, Value b) override;
  Value imul(Value a, Value b) override;
  Value iand(Value a, Value b) override;
  Value ior(Value a, Value b) override;
  Value ixor(Value a, Value b) override;
  Value shl(Value a, Value b) override;
  Value lshr(Value a, Value b) override;
  Value ashr(Value a, Value b) override;
  Value umulhi(Value a, Value b) override;
  Value sdiv(Value a, Value b) override;
  Value icompare(Compare predicate, Value a, Value b) override;

  Value logical_and(Value a, Value b) override;
  Value logical_or(Value a, Value b) override;
  Value logical_not(Value a) override;
  Value select(Value condition, Value a, Value b) override;

  Value bits_to_f32(Value a) override;
  Value f32_to_bits(Value a) override;
  Value i32_to_f32(Value a) override;
  Value u32_to_f32(Value a) override;
  Value f32_to_i32(Value a) override;
  Value bool_to_i32(Value a) override;
  Value i32_to_f64(Value a) override;
  Value f32_to_f64(Value a) override;
  Value f64_to_i32(Value a) override;

 private:
  llvm::Type* typed(llvm::Type* scalar) const;
  Value round_by_magic(Value a);
  bool is_f32(Value a) const;

  Code& code_;
  int lanes_;
};

}  // namespace attune::codegen
