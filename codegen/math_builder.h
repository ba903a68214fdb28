// The instruction vocabulary in which math forms are written: implemented by the LLVM emitter (vectors or scalars) and by a scalar f32
// evaluator, so that the stated error of every form is measured by tests without any emitter.
#pragma once

#include <cstdint>

namespace attune::codegen {

enum class Compare : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe };  // floats: ordered, but kNe is true for NaN; ints: signed

class MathBuilder {
 public:
  // A value of f32, f64, i32 or bool, scalar or vector: the implementation knows which. All operands of one call have the same lanes;
  // constants are broadcast by the implementation.
  struct Value {
    const void* handle = nullptr;
  };

  virtual ~MathBuilder() = default;

  virtual Value f32(float value) = 0;
  virtual Value f64(double value) = 0;
  virtual Value i32(int32_t value) = 0;
  virtual Value boolean(bool value) = 0;

  // f32 or f64. fma is fused where the machine has it, else a multiply and an add.
  virtual Value fadd(Value a, Value b) = 0;
  virtual Value fsub(Value a, Value b) = 0;
  virtual Value fmul(Value a, Value b) = 0;
  virtual Value fdiv(Value a, Value b) = 0;
  virtual Value fma(Value a, Value b, Value c) = 0;  // a * b + c
  virtual Value fneg(Value a) = 0;
  virtual Value fabs(Value a) = 0;
  virtual Value fsqrt(Value a) = 0;
  virtual Value ffloor(Value a) = 0;
  virtual Value fround(Value a) = 0;              // to nearest, ties to even
  virtual Value fmin_fast(Value a, Value b) = 0;  // one instruction: b if either is NaN
  virtual Value fmax_fast(Value a, Value b) = 0;
  virtual Value fcompare(Compare predicate, Value a, Value b) = 0;

  // i32, wrapping; shifts by 0..31.
  virtual Value iadd(Value a, Value b) = 0;
  virtual Value isub(Value a, Value b) = 0;
  virtual Value imul(Value a, Value b) = 0;
  virtual Value iand(Value a, Value b) = 0;
  virtual Value ior(Value a, Value b) = 0;
  virtual Value ixor(Value a, Value b) = 0;
  virtual Value shl(Value a, Value b) = 0;
  virtual Value lshr(Value a, Value b) = 0;
  virtual Value ashr(Value a, Value b) = 0;
  virtual Value umulhi(Value a, Value b) = 0;  // high 32 bits of the unsigned 64-bit product
  virtual Value sdiv(Value a, Value b) = 0;    // truncating; b is not 0, and not -1 with a = INT_MIN
  virtual Value icompare(Compare predicate, Value a, Value b) = 0;

  // bool
  virtual Value logical_and(Value a, Value b) = 0;
  virtual Value logical_or(Value a, Value b) = 0;
  virtual Value logical_not(Value a) = 0;
  virtual Value select(Value condition, Value a, Value b) = 0;  // of any type

  // conversions
  virtual Value bits_to_f32(Value a) = 0;
  virtual Value f32_to_bits(Value a) = 0;
  virtual Value i32_to_f32(Value a) = 0;
  virtual Value u32_to_f32(Value a) = 0;
  virtual Value f32_to_i32(Value a) = 0;  // truncates; the value is known to be in range
  virtual Value bool_to_i32(Value a) = 0;
  virtual Value i32_to_f64(Value a) = 0;
  virtual Value f32_to_f64(Value a) = 0;
  virtual Value f64_to_i32(Value a) = 0;  // truncates; in range
};

}  // namespace attune::codegen
