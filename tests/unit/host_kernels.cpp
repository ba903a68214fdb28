#include "tests/unit/host_kernels.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <regex>
#include <set>
#include <stdexcept>

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

std::string host_source(const std::string& cuda, const runtime::GpuPlan& plan, HostThreads threads) {
  std::string source = without_ptx(cuda);
  // Elements of 16 bits are packed by PTX, in structs of their own.
  const size_t first = source.find("// Two numbers of 16 bits"), last = source.find("// What the operators of the language are called");
  source.erase(first, last - first);
  const bool is_alone = threads == HostThreads::kAlone;
  if (is_alone) source = std::regex_replace(source, std::regex("kWarp = 32"), "kWarp = 1");
  source = fmt::format("#include \"{}\"\n", is_alone ? "cuda_on_host.h" : "cuda_warps_on_host.h") + source;
  std::set<std::string> names;
  for (const runtime::GpuLaunch& launch : plan.launches) {
    if (!names.insert(launch.kernel).second) continue;
    source += fmt::format(
        "\nextern \"C\" void run_{0}(const void* p, unsigned x, unsigned y, unsigned threads, unsigned shared_bytes, unsigned seed) {{\n"
        "  host::run({{x, y, threads, shared_bytes, seed}}, [p] {{ {0}(*static_cast<const Params*>(p)); }});\n}}\n",
        launch.kernel);
  }
  return source;
}

}  // namespace

HostKernels::HostKernels() : folder_(fs::temp_directory_path() / fmt::format("attune_cuda_on_host_{}", std::random_device{}())) {
  fs::create_directories(folder_);
}

HostKernels::~HostKernels() {
  fs::remove_all(folder_);
}

bool HostKernels::run(const std::string& source, const runtime::GpuPlan& plan, std::vector<std::vector<std::byte>>& tensors,
                      HostThreads threads, unsigned calls) {
  const std::string stem = (folder_ / fmt::format("kernel{}", count_++)).string();
  std::ofstream(stem + ".cpp") << host_source(source, plan, threads);
  const std::string command = fmt::format(
      "c++ -std=c++20 -O1 -w -Wno-psabi -fPIC -shared -ffp-contract=off -I{}/tests/unit {}.cpp -o {}.so", ATTUNE_SOURCE_DIR, stem, stem);
  if (std::system(command.c_str()) != 0) throw std::runtime_error("this failed: " + command);
  void* library = dlopen((stem + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  std::vector<std::byte> workspace(plan.workspace_bytes);
  std::vector<std::vector<std::byte>> first;
  bool is_same = true;
  for (unsigned call = 0; call < calls; ++call) {
    for (const runtime::GpuLaunch& launch : plan.launches) {
      std::vector<std::byte> argument = launch.argument;
      for (const runtime::GpuPatch& patch : launch.patches) {
        std::byte* address = workspace.data() + patch.index;
        if (patch.kind == runtime::GpuPatch::Kind::kTensor) {
          std::vector<std::byte>& tensor = tensors.at(static_cast<size_t>(patch.index));
          address = tensor.empty() ? nullptr : tensor.data();
        }
        std::memcpy(argument.data() + patch.offset, &address, sizeof(address));
      }
      using Function = void (*)(const void*, unsigned, unsigned, unsigned, unsigned, unsigned);
      const auto function = reinterpret_cast<Function>(dlsym(library, ("run_" + launch.kernel).c_str()));
      function(argument.data(), launch.grid[0], launch.grid[1], launch.block[0], launch.shared_bytes, call);
    }
    if (call == 0) first = tensors;
    is_same = is_same && tensors == first;
  }
  dlclose(library);
  return is_same;
}

}  // namespace attune::codegen
