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
  EXPECT_EQ(tile(16, 1024, 64, kCapped), std::pair(192, 80));
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

// ---- Tensors that feeders bring

constexpr char kBias[] =
    "attention test(bias: bf16[heads, q_len, k_len]) {\n  score = qk + bias[h, q_idx, k_idx]\n  weights = softmax(score)\n}\n";
constexpr char kBiasF32[] =
    "attention test(bias: f32[heads, q_len, k_len]) {\n  score = qk + bias[h, q_idx, k_idx]\n  weights = softmax(score)\n}\n";

GpuProblem biased_problem(std::vector<int64_t> strides, int k_len = 1000) {
  GpuProblem problem = problem_of(1, 16, 16, 2048, k_len, 128);
  GpuParamBinding& binding = problem.params.emplace_back();
  binding.strides = std::move(strides);
  binding.dims = {16, 2048, k_len};
  return problem;
}

TEST(GpuPlanner, TilesOfABiasAreMapped) {
  const Planned made = planned(biased_problem({2048 * 1008, 1008, 1}), 128, kBias);
  EXPECT_EQ(made.config.fed_tensors, std::vector<int>{0});
  EXPECT_EQ(made.config.feed_stages, 1);  // shared memory is short
  EXPECT_EQ(made.config.block_n, 128);
  EXPECT_EQ(made.kernel.shared_bytes, 227u << 10);
  ASSERT_EQ(made.launch().tensor_maps.size(), 5u);
  const runtime::GpuTensorMap& map = made.launch().tensor_maps[4];
  EXPECT_EQ(map.tensor, static_cast<int>(GpuTensorIndex::kParams));
  EXPECT_EQ(map.type, runtime::FloatType::kBF16);
  EXPECT_EQ(map.dims, (std::vector<uint64_t>{1000, 2048, 16, 1}));
  EXPECT_EQ(map.strides, (std::vector<uint64_t>{2016, 2048 * 2016, 16}));
  EXPECT_EQ(map.box, (std::vector<uint32_t>{64, 64, 1, 1}));
}

TEST(GpuPlanner, TilesOfABroadcastHeadAreMappedOnce) {
  const Planned made = planned(biased_problem({0, 1000, 1}), 128, kBias);
  ASSERT_EQ(made.launch().tensor_maps.size(), 5u);
  EXPECT_EQ(made.launch().tensor_maps[4].dims, (std::vector<uint64_t>{1000, 2048, 1, 1}));
  EXPECT_EQ(made.launch().tensor_maps[4].strides, (std::vector<uint64_t>{2000, 16, 16}));
}

TEST(GpuPlanner, TensorsThatTheCopyEngineCannotReadAreReadByEachThread) {
  const auto is_fed = [](const GpuProblem& problem) { return planned(problem, 128, kBias).config.feed_stages > 0; };
  EXPECT_TRUE(is_fed(biased_problem({2048 * 1000, 1000, 1})));
  EXPECT_FALSE(is_fed(biased_problem({2048 * 1001, 1001, 1}, 1001)));  // rows that are no multiple of 16 bytes
  EXPECT_FALSE(is_fed(biased_problem({2048 * 1000 + 4, 1000, 1})));
  EXPECT_FALSE(is_fed(biased_problem({2048 * 1000, 1, 2048})));  // keys first
  EXPECT_FALSE(is_fed(biased_problem({1000, 0, 1})));            // a row for all queries
  EXPECT_FALSE(is_fed(biased_problem({2048, 8, 0})));
  GpuProblem problem = biased_problem({2048 * 1000, 1000, 1});
  problem.params[0].is_aligned = false;
  EXPECT_FALSE(is_fed(problem));
  EXPECT_EQ(planned(problem, 128, kBias).config.skeleton, GpuSkeleton::kSm90);
}

