// wgmma wrappers for the shapes that a kernel uses, as CUDA text: their operand lists are as long as the accumulators.
#pragma once

#include <string>

#include "codegen/gpu_kernel.h"

namespace attune::codegen {

// What the sm90 forward skeleton calls: wgmma_qk_first, wgmma_qk, wgmma_pv, wait_qk, wait_qk_under_pv, wait_pv, stay_above.
std::string wgmma_forward_text(const GpuKernelOptions& options, const GpuConfig& config);
// What the sm90 backward skeleton calls: wgmma_scores_first, wgmma_scores, wgmma_dv, wgmma_dk, wgmma_dq_first, wgmma_dq.
std::string wgmma_backward_text(const GpuKernelOptions& options, const GpuConfig& config);

}  // namespace attune::codegen
