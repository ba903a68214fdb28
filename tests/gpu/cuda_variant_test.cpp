// What is emitted of every example, around plain loops (naive_forward.cuh), run on a GPU and compared with double precision: tells a wrong
// Variant from a wrong skeleton. The loops also compare what is said of tiles with every pair.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "runtime/error.h"
#include "runtime/gpu_device.h"
#include "runtime/gpu_executor.h"
#include "runtime/gpu_memory.h"
#include "runtime/nvrtc.h"
#include "tests/gpu/variant_case.h"
#include "tests/unit/golden_file.h"

namespace attune::codegen {
namespace {

constexpr int kDevice = 0;

class CudaVariant : public testing::Test {
 protected:
  void SetUp() override {
    try {
      device_ = runtime::gpu_device(kDevice);
      runtime::nvrtc_version();
    } catch (const EnvironmentError& error) {
      GTEST_SKIP() << "GPU tests skipped: " << error.what();
    }
  }

  void run(VariantCase& one, const std::string& arch) const {
    const runtime::CompiledGpu compiled = runtime::compile_gpu({one.kernel.source, arch});
    const auto binary = std::make_shared<runtime::GpuBinary>();
    binary->cubin = compiled.cubin;
    binary->kernels = compiled.kernels;
    const std::shared_ptr<const runtime::GpuBinary> shared = binary;
    runtime::GpuExecutor executor(one.plan, std::span(&shared, 1), kDevice);
    std::vector<runtime::GpuBuffer> buffers;
    std::vector<void*> addresses;
    for (const std::vector<std::byte>& tensor : one.tensors) {
      buffers.emplace_back(kDevice, tensor.size());
      buffers.back().copy_from_host(tensor.data(), tensor.size());
      addresses.push_back(buffers.back().data());
    }
    const runtime::GpuBuffer workspace(kDevice, executor.workspace_bytes());
    workspace.zero();
    executor.run(nullptr, addresses, workspace.data());
    for (size_t i = 0; i < buffers.size(); ++i) buffers[i].copy_to_host(one.tensors[i].data(), one.tensors[i].size());
    runtime::synchronize(kDevice);
  }

  runtime::GpuDevice device_;
};

TEST_F(CudaVariant, EveryExampleAroundPlainLoops) {
  ASSERT_GE(variant_programs().size(), 20u);
  const unsigned first_seed = std::random_device{}();
  unsigned number = 0;
  for (const std::filesystem::path& path : variant_programs()) {
    GpuKernelOptions options;
    options.arch = device_.sm() + (device_.major == 9 ? "a" : "");
    options.dtype = number % 2 == 0 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16;
    options.packed = number % 4 >= 2;
    options.head_dim = 32;
    options.v_dim = 24;
    const unsigned seed = first_seed + number++;
    SCOPED_TRACE(fmt::format("{}, seed {}", path.string(), seed));
    VariantCase one(read_file(path), options, seed);
    run(one, options.arch);
    const VariantCase::Errors errors = one.errors(8);
    fmt::print("{:24} {:6} out {:.1e}  lse {:.1e}\n", path.stem().string(), options.packed ? "packed" : "", errors.out,
               errors.lse.value_or(0));
    EXPECT_LT(errors.out, options.dtype == dsl::ElementType::kF16 ? 6e-4 : 3e-3);
    EXPECT_LT(errors.lse.value_or(0), 2e-5);
    EXPECT_FALSE(errors.is_flagged);
  }
}

}  // namespace
}  // namespace attune::codegen
