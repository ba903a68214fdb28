// Runs a GpuPlan on one device: fills in the arguments of its launches and gives them to the caller's stream.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/gpu_binary.h"
#include "runtime/gpu_module.h"
#include "runtime/kernel_plan.h"
#include "runtime/tensor_map_cache.h"

namespace attune::runtime {

class GpuExecutor {
 public:
  // `binaries` are those of the plan's sources, in order. Loads the kernels into the caller's context, if it is of the device, else into
  // the device's primary one. Throws EnvironmentError if the driver or the device cannot run them, std::logic_error if the plan is not
  // sound.
  GpuExecutor(GpuPlan plan, std::span<const std::shared_ptr<const GpuBinary>> binaries, int device);
  ~GpuExecutor();
  GpuExecutor(const GpuExecutor&) = delete;
  GpuExecutor& operator=(const GpuExecutor&) = delete;

  // Enqueues one call. `tensors` are device addresses, null where not given; `workspace` has workspace_bytes(), 16-aligned. Nothing is
  // allocated and nothing waits, so that a call can be captured in a graph; only the first call in another context than the constructor's
  // loads the kernels there. Several threads may run at once, each with a workspace of its own.
  // Throws ArgumentError for a missing tensor or an address that is not 16-aligned, EnvironmentError for what the driver refuses.
  void run(void* stream, std::span<void* const> tensors, void* workspace);

  // Asks the driver what run() does not: that each address is memory of this device and long enough, as far as the plan tells. Throws
  // ArgumentError. Some microseconds.
  void check(std::span<void* const> tensors, void* workspace) const;

  size_t workspace_bytes() const { return plan_.workspace_bytes; }
  const GpuPlan& plan() const { return plan_; }
  int device() const { return device_; }

 private:
  // The kernels in one context, by launch.
  struct Loaded {
    uint64_t context = 0;
    std::vector<void*> functions;
  };

  const Loaded& loaded_in(uint64_t context);
  void fill(const GpuLaunch& launch, std::span<const int> maps, std::span<void* const> tensors, void* workspace, std::byte* argument);

  GpuPlan plan_;
  int device_ = 0;
  std::vector<std::shared_ptr<const GpuModule>> modules_;  // by source
  std::vector<std::vector<int>> maps_;                     // by launch and map of it: its number in the cache
  TensorMapCache map_cache_;
  size_t tensor_count_ = 0;  // that a call needs at least
  std::mutex mutex_;
  std::vector<std::unique_ptr<const Loaded>> loaded_;
};

}  // namespace attune::runtime
