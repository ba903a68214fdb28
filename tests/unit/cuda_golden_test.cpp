// What is generated for the programs of tests/golden: <program>.<arch>.cu, <program>.fed.<arch>.cu where feeders bring tensors,
// <program>.backward.<arch>.cu. With ATTUNE_UPDATE_GOLDEN=1 in the
// environment the files are written instead.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/unit/cuda_util.h"

namespace attune::codegen {
namespace {

struct Case {
  const char* program;
  GpuSkeleton skeleton;
  dsl::ElementType dtype;
  int head_dim;
  bool stale = false, packed = false, fed = false;
};

constexpr Case kCases[] = {
    {"flash_sigmoid", GpuSkeleton::kSm90, dsl::ElementType::kBF16, 128},
    {"causal", GpuSkeleton::kSm90, dsl::ElementType::kF16, 64, true},
    {"capped", GpuSkeleton::kSm90, dsl::ElementType::kBF16, 128},
    {"documents", GpuSkeleton::kSm90, dsl::ElementType::kBF16, 64},
    {"dense_bias", GpuSkeleton::kSm90, dsl::ElementType::kBF16, 64},
    {"dense_bias", GpuSkeleton::kSm90, dsl::ElementType::kBF16, 128, true, false, true},
    {"documents", GpuSkeleton::kSm90, dsl::ElementType::kF16, 64, true, false, true},
    {"t5_bias", GpuSkeleton::kSm90, dsl::ElementType::kBF16, 64, true, false, true},
    {"prefix_lm", GpuSkeleton::kSm80, dsl::ElementType::kF16, 64, false, true},
    {"t5_bias", GpuSkeleton::kSm80, dsl::ElementType::kBF16, 64},
};

TEST(CudaGolden, GeneratedParts) {
  for (const Case& c : kCases) {
    GpuKernelOptions options = gpu_options(c.head_dim, c.dtype);
    options.packed = c.packed;
    GpuConfig config = c.skeleton == GpuSkeleton::kSm80 ? sm80_config() : GpuConfig{};
    config.stale = c.stale;
    const std::string text = read_file(golden_folder() / fmt::format("{}.attn", c.program));
    const Lowered lowered = lowered_for(text, options);
    if (c.fed) config = default_config(lowered, options, large_problem(options));
    const char* arch = c.skeleton == GpuSkeleton::kSm80 ? "sm80" : "sm90";
    check_golden(golden_folder() / fmt::format("{}.{}{}.cu", c.program, c.fed ? "fed." : "", arch),
                 emit_gpu_variant(lowered, options, config));
  }
}

TEST(CudaGolden, GeneratedPartsOfTheBackwardPass) {
  for (const auto& [program, skeleton] : {std::pair("capped", GpuSkeleton::kSm90), std::pair("flash_sigmoid", GpuSkeleton::kSm90),
                                          std::pair("t5_bias", GpuSkeleton::kSm80), std::pair("documents", GpuSkeleton::kSm90)}) {
    const GpuKernelOptions options = gpu_options(64);
    const GpuConfig config = skeleton == GpuSkeleton::kSm80 ? sm80_config() : GpuConfig{};
    const char* arch = skeleton == GpuSkeleton::kSm80 ? "sm80" : "sm90";
    const std::string text = read_file(golden_folder() / fmt::format("{}.attn", program));
    check_golden(golden_folder() / fmt::format("{}.backward.{}.cu", program, arch),
                 emit_gpu_backward_variant(lowered_for(text, options), options, config));
  }
}

}  // namespace
}  // namespace attune::codegen
