// One program with random data, as a kernel around the plain loops of naive_forward.cuh: what to run, and whether the result is right.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "codegen/cuda_emitter.h"
#include "codegen/eval/reference.h"
#include "codegen/gpu_planner.h"
#include "runtime/kernel_plan.h"

namespace attune::codegen {

// Where the tests' files are: the tree that the test was built from, or on another machine the folder that it runs in.
std::filesystem::path source_folder();
// All examples and golden programs.
std::vector<std::filesystem::path> variant_programs();

// Sizes; a length of 0 is any of 60 to 140. Packed sequences after the first are shorter. With a number of multiprocessors: large tiles
// for so many.
struct VariantSizes {
  int heads = 4, kv_heads = 2, q_len = 0, k_len = 0, multiprocessors = 0;
};

class VariantCase {
 public:
  // Two sequences; packed ones have different lengths. A nonzero share of scalars keeps its default. Around plain loops, or with
  // `own_skeleton` the kernel that the planner takes.
  VariantCase(const std::string& text, const GpuKernelOptions& options, unsigned seed, const VariantSizes& wanted = {},
              bool own_skeleton = false);

  GpuConfig config;
  GpuKernel kernel;
  runtime::GpuPlan plan;
  // A call's tensors in the order of GpuTensorIndex, with room for what is written.
  std::vector<std::vector<std::byte>> tensors;

  struct Errors {
    double out = 0;             // relative norm
    std::optional<double> lse;  // softmax
    bool is_flagged = false;
  };
  // Of what the call left in the tensors.
  Errors errors(int threads) const;

 private:
  GpuKernelOptions options_;
  int heads_ = 0;
  Ir ir_;
  std::vector<ReferenceProblem> references_;  // one, or one for each packed sequence
};

}  // namespace attune::codegen
