// The backward pass of a plan on a GPU. Inner part of the library.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/gpu_arguments.h"
#include "api/gpu_kernels.h"
#include "runtime/gpu_executor.h"
#include "runtime/gpu_memory.h"

namespace attune {

// Compiles the kernels that contiguous tensors need, or takes them from the cache.
void warm_up_gpu_backward(const BoundProgram& bound, const PlanOptions& options);

class GpuBackward {
 public:
  // `arguments` outlive this. Emits what contiguous tensors need, and compiles nothing yet.
  explicit GpuBackward(const GpuArguments& arguments);

  // Compiles what contiguous tensors need, which otherwise the first call does.
  void compile() const;

  struct Tensors {
    RowTensor q, k, v, out, lse, dout;  // out and lse: softmax
    RowTensor dq, dk, dv;               // without data: not wanted
    std::vector<runtime::CpuParamGradient> param_grads;
  };
  // Enqueues one call; the tensors are checked. The first call with strides that no kernel of the plan takes compiles others; the first
  // without a workspace allocates the plan's own.
  void run(const Tensors& tensors, void* stream, void* workspace) const;

  size_t workspace_bytes() const { return workspace_bytes_; }

 private:
  // What the launches depend on beside the sizes.
  struct Layout {
    codegen::GpuStrides q{}, k{}, v{}, out{}, lse{}, dout{}, dq{}, dk{}, dv{};
    bool wants_dq = true, wants_dk = true, wants_dv = true;
    bool aligned = true;
    struct Gradient {
      std::vector<int64_t> strides;  // 0 along broadcast dims
      std::vector<int32_t> sizes;    // 1 there
      bool operator==(const Gradient&) const = default;
    };
    std::vector<Gradient> gradients;  // by parameter
    bool operator==(const Layout&) const = default;
  };
  struct Launcher {
    Layout layout;
    size_t workspace_offset = 0;
    std::shared_ptr<const GpuKernelCode> code;
    std::unique_ptr<runtime::GpuExecutor> executor;
  };

  Layout contiguous() const;
  Layout layout_of(const Tensors& tensors) const;
  codegen::GpuProblem problem_of(const Layout& layout) const;
  codegen::GpuConfig config_of(const Layout& layout) const;
  runtime::GpuPlan plan_of(const codegen::GpuKernel& kernel, const codegen::GpuConfig& config, const Layout& layout) const;
  const Launcher& launcher(const Layout& layout) const;
  std::unique_ptr<const Launcher> make(const Layout& layout) const;
  void* own_workspace() const;

  const GpuArguments& arguments_;
  Layout contiguous_;
  codegen::GpuConfig config_;  // of contiguous tensors
  // The workspace has two parts, since each kind of kernel wants to find what it has left: that of contiguous tensors, then that of others.
  size_t other_offset_ = 0, workspace_bytes_ = 0;
  mutable std::mutex mutex_;
  mutable runtime::GpuBuffer workspace_;  // the plan's own
  mutable std::vector<std::unique_ptr<const Launcher>> launchers_;
};

}  // namespace attune