TEST(GpuPlanner, ABiasOfF32TakesBlocksOf64Keys) {
  const GpuProblem problem = biased_problem({2048 * 1000, 1000, 1});
  const Planned wide = planned(problem, 128, kBiasF32), narrow = planned(problem, 64, kBiasF32);
  EXPECT_EQ(wide.config.block_n, 64);
  EXPECT_EQ(wide.config.feed_stages, 2);
  EXPECT_EQ(wide.launch().tensor_maps[4].box, (std::vector<uint32_t>{32, 64, 1, 1}));
  EXPECT_EQ(narrow.config.block_n, 64);
  EXPECT_EQ(narrow.config.feed_stages, 3);
  EXPECT_EQ(planned(problem, 64, kBias).config.block_n, 128);
}

TEST(GpuPlanner, OnlyWhatReadsTensorsByKeyOrPairHasFeeders) {
  const auto config = [](const std::string& params, const std::string& score, const std::string& mask = "true") {
    const std::string text =
        "attention test(" + params + ") {\n  score = " + score + "\n  mask = " + mask + "\n  weights = softmax(score)\n}\n";
    const GpuKernelOptions options = gpu_options(128);
    return default_config(lowered_for(text, options), options, large_problem(options));
  };
  EXPECT_EQ(config("s: f32[heads], r: f32[q_len]", "qk * s[h] + r[q_idx]").feed_stages, 0);
  EXPECT_TRUE(config("c: f32[k_len]", "qk + c[k_idx]").feeds_columns);
  EXPECT_TRUE(config("c: i32[k_len]", "qk", "c[k_idx] > 0").feeds_columns);
  EXPECT_TRUE(config("t: f32[9]", "qk + t[clamp(q_idx - k_idx, -4, 4) + 4]").feeds_tables);
  EXPECT_FALSE(config("t: f32[1001]", "qk + t[clamp(q_idx - k_idx, -500, 500) + 500]").feeds_tables);  // not so small
  EXPECT_TRUE(config("t: f32[k_len, q_len]", "qk + t[k_idx, q_idx]").fed_tensors.empty());
  EXPECT_TRUE(config("m: u8[q_len, k_len]", "qk", "m[q_idx, k_idx] > 0").fed_tensors.empty());
  EXPECT_EQ(config("t: f16[k_len, k_len]", "qk + t[q_pos, k_pos]").fed_tensors, std::vector<int>{0});
}

TEST(GpuPlanner, PersistentBackwardHasACtaForEachMultiprocessor) {
  const auto grid = [](int batch, bool persistent) {
    const GpuKernelOptions options = gpu_options(128);
    const Lowered lowered = lowered_for(kCausal, options);
    GpuConfig config = backward_tiles(lowered, options);
    config.persistent = persistent;
    const GpuKernel kernel = emit_gpu_backward(lowered, canonical(kCausal), options, config);
    GpuProblem problem = large_problem(options);
    problem.batch = batch;
    for (const runtime::GpuLaunch& launch : plan_gpu_backward(lowered, kernel, options, config, problem).launches) {
      if (launch.kernel == kernel.name) return launch.grid[0];
    }
    return 0u;
  };
  EXPECT_EQ(grid(1, false), 512u);
  EXPECT_EQ(grid(1, true), 132u);
  EXPECT_EQ(grid(0, true), 0u);
}

// Whose second place for K and V fits, and whose tiles a counter may give out.
TEST(GpuPlanner, BackwardConfigsThatCanPersist) {
  const auto can = [](int head_dim, bool sums, bool deterministic = false, bool packed = false) {
    GpuKernelOptions options = gpu_options(head_dim);
    options.deterministic = deterministic;
    options.packed = packed;
    GpuConfig config = backward_tiles(lowered_for(kCausal, options), options);
    config.sums = sums;
    return can_persist(options, config);
  };
  EXPECT_TRUE(can(64, false));
  EXPECT_TRUE(can(96, false));
  EXPECT_TRUE(can(128, false));
  EXPECT_TRUE(can(64, true));
  EXPECT_FALSE(can(128, true));
  EXPECT_FALSE(can(192, false));
  EXPECT_FALSE(can(64, false, true));
  EXPECT_FALSE(can(64, false, false, true));
}

