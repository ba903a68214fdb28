// The forward pass of a plan on a GPU. Inner part of the library.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/plan_impl.h"
#include "api/tensors.h"
#include "codegen/gpu_planner.h"
#include "runtime/gpu_executor.h"
#include "runtime/gpu_memory.h"

namespace attune {

// Throws ArgumentError: dtype, head dims or sizes that no kernel of a GPU has; EnvironmentError: no such device.
void check_gpu_options(const Shape& shape, const PlanOptions& options);

// Compiles the kernel that contiguous tensors need, or takes it from the cache.
void warm_up_gpu(const BoundProgram& bound, const PlanOptions& options);

class GpuForward {
 public:
  // `bound` outlives this. Compiles what contiguous tensors need; copies what the kernel needs of the options to the device and waits for
  // that.
  GpuForward(const BoundProgram& bound, const PlanOptions& options);

  struct Tensors {
    RowTensor q, k, v, out, lse;
  };
  // Enqueues one call; the tensors are checked. The first call with strides that no kernel of the plan takes compiles another one.
  void run(const Tensors& tensors, void* stream, void* workspace) const;

  size_t workspace_bytes() const { return workspace_bytes_; }
  std::string describe() const;
  // Waits for the device: whether a kernel met an index outside its tensor since the last time.
  bool take_index_flag() const;

 private:
  // What the launches depend on beside the sizes. lse: batch, head, row.
  struct Layout {
    codegen::GpuStrides q{}, k{}, v{}, out{}, lse{};
    bool aligned = true;
    bool operator==(const Layout&) const = default;
  };
  struct Launcher {
    Layout layout;
    codegen::GpuConfig config;
    std::shared_ptr<const GpuKernelCode> code;
    std::unique_ptr<runtime::GpuExecutor> executor;
  };

  Layout contiguous() const;
  Layout layout_of(const Tensors& tensors) const;
  const Launcher& launcher(const Layout& layout) const;
  Launcher make(const Layout& layout) const;
  void bind_params(const PlanOptions& options);
  void upload(const PlanOptions& options);

  const BoundProgram& bound_;
  int device_ = 0;
  codegen::GpuKernelOptions kernel_options_;
  codegen::GpuProblem problem_;  // without the layout
  bool is_empty_ = false;        // no row to compute
  Layout contiguous_;
  size_t workspace_bytes_ = 0;
  bool has_index_flag_ = false;
  // The plan's own: workspace, index flag, a zero, grad scalars that the caller gave as numbers, cu_q and cu_k.
  runtime::GpuBuffer memory_;
  std::vector<float> own_scalars_;
  std::vector<size_t> own_scalar_params_;  // whose values those are
  std::vector<void*> tensors_;             // of a call, by GpuTensorIndex; those of the call itself null
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<const Launcher>> launchers_;  // the first: contiguous tensors
};

}  // namespace attune
