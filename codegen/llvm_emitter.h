// Lowered -> an object file for a named CPU. The one place of codegen/ that includes LLVM, in its llvm_emitter*.cpp files.
#pragma once

#include <string>

#include "codegen/lower.h"
#include "dsl/ast.h"
#include "runtime/cpu_kernel.h"

namespace attune::codegen {

struct CpuTarget {
  std::string cpu;       // LLVM's name: "znver3", "x86-64"
  std::string features;  // LLVM's list: "+avx2,+fma,..."; empty: what `cpu` implies
};

struct CpuKernelOptions {
  dsl::ElementType dtype = dsl::ElementType::kF32;  // of q, k, v, out, dout, dq: f32, f16 or bf16
  int head_dim = 64, v_dim = 64;                    // 1..512
  runtime::CpuPass pass = runtime::CpuPass::kForward;
  bool want_param_grads = true;  // backward: code for the gradients of parameters
};

// What a compiled kernel depends on beside its target and the versions of Attune and LLVM: for cache keys.
std::string llvm_version();
// Compiles one pass. Throws EnvironmentError if LLVM refuses the target. Safe from several threads at once.
runtime::CpuKernel emit_cpu_kernel(const Lowered& lowered, const CpuKernelOptions& options, const CpuTarget& target);
// The optimised LLVM IR of the same, as text.
std::string print_cpu_kernel(const Lowered& lowered, const CpuKernelOptions& options, const CpuTarget& target);

}  // namespace attune::codegen
