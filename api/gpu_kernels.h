// GPU kernels of a program: emitted once a variant, compiled or out of the cache. Inner part of the library.
#pragma once

#include <memory>
#include <string>

#include "codegen/gpu_kernel.h"
#include "codegen/lower.h"
#include "runtime/gpu_binary.h"

namespace attune {

struct GpuKernelCode {
  codegen::GpuKernel kernel;
  std::shared_ptr<const runtime::GpuBinary> binary;
};

// "sm_90a, bf16, head_dim 64, v_dim 64, sm90 128x128x2, stale softmax": what a kernel is specialised by beside its program.
std::string gpu_kernel_text(const codegen::GpuKernelOptions& options, const codegen::GpuConfig& config);
// "sm90 128x128x2, stale softmax"; "sm80 64x64x2, 8 splits, 4 heads a tile": also what only a launch knows.
std::string gpu_config_text(const codegen::GpuConfig& config);

// $ATTUNE_ALWAYS_COMPILE and $ATTUNE_DUMP (.cu and .cubin) as for the CPU. Throws EnvironmentError: NVRTC is missing or fails, or the
// kernel is not in the cache and `forbid_jit`.
std::shared_ptr<const GpuKernelCode> get_gpu_kernel(const codegen::Lowered& lowered, const std::string& canonical,
                                                    const codegen::GpuKernelOptions& options, const codegen::GpuConfig& config,
                                                    bool forbid_jit);

}  // namespace attune
