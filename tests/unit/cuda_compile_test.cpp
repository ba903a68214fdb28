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
    const std::string text = read_file(path);
    compile(is_f16 ? emit_naive_backward(text, options) : emit_naive(text, options), options.arch, path.string());
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

// Every example at its default tiles: nothing is spilled, there is no stack, and ptxas has nothing to say (C7510: products one after
// another).
TEST_F(CudaCompile, NothingIsSpilled) {
  size_t number = 0;
  for (const fs::path& path : programs()) {
    if (path.parent_path().filename() != "examples") continue;
    ++number;
    const std::string text = read_file(path);
    for (const int dim : {64, 128}) {
      GpuKernelOptions options = gpu_options(dim, number % 2 == 0 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16);
      // By turns: short and long sequences at d64, and an older GPU.
      options.arch = dim == 64 && number % 4 == 3 ? "sm_80" : "sm_90a";
      GpuProblem problem = large_problem(options);
      problem.q_len = problem.k_len = dim == 64 && number % 2 == 0 ? 1024 : 4096;
      problem.batch = 16;
      const Lowered lowered = lowered_for(text, options);
      const GpuConfig config = default_config(lowered, options, problem);
      const std::string what = fmt::format("{}, head_dim {}, {}", path.string(), dim, options.arch);
      const runtime::CompiledGpu compiled = compile(emit_gpu_forward(lowered, canonical(text), options, config), options.arch, what);
      EXPECT_EQ(compiled.warnings, std::vector<std::string>{}) << what;
      for (const auto& one : compiled.kernels) {
        EXPECT_EQ(one.spill_store_bytes, 0) << what << ", " << one.kernel << ", " << one.registers << " registers";
        EXPECT_EQ(one.stack_bytes, 0) << what << ", " << one.kernel;
      }
    }
  }
  EXPECT_GE(number, 19u);
}

std::string attention(const std::string& params, const std::string& statements) {
  return "attention test(" + params + ") {\n" + statements + "\n}\n";
}

// Tensors by pair and by key: nothing is spilled, ptxas has nothing to say (C7510 and the like), whether feeders bring them or each thread
// reads them. Examples, golden programs, and what those lack.
struct FedCase {
  const char *name, *text;  // no text: a file
  int head_dim, v_dim;
  bool packed = false;
};
const std::string kBiasOfSigmoid =
                      attention("bias: f16[heads, q_len, k_len]",
                                "  score = qk * 0.125 + bias[h, q_idx, k_idx]\n  mask = k_pos <= q_pos\n  weights = sigmoid(score)"),
                  kTwo = attention(
                      "bias: bf16[q_len, k_len], gate: f32[batch, heads, q_len, k_len], keys: f32[batch, k_len]",
                      "  score = qk + bias[q_idx, k_idx] + keys[b, k_idx]\n  weights = softmax(score) * gate[b, h, q_idx, k_idx]"),
                  kSearched =
                      attention("bias: bf16[heads, q_len, k_len], doc: i32[batch, k_len], table: f32[9]",
                                "  score = qk + bias[h, q_idx, k_idx] + table[doc[b, k_idx]]\n  mask = doc[b, q_idx] == doc[b, k_idx]\n"
                                "  weights = softmax(score)"),
                  kRelative = attention("table: grad f32[heads, 129]",
                                        "  score = qk * 0.125 + table[h, clamp(q_pos - k_pos, -64, 64) + 64]\n  mask = k_pos <= q_pos\n"
                                        "  weights = softmax(score)"),
                  kShifted = attention("bias: bf16[heads, k_len, k_len]",
                                       "  score = qk + bias[h, q_pos, k_pos]\n  mask = k_pos <= q_pos\n  weights = relu(score)");

TEST_F(CudaCompile, TensorsThroughSharedMemory) {
  const FedCase cases[] = {
      {"tests/golden/dense_bias.attn", nullptr, 64, 64},
      {"tests/golden/dense_bias.attn", nullptr, 128, 128},
      {"tests/golden/dense_bias.attn", nullptr, 192, 128},
      {"tests/golden/dense_bias.attn", nullptr, 256, 256, true},
      {"examples/dense_bias.attn", nullptr, 64, 64},
      {"examples/dense_bias.attn", nullptr, 128, 128},
      {"examples/documents.attn", nullptr, 64, 64},
      {"examples/documents.attn", nullptr, 128, 128},
      {"examples/documents.attn", nullptr, 128, 128, true},
      {"examples/t5_bias.attn", nullptr, 64, 64},
      {"examples/t5_bias.attn", nullptr, 128, 128},
      {"sigmoid", kBiasOfSigmoid.c_str(), 64, 64},
      {"sigmoid", kBiasOfSigmoid.c_str(), 128, 128},
      {"two", kTwo.c_str(), 128, 128},
      {"searched", kSearched.c_str(), 64, 64},
      {"searched", kSearched.c_str(), 128, 128},
      {"relative", kRelative.c_str(), 128, 128},
      {"shifted", kShifted.c_str(), 128, 128},
  };
  bool is_f16 = false;
  for (const FedCase& c : cases) {
    const std::string text = c.text ? c.text : read_file(fs::path(ATTUNE_SOURCE_DIR) / c.name);
    GpuKernelOptions options = gpu_options(c.head_dim, (is_f16 = !is_f16) ? dsl::ElementType::kF16 : dsl::ElementType::kBF16);
    options.v_dim = c.v_dim;
    options.packed = c.packed;
    const Lowered lowered = lowered_for(text, options);
    const GpuConfig config = default_config(lowered, options, large_problem(options));
    const std::string what = fmt::format("{}, {}x{}", c.name, c.head_dim, c.v_dim);
    EXPECT_GT(config.feed_stages, 0) << what;
    const GpuKernel kernel = emit_gpu_forward(lowered, canonical(text), options, config);
    const runtime::CompiledGpu compiled = compile(kernel, options.arch, what);
    EXPECT_EQ(compiled.warnings, std::vector<std::string>{}) << what;
    EXPECT_LE(kernel.shared_bytes, 227u << 10) << what;
    for (const auto& one : compiled.kernels) EXPECT_EQ(one.spill_store_bytes, 0) << what << ", " << one.registers << " registers";
  }
}

