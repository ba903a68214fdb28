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

// Products of warpgroups, whose PTX says where the steps of their operands begin.
std::string products_on_host(const std::string& cuda) {
  static const std::regex kStep(
      "(?:add\\.s64 a, %\\d+, (\\d+); )?add\\.s64 b, %\\d+, (\\d+); wgmma[^\n]*\\.(f16|bf16) \\{[^\n]*, b, (none|adds|1), 1, 1,"
      "(?: (\\d),)? (\\d);");
  std::string text;
  const std::string start = "DEVICE void products_";
  for (size_t begin = cuda.find(start); begin != std::string::npos; begin = cuda.find(start, begin + 1)) {
    const std::string function = cuda.substr(begin, cuda.find("\n}\n", begin) - begin);
    text += function.substr(0, function.find('\n')) + "\n  host::begin_products();\n";
    if (function.find("(int does,") != std::string::npos) text += "  if (!does) return;\n";
    int number = 0;
    for (std::sregex_iterator step(function.begin(), function.end(), kStep), end; step != end; ++step, ++number) {
      const std::smatch& found = *step;
      const std::string element = found[3] == "f16" ? "F16" : "BF16", adds = found[4] == "adds" ? "accumulates"
                                                                             : found[4] == "1"  ? "true"
                                                                                                : "false";
      text += found[1].matched ? fmt::format("  host::multiply_shared<{}>(d, a + {}, b + {}, {}, {}, {});\n", element, found[1].str(),
                                             found[2].str(), found[5].str(), found[6].str(), adds)
                               : fmt::format("  host::multiply_registers<{}>(d, w + {}, b + {}, {}, {});\n", element, 4 * number,
                                             found[2].str(), found[6].str(), adds);
    }
    text += "}\n";
  }
  return text;
}

const char* header_of(HostThreads threads) {
  return threads == HostThreads::kAlone    ? "cuda_on_host.h"
         : threads == HostThreads::kHopper ? "cuda_hopper_on_host.h"
                                           : "cuda_warps_on_host.h";
}

void compile(const std::string& arguments) {
  const std::string command = "c++ -std=c++20 -O1 -w -Wno-psabi -fno-gnu-unique -fPIC -ffp-contract=off " + arguments;
  if (std::system(command.c_str()) != 0) throw std::runtime_error("this failed: " + command);
}

std::string host_source(const std::string& cuda, const runtime::GpuPlan& plan, HostThreads threads) {
  std::string source = without_ptx(cuda);
  // Elements of 16 bits are packed by PTX, in structs of their own.
  const size_t first = source.find("// Two numbers of 16 bits"), last = source.find("// What the operators of the language are called");
  source.erase(first, last - first);
  const bool is_alone = threads == HostThreads::kAlone;
  if (is_alone) source = std::regex_replace(source, std::regex("kWarp = 32"), "kWarp = 1");
  source = std::regex_replace(source, std::regex("__shared__ __align__"), "static __align__");  // of a CTA, not of a thread
  if (threads == HostThreads::kHopper) source.insert(source.find("struct Config {"), products_on_host(cuda));
  source = fmt::format("#include \"{}\"\n", header_of(threads)) + source;
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

// host::Map of cuda_hopper_on_host.h.
void encode(const runtime::GpuTensorMap& map, std::byte* data, std::byte* to) {
  struct {
    std::byte* data;
    int64_t strides[3];
    uint32_t dims[4], box[4], bytes;
  } encoded = {data, {}, {}, {}, static_cast<uint32_t>(runtime::float_size(map.type))};
  static_assert(sizeof(encoded) <= 128);
  for (size_t i = 0; i < 4; ++i) {
    encoded.dims[i] = static_cast<uint32_t>(map.dims[i]);
    encoded.box[i] = map.box[i];
    if (i < 3) encoded.strides[i] = static_cast<int64_t>(map.strides[i]);
  }
  std::memcpy(to, &encoded, sizeof(encoded));
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
  // Precompiled once: half of the time of each kernel otherwise. A compiler that does not know it finds the header itself.
  const fs::path header = fs::path(ATTUNE_SOURCE_DIR) / "tests/unit" / header_of(threads), precompiled = folder_ / header.filename();
  if (!fs::exists(precompiled.string() + ".gch")) compile(fmt::format("-x c++-header {} -o {}.gch", header.string(), precompiled.string()));
  compile(fmt::format("-shared -I{} -I{} {}.cpp -o {}.so", folder_.string(), header.parent_path().string(), stem, stem));
  void* library = dlopen((stem + ".so").c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  std::vector<std::byte> workspace(plan.workspace_bytes);
  std::vector<std::vector<std::byte>> first;
  bool is_same = true;
  for (unsigned call = 0; call < calls; ++call) {
    for (const runtime::GpuLaunch& launch : plan.launches) {
      std::vector<std::byte> argument = launch.argument;
      for (const runtime::GpuPatch& patch : launch.patches) {
        if (patch.kind == runtime::GpuPatch::Kind::kTensorMap) {
          const runtime::GpuTensorMap& map = launch.tensor_maps.at(static_cast<size_t>(patch.index));
          encode(map, tensors.at(static_cast<size_t>(map.tensor)).data(), argument.data() + patch.offset);
          continue;
        }
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
