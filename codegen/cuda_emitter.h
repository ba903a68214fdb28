// Lowered -> CUDA C++ for NVRTC: the skeleton of `config`, with the program as `Variant`, the tile sizes as `Config` and the arguments as
// `Params`, amalgamated into one file without includes. docs/decisions/gpu-kernel.md says what a skeleton may ask of a Variant.
#pragma once

#include "codegen/gpu_kernel.h"
#include "codegen/lower.h"

namespace attune::codegen {

// Deterministic. `program` is the canonical text, printed at the top of the file. Throws ArgumentError for what a GPU kernel cannot be: a
// head dim above 256, f32 tensors.
GpuKernel emit_gpu_forward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config);
GpuKernel emit_gpu_backward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config);

// The part of the source that is generated: Config, Params, Variant, kernels. What golden files pin.
std::string emit_gpu_variant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config);
std::string emit_gpu_backward_variant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config);

// Another skeleton in place of the one of codegen/device/ that `config` names, under the same contract: tests run programs through one that
// is plain loops. Functions are templates <typename Config, typename Variant> void FUNCTION(const Params& p).
struct GpuSkeletonText {
  std::string vocabulary;  // beyond types.cuh, ptx.cuh and math.cuh
  std::string text;
  std::string function;                  // of the main kernel
  std::string prepare, queries, finish;  // backward: of the kernels around it; empty where there is none
};
GpuKernel emit_gpu_forward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config,
                           const GpuSkeletonText& skeleton);
GpuKernel emit_gpu_backward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config,
                            const GpuSkeletonText& skeleton);

}  // namespace attune::codegen
