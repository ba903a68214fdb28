// The GPUs of this machine, and the context that work on one of them runs in. No context is made by asking about devices.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attune::runtime {

struct GpuDevice {
  int ordinal = 0;
  std::string name;          // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  size_t memory_bytes = 0;
  size_t shared_bytes = 0;  // that a block may have at most, if it asks
  size_t l2_bytes = 0;
  int memory_clock_khz = 0;    // 0 if the driver does not say
  std::string driver_version;  // of CUDA: "13.0"

  std::string sm() const;  // "sm_90"
};

// All that the driver shows; none without a driver. Never throws.
std::vector<GpuDevice> gpu_devices();

// Throws EnvironmentError that says why there is no such device: no driver, no device, not that many.
GpuDevice gpu_device(int ordinal);

std::string cuda_version_text(int version);  // 13000 -> "13.0"

// While it lives, a context of the device is current on this thread: the caller's own if it is of that device, else the device's primary
// context, which is retained once and for the rest of the process.
class GpuContextScope {
 public:
  explicit GpuContextScope(int device);
  ~GpuContextScope();
  GpuContextScope(const GpuContextScope&) = delete;
  GpuContextScope& operator=(const GpuContextScope&) = delete;

  uint64_t id() const;  // of the context that is current now; never used twice in a process

 private:
  bool pushed_ = false;
};

}  // namespace attune::runtime
