// Programs as CUDA, for the tests of the emitter.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "codegen/cuda_emitter.h"
#include "codegen/gpu_planner.h"
#include "dsl/printer.h"
#include "tests/unit/golden_file.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {

inline GpuKernelOptions gpu_options(int head_dim, dsl::ElementType dtype = dsl::ElementType::kBF16) {
  GpuKernelOptions options;
  options.dtype = dtype;
  options.head_dim = options.v_dim = head_dim;
  return options;
}

inline Lowered lowered_for(const std::string& text, const GpuKernelOptions& options) {
  BuildOptions build_options;
  build_options.head_dim = options.head_dim;
  build_options.v_dim = options.v_dim;
  return lower(build(text, build_options));
}

inline GpuConfig sm80_config() {
  GpuConfig config;
  config.skeleton = GpuSkeleton::kSm80;
  config.warpgroups = 4;
  config.block_n = 64;
  return config;
}

// A problem of contiguous tensors that large tiles are right for.
inline GpuProblem large_problem(const GpuKernelOptions& options) {
  GpuProblem problem;
  problem.batch = 1, problem.heads = problem.kv_heads = 16, problem.q_len = problem.k_len = 4096;
  problem.total_q = problem.total_k = 4096;
  const auto strides = [&](int dim) { return GpuStrides{options.packed ? 0 : int64_t{4096} * 16 * dim, int64_t{16} * dim, dim}; };
  problem.q = problem.k = strides(options.head_dim);
  problem.v = problem.out = strides(options.v_dim);
  return problem;
}

// Default tiles of the backward pass, of tensors that the copy engine can read.
inline GpuConfig backward_tiles(const Lowered& lowered, const GpuKernelOptions& options) {
  GpuProblem problem = large_problem(options);
  problem.dq = problem.q, problem.dk = problem.k, problem.dv = problem.v, problem.dout = problem.out;
  return default_backward_config(lowered, options, problem);
}

// All programs of examples/ and of the golden files.
inline std::vector<std::filesystem::path> programs() {
  std::vector<std::filesystem::path> paths;
  for (const char* folder : {"examples", "tests/golden"}) {
    for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(ATTUNE_SOURCE_DIR) / folder)) {
      if (entry.path().extension() == ".attn") paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// The program in its canonical form.
inline std::string canonical(const std::string& text) {
  dsl::Diagnostics diagnostics("test.attn", text);
  const std::optional<dsl::Program> program = dsl::parse(diagnostics);
  if (!program) throw std::runtime_error(diagnostics.render());
  return dsl::print(*program);
}

// The plain loops of tests/gpu/naive_forward.cuh.
inline GpuKernel emit_naive(const std::string& text, const GpuKernelOptions& options) {
  GpuSkeletonText skeleton;
  skeleton.text = read_file(std::filesystem::path(ATTUNE_SOURCE_DIR) / "tests/gpu/naive_forward.cuh");
  skeleton.function = "attention_forward_naive";
  return emit_gpu_forward(lowered_for(text, options), canonical(text), options, sm80_config(), skeleton);
}

// The plain loops of tests/gpu/naive_backward.cuh.
inline GpuKernel emit_naive_backward(const std::string& text, const GpuKernelOptions& options) {
  GpuSkeletonText skeleton;
  skeleton.text = read_file(std::filesystem::path(ATTUNE_SOURCE_DIR) / "tests/gpu/naive_backward.cuh");
  skeleton.prepare = "attention_backward_prepare";
  skeleton.function = "attention_backward_keys_naive";
  skeleton.queries = "attention_backward_queries_naive";
  GpuConfig config = sm80_config();
  config.warpgroups = 1;
  config.block_n = 32;
  return emit_gpu_backward(lowered_for(text, options), canonical(text), options, config, skeleton);
}

}  // namespace attune::codegen
