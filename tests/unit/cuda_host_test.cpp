// What is emitted of every example, around plain loops, compiled for the CPU and compared with double precision: no GPU is needed to find a
// wrong Variant. The vocabulary's PTX is replaced by cuda_on_host.h; a warp has one lane.
#include <dlfcn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <regex>

#include "tests/gpu/variant_case.h"
#include "tests/unit/golden_file.h"

namespace attune::codegen {
namespace {

namespace fs = std::filesystem;

// Without the functions that are PTX, which cuda_on_host.h has.
std::string without_ptx(const std::string& source) {
  static const std::regex kFunctionOfPtx(
      "(template <[^\n]*\n)?DEVICE [^\n]*\\{\n(?:[^}\n][^\n]*\n|\n)*?[^\n]*asm[^\n]*\n(?:[^}\n][^\n]*\n|\n)*\\}\n");
  const size_t end = source.find("struct Config {");
  return std::regex_replace(source.substr(0, end), kFunctionOfPtx, "") + source.substr(end);
}

std::string host_source(const GpuKernel& kernel) {
  std::string source = without_ptx(kernel.source);
  // Elements of 16 bits are packed by PTX, in structs of their own.
  const size_t first = source.find("// Two numbers of 16 bits"), last = source.find("// What the operators of the language are called");
  source.erase(first, last - first);
  source = std::regex_replace(source, std::regex("kWarp = 32"), "kWarp = 1");
  return "#include \"cuda_on_host.h\"\n" + source +
         fmt::format(
             "\nextern \"C\" void run(const void* p, unsigned grid) {{\n"
             "  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)\n"
             "    for (threadIdx.x = 0; threadIdx.x < {}; ++threadIdx.x) {}(*static_cast<const Params*>(p));\n}}\n",
             kernel.threads, kernel.name);
}

class CudaOnHost : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("attune_cuda_on_host_{}", std::random_device{}());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void run(VariantCase& one) {
    const std::string stem = (folder_ / fmt::format("kernel{}", count_++)).string();
    std::ofstream(stem + ".cpp") << host_source(one.kernel);
    const std::string command = fmt::format("c++ -std=c++20 -O1 -w -fPIC -shared -ffp-contract=off -I{}/tests/unit {}.cpp -o {}.so",
                                            source_folder().string(), stem, stem);
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    void* library = dlopen((stem + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    const auto function = reinterpret_cast<void (*)(const void*, unsigned)>(dlsym(library, "run"));
    for (const runtime::GpuLaunch& launch : one.plan.launches) {
      std::vector<std::byte> argument = launch.argument;
      std::vector<std::byte> workspace(one.plan.workspace_bytes);
      for (const runtime::GpuPatch& patch : launch.patches) {
        const void* address = patch.kind == runtime::GpuPatch::Kind::kTensor ? one.tensors[static_cast<size_t>(patch.index)].data()
                                                                             : workspace.data() + patch.index;
        std::memcpy(argument.data() + patch.offset, &address, sizeof(address));
      }
      function(argument.data(), launch.grid[0]);
    }
    dlclose(library);
  }

  fs::path folder_;
  int count_ = 0;
};

TEST_F(CudaOnHost, EveryExampleAroundPlainLoops) {
  ASSERT_GE(variant_programs().size(), 20u);
  const unsigned first_seed = std::random_device{}();
  unsigned number = 0;
  for (const fs::path& path : variant_programs()) {
    const unsigned seed = first_seed + number++;
    GpuKernelOptions options;
    options.dtype = seed % 2 == 0 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16;
    options.packed = seed % 4 >= 2;
    options.head_dim = 16;
    options.v_dim = 8;
    SCOPED_TRACE(fmt::format("{}{}, seed {}", path.string(), options.packed ? ", packed" : "", seed));
    VariantCase one(read_file(path), options, seed);
    run(one);
    if (HasFatalFailure()) return;
    const VariantCase::Errors errors = one.errors(2);
    EXPECT_LT(errors.out, options.dtype == dsl::ElementType::kF16 ? 6e-4 : 3e-3);
    EXPECT_LT(errors.lse.value_or(0), 2e-5);
    EXPECT_FALSE(errors.is_flagged);
  }
}

}  // namespace
}  // namespace attune::codegen
