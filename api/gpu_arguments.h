// What all passes of a plan on a GPU have in common: what their kernels are specialised by, the problem's sizes and parameters, and what
// the device needs to have of them. Inner part of the library.
#pragma once

#include <array>
#include <vector>

#include "api/plan_impl.h"
#include "api/tensors.h"
#include "codegen/gpu_planner.h"
#include "runtime/gpu_memory.h"

namespace attune {

// Throws ArgumentError: dtype, head dims or sizes that no kernel of a GPU has; EnvironmentError: no such device.
void check_gpu_options(const Shape& shape, const PlanOptions& options);

codegen::GpuKernelOptions gpu_kernel_options(const BoundProgram& bound, const PlanOptions& options);
// Of contiguous tensors, without parameters.
codegen::GpuProblem gpu_problem(const Problem& problem, int device);

class GpuArguments {
 public:
  // `bound` outlives this. Copies what the kernels need of the options to the device and waits for that.
  GpuArguments(const BoundProgram& bound, const PlanOptions& options);

  const BoundProgram& bound() const { return bound_; }
  int device() const { return device_; }
  const codegen::GpuKernelOptions& options() const { return options_; }
  const codegen::GpuProblem& problem() const { return problem_; }  // of contiguous tensors
  // Of a call, by GpuTensorIndex; those of the call itself null.
  const std::vector<void*>& addresses() const { return addresses_; }

  // The strides of a call's tensor; those of dims of one element do not matter, and are the contiguous tensor's so that they make no
  // difference.
  codegen::GpuStrides query_strides(const RowTensor& tensor, const codegen::GpuStrides& contiguous) const;
  codegen::GpuStrides key_strides(const RowTensor& tensor, const codegen::GpuStrides& contiguous) const;
  std::array<int64_t, 3> lse_strides(const RowTensor& lse) const;  // batch, head, row

  // Waits for the device: whether a kernel met an index outside its tensor since the last time.
  bool take_index_flag() const;

 private:
  void bind_params(const PlanOptions& options);
  void upload(const PlanOptions& options);

  const BoundProgram& bound_;
  int device_ = 0;
  codegen::GpuKernelOptions options_;
  codegen::GpuProblem problem_;
  // Index flag, a zero, grad scalars that the caller gave as numbers, cu_q and cu_k.
  runtime::GpuBuffer memory_;
  std::vector<float> own_scalars_;
  std::vector<size_t> own_scalar_params_;  // whose values those are
  std::vector<void*> addresses_;
};

// Whether there is a row of queries.
bool has_rows(const Problem& problem);
// Whether vectors of 16 bytes can be read there.
bool is_vector_aligned(const void* address);

}  // namespace attune