// What layouts that the copy engine cannot read get.
TEST_F(CudaCompile, TensorsReadByEachThread) {
  for (const int dim : {64, 128}) {
    const std::string text = read_file(fs::path(ATTUNE_SOURCE_DIR) / "tests/golden/dense_bias.attn");
    const GpuKernelOptions options = gpu_options(dim);
    const Lowered lowered = lowered_for(text, options);
    GpuProblem problem = large_problem(options);
    problem.k_len = 4097;  // rows of an odd number of elements
    const GpuConfig config = default_config(lowered, options, problem);
    EXPECT_EQ(config.skeleton, GpuSkeleton::kSm90);
    EXPECT_EQ(config.feed_stages, 0);
    const auto compiled = compile(emit_gpu_forward(lowered, canonical(text), options, config), options.arch, "read by each thread");
    EXPECT_EQ(compiled.warnings, std::vector<std::string>{});
    for (const auto& one : compiled.kernels) EXPECT_EQ(one.spill_store_bytes, 0) << one.registers << " registers";
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
    int head_dim, v_dim;
    bool deterministic;
  };
  for (const auto& [name, head_dim, v_dim, deterministic] : {Case{"flash_sigmoid", 64, 64, false},
                                                             {"causal", 128, 128, false},
                                                             {"causal", 192, 128, false},
                                                             {"flash_sigmoid", 192, 64, false},
                                                             {"capped", 136, 160, false},
                                                             {"documents", 256, 256, false},
                                                             {"causal", 64, 64, true},
                                                             {"causal", 192, 128, true},
                                                             {"dense_bias", 64, 64, true}}) {
    const std::string text = read_file(fs::path(ATTUNE_SOURCE_DIR) / "tests/golden" / (std::string(name) + ".attn"));
    GpuKernelOptions options = gpu_options(head_dim);
    options.v_dim = v_dim;
    options.deterministic = deterministic;
    const Lowered lowered = lowered_for(text, options);
    const GpuKernel kernel = emit_gpu_backward(lowered, canonical(text), options, backward_tiles(lowered, options));
    const auto compiled = compile(kernel, options.arch, fmt::format("{}, head dims {} and {}", name, head_dim, v_dim));
    EXPECT_EQ(compiled.warnings, std::vector<std::string>{}) << name;
    if (head_dim == 256 || deterministic) continue;
    for (const auto& one : compiled.kernels) EXPECT_EQ(one.spill_store_bytes, 0) << name << ", " << one.kernel;
  }
}

// Parameters with gradients, of each way in which they come about; a few registers may not suffice.
TEST_F(CudaCompile, BackwardOfTrainedParameters) {
  constexpr int kFewBytes = 64;
  for (const char* name : {"alibi", "temperature", "sink", "dense_bias"}) {
    const std::string text = read_file(fs::path(ATTUNE_SOURCE_DIR) / "examples" / (std::string(name) + ".attn"));
    for (const int head_dim : {64, 128}) {
      const GpuKernelOptions options = gpu_options(head_dim, head_dim == 64 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16);
      const Lowered lowered = lowered_for(text, options);
      const GpuKernel kernel = emit_gpu_backward(lowered, canonical(text), options, backward_tiles(lowered, options));
      const auto compiled = compile(kernel, options.arch, fmt::format("{}, head_dim {}", name, head_dim));
      EXPECT_EQ(compiled.warnings, std::vector<std::string>{}) << name;
      for (const auto& one : compiled.kernels)
        EXPECT_LE(one.spill_store_bytes, kFewBytes) << name << ", " << one.kernel << ", " << head_dim;
    }
  }
}

TEST_F(CudaCompile, PersistentBackward) {
  for (const auto& [name, head_dim] :
       {std::pair("flash_sigmoid", 64), std::pair("causal", 64), std::pair("flash_sigmoid", 128), std::pair("causal", 128)}) {
    const std::string text = read_file(fs::path(ATTUNE_SOURCE_DIR) / "tests/golden" / (std::string(name) + ".attn"));
    const GpuKernelOptions options = gpu_options(head_dim);
    const Lowered lowered = lowered_for(text, options);
    GpuConfig config = backward_tiles(lowered, options);
    ASSERT_TRUE(can_persist(options, config)) << name;
    config.persistent = true;
    const GpuKernel kernel = emit_gpu_backward(lowered, canonical(text), options, config);
    const auto compiled = compile(kernel, options.arch, fmt::format("{}, head_dim {}, persistent", name, head_dim));
    EXPECT_EQ(compiled.warnings, std::vector<std::string>{}) << name;
    for (const auto& one : compiled.kernels) EXPECT_EQ(one.spill_store_bytes, 0) << name << ", " << one.kernel;
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
