// A thin layer over LLVM's IRBuilder: structured loops, vectors of one strip, addresses in floats, storage types.
#pragma once

#include <llvm/ADT/STLFunctionalExtras.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Module.h>

#include <string>
#include <vector>

#include "dsl/ast.h"

namespace attune::codegen {

// What the emitter knows of the target: the shape of register tiles.
struct CpuMachine {
  int lanes = 8;  // queries of a strip: two vector registers
  int rows = 4;   // keys (or dims) of a register tile; rows * 2 accumulators and 3 more registers fit the register file
  bool has_fma = false;
  bool has_f16c = false;
  bool has_round = false;  // SSE4.1
};

using LlvmValue = llvm::Value*;

class Code {
 public:
  Code(llvm::Function& function, const CpuMachine& machine);

  llvm::IRBuilder<> b;
  const CpuMachine& machine;
  llvm::Type* const f32_type;
  llvm::Type* const i32_type;
  llvm::Type* const i64_type;
  llvm::VectorType* const strip_type;  // <lanes x float>

  LlvmValue i32(int64_t value) { return llvm::ConstantInt::getSigned(i32_type, value); }
  LlvmValue i64(int64_t value) { return llvm::ConstantInt::getSigned(i64_type, value); }
  LlvmValue f32(double value) { return llvm::ConstantFP::get(f32_type, value); }
  LlvmValue strip(double value) { return llvm::ConstantFP::get(strip_type, value); }
  LlvmValue splat(LlvmValue scalar) { return b.CreateVectorSplat(machine.lanes, scalar); }
  LlvmValue wide(LlvmValue index) { return b.CreateSExt(index, i64_type); }
  LlvmValue lane_numbers();  // <0, 1, ...> of i32
  LlvmValue min(LlvmValue x, LlvmValue y) { return b.CreateBinaryIntrinsic(llvm::Intrinsic::smin, x, y); }
  LlvmValue max(LlvmValue x, LlvmValue y) { return b.CreateBinaryIntrinsic(llvm::Intrinsic::smax, x, y); }
  LlvmValue fma(LlvmValue x, LlvmValue y, LlvmValue z);

  // for (i = begin; i < end; i += step), i of begin's type.
  using Body = llvm::function_ref<void(LlvmValue i)>;
  void loop(LlvmValue begin, LlvmValue end, int step, Body body);
  // The same with values carried from one round to the next.
  using Carried = std::vector<LlvmValue>;
  using CarryingBody = llvm::function_ref<Carried(LlvmValue i, const Carried& carried)>;
  Carried loop(LlvmValue begin, LlvmValue end, int step, const Carried& initial, CarryingBody body);
  using Block = llvm::function_ref<void()>;
  void if_then(LlvmValue condition, Block then);
  // Both branches give as many values; what they leave is merged.
  using GivingBlock = llvm::function_ref<Carried()>;
  Carried if_else(LlvmValue condition, GivingBlock then, GivingBlock otherwise);

  // base + index elements of `bytes` each; index is i32 or i64.
  LlvmValue at(LlvmValue base, LlvmValue index, int bytes = 4);
  LlvmValue at(LlvmValue base, int64_t index, int bytes = 4) { return at(base, i64(index), bytes); }
  LlvmValue load_strip(LlvmValue address) { return b.CreateAlignedLoad(strip_type, address, llvm::Align(4)); }
  void store_strip(LlvmValue value, LlvmValue address) { b.CreateAlignedStore(value, address, llvm::Align(4)); }

  // Storage: f32, f16, bf16, i32, u8 and bool (u8). One element, or a vector of `count` neighbours; f16 and bf16 convert from and to f32
  // (to nearest, ties to even), u8 to i32.
  static int bytes_of(dsl::ElementType type);
  LlvmValue load_as(dsl::ElementType type, LlvmValue address, int count = 1);
  void store_as(dsl::ElementType type, LlvmValue value, LlvmValue address);

 private:
  LlvmValue half_to_float(LlvmValue bits);
  LlvmValue float_to_half(LlvmValue value);
  LlvmValue float_to_bfloat(LlvmValue value);
  llvm::Type* like(LlvmValue value, llvm::Type* scalar);

  llvm::Function& function_;
};

}  // namespace attune::codegen
