// One backward pass as kernels around the plain loops of naive_backward.cuh, or as those of a skeleton: what to run, and whether the
// results are right. Out and lse come from the reference.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "codegen/cuda_emitter.h"
#include "codegen/gpu_planner.h"
#include "run_case.h"
#include "runtime/kernel_plan.h"

namespace attune::numeric {

class BackwardCase {
 public:
  // `c.dtype` is f16 or bf16; `problem` is one of its problems. `own`: tiles of the skeleton; without them plain loops.
  BackwardCase(const Case& c, size_t problem, const std::optional<codegen::GpuConfig>& own = std::nullopt, bool deterministic = false);

  // Instead of a backward pass, the turns of a deterministic one of sm90: turns_check.cuh.
  static BackwardCase of_turns(const Case& c, size_t problem);
  bool has_right_turns() const;

  codegen::GpuKernel kernel;
  runtime::GpuPlan plan;
  // In the order of GpuPatch::kTensor; empty ones are null. Results are poisoned.
  std::vector<std::vector<std::byte>> tensors;

  // What is wrong with what the call left in the tensors, or nullopt.
  std::optional<std::string> failure() const;

 private:
  // A field of Params by its name.
  struct Fields {
    std::map<std::string, std::vector<int64_t>> integers;
    std::map<std::string, float> floats;
  };

  BackwardCase(const Case& c, size_t problem, codegen::GpuConfig config, const codegen::GpuKernelOptions& options,
               const codegen::GpuSkeletonText* skeleton);
  void add_turns(int64_t blocks_m, int64_t blocks_n);
  void add_sums_of_dq(const codegen::GpuConfig& config, int64_t blocks, int64_t blocks_n, bool of_turns);
  codegen::GpuProblem bindings() const;
  void leave_fitting(codegen::GpuConfig& config) const;
  void add_maps(const codegen::GpuConfig& config, const Fields& fields);
  void add_tensor(const std::string& name, DType dtype, const std::vector<double>& values);
  void add_result(const std::string& name, DType dtype, size_t count);
  void add_sums(const std::string& name, size_t count);
  std::vector<double> values_of(const std::string& name) const;
  void add_params(Fields& fields);
  void add_launch(const std::string& name, int64_t grid, int threads, const Fields& fields);

  const Case case_;
  const codegen::Ir ir_;
  const ProblemData data_;
  codegen::ReferenceResult forward_;
  std::map<std::string, size_t> places_;  // in `tensors`
  std::map<std::string, DType> dtypes_;
  std::map<std::string, runtime::GpuTensorMap> maps_;  // by their fields
};

}  // namespace attune::numeric
