#include "codegen/llvm_emitter_code.h"

#include <llvm/IR/Constants.h>
#include <llvm/IR/Intrinsics.h>

namespace attune::codegen {

Code::Code(llvm::Function& function, const CpuMachine& machine)
    : b(llvm::BasicBlock::Create(function.getContext(), "entry", &function)),
      machine(machine),
      f32_type(b.getFloatTy()),
      i32_type(b.getInt32Ty()),
      i64_type(b.getInt64Ty()),
      strip_type(llvm::FixedVectorType::get(b.getFloatTy(), machine.lanes)),
      function_(function) {}

LlvmValue Code::lane_numbers() {
  std::vector<llvm::Constant*> numbers;
  for (int lane = 0; lane < machine.lanes; ++lane) numbers.push_back(b.getInt32(lane));
  return llvm::ConstantVector::get(numbers);
}

LlvmValue Code::fma(LlvmValue x, LlvmValue y, LlvmValue z) {
  if (machine.has_fma) return b.CreateIntrinsic(x->getType(), llvm::Intrinsic::fma, {x, y, z});
  return b.CreateFAdd(b.CreateFMul(x, y), z);
}

void Code::loop(LlvmValue begin, LlvmValue end, int step, Body body) {
  loop(begin, end, step, {}, [&](LlvmValue i, const Carried&) {
    body(i);
    return Carried{};
  });
}

Code::Carried Code::loop(LlvmValue begin, LlvmValue end, int step, const Carried& initial, CarryingBody body) {
  llvm::LLVMContext& context = function_.getContext();
  llvm::BasicBlock* before = b.GetInsertBlock();
  auto* head = llvm::BasicBlock::Create(context, "loop", &function_);
  auto* after = llvm::BasicBlock::Create(context, "done", &function_);
  b.CreateCondBr(b.CreateICmpSLT(begin, end), head, after);

  b.SetInsertPoint(head);
  llvm::PHINode* i = b.CreatePHI(begin->getType(), 2);
  i->addIncoming(begin, before);
  std::vector<llvm::PHINode*> phis;
  for (LlvmValue value : initial) {
    phis.push_back(b.CreatePHI(value->getType(), 2));
    phis.back()->addIncoming(value, before);
  }
  const Carried next = body(i, Carried(phis.begin(), phis.end()));
  LlvmValue next_i = b.CreateNSWAdd(i, llvm::ConstantInt::get(begin->getType(), step));
  llvm::BasicBlock* latch = b.GetInsertBlock();
  b.CreateCondBr(b.CreateICmpSLT(next_i, end), head, after);
  i->addIncoming(next_i, latch);

  b.SetInsertPoint(after);
  Carried result;
  for (size_t n = 0; n < initial.size(); ++n) {
    phis[n]->addIncoming(next[n], latch);
    llvm::PHINode* last = b.CreatePHI(initial[n]->getType(), 2);
    last->addIncoming(initial[n], before);
    last->addIncoming(next[n], latch);
    result.push_back(last);
  }
  return result;
}

void Code::if_then(LlvmValue condition, Block then) {
  if_else(
      condition,
      [&] {
        then();
        return Carried{};
      },
      [] { return Carried{}; });
}

Code::Carried Code::if_else(LlvmValue condition, GivingBlock then, GivingBlock otherwise) {
  llvm::LLVMContext& context = function_.getContext();
  auto* first = llvm::BasicBlock::Create(context, "then", &function_);
  auto* second = llvm::BasicBlock::Create(context, "else", &function_);
  auto* after = llvm::BasicBlock::Create(context, "done", &function_);
  b.CreateCondBr(condition, first, second);
  b.SetInsertPoint(first);
  const Carried left = then();
  llvm::BasicBlock* first_end = b.GetInsertBlock();
  b.CreateBr(after);
  b.SetInsertPoint(second);
  const Carried right = otherwise();
  llvm::BasicBlock* second_end = b.GetInsertBlock();
  b.CreateBr(after);
  b.SetInsertPoint(after);
  Carried merged;
  for (size_t n = 0; n < left.size(); ++n) {
    llvm::PHINode* phi = b.CreatePHI(left[n]->getType(), 2);
    phi->addIncoming(left[n], first_end);
    phi->addIncoming(right[n], second_end);
    merged.push_back(phi);
  }
  return merged;
}

LlvmValue Code::at(LlvmValue base, LlvmValue index, int bytes) {
  llvm::Type* element = llvm::IntegerType::get(function_.getContext(), static_cast<unsigned>(bytes) * 8);
  return b.CreateGEP(element, base, index->getType() == i64_type ? index : wide(index));
}

int Code::bytes_of(dsl::ElementType type) {
  switch (type) {
    case dsl::ElementType::kF32:
    case dsl::ElementType::kI32:
      return 4;
    case dsl::ElementType::kF16:
    case dsl::ElementType::kBF16:
      return 2;
    default:
      return 1;
  }
}

llvm::Type* Code::like(LlvmValue value, llvm::Type* scalar) {
  auto* vector = llvm::dyn_cast<llvm::FixedVectorType>(value->getType());
  return vector ? llvm::FixedVectorType::get(scalar, vector->getNumElements()) : scalar;
}

LlvmValue Code::load_as(dsl::ElementType type, LlvmValue address, int count) {
  const int bytes = bytes_of(type);
  llvm::Type* stored = type == dsl::ElementType::kF32 ? f32_type : b.getIntNTy(static_cast<unsigned>(bytes) * 8);
  if (count > 1) stored = llvm::FixedVectorType::get(stored, count);
  LlvmValue value = b.CreateAlignedLoad(stored, address, llvm::Align(bytes));
  switch (type) {
    case dsl::ElementType::kF32:
    case dsl::ElementType::kI32:
      return value;
    case dsl::ElementType::kF16:
      return half_to_float(value);
    case dsl::ElementType::kBF16: {
      LlvmValue bits = b.CreateShl(b.CreateZExt(value, like(value, i32_type)), 16);
      return b.CreateBitCast(bits, like(value, f32_type));
    }
    case dsl::ElementType::kU8:
      return b.CreateZExt(value, like(value, i32_type));
    case dsl::ElementType::kBool:
      return b.CreateIsNotNull(value);
  }
  return nullptr;
}

void Code::store_as(dsl::ElementType type, LlvmValue value, LlvmValue address) {
  if (type == dsl::ElementType::kF16) value = float_to_half(value);
  if (type == dsl::ElementType::kBF16) value = float_to_bfloat(value);
  b.CreateAlignedStore(value, address, llvm::Align(bytes_of(type)));
}

// Without the conversion instructions LLVM would call a library that is not there; these are the same values by integer arithmetic.
LlvmValue Code::half_to_float(LlvmValue bits) {
  if (machine.has_f16c) return b.CreateFPExt(b.CreateBitCast(bits, like(bits, b.getHalfTy())), like(bits, f32_type));
  llvm::Type* ints = like(bits, i32_type);
  llvm::Type* floats = like(bits, f32_type);
  const auto number = [&](uint32_t value) { return llvm::ConstantInt::get(ints, value); };
  LlvmValue wide_bits = b.CreateZExt(bits, ints);
  LlvmValue sign = b.CreateShl(b.CreateAnd(wide_bits, number(0x8000)), 16);
  LlvmValue magnitude = b.CreateShl(b.CreateAnd(wide_bits, number(0x7fff)), 13);
  // Exponents differ by 127 - 15; the multiplication also normalises denormals.
  LlvmValue scaled = b.CreateFMul(b.CreateBitCast(magnitude, floats), llvm::ConstantFP::get(floats, 0x1p112));
  LlvmValue is_special = b.CreateICmpUGE(magnitude, number(0x7c00u << 13));
  LlvmValue finite = b.CreateBitCast(scaled, ints);
  LlvmValue special = b.CreateOr(magnitude, number(0x7f800000));
  return b.CreateBitCast(b.CreateOr(b.CreateSelect(is_special, special, finite), sign), floats);
}

LlvmValue Code::float_to_half(LlvmValue value) {
  llvm::Type* shorts = like(value, b.getInt16Ty());
  if (machine.has_f16c) return b.CreateBitCast(b.CreateFPTrunc(value, like(value, b.getHalfTy())), shorts);
  llvm::Type* ints = like(value, i32_type);
  llvm::Type* floats = like(value, f32_type);
  const auto number = [&](uint32_t n) { return llvm::ConstantInt::get(ints, n); };
  LlvmValue bits = b.CreateBitCast(value, ints);
  LlvmValue sign = b.CreateAnd(b.CreateLShr(bits, 16), number(0x8000));
  LlvmValue magnitude = b.CreateAnd(bits, number(0x7fffffff));
  // Normal numbers: rebias the exponent, round the 13 lost bits to even.
  LlvmValue odd = b.CreateAnd(b.CreateLShr(magnitude, 13), number(1));
  LlvmValue normal = b.CreateLShr(b.CreateAdd(b.CreateAdd(magnitude, number(0xc8000fffu)), odd), 13);
  // Denormals: adding 0.5 lets the FPU round at the bit that counts 2^-24.
  LlvmValue half_one = llvm::ConstantFP::get(floats, 0.5);
  LlvmValue shifted = b.CreateBitCast(b.CreateFAdd(b.CreateBitCast(magnitude, floats), half_one), ints);
  LlvmValue denormal = b.CreateSub(shifted, number(0x3f000000));
  LlvmValue result = b.CreateSelect(b.CreateICmpULT(magnitude, number(0x38800000)), denormal, normal);
  result = b.CreateSelect(b.CreateICmpUGE(magnitude, number(0x477ff000)), number(0x7c00), result);
  result = b.CreateSelect(b.CreateICmpUGT(magnitude, number(0x7f800000)), number(0x7e00), result);
  return b.CreateTrunc(b.CreateOr(result, sign), shorts);
}

LlvmValue Code::float_to_bfloat(LlvmValue value) {
  llvm::Type* ints = like(value, i32_type);
  const auto number = [&](uint32_t n) { return llvm::ConstantInt::get(ints, n); };
  LlvmValue bits = b.CreateBitCast(value, ints);
  LlvmValue odd = b.CreateAnd(b.CreateLShr(bits, 16), number(1));
  LlvmValue rounded = b.CreateAdd(b.CreateAdd(bits, number(0x7fff)), odd);
  LlvmValue is_nan = b.CreateFCmpUNO(value, value);
  LlvmValue result = b.CreateSelect(is_nan, b.CreateOr(bits, number(0x400000)), rounded);
  return b.CreateTrunc(b.CreateLShr(result, 16), like(value, b.getInt16Ty()));
}

}  // namespace attune::codegen
