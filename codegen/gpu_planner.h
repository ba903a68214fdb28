// A generated kernel and a problem's sizes -> what runs: the launches with their arguments. Kernels do not depend on sizes, so this is all
// that a new sequence length costs.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "codegen/gpu_kernel.h"
#include "codegen/lower.h"
#include "runtime/kernel_plan.h"

namespace attune::codegen {

// A call's tensors in the order of GpuPatch::kTensor; the program's parameters follow from kParams on.
struct GpuTensorIndex {
  enum : int { kQ, kK, kV, kOut, kLse, kCuQ, kCuK, kIndexFlag, kParams };
  // Backward: behind the program's parameters. The gradients of the parameters follow from kGrads on.
  enum Backward : int { kDOut, kDQ, kDK, kDV, kGrads };
  static int backward(const Ir& ir, Backward tensor) { return kParams + static_cast<int>(ir.params.size()) + tensor; }
};

// Strides in elements: batch, row, head. Of packed tensors the batch stride is 0.
using GpuStrides = std::array<int64_t, 3>;

// What one parameter is bound to: a scalar's value, or the strides and sizes of a tensor (0 and the declared size along broadcast dims).
struct GpuParamBinding {
  double scalar = 0;
  bool is_given = true;    // false: the default, which packed sequences evaluate for themselves
  bool is_aligned = true;  // a tensor's address is a multiple of 16
  std::vector<int64_t> strides;
  std::vector<int32_t> dims;
  // Backward: of the gradient, 0 and 1 along broadcast dims.
  std::vector<int64_t> grad_strides;
  std::vector<int32_t> grad_sizes;
};

struct GpuProblem {
  int32_t batch = 1, heads = 1, kv_heads = 1, q_len = 0, k_len = 0;  // packed: the longest sequences
  int64_t total_q = 0, total_k = 0;                                  // packed
  GpuStrides q{}, k{}, v{}, out{};
  GpuStrides dout{}, dq{}, dk{}, dv{};                     // backward
  bool wants_dq = true, wants_dk = true, wants_dv = true;  // backward: what is not wanted has no tensor
  std::array<int64_t, 3> lse{};                            // batch, head, row
  bool aligned = true;                                     // the addresses of q, k, v and out are multiples of 16
  bool large_tiles = false;                                // as for large problems, whatever the sizes
  std::vector<GpuParamBinding> params;
  int multiprocessors = 132;
  int64_t l2_bytes = int64_t{50} << 20;
};

// Whether the copy engine can read and write these tensors: strides of 16 bytes, no broadcast, something to copy.
bool fits_sm90(const GpuProblem& problem, const GpuKernelOptions& options);
bool fits_sm90_backward(const GpuProblem& problem, const GpuKernelOptions& options);

// The tiles that are right for most problems of a program: what runs where nothing was tuned.
GpuConfig default_config(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem);
GpuConfig default_backward_config(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem);

// Whether there is a persistent kernel with these tiles: two places for K and V have to fit into shared memory.
bool can_persist(const GpuKernelOptions& options, GpuConfig config);

// The kernel that compiles fastest, for problems of any strides: what runs while that of default_config is compiled.
GpuConfig quick_config();

runtime::GpuPlan plan_gpu_forward(const Lowered& lowered, const GpuKernel& kernel, const GpuKernelOptions& options, const GpuConfig& config,
                                  const GpuProblem& problem);
// Its workspace is its own: a forward pass must not use the same memory, since counters and exact sums of gradients are zero between calls.
runtime::GpuPlan plan_gpu_backward(const Lowered& lowered, const GpuKernel& kernel, const GpuKernelOptions& options,
                                   const GpuConfig& config, const GpuProblem& problem);

}  // namespace attune::codegen
