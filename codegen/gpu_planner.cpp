#include "codegen/gpu_planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "codegen/gpu_argument.h"

namespace attune::codegen {

using runtime::GpuLaunch;
using runtime::GpuPatch;

bool fits_sm90(const GpuProblem& problem, const GpuKernelOptions& options) {
  const std::array<GpuSide, 4> all = forward_sides(problem, options);
  return std::all_of(all.begin(), all.end(), [&](const GpuSide& side) { return fits_maps(side, problem, options); });
}

GpuConfig default_config(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem) {
  const int dim = std::max(options.head_dim, options.v_dim);
  GpuConfig config;
  if (options.arch != "sm_90a" || !fits_sm90(problem, options)) {
    // The table in sm80_forward.cuh.
    config.skeleton = GpuSkeleton::kSm80;
    const bool is_wide = dim > 192 || options.v_dim > 128;
    config.warpgroups = problem.q_len <= 16 ? 1 : is_wide ? 8 : 4;
    config.block_n = is_wide ? 32 : 64;
    config.stages = dim <= 96 ? 2 : 1;
    return config;
  }
  config.warpgroups = dim <= 64 ? 3 : 2;
  config.block_n = dim <= 128 ? 128 : dim <= 192 ? 96 : 64;
  config.buffers_q = dim <= 128 ? 2 : 1;
  config.stale = lowered.ir.weight_kind == WeightKind::kSoftmax && options.accuracy == Accuracy::kFast;
  return config;
}

runtime::GpuPlan plan_gpu_forward(const Lowered& lowered, const GpuKernel& kernel, const GpuKernelOptions& options, const GpuConfig& config,
                                  const GpuProblem& problem) {
  const std::array<GpuSide, 4> all = forward_sides(problem, options);
  const int tiles_m = ceil_div(problem.q_len, config.forward_rows()), tiles = tiles_m * problem.batch * problem.heads;
  runtime::GpuPlan plan;
  plan.workspace_bytes = kCounterBytes;
  if (tiles == 0) return plan;
  plan.sources.push_back({kernel.source, options.arch});

  GpuLaunch launch;
  launch.kernel = kernel.name;
  launch.block = {static_cast<uint32_t>(kernel.threads), 1, 1};
  launch.grid = {static_cast<uint32_t>(config.skeleton == GpuSkeleton::kSm90 ? std::min(tiles, problem.multiprocessors) : tiles), 1, 1};
  launch.shared_bytes = kernel.shared_bytes;

  GpuArgument argument(kernel, launch);
  for (const GpuSide& side : all) {
    if (config.skeleton == GpuSkeleton::kSm90) {
      const bool of_keys = side.tensor == GpuTensorIndex::kK || side.tensor == GpuTensorIndex::kV;
      argument.map(fmt::format("{}_map", side.name), map_of(side, problem, options, of_keys ? config.block_n : 64));
    }
    argument.patch(side.name, GpuPatch::Kind::kTensor, side.tensor);
    argument.set(fmt::format("{}_stride", side.name), *side.strides);
  }
  argument.set("vector_loads",
               int32_t{has_vector_rows(all[0], problem) && has_vector_rows(all[1], problem) && has_vector_rows(all[2], problem)});
  argument.set("vector_stores", int32_t{has_vector_rows(all[3], problem)});
  argument.patch("lse", GpuPatch::Kind::kTensor, GpuTensorIndex::kLse);
  argument.set("lse_stride", problem.lse);
  argument.patch("counter", GpuPatch::Kind::kWorkspace, 0);
  argument.patch("extents", GpuPatch::Kind::kWorkspace, kCounterBytes);
  argument.set("tiles_m", int32_t{tiles_m});
  argument.set("tiles", int32_t{tiles});
  argument.set("section_heads",
               int32_t{section_heads(lowered, problem, int64_t{problem.k_len} * (options.head_dim + options.v_dim) * kGpuElementBytes,
                                     problem.batch * problem.heads)});
  set_problem(lowered.ir, problem, argument);
  if (!kernel.extents_name.empty()) {
    const int64_t extents = int64_t{ceil_div(problem.k_len, config.block_n)} * problem.batch * problem.heads;
    GpuLaunch before = launch;
    before.kernel = kernel.extents_name;
    before.block = {128, 1, 1};
    before.grid = {static_cast<uint32_t>(ceil_div(extents, 128 / 32)), 1, 1};
    before.shared_bytes = 0;
    plan.launches.push_back(std::move(before));
    plan.workspace_bytes += static_cast<size_t>(extents) * kernel.extent_bytes;
  }
  plan.launches.push_back(std::move(launch));
  return plan;
}

}  // namespace attune::codegen
