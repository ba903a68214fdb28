// Generated CUDA compiled for the CPU: the vocabulary's PTX is replaced by cuda_on_host.h.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/kernel_plan.h"

namespace attune::codegen {

enum class HostThreads : uint8_t {
  kAlone,   // a warp has one lane, threads run one after the other: for plain loops
  kWarps,   // as on a GPU, but slowly: for the skeleton of sm_80
  kHopper,  // with its barriers, bulk copies and products of warpgroups: for that of sm_90a
};

class HostKernels {
 public:
  HostKernels();
  ~HostKernels();
  HostKernels(const HostKernels&) = delete;
  HostKernels& operator=(const HostKernels&) = delete;

  // Runs the launches of a plan, whose only source is `source`, on tensors in the order of GpuPatch::kTensor. An empty tensor is null.
  // Throws std::runtime_error if the source does not compile. CTAs come in another order in each of the calls, which share a workspace;
  // returns whether all of them left the same bits.
  bool run(const std::string& source, const runtime::GpuPlan& plan, std::vector<std::vector<std::byte>>& tensors,
           HostThreads threads = HostThreads::kAlone, unsigned calls = 1);

 private:
  std::filesystem::path folder_;
  int count_ = 0;
};

}  // namespace attune::codegen
