#include "runtime/driver_report.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>

namespace attune::runtime {
namespace {

// The few declarations of the CUDA driver and NVRTC that are needed here.
using CuResult = int;
constexpr CuResult kSuccess = 0;
constexpr int kMultiprocessors = 16, kComputeMajor = 75, kComputeMinor = 76;  // CUdevice_attribute

struct Library {
  void* handle = nullptr;  // never closed: drivers do not like it
  FoundLibrary report;

  template <typename Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(handle, name));
  }
};

std::string path_of(void* handle, const char* symbol) {
  Dl_info info;
  void* address = dlsym(handle, symbol);
  return address && dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

Library open_first(const std::vector<std::string>& names, const char* symbol) {
  Library library;
  std::string tried;
  for (const std::string& name : names) {
    library.handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library.handle) {
      const std::string path = path_of(library.handle, symbol);
      library.report = {true, path.empty() ? name : path, ""};
      return library;
    }
    tried += (tried.empty() ? "" : ", ") + name;
  }
  library.report.path = tried;
  return library;
}

std::string describe(const Library& driver, int device) {
  const auto get_name = driver.function<CuResult(char*, int, int)>("cuDeviceGetName");
  const auto get_attribute = driver.function<CuResult(int*, int, int)>("cuDeviceGetAttribute");
  const auto get_memory = driver.function<CuResult(size_t*, int)>("cuDeviceTotalMem_v2");
  char name[256] = "unknown device";
  int major = 0, minor = 0, multiprocessors = 0;
  size_t bytes = 0;
  if (get_name) get_name(name, static_cast<int>(sizeof(name)), device);
  if (get_attribute) {
    get_attribute(&major, kComputeMajor, device);
    get_attribute(&minor, kComputeMinor, device);
    get_attribute(&multiprocessors, kMultiprocessors, device);
  }
  if (get_memory) get_memory(&bytes, device);
  return fmt::format("{}, sm_{}{}, {} SMs, {} GiB", name, major, minor, multiprocessors, bytes >> 30);
}

void ask_driver(Library& driver, GpuReport& report) {
  const auto initialise = driver.function<CuResult(unsigned)>("cuInit");
  const auto get_version = driver.function<CuResult(int*)>("cuDriverGetVersion");
  const auto get_count = driver.function<CuResult(int*)>("cuDeviceGetCount");
  const auto get_device = driver.function<CuResult(int*, int)>("cuDeviceGet");
  if (!initialise || !get_version || !get_count || !get_device) return;
  int version = 0, count = 0;
  if (get_version(&version) == kSuccess) driver.report.version = fmt::format("{}.{}", version / 1000, version % 1000 / 10);
  if (initialise(0) != kSuccess || get_count(&count) != kSuccess) return;
  for (int i = 0; i < count; ++i) {
    int device = 0;
    if (get_device(&device, i) == kSuccess) report.gpus.push_back(describe(driver, device));
  }
}

std::vector<std::string> nvrtc_names() {
  std::vector<std::string> names;
  if (const char* own = std::getenv("ATTUNE_NVRTC"); own && *own) names.emplace_back(own);
  for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12"}) names.emplace_back(name);
  for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"})
    names.push_back(std::string("/usr/local/cuda/lib64/") + name);
  return names;
}

}  // namespace

GpuReport report_gpus() {
  GpuReport report;
  Library driver = open_first({"libcuda.so.1"}, "cuInit");
  if (driver.handle) ask_driver(driver, report);
  report.driver = driver.report;
  Library nvrtc = open_first(nvrtc_names(), "nvrtcVersion");
  if (nvrtc.handle) {
    const auto get_version = nvrtc.function<int(int*, int*)>("nvrtcVersion");
    int major = 0, minor = 0;
    if (get_version && get_version(&major, &minor) == 0) nvrtc.report.version = fmt::format("{}.{}", major, minor);
  }
  report.nvrtc = nvrtc.report;
  return report;
}

}  // namespace attune::runtime
