// What is emitted of every example, around plain loops and with the skeleton for sm_80, compiled for the CPU and compared with double
// precision: no GPU is needed to find a wrong Variant or index. The vocabulary's PTX is replaced by cuda_on_host.h, where a warp has one
// lane, and cuda_warps_on_host.h.
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

// A function `run(argument, grid, seed)`. Skeletons of warps have shared memory.
std::string host_source(const GpuKernel& kernel) {
  std::string source = without_ptx(kernel.source);
  // Elements of 16 bits are packed by PTX, in structs of their own.
  const size_t first = source.find("// Two numbers of 16 bits");
  source.erase(first, source.find("// What the operators of the language are called") - first);
  if (kernel.shared_bytes > 0) {
    const size_t copies = source.find("// sm_80 and later: asynchronous copies");
    source.erase(copies, source.find("struct Config {") - copies);
    source = std::regex_replace(source, std::regex("extern __shared__ [^;]*;"), "unsigned char* const shared = nullptr;");
    return "#include \"cuda_warps_on_host.h\"\n" + source +
           fmt::format(
               "\nextern \"C\" void run(const void* p, unsigned x, unsigned y, unsigned seed) {{\n"
               "  host::run_grid([](const void* q) {{ {}(*static_cast<const Params*>(q)); }}, p, {}, {}, x, y, seed);\n}}\n",
               kernel.name, kernel.threads, kernel.shared_bytes);
  }
  source = std::regex_replace(source, std::regex("kWarp = 32"), "kWarp = 1");
  return "#include \"cuda_on_host.h\"\n" + source +
         fmt::format(
             "\nextern \"C\" void run(const void* p, unsigned grid, unsigned, unsigned) {{\n"
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

  // Each call has another order of CTAs, and must give the same bits.
  void run(VariantCase& one, unsigned calls = 1) {
    const std::string stem = (folder_ / fmt::format("kernel{}", count_++)).string();
    std::ofstream(stem + ".cpp") << host_source(one.kernel);
    const std::string command = fmt::format("c++ -std=c++20 -O1 -w -fPIC -shared -ffp-contract=off -I{}/tests/unit {}.cpp -o {}.so",
                                            source_folder().string(), stem, stem);
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    void* library = dlopen((stem + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    const auto function = reinterpret_cast<void (*)(const void*, unsigned, unsigned, unsigned)>(dlsym(library, "run"));
    std::vector<std::byte> workspace(one.plan.workspace_bytes);
    std::vector<std::byte> before;
    for (unsigned call = 0; call < calls; ++call) {
      before = one.tensors[GpuTensorIndex::kOut];
      for (const runtime::GpuLaunch& launch : one.plan.launches) {
        std::vector<std::byte> argument = launch.argument;
        for (const runtime::GpuPatch& patch : launch.patches) {
          const void* address = patch.kind == runtime::GpuPatch::Kind::kTensor ? one.tensors[static_cast<size_t>(patch.index)].data()
                                                                               : workspace.data() + patch.index;
          std::memcpy(argument.data() + patch.offset, &address, sizeof(address));
        }
        function(argument.data(), launch.grid[0], launch.grid[1], call);
      }
      EXPECT_TRUE(call == 0 || before == one.tensors[GpuTensorIndex::kOut]) << "call " << call;
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

// Sizes that the planner gives splits, heads of a key head in one tile, warps that share keys, and what has none of them.
struct SmallCase {
  const char* program;
  VariantSizes sizes;
  bool packed = false;
};
constexpr SmallCase kSmall[] = {
    {"causal", {4, 4, 1, 300}},        {"sink", {8, 2, 1, 700}, true}, {"alibi", {8, 1, 2, 400}},
    {"flash_sigmoid", {8, 2, 9, 300}}, {"documents", {6, 2, 30, 300}}, {"window", {2, 2, 100, 300}, true},
    {"dropout", {4, 2, 70, 70}, true}, {"softmax", {8, 2, 3, 1}},      {"relu_squared", {4, 1, 16, 300}},
};

TEST_F(CudaOnHost, SmallProblems) {
  const unsigned first_seed = std::random_device{}();
  for (const SmallCase& small : kSmall) {
    const unsigned seed = first_seed + static_cast<unsigned>(&small - kSmall);
    const VariantSizes& sizes = small.sizes;
    GpuKernelOptions options;
    options.arch = "sm_80";
    options.dtype = seed % 2 == 0 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16;
    options.packed = small.packed;
    options.head_dim = 24;
    options.v_dim = 40;
    VariantCase one(read_file(source_folder() / "examples" / fmt::format("{}.attn", small.program)), options, seed, sizes, true);
    SCOPED_TRACE(fmt::format("{}{}, seed {}, {} heads of {}, q_len {}, k_len {}: {} splits, {} heads a tile, {} warps a row", small.program,
                             options.packed ? ", packed" : "", seed, sizes.heads, sizes.kv_heads, sizes.q_len, sizes.k_len,
                             one.config.splits, one.config.tile_heads, one.config.key_warps));
    EXPECT_GE(one.config.splits, 1);
    run(one, 2);
    if (HasFatalFailure()) return;
    const VariantCase::Errors errors = one.errors(2);
    EXPECT_LT(errors.out, options.dtype == dsl::ElementType::kF16 ? 1.5e-3 : 8e-3);
    EXPECT_LT(errors.lse.value_or(0), 2e-5);
    EXPECT_FALSE(errors.is_flagged);
  }
}

}  // namespace
}  // namespace attune::codegen
