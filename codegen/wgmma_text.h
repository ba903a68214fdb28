// Products by wgmma of the shapes that a kernel uses, as CUDA text: their operand lists are as long as the accumulators.
#pragma once

#include <string>

#include "codegen/gpu_kernel.h"

namespace attune::codegen {

// What the sm90 forward skeleton calls: products_qk, products_pv, stay_above, hold. A product is a group of its own in flight.
std::string wgmma_forward_text(const GpuKernelOptions& options, const GpuConfig& config);
// What the sm90 backward skeleton calls: products_s, products_dp, products_dv, products_dk, products_dq, stay_above, hold.
std::string wgmma_backward_text(const GpuKernelOptions& options, const GpuConfig& config);

}  // namespace attune::codegen
