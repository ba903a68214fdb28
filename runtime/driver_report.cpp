#include "runtime/driver_report.h"

#include <fmt/format.h>

#include "runtime/cuda_driver.h"
#include "runtime/gpu_device.h"
#include "runtime/nvrtc.h"

namespace attune::runtime {
namespace {

FoundLibrary report_of(const SharedLibrary& library) {
  return {library.is_open(), library.path(), ""};
}

// Without the rest of the driver's functions: a driver that is too old says its version too.
FoundLibrary report_driver() {
  const SharedLibrary library = cuda::open_driver_library();
  FoundLibrary report = report_of(library);
  const auto get_version = library.function<int(int*)>("cuDriverGetVersion");
  int version = 0;
  if (get_version && get_version(&version) == 0) report.version = cuda_version_text(version);
  return report;
}

FoundLibrary report_nvrtc() {
  const SharedLibrary library = open_nvrtc_library();
  FoundLibrary report = report_of(library);
  const auto get_version = library.function<int(int*, int*)>("nvrtcVersion");
  int major = 0, minor = 0;
  if (get_version && get_version(&major, &minor) == 0) report.version = fmt::format("{}.{}", major, minor);
  return report;
}

std::string describe(const GpuDevice& device) {
  return fmt::format("{}, {}, {} SMs, {} GiB", device.name, device.sm(), device.multiprocessors, device.memory_bytes >> 30);
}

}  // namespace

GpuReport report_gpus() {
  GpuReport report = {report_driver(), report_nvrtc(), {}};
  for (const GpuDevice& device : gpu_devices()) report.gpus.push_back(describe(device));
  return report;
}

}  // namespace attune::runtime
