#include "runtime/gpu_module.h"

#include <fmt/format.h>

#include <stdexcept>

#include "runtime/cuda_driver.h"
#include "runtime/error.h"
#include "runtime/single_flight.h"

namespace attune::runtime {
namespace {

constexpr size_t kSharedWithoutAsking = 48 << 10;

// Loading code allocates and may wait, which a thread that captures a graph may not do unless it is told that this is no part of it.
class OutsideCapture {
 public:
  explicit OutsideCapture(const cuda::Driver& driver) : driver_(driver) { driver_.exchange_capture_mode(&mode_); }
  ~OutsideCapture() { driver_.exchange_capture_mode(&mode_); }
  OutsideCapture(const OutsideCapture&) = delete;
  OutsideCapture& operator=(const OutsideCapture&) = delete;

 private:
  const cuda::Driver& driver_;
  cuda::CaptureMode mode_ = cuda::CaptureMode::kRelaxed;  // then the mode before
};

void check_argument(const cuda::Driver& driver, cuda::Function function, const std::string& kernel, size_t bytes) {
  size_t offset = 0, expected = 0;
  if (!driver.function_parameter || driver.function_parameter(function, 0, &offset, &expected) != cuda::Result::kSuccess) return;
  if (bytes != expected) {
    throw std::logic_error(fmt::format("kernel '{}' takes an argument of {} bytes, the plan has {}", kernel, expected, bytes));
  }
}

// As much as the device has, whatever this launch needs: other plans use the same function.
void raise_shared_limit(const cuda::Driver& driver, cuda::Function function, const std::string& kernel, size_t bytes) {
  const auto doing = [&] { return fmt::format("raising the shared memory of kernel '{}' to {} bytes", kernel, bytes); };
  cuda::Device device = 0;
  int most = 0, fixed = 0;
  cuda::call(driver, driver.context_device, doing, &device);
  cuda::call(driver, driver.device_attribute, doing, &most, cuda::DeviceAttribute::kSharedPerBlockOptIn, device);
  cuda::call(driver, driver.function_attribute, doing, &fixed, cuda::FunctionAttribute::kStaticSharedBytes, function);
  if (bytes + static_cast<size_t>(fixed) > static_cast<size_t>(most)) {
    throw EnvironmentError(fmt::format("kernel '{}' needs {} bytes of shared memory a block, GPU {} has {}", kernel,
                                       bytes + static_cast<size_t>(fixed), device, most));
  }
  cuda::call(driver, driver.function_set_attribute, doing, function, cuda::FunctionAttribute::kMaxDynamicSharedBytes, most - fixed);
}

cuda::Library library_of(void* library) {
  return static_cast<cuda::Library>(library);
}

}  // namespace

GpuModule::GpuModule(std::shared_ptr<const GpuBinary> binary) : binary_(std::move(binary)) {
  const cuda::Driver& driver = cuda::driver();
  const OutsideCapture outside(driver);
  cuda::Library library = nullptr;
  cuda::call(
      driver, driver.library_load, [&] { return fmt::format("loading a module of {} bytes", binary_->cubin.size()); }, &library,
      binary_->cubin.data(), nullptr, nullptr, 0u, nullptr, nullptr, 0u);
  library_ = library;
}

GpuModule::~GpuModule() {
  const OutsideCapture outside(cuda::driver());
  cuda::driver().library_unload(library_of(library_));
}

void* GpuModule::function(const std::string& kernel, size_t shared_bytes, size_t argument_bytes) const {
  const cuda::Driver& driver = cuda::driver();
  const OutsideCapture outside(driver);
  const auto doing = [&] { return fmt::format("loading kernel '{}'", kernel); };
  cuda::Kernel handle = nullptr;
  cuda::Function function = nullptr;
  cuda::call(driver, driver.library_kernel, doing, &handle, library_of(library_), kernel.c_str());
  cuda::call(driver, driver.kernel_function, doing, &function, handle);
  check_argument(driver, function, kernel, argument_bytes);
  if (shared_bytes > kSharedWithoutAsking) raise_shared_limit(driver, function, kernel, shared_bytes);
  return function;
}

std::shared_ptr<const GpuModule> gpu_module(std::shared_ptr<const GpuBinary> binary) {
  // Never destroyed: a plan may be made while the process exits.
  static auto* modules = new SingleFlight<CacheKey, GpuModule>();
  return modules->get(binary->key, [&] { return std::make_shared<const GpuModule>(binary); });
}

}  // namespace attune::runtime
