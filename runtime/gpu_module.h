// A cubin in the driver, for all contexts of all devices: the driver loads it into a context when a kernel of it is first asked for there.
#pragma once

#include <memory>
#include <string>

#include "runtime/gpu_binary.h"

namespace attune::runtime {

// Safe on several threads at once. Unloaded with this, whether or not the contexts still live.
class GpuModule {
 public:
  // Throws EnvironmentError if there is no driver, or the driver does not take the code.
  explicit GpuModule(std::shared_ptr<const GpuBinary> binary);
  ~GpuModule();
  GpuModule(const GpuModule&) = delete;
  GpuModule& operator=(const GpuModule&) = delete;

  // The driver's function of the kernel in the current context, ready for launches with `shared_bytes` of dynamic shared memory and one
  // argument of `argument_bytes`. Throws EnvironmentError: the code is not for this device, or the device has less shared memory.
  void* function(const std::string& kernel, size_t shared_bytes, size_t argument_bytes) const;

 private:
  std::shared_ptr<const GpuBinary> binary_;
  void* library_ = nullptr;
};

// The module of the binary, the same for all who ask while somebody holds it.
std::shared_ptr<const GpuModule> gpu_module(std::shared_ptr<const GpuBinary> binary);

}  // namespace attune::runtime
