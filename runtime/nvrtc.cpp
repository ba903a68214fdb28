#include "runtime/nvrtc.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glob.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string_view>

#include "runtime/error.h"
#include "runtime/log.h"

namespace attune::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFiles[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
// Where the wheels of CUDA 13 and 12 put it, in a folder of Python packages.
constexpr std::string_view kWheelFiles[] = {"nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"};

// NVRTC's ABI, by our names.
using Program = struct ProgramTag*;
enum class Result : int { kSuccess = 0, kInvalidOption = 5, kCompilation = 6, kCancelled = 16 };

void add_matches(const std::string& pattern, std::vector<std::string>& paths) {
  glob_t found = {};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.insert(paths.end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
}

// The folder of packages that this code itself stands in, when it is a Python extension; else empty.
std::string own_packages() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&own_packages), &info) || !info.dli_fname) return "";
  for (fs::path folder = fs::path(info.dli_fname).parent_path(); folder.has_relative_path(); folder = folder.parent_path()) {
    if (folder.filename() == "site-packages" || folder.filename() == "dist-packages") return folder.string();
  }
  return "";
}

// Of an installed nvidia-cuda-nvrtc: beside ourselves, in the active environment, in the user's and the machine's packages.
std::vector<std::string> wheel_paths() {
  std::vector<std::string> folders;
  if (const std::string own = own_packages(); !own.empty()) folders.push_back(own);
  const auto add_prefix = [&](const char* prefix, std::string_view below = "") {
    if (prefix && *prefix) folders.push_back(fmt::format("{}{}/lib/python3*/*-packages", prefix, below));
  };
  add_prefix(std::getenv("VIRTUAL_ENV"));
  add_prefix(std::getenv("CONDA_PREFIX"));
  add_prefix(std::getenv("HOME"), "/.local");
  add_prefix("/usr/local");
  add_prefix("/usr");
  std::vector<std::string> paths;
  for (const std::string& folder : folders) {
    for (const std::string_view file : kWheelFiles) add_matches(fmt::format("{}/{}", folder, file), paths);
  }
  return paths;
}

class Nvrtc {
 public:
  Nvrtc() : library_(open_nvrtc_library()) {
    if (!library_.is_open()) {
      throw EnvironmentError(
          fmt::format("no NVRTC: cannot open any of {}; install it with pip install 'nvidia-cuda-nvrtc==13.0.*', or set "
                      "ATTUNE_NVRTC to the path of the library",
                      library_.path()));
    }
    load(version, "nvrtcVersion");
    load(error_text, "nvrtcGetErrorString");
    load(create, "nvrtcCreateProgram");
    load(destroy, "nvrtcDestroyProgram");
    load(compile, "nvrtcCompileProgram");
    load(log_size, "nvrtcGetProgramLogSize");
    load(log, "nvrtcGetProgramLog");
    load(cubin_size, "nvrtcGetCUBINSize");
    load(cubin, "nvrtcGetCUBIN");
    load(ptx_size, "nvrtcGetPTXSize");
    load(ptx, "nvrtcGetPTX");
    set_flow_callback = library_.function<Result(Program, int (*)(void*, void*), void*)>("nvrtcSetFlowCallback");
    read_version();
  }

  const NvrtcVersion& known_version() const { return known_version_; }

  Result (*version)(int*, int*);
  const char* (*error_text)(Result);
  Result (*create)(Program*, const char* source, const char* name, int headers, const char* const*, const char* const*);
  Result (*destroy)(Program*);
  Result (*compile)(Program, int options, const char* const*);
  Result (*log_size)(Program, size_t*);
  Result (*log)(Program, char*);
  Result (*cubin_size)(Program, size_t*);
  Result (*cubin)(Program, char*);
  Result (*ptx_size)(Program, size_t*);
  Result (*ptx)(Program, char*);
  Result (*set_flow_callback)(Program, int (*)(void*, void*), void*);  // null before CUDA 12.8

 private:
  template <typename Function>
  void load(Function*& function, const char* name) {
    function = library_.function<Function>(name);
    if (!function) throw EnvironmentError(fmt::format("NVRTC '{}' lacks {}: expected version 12.0 or newer", library_.path(), name));
  }

  void read_version() {
    version(&known_version_.major, &known_version_.minor);
    known_version_.path = library_.path();
    std::error_code error;
    const uintmax_t bytes = fs::file_size(library_.path(), error);
    known_version_.identity = fmt::format("{}.{}, {} bytes", known_version_.major, known_version_.minor, error ? 0 : bytes);
  }

  SharedLibrary library_;
  NvrtcVersion known_version_;
};

const Nvrtc& nvrtc() {
  static const Nvrtc* const instance = new Nvrtc();
  return *instance;
}

std::vector<std::string> flags() {
  std::vector<std::string> flags = {"-std=c++17", "--ptxas-options=-v"};
  if (nvrtc().known_version().major >= 13) flags.emplace_back("--no-cache");  // ours is enough; version 12 may not know the flag
  if (const char* all = std::getenv("ATTUNE_RACECHECK"); all && std::string_view(all) == "1") flags.emplace_back("-DATTUNE_RACECHECK");
  return flags;
}

