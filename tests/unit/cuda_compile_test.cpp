// Every example and golden program, as CUDA around plain loops, through NVRTC: what is emitted compiles, for both dtypes, packed too.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "codegen/gpu_planner.h"
#include "runtime/error.h"
#include "runtime/nvrtc.h"
#include "tests/unit/cuda_util.h"

namespace attune::codegen {
namespace {

namespace fs = std::filesystem;

class CudaCompile : public testing::Test {
 protected:
  void SetUp() override {
    try {
      runtime::nvrtc_version();
    } catch (const EnvironmentError& error) {
      GTEST_SKIP() << "no NVRTC: " << error.what();
    }
  }
};

runtime::CompiledGpu compile(const GpuKernel& kernel, const std::string& arch, const std::string& what) {
  SCOPED_TRACE(what);
  runtime::CompiledGpu compiled;
  EXPECT_NO_THROW(
      try { compiled = runtime::compile_gpu({kernel.source, arch}); } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
        throw;
      });
  const auto has = [&](const std::string& name) {
    return std::any_of(compiled.kernels.begin(), compiled.kernels.end(), [&](const auto& one) { return one.kernel == name; });
  };
  for (const std::string& name :
       {kernel.name, kernel.extents_name, kernel.prepare_name, kernel.queries_name, kernel.finish_name, kernel.sums_name})
    EXPECT_TRUE(name.empty() || has(name)) << name;
  return compiled;
}

TEST_F(CudaCompile, EveryProgramAroundPlainLoops) {
  ASSERT_GE(programs().size(), 20u);
  bool is_f16 = false;
  for (const fs::path& path : programs()) {
    GpuKernelOptions options = gpu_options(64, is_f16 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16);
    options.arch = is_f16 ? "sm_80" : "sm_90a";
    compile(emit_naive(read_file(path), options), options.arch, path.string());
    compile(emit_naive_backward(read_file(path), options), options.arch, path.string() + ", backward");
    is_f16 = !is_f16;
  }
}

// The skeletons of codegen/device/.
TEST_F(CudaCompile, OwnSkeleton) {
  for (const char* name : {"flash_sigmoid", "capped", "documents"}) {
    const fs::path path = fs::path(ATTUNE_SOURCE_DIR) / "tests/golden" / (std::string(name) + ".attn");
    const std::string text = read_file(path);
    const GpuKernelOptions options = gpu_options(64);
    const Lowered lowered = lowered_for(text, options);
    compile(emit_gpu_forward(lowered, canonical(text), options, GpuConfig{}), options.arch, path.string());
    compile(emit_gpu_forward(lowered, canonical(text), options, sm80_config()), "sm_80", path.string());
    compile(emit_gpu_forward(lowered, canonical(text), options, quick_config()), options.arch, path.string());
  }
}

// By its default tiles: nothing is spilled, and it fits into the shared memory of every GPU.
TEST_F(CudaCompile, BackwardSkeletonOfSm80) {
  struct Case {
    const char* program;
    int head_dim, v_dim;
    dsl::ElementType dtype;
  };
  constexpr uint32_t kSharedBytes = 99 << 10;
  for (const Case& c : {Case{"causal", 64, 64, dsl::ElementType::kF16},
                        {"causal", 96, 96, dsl::ElementType::kBF16},
                        {"capped", 128, 128, dsl::ElementType::kBF16},
                        {"causal", 192, 128, dsl::ElementType::kF16},
                        {"flash_sigmoid", 256, 256, dsl::ElementType::kBF16}}) {
    const std::string text = read_file(fs::path(ATTUNE_SOURCE_DIR) / fmt::format("tests/golden/{}.attn", c.program));
    GpuKernelOptions options = gpu_options(c.head_dim, c.dtype);
    options.v_dim = c.v_dim;
    options.arch = "sm_80";
    const Lowered lowered = lowered_for(text, options);
    const GpuKernel kernel = emit_gpu_backward(lowered, canonical(text), options, default_backward_config(lowered, options, {}));
    const std::string what = fmt::format("{}, {}, {}", c.program, c.head_dim, c.v_dim);
    EXPECT_EQ(compile(kernel, options.arch, what).warnings, std::vector<std::string>{}) << what;
    EXPECT_LE(kernel.shared_bytes, kSharedBytes) << what;
  }
}

TEST_F(CudaCompile, OwnBackwardSkeleton) {
  struct Case {
    const char* name;
    int dim;
    bool deterministic;
  };
  for (const auto& [name, dim, deterministic] : {Case{"flash_sigmoid", 64, false},
                                                 {"causal", 128, false},
                                                 {"documents", 256, false},
                                                 {"causal", 64, true},
                                                 {"dense_bias", 64, true}}) {
    const std::string text = read_file(fs::path(ATTUNE_SOURCE_DIR) / "tests/golden" / (std::string(name) + ".attn"));
    GpuKernelOptions options = gpu_options(dim);
    options.deterministic = deterministic;
    GpuConfig config;
    config.block_m = dim == 64 ? 128 : 64;
    config.block_n = dim == 256 ? 64 : 128;
    const GpuKernel kernel = emit_gpu_backward(lowered_for(text, options), canonical(text), options, config);
    const auto compiled = compile(kernel, options.arch, fmt::format("{}, head_dim {}", name, dim));
    EXPECT_TRUE(!deterministic || compiled.warnings.empty()) << name << ": " << fmt::format("{}", fmt::join(compiled.warnings, "; "));
  }
}

// Small problems: registers suffice on sm_80 and sm_90, for either number of rows, and shared heads.
TEST_F(CudaCompile, SmallProblemsDoNotSpill) {
  struct Size {
    int q_len, heads, kv_heads;
  };
  constexpr Size kSizes[] = {{1, 8, 2}, {32, 8, 2}, {512, 8, 8}};
  size_t number = 0;  // each program at each head dim, with sizes by turns
  for (const char* name : {"examples/sink.attn", "examples/flash_sigmoid.attn", "examples/documents.attn"}) {
    const std::string text = read_file(fs::path(ATTUNE_SOURCE_DIR) / name);
    for (const auto& [head_dim, v_dim] : {std::pair(64, 64), std::pair(128, 128), std::pair(192, 128), std::pair(256, 256)}) {
      const Size& size = kSizes[number++ % std::size(kSizes)];
      GpuKernelOptions options = gpu_options(head_dim);
      options.v_dim = v_dim;
      options.arch = size.q_len == 32 ? "sm_80" : "sm_90a";
      const Lowered lowered = lowered_for(text, options);
      GpuProblem problem;
      problem.q_len = size.q_len, problem.k_len = 4096, problem.heads = size.heads, problem.kv_heads = size.kv_heads;
      const GpuConfig config = default_config(lowered, options, problem);
      SCOPED_TRACE(fmt::format("{}, {}x{}, q_len {}", name, head_dim, v_dim, size.q_len));
      ASSERT_GT(config.splits, 0);
      const GpuKernel kernel = emit_gpu_forward(lowered, canonical(text), options, config);
      for (const auto& one : runtime::compile_gpu({kernel.source, options.arch}).kernels) {
        EXPECT_EQ(one.spill_store_bytes, 0) << one.registers << " registers";
        EXPECT_EQ(one.stack_bytes, 0);
      }
    }
  }
}

}  // namespace
}  // namespace attune::codegen
