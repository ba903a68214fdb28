// What the planner takes for a problem, above all for small ones: tiles, splits, heads of a tile; grids and workspaces.
#include "codegen/gpu_planner.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/cuda_util.h"

namespace attune::codegen {
namespace {

constexpr char kCausal[] = "attention test() {\n  score = qk\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";
constexpr char kByHead[] = "attention test() {\n  score = qk\n  mask = k_pos <= q_pos + h\n  weights = softmax(score)\n}\n";

GpuProblem problem_of(int batch, int heads, int kv_heads, int q_len, int k_len, int dim) {
  GpuProblem problem;
  problem.batch = batch, problem.heads = heads, problem.kv_heads = kv_heads, problem.q_len = q_len, problem.k_len = k_len;
  const auto strides = [dim](int64_t len, int64_t count) { return GpuStrides{len * count * dim, count * dim, dim}; };
  problem.q = problem.out = strides(q_len, heads);
  problem.k = problem.v = strides(k_len, kv_heads);
  return problem;
}

struct Planned {
  GpuConfig config;
  GpuKernel kernel;
  runtime::GpuPlan plan;

  const runtime::GpuLaunch& launch() const { return plan.launches.back(); }
  int field(const std::string& name) const {
    for (const GpuField& one : kernel.fields) {
      if (one.name != name) continue;
      int value;
      std::memcpy(&value, launch().argument.data() + one.offset, sizeof(value));
      return value;
    }
    return -1;
  }
  int64_t offset_in_workspace(const std::string& name) const {
    for (const GpuField& one : kernel.fields) {
      if (one.name != name) continue;
      for (const runtime::GpuPatch& patch : launch().patches) {
        if (patch.offset == one.offset && patch.kind == runtime::GpuPatch::Kind::kWorkspace) return patch.index;
      }
    }
    return -1;
  }
};

Planned planned(const GpuProblem& problem, int dim = 128, const char* text = kCausal) {
  const GpuKernelOptions options = gpu_options(dim);
  const Lowered lowered = lowered_for(text, options);
  Planned made;
  made.config = default_config(lowered, options, problem);
  made.kernel = emit_gpu_forward(lowered, canonical(text), options, made.config);
  made.plan = plan_gpu_forward(lowered, made.kernel, options, made.config, problem);
  return made;
}

TEST(GpuPlanner, LargeProblemsHaveLargeTiles) {
  const Planned made = planned(problem_of(1, 16, 16, 4096, 4096, 128));
  EXPECT_EQ(made.config.skeleton, GpuSkeleton::kSm90);
  EXPECT_EQ(made.config.splits, 0);
  EXPECT_EQ(made.launch().grid, (std::array<uint32_t, 3>{132, 1, 1}));
  EXPECT_EQ(made.plan.workspace_bytes, 64u);
}

TEST(GpuPlanner, TilesGoByMaskAndLength) {
  const auto tile = [](int batch, int len, int dim, const char* text) {
    const GpuKernelOptions options = gpu_options(dim);
    const GpuConfig config = default_config(lowered_for(text, options), options, problem_of(batch, 32, 32, len, len, dim));
    return std::pair(config.forward_rows(), config.block_n);
  };
  constexpr const char* kFull = "attention a() {\n score = qk\n weights = softmax(score)\n}";
  constexpr const char* kCapped = R"(attention a(cap: f32, slopes: f32[heads]) {
    score = tanh(qk * rsqrt(head_dim) / cap) * cap - f32(q_pos - k_pos) * slopes[h]
    mask = k_pos <= q_pos
    weights = softmax(score)
  })";
  EXPECT_EQ(tile(16, 1024, 64, kCausal), std::pair(256, 64));
  EXPECT_EQ(tile(1, 1024, 64, kCausal), std::pair(192, 128));  // 128 tiles of 256 rows are too few
  EXPECT_EQ(tile(16, 1025, 64, kCausal), std::pair(192, 128));
  EXPECT_EQ(tile(16, 1024, 64, kCapped), std::pair(192, 96));
  EXPECT_EQ(tile(16, 1024, 128, kFull), std::pair(128, 128));
  EXPECT_EQ(tile(16, 1025, 128, kFull), std::pair(192, 80));
  EXPECT_EQ(tile(16, 1025, 128, kCausal), std::pair(128, 128));
  EXPECT_EQ(tile(16, 1025, 96, kFull), std::pair(128, 128));
}

