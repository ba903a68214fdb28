// Kernels of a program: from this process, from the disk, or compiled. Inner part of the library.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "codegen/llvm_emitter.h"
#include "runtime/cpu_kernel.h"
#include "runtime/object_cache.h"
#include "runtime/orc_linker.h"

namespace attune {

struct Kernel {
  runtime::CpuKernel info;  // without the object
  runtime::LinkedObject code;
};

std::string attune_version();
runtime::ObjectCache open_object_cache();
// Throws EnvironmentError: the kernel would have to be compiled.
[[noreturn]] void fail_forbidden(const std::string& kernel, const runtime::ObjectCache& cache);

// Everything that a kernel depends on.
struct KernelRequest {
  std::string program;    // canonical text
  std::string constants;  // of const parameters
  codegen::CpuKernelOptions options;
  codegen::CpuTarget target;
  bool forbid_jit = false;  // no part of the key

  runtime::CacheKey key() const;
};

// `lowered` is called only if the kernel has to be compiled. Threads and variants that ask for the same kernel share it.
// $ATTUNE_ALWAYS_COMPILE passes the disk by; $ATTUNE_DUMP names a folder for the IR and the LLVM IR of what is compiled.
std::shared_ptr<const Kernel> get_kernel(const KernelRequest& request, const std::function<const codegen::Lowered&()>& lowered);

}  // namespace attune