std::string_view trimmed(std::string_view text) {
  const size_t end = text.find_last_not_of(std::string_view(" \n\r\t\0", 5));
  return end == std::string_view::npos ? std::string_view() : text.substr(0, end + 1);
}

class Compilation {
 public:
  Compilation(const GpuSource& source, const GpuCompileOptions& options) : nvrtc_(nvrtc()), source_(source), options_(options) {
    check("nvrtcCreateProgram", nvrtc_.create(&program_, source.text.c_str(), "kernel.cu", 0, nullptr, nullptr));
  }
  ~Compilation() { nvrtc_.destroy(&program_); }
  Compilation(const Compilation&) = delete;
  Compilation& operator=(const Compilation&) = delete;

  CompiledGpu run() {
    if (options_.cancel.stop_possible() && nvrtc_.set_flow_callback) {
      check("nvrtcSetFlowCallback", nvrtc_.set_flow_callback(program_, &stop_requested, const_cast<std::stop_token*>(&options_.cancel)));
    }
    std::vector<std::string> texts = flags();
    texts.push_back("--gpu-architecture=" + source_.arch);
    std::vector<const char*> arguments;
    for (const std::string& text : texts) arguments.push_back(text.c_str());
    const auto start = std::chrono::steady_clock::now();
    const Result result = nvrtc_.compile(program_, static_cast<int>(arguments.size()), arguments.data());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    CompiledGpu compiled;
    compiled.log = trimmed(text("nvrtcGetProgramLog", nvrtc_.log_size, nvrtc_.log));
    if (result != Result::kSuccess) fail(result, texts, compiled.log);
    compiled.seconds = took.count();
    compiled.cubin = text("nvrtcGetCUBIN", nvrtc_.cubin_size, nvrtc_.cubin);
    if (options_.want_ptx) compiled.ptx = text("nvrtcGetPTX", nvrtc_.ptx_size, nvrtc_.ptx).c_str();  // up to its terminating zero
    PtxasReport report = parse_ptxas_log(compiled.log);
    compiled.kernels = std::move(report.kernels);
    compiled.warnings = std::move(report.warnings);
    return compiled;
  }

 private:
  static int stop_requested(void* token, void*) { return static_cast<const std::stop_token*>(token)->stop_requested() ? 1 : 0; }

  std::string name(Result result) const { return fmt::format("{} ({})", nvrtc_.error_text(result), static_cast<int>(result)); }

  void check(const char* function, Result result) const {
    if (result != Result::kSuccess) throw EnvironmentError(fmt::format("{}: {}; for {}", function, name(result), source_.arch));
  }

  [[noreturn]] void fail(Result result, const std::vector<std::string>& arguments, const std::string& log) const {
    const NvrtcVersion& version = nvrtc_.known_version();
    const std::string head = fmt::format("nvrtcCompileProgram: {}", name(result));
    if (result == Result::kCancelled || (options_.cancel.stop_requested() && result != Result::kCompilation)) {
      throw CancelledError(fmt::format("{}: cancelled while compiling for {}", head, source_.arch));
    }
    if (result == Result::kInvalidOption) {
      throw EnvironmentError(fmt::format("{}: NVRTC {}.{} '{}' does not take {}: {}", head, version.major, version.minor, version.path,
                                         fmt::join(arguments, " "), log));
    }
    if (result == Result::kCompilation) {
      throw EnvironmentError(
          fmt::format("{}: a generated kernel does not compile for {}, which is a bug in Attune:\n{}", head, source_.arch, log));
    }
    throw EnvironmentError(fmt::format("{}: while compiling for {}\n{}", head, source_.arch, log));
  }

  std::string text(const char* function, Result (*size)(Program, size_t*), Result (*get)(Program, char*)) const {
    size_t bytes = 0;
    check(function, size(program_, &bytes));
    std::string text(bytes, '\0');
    if (bytes > 0) check(function, get(program_, text.data()));
    return text;
  }

  const Nvrtc& nvrtc_;
  const GpuSource& source_;
  const GpuCompileOptions& options_;
  Program program_ = nullptr;
};

std::atomic<int> compile_count{0};

}  // namespace

SharedLibrary open_nvrtc_library() {
  std::vector<std::string> names;
  if (const char* own = std::getenv("ATTUNE_NVRTC"); own && *own) names.emplace_back(own);
  names.insert(names.end(), std::begin(kFiles), std::end(kFiles));
  for (std::string& path : wheel_paths()) names.push_back(std::move(path));
  for (const std::string_view file : kFiles) names.push_back(fmt::format("/usr/local/cuda/lib64/{}", file));
  return {names, "nvrtcVersion"};
}

const NvrtcVersion& nvrtc_version() {
  return nvrtc().known_version();
}

std::string nvrtc_flags() {
  return fmt::format("{}", fmt::join(flags(), " "));
}

CompiledGpu compile_gpu(const GpuSource& source, const GpuCompileOptions& options) {
  Compilation compilation(source, options);
  compile_count.fetch_add(1, std::memory_order_relaxed);
  CompiledGpu compiled = compilation.run();
  log(fmt::format("NVRTC: {} bytes for {} in {:.3f} s", compiled.cubin.size(), source.arch, compiled.seconds));
  return compiled;
}

int compile_gpu_count() {
  return compile_count.load(std::memory_order_relaxed);
}

}  // namespace attune::runtime