TEST(GpuPlanner, BackwardTilesByWhatAProgramTrains) {
  const auto config = [](int head_dim, const char* params, const char* score, const char* mask = "k_pos <= q_pos") {
    GpuKernelOptions options = gpu_options(head_dim);
    return backward_tiles(
        lowered_for(fmt::format("attention test({}) {{\n  score = {}\n  mask = {}\n  weights = softmax(score)\n}}\n", params, score, mask),
                    options),
        options);
  };
  const GpuConfig plain = config(64, "", "qk"), wide = config(128, "", "qk");
  EXPECT_TRUE(plain.persistent && plain.block_m == 128 && !plain.sums);
  EXPECT_TRUE(!wide.persistent && wide.block_m == 64);
  EXPECT_FALSE(config(64, "ids: i32[k_len]", "qk", "ids[q_pos] == ids[k_pos]").persistent);
  EXPECT_EQ(config(64, "t: grad f32", "qk * t"), plain);  // from dQ
  const GpuConfig bias = config(64, "bias: grad f32[heads]", "qk + bias[h]"),
                  slope = config(64, "s: grad f32[heads]", "qk - s[h] * (q_pos - k_pos)");
  EXPECT_TRUE(bias.sums && bias.persistent && bias.block_m == 128);
  EXPECT_TRUE(slope.sums && !slope.persistent && slope.block_m == 128);
  EXPECT_TRUE(config(128, "bias: grad f32[heads]", "qk + bias[h]").sums);
  const GpuConfig narrow = config(32, "bias: grad f32[heads]", "qk + bias[h]");  // no whole chunk in front of the columns
  EXPECT_TRUE(!narrow.sums && narrow.block_m == 64);
  EXPECT_EQ(config(64, "r: grad f32[q_len]", "qk + r[q_idx]").block_m, 64);
  for (const char* grad : {"", "grad "}) {
    const GpuConfig halves = config(64, fmt::format("bias: {}bf16[heads, q_len, k_len]", grad).c_str(), "qk + bias[h, q_idx, k_idx]");
    EXPECT_TRUE(halves.fed_tensors == std::vector{0} && halves.block_m == 128 && !halves.sums);
    const GpuConfig words = config(64, fmt::format("bias: {}f32[heads, q_len, k_len]", grad).c_str(), "qk + bias[h, q_idx, k_idx]");
    EXPECT_TRUE(words.fed_tensors == std::vector{0} && words.block_m == 64);
  }
  // The derivative needs the tensor, too.
  EXPECT_TRUE(config(64, "bias: bf16[heads, q_len, k_len]", "qk * bias[h, q_idx, k_idx]").fed_tensors.empty());
  EXPECT_TRUE(config(64, "bias: bf16[heads, q_len, k_len]", "tanh(qk) + bias[h, q_idx, k_idx]").fed_tensors.empty());
}

// Of two reads of a tensor, one that the derivative needs, too: what is planned is what the kernel takes.
TEST(GpuPlanner, BackwardFitsSharedMemoryWhereOneReadOfSeveralIsBrought) {
  constexpr uint32_t kSharedBytes = 227 << 10;
  for (const auto& [head_dim, type] : {std::pair(64, "bf16"), std::pair(128, "f32"), std::pair(256, "f32")}) {
    const std::string text = fmt::format(
        "attention test(w: {}[4, q_len, k_len]) {{\n  score = qk * w[0, q_idx, k_idx] * w[3, q_idx, k_idx] + w[1, q_idx, k_idx]\n"
        "  weights = softmax(score)\n}}\n",
        type);
    const GpuKernelOptions options = gpu_options(head_dim);
    const Lowered lowered = lowered_for(text, options);
    const GpuConfig config = backward_tiles(lowered, options);
    EXPECT_EQ(config.fed_tensors, std::vector<int>{0}) << head_dim;
    EXPECT_LE(emit_gpu_backward(lowered, canonical(text), options, config).shared_bytes, kSharedBytes) << head_dim;
  }
}

}  // namespace
}  // namespace attune::codegen
