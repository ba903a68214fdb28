// The forward pass of a plan on a GPU. Inner part of the library.
#pragma once

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "api/gpu_arguments.h"
#include "api/gpu_kernels.h"
#include "runtime/gpu_executor.h"
#include "runtime/gpu_memory.h"

namespace attune {

// Compiles the kernel that contiguous tensors need, or takes it from the cache.
void warm_up_gpu_forward(const BoundProgram& bound, const PlanOptions& options);

class GpuForward {
 public:
  // `arguments` outlive this. Compiles what contiguous tensors need; `tiered`: that is a quick kernel, where the tuned one is not in the
  // cache, while the tuned one is compiled on a thread of its own, which ends with this.
  GpuForward(const GpuArguments& arguments, bool tiered);

  struct Tensors {
    RowTensor q, k, v, out, lse;
  };
  // Enqueues one call; the tensors are checked. The first call with strides that no kernel of the plan takes compiles another one.
  void run(const Tensors& tensors, void* stream, void* workspace) const;

  size_t workspace_bytes() const { return workspace_bytes_; }
  std::string describe() const;
  // Waits for the device: whether a kernel met an index outside its tensor since the last time.
  bool take_index_flag() const;

  // Whether calls with all strides seen so far run tuned kernels.
  bool is_tuned() const;
  // Waits for that; throws what stopped a compilation.
  void wait_until_tuned() const;

 private:
  // What the launches depend on beside the sizes.
  struct Layout {
    codegen::GpuStrides q{}, k{}, v{}, out{}, lse{};
    bool aligned = true;
    bool operator==(const Layout&) const = default;
  };
  struct Tier {
    codegen::GpuConfig config;
    std::shared_ptr<const GpuKernelCode> code;
    std::unique_ptr<runtime::GpuExecutor> executor;  // null: there is no machine code yet
  };
  struct Launcher {
    Layout layout;
    size_t workspace_bytes = 0;  // of both tiers
    bool has_index_flag = false;
    Tier quick, tuned;                           // quick: only where the tuned one had to be compiled
    std::atomic<const Tier*> current = nullptr;  // what calls take
    std::shared_future<void> tuning;             // valid if there is a quick one
    std::jthread thread;                         // the last member: it writes the others
  };

  Layout layout_of(const Tensors& tensors) const;
  const Launcher& launcher(const Layout& layout) const;
  std::unique_ptr<Launcher> make(const Layout& layout) const;
  codegen::GpuProblem problem_of(const Layout& layout) const;
  runtime::GpuPlan plan_of(const Tier& tier, const Layout& layout) const;
  void load(Tier& tier, const Layout& layout) const;
  void start_tuning(Launcher& launcher) const;

  const GpuArguments& arguments_;
  bool tiered_ = false;
  bool is_empty_ = false;  // no row to compute
  Layout contiguous_;
  size_t workspace_bytes_ = 0;
  bool has_index_flag_ = false;
  runtime::GpuBuffer workspace_;  // the plan's own
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Launcher>> launchers_;  // the first: contiguous tensors
};

}  // namespace attune
