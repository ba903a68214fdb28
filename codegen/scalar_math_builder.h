// math_builder.h on plain numbers, one lane: evaluates math forms where there is no code generator, in tests above all.
#pragma once

#include <array>
#include <cstdint>

#include "codegen/math_builder.h"
#include "codegen/math_forms.h"

namespace attune::codegen {

class ScalarMath final : public MathBuilder {
 public:
  // `fused`: fma rounds once; else it is a multiply and an add, as on machines without the instruction.
  explicit ScalarMath(bool fused = true) : fused_(fused) {}

  // Values live until the next reset; at most kCapacity of them.
  void reset() { used_ = 0; }
  static float as_f32(Value value) { return slot(value).f; }
  static double as_f64(Value value) { return slot(value).d; }
  static int32_t as_i32(Value value) { return slot(value).i; }
  static bool as_bool(Value value) { return slot(value).i != 0; }

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
  struct Slot {
    bool is_f64 = false;
    float f = 0;
    double d = 0;
    int32_t i = 0;
  };
  static constexpr int kCapacity = 4096;

  static const Slot& slot(Value value) { return *static_cast<const Slot*>(value.handle); }
  Value make(const Slot& slot);
  // f32 or f64, as the operands are; `function` takes either.
  template <typename Function>
  Value number(Value a, Value b, const Function& function);
  template <typename Function>
  Value integer(Value a, Value b, const Function& function);

  bool fused_;
  int used_ = 0;
  std::array<Slot, kCapacity> slots_;
};

// form(x), by a builder that is reset first.
float evaluate(ScalarMath& math, MathForm form, float x);

}  // namespace attune::codegen