TEST(GpuPlanner, LargeTilesHaveToFillHalfOfTheMultiprocessors) {
  EXPECT_EQ(planned(problem_of(1, 16, 16, 640, 640, 128)).config.skeleton, GpuSkeleton::kSm90);  // 80 tiles
  EXPECT_EQ(planned(problem_of(1, 16, 16, 512, 512, 128)).config.skeleton, GpuSkeleton::kSm80);  // 64 tiles
  EXPECT_EQ(planned(problem_of(64, 32, 32, 65, 512, 128)).config.skeleton, GpuSkeleton::kSm90);
  EXPECT_EQ(planned(problem_of(64, 32, 32, 64, 512, 128)).config.skeleton, GpuSkeleton::kSm80);  // mostly empty
}

TEST(GpuPlanner, DecodeSharesKeysAmongAllMultiprocessors) {
  const Planned made = planned(problem_of(1, 32, 8, 1, 4096, 128));
  EXPECT_EQ(made.config.forward_rows(), 16);
  EXPECT_EQ(made.config.key_warps, 4);
  EXPECT_EQ(made.config.tile_heads, 4);
  EXPECT_EQ(made.config.splits, 32);  // 64 blocks, at most 33 for each of 8 tiles: two each
  EXPECT_EQ(made.field("tiles"), 8);
  EXPECT_EQ(made.field("splits"), 32);
  EXPECT_EQ(made.launch().grid, (std::array<uint32_t, 3>{8, 32, 1}));
  EXPECT_EQ(made.kernel.part_bytes, (16u * 128 + 32 * 4) * 4);
  EXPECT_EQ(made.offset_in_workspace("counter"), 0);
  EXPECT_EQ(made.offset_in_workspace("parts"), 64);
  EXPECT_EQ(made.plan.workspace_bytes, 64 + 8 * 32 * made.kernel.part_bytes);
}

TEST(GpuPlanner, NothingIsSplitWhereTilesSuffice) {
  const Planned made = planned(problem_of(64, 32, 8, 1, 4096, 128));
  EXPECT_EQ(made.config.splits, 1);
  EXPECT_EQ(made.launch().grid, (std::array<uint32_t, 3>{512, 1, 1}));
  EXPECT_EQ(made.plan.workspace_bytes, 64u);
}

TEST(GpuPlanner, EveryTileOfASplitLaunchHasACounter) {
  const Planned made = planned(problem_of(16, 32, 8, 1, 65536, 128));
  EXPECT_EQ(made.field("tiles"), 128);
  EXPECT_EQ(made.config.splits, 2);
  EXPECT_EQ(made.offset_in_workspace("parts"), 128 * 4);
}

TEST(GpuPlanner, AnotherLengthIsAnotherLaunchOfTheSameKernel) {
  const Planned one = planned(problem_of(1, 32, 8, 1, 4096, 128)), other = planned(problem_of(1, 32, 8, 1, 100, 128));
  EXPECT_NE(one.config.splits, other.config.splits);
  EXPECT_EQ(one.kernel.source, other.kernel.source);
  const Planned heads = planned(problem_of(1, 32, 4, 2, 30000, 128));  // so are other numbers of heads
  EXPECT_EQ(one.kernel.source, heads.kernel.source);
}

TEST(GpuPlanner, RowsBeyondSixteenHaveTilesOfSixtyFour) {
  const Planned made = planned(problem_of(1, 32, 4, 16, 4096, 128));  // 128 rows for each key head
  EXPECT_EQ(made.config.forward_rows(), 64);
  EXPECT_EQ(made.config.tile_heads, 8);
  EXPECT_EQ(made.field("tiles_m"), 2);
  EXPECT_EQ(made.field("tiles"), 8);
  EXPECT_EQ(planned(problem_of(1, 8, 2, 512, 512, 128)).config.tile_heads, 1);
}

TEST(GpuPlanner, HeadsWithMasksOfTheirOwnAreNotPacked) {
  EXPECT_EQ(planned(problem_of(1, 8, 2, 1, 512, 64), 64).config.tile_heads, 4);
  EXPECT_EQ(planned(problem_of(1, 8, 2, 1, 512, 64), 64, kByHead).config.tile_heads, 1);
}

TEST(GpuPlanner, StridesDoNotChangeTheWorkspaceOfASmallProblem) {
  GpuProblem problem = problem_of(1, 8, 2, 1, 5000, 128);
  const Planned aligned = planned(problem);
  problem.aligned = false;
  const Planned other = planned(problem);
  EXPECT_EQ(aligned.config, other.config);
  EXPECT_EQ(aligned.plan.workspace_bytes, other.plan.workspace_bytes);
  EXPECT_EQ(other.field("vector_loads"), 0);
}

}  // namespace
}  // namespace attune::codegen
