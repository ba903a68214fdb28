#include "codegen/llvm_emitter_math.h"

#include <llvm/IR/Constants.h>
#include <llvm/IR/Intrinsics.h>

namespace attune::codegen {
namespace {

LlvmValue v(MathBuilder::Value value) {
  return LlvmMath::llvm_value(value);
}

llvm::CmpInst::Predicate float_predicate(Compare predicate) {
  switch (predicate) {
    case Compare::kEq:
      return llvm::CmpInst::FCMP_OEQ;
    case Compare::kNe:
      return llvm::CmpInst::FCMP_UNE;
    case Compare::kLt:
      return llvm::CmpInst::FCMP_OLT;
    case Compare::kLe:
      return llvm::CmpInst::FCMP_OLE;
    case Compare::kGt:
      return llvm::CmpInst::FCMP_OGT;
    case Compare::kGe:
      return llvm::CmpInst::FCMP_OGE;
  }
  return llvm::CmpInst::FCMP_OEQ;
}

llvm::CmpInst::Predicate int_predicate(Compare predicate) {
  switch (predicate) {
    case Compare::kEq:
      return llvm::CmpInst::ICMP_EQ;
    case Compare::kNe:
      return llvm::CmpInst::ICMP_NE;
    case Compare::kLt:
      return llvm::CmpInst::ICMP_SLT;
    case Compare::kLe:
      return llvm::CmpInst::ICMP_SLE;
    case Compare::kGt:
      return llvm::CmpInst::ICMP_SGT;
    case Compare::kGe:
      return llvm::CmpInst::ICMP_SGE;
  }
  return llvm::CmpInst::ICMP_EQ;
}

}  // namespace

llvm::Type* LlvmMath::typed(llvm::Type* scalar) const {
  return lanes_ == 1 ? scalar : llvm::FixedVectorType::get(scalar, static_cast<unsigned>(lanes_));
}

bool LlvmMath::is_f32(Value a) const {
  return v(a)->getType()->getScalarType()->isFloatTy();
}

MathBuilder::Value LlvmMath::f32(float value) {
  return {llvm::ConstantFP::get(typed(code_.f32_type), value)};
}
MathBuilder::Value LlvmMath::f64(double value) {
  return {llvm::ConstantFP::get(typed(code_.b.getDoubleTy()), value)};
}
MathBuilder::Value LlvmMath::i32(int32_t value) {
  return {llvm::ConstantInt::getSigned(typed(code_.i32_type), value)};
}
MathBuilder::Value LlvmMath::boolean(bool value) {
  return {llvm::ConstantInt::get(typed(code_.b.getInt1Ty()), value)};
}

MathBuilder::Value LlvmMath::fadd(Value a, Value b) {
  return {code_.b.CreateFAdd(v(a), v(b))};
}
MathBuilder::Value LlvmMath::fsub(Value a, Value b) {
  return {code_.b.CreateFSub(v(a), v(b))};
}
MathBuilder::Value LlvmMath::fmul(Value a, Value b) {
  return {code_.b.CreateFMul(v(a), v(b))};
}
MathBuilder::Value LlvmMath::fdiv(Value a, Value b) {
  return {code_.b.CreateFDiv(v(a), v(b))};
}
MathBuilder::Value LlvmMath::fma(Value a, Value b, Value c) {
  return {code_.fma(v(a), v(b), v(c))};
}
MathBuilder::Value LlvmMath::fneg(Value a) {
  return {code_.b.CreateFNeg(v(a))};
}
MathBuilder::Value LlvmMath::fabs(Value a) {
  return {code_.b.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, v(a))};
}
MathBuilder::Value LlvmMath::fsqrt(Value a) {
  return {code_.b.CreateUnaryIntrinsic(llvm::Intrinsic::sqrt, v(a))};
}

// Machines without SSE4.1 have no rounding instruction, and LLVM would call libm: adding and subtracting 1.5 * 2^(mantissa bits) rounds to
// nearest even below that magnitude; above it every number is whole.
MathBuilder::Value LlvmMath::round_by_magic(Value a) {
  const double magic = is_f32(a) ? 0x1p23 : 0x1p52;
  const auto number = [&](double x) { return is_f32(a) ? f32(static_cast<float>(x)) : f64(x); };
  const LlvmValue sign = code_.b.CreateBinaryIntrinsic(llvm::Intrinsic::copysign, v(number(magic)), v(a));
  const LlvmValue rounded = code_.b.CreateFSub(code_.b.CreateFAdd(v(a), sign), sign);
  const LlvmValue is_small = v(fcompare(Compare::kLt, fabs(a), number(magic)));
  return {code_.b.CreateSelect(is_small, code_.b.CreateBinaryIntrinsic(llvm::Intrinsic::copysign, rounded, v(a)), v(a))};
}

MathBuilder::Value LlvmMath::fround(Value a) {
  return code_.machine.has_round ? Value{code_.b.CreateUnaryIntrinsic(llvm::Intrinsic::roundeven, v(a))} : round_by_magic(a);
}

