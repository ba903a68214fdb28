#include "runtime/gpu_device.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "runtime/cuda_driver.h"
#include "runtime/error.h"
#include "runtime/log.h"

namespace attune::runtime {
namespace {

using cuda::DeviceAttribute;

int device_count(const cuda::Driver& driver) {
  int count = 0;
  cuda::call(driver, driver.device_count, "counting devices", &count);
  return count;
}

cuda::Device handle_of(const cuda::Driver& driver, int ordinal) {
  const int count = device_count(driver);
  if (ordinal < 0 || ordinal >= count) throw EnvironmentError(fmt::format("no GPU {}: the driver shows {}", ordinal, count));
  cuda::Device device = 0;
  cuda::call(driver, driver.device_get, [&] { return fmt::format("looking for GPU {}", ordinal); }, &device, ordinal);
  return device;
}

GpuDevice describe(const cuda::Driver& driver, int ordinal) {
  const cuda::Device handle = handle_of(driver, ordinal);
  const auto doing = [&] { return fmt::format("describing GPU {}", ordinal); };
  const auto attribute = [&](DeviceAttribute which) {
    int value = 0;
    cuda::call(driver, driver.device_attribute, doing, &value, which, handle);
    return value;
  };
  GpuDevice device;
  device.ordinal = ordinal;
  char name[256] = "";
  cuda::call(driver, driver.device_name, doing, name, static_cast<int>(sizeof(name)), handle);
  device.name = name;
  cuda::call(driver, driver.device_memory, doing, &device.memory_bytes, handle);
  device.major = attribute(DeviceAttribute::kComputeMajor);
  device.minor = attribute(DeviceAttribute::kComputeMinor);
  device.multiprocessors = attribute(DeviceAttribute::kMultiprocessors);
  device.shared_bytes = static_cast<size_t>(attribute(DeviceAttribute::kSharedPerBlockOptIn));
  device.l2_bytes = static_cast<size_t>(attribute(DeviceAttribute::kL2Bytes));
  device.memory_clock_khz = attribute(DeviceAttribute::kMemoryClockKhz);
  int version = 0;
  cuda::call(driver, driver.driver_version, doing, &version);
  device.driver_version = cuda_version_text(version);
  return device;
}

cuda::Context primary_context(const cuda::Driver& driver, int device) {
  static std::mutex mutex;
  static std::map<int, cuda::Context> contexts;
  const std::lock_guard lock(mutex);
  if (const auto known = contexts.find(device); known != contexts.end()) return known->second;
  cuda::Context context = nullptr;
  const cuda::Device handle = handle_of(driver, device);
  cuda::call(
      driver, driver.primary_context_retain, [&] { return fmt::format("retaining the primary context of GPU {}", device); }, &context,
      handle);
  return contexts[device] = context;
}

}  // namespace

std::string GpuDevice::sm() const {
  return fmt::format("sm_{}{}", major, minor);
}

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::vector<GpuDevice> gpu_devices() {
  std::vector<GpuDevice> devices;
  try {
    const cuda::Driver& driver = cuda::driver();
    const int count = device_count(driver);
    for (int i = 0; i < count; ++i) devices.push_back(describe(driver, i));
  } catch (const EnvironmentError& error) {
    log_once(fmt::format("no GPU: {}", error.what()));
  }
  return devices;
}

GpuDevice gpu_device(int ordinal) {
  return describe(cuda::driver(), ordinal);
}

GpuContextScope::GpuContextScope(int device) {
  const cuda::Driver& driver = cuda::driver();
  cuda::Device current = 0;
  const cuda::Result result = driver.context_device(&current);
  if (result == cuda::Result::kSuccess && current == device) return;  // the driver's handle of a device is its ordinal
  if (result != cuda::Result::kSuccess && result != cuda::Result::kInvalidContext) {
    cuda::fail(driver, driver.context_device.name(), result, "looking for the current context");
  }
  const cuda::Context context = primary_context(driver, device);
  cuda::call(driver, driver.context_push, [&] { return fmt::format("entering the primary context of GPU {}", device); }, context);
  pushed_ = true;
}

GpuContextScope::~GpuContextScope() {
  if (!pushed_) return;
  cuda::Context popped = nullptr;
  cuda::driver().context_pop(&popped);
}

uint64_t GpuContextScope::id() const {
  const cuda::Driver& driver = cuda::driver();
  unsigned long long id = 0;
  cuda::call(driver, driver.context_id, "asking for the current context", nullptr, &id);
  return id;
}

}  // namespace attune::runtime