MathBuilder::Value LlvmMath::ffloor(Value a) {
  if (code_.machine.has_round) return {code_.b.CreateUnaryIntrinsic(llvm::Intrinsic::floor, v(a))};
  const Value rounded = round_by_magic(a);
  const Value one = is_f32(a) ? f32(1) : f64(1);
  return select(fcompare(Compare::kGt, rounded, a), fsub(rounded, one), rounded);
}

// The shape that LLVM matches to minps and maxps: the second operand if either is NaN.
MathBuilder::Value LlvmMath::fmin_fast(Value a, Value b) {
  return select(fcompare(Compare::kLt, a, b), a, b);
}
MathBuilder::Value LlvmMath::fmax_fast(Value a, Value b) {
  return select(fcompare(Compare::kGt, a, b), a, b);
}

MathBuilder::Value LlvmMath::fcompare(Compare predicate, Value a, Value b) {
  return {code_.b.CreateFCmp(float_predicate(predicate), v(a), v(b))};
}

MathBuilder::Value LlvmMath::iadd(Value a, Value b) {
  return {code_.b.CreateAdd(v(a), v(b))};
}
MathBuilder::Value LlvmMath::isub(Value a, Value b) {
  return {code_.b.CreateSub(v(a), v(b))};
}
MathBuilder::Value LlvmMath::imul(Value a, Value b) {
  return {code_.b.CreateMul(v(a), v(b))};
}
MathBuilder::Value LlvmMath::iand(Value a, Value b) {
  return {code_.b.CreateAnd(v(a), v(b))};
}
MathBuilder::Value LlvmMath::ior(Value a, Value b) {
  return {code_.b.CreateOr(v(a), v(b))};
}
MathBuilder::Value LlvmMath::ixor(Value a, Value b) {
  return {code_.b.CreateXor(v(a), v(b))};
}
MathBuilder::Value LlvmMath::shl(Value a, Value b) {
  return {code_.b.CreateShl(v(a), v(b))};
}
MathBuilder::Value LlvmMath::lshr(Value a, Value b) {
  return {code_.b.CreateLShr(v(a), v(b))};
}
MathBuilder::Value LlvmMath::ashr(Value a, Value b) {
  return {code_.b.CreateAShr(v(a), v(b))};
}

MathBuilder::Value LlvmMath::umulhi(Value a, Value b) {
  llvm::Type* longs = typed(code_.i64_type);
  LlvmValue product = code_.b.CreateMul(code_.b.CreateZExt(v(a), longs), code_.b.CreateZExt(v(b), longs));
  return {code_.b.CreateTrunc(code_.b.CreateLShr(product, 32), typed(code_.i32_type))};
}

MathBuilder::Value LlvmMath::sdiv(Value a, Value b) {
  return {code_.b.CreateSDiv(v(a), v(b))};
}

MathBuilder::Value LlvmMath::icompare(Compare predicate, Value a, Value b) {
  return {code_.b.CreateICmp(int_predicate(predicate), v(a), v(b))};
}

MathBuilder::Value LlvmMath::logical_and(Value a, Value b) {
  return {code_.b.CreateAnd(v(a), v(b))};
}
MathBuilder::Value LlvmMath::logical_or(Value a, Value b) {
  return {code_.b.CreateOr(v(a), v(b))};
}
MathBuilder::Value LlvmMath::logical_not(Value a) {
  return {code_.b.CreateNot(v(a))};
}
MathBuilder::Value LlvmMath::select(Value condition, Value a, Value b) {
  return {code_.b.CreateSelect(v(condition), v(a), v(b))};
}

MathBuilder::Value LlvmMath::bits_to_f32(Value a) {
  return {code_.b.CreateBitCast(v(a), typed(code_.f32_type))};
}
MathBuilder::Value LlvmMath::f32_to_bits(Value a) {
  return {code_.b.CreateBitCast(v(a), typed(code_.i32_type))};
}
MathBuilder::Value LlvmMath::i32_to_f32(Value a) {
  return {code_.b.CreateSIToFP(v(a), typed(code_.f32_type))};
}
MathBuilder::Value LlvmMath::u32_to_f32(Value a) {
  return {code_.b.CreateUIToFP(v(a), typed(code_.f32_type))};
}
MathBuilder::Value LlvmMath::f32_to_i32(Value a) {
  return {code_.b.CreateFPToSI(v(a), typed(code_.i32_type))};
}
MathBuilder::Value LlvmMath::bool_to_i32(Value a) {
  return {code_.b.CreateZExt(v(a), typed(code_.i32_type))};
}
MathBuilder::Value LlvmMath::i32_to_f64(Value a) {
  return {code_.b.CreateSIToFP(v(a), typed(code_.b.getDoubleTy()))};
}
MathBuilder::Value LlvmMath::f32_to_f64(Value a) {
  return {code_.b.CreateFPExt(v(a), typed(code_.b.getDoubleTy()))};
}
MathBuilder::Value LlvmMath::f64_to_i32(Value a) {
  return {code_.b.CreateFPToSI(v(a), typed(code_.i32_type))};
}

}  // namespace attune::codegen
