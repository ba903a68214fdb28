// The CUDA driver: found at run time, never linked, declared here without its headers. Included by .cpp files only; what others see of the
// GPU stands in gpu_device.h, gpu_memory.h and gpu_executor.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "runtime/shared_library.h"

namespace attune::runtime::cuda {

// Types and values of the driver's ABI, by our names.
using Device = int;
using Address = unsigned long long;
using Context = struct ContextTag*;
using Stream = struct StreamTag*;
using Event = struct EventTag*;
using Library = struct LibraryTag*;
using Kernel = struct KernelTag*;
using Function = struct FunctionTag*;

enum class Result : int { kSuccess = 0, kOutOfMemory = 2, kInvalidContext = 201, kNotFound = 500 };

enum class DeviceAttribute : int {
  kMultiprocessors = 16,
  kMemoryClockKhz = 36,
  kL2Bytes = 38,
  kComputeMajor = 75,
  kComputeMinor = 76,
  kSharedPerBlockOptIn = 97,
};
enum class FunctionAttribute : int { kStaticSharedBytes = 1, kMaxDynamicSharedBytes = 8 };
enum class PointerAttribute : int { kMemoryType = 2, kDevice = 9, kRangeStart = 11, kRangeBytes = 12 };
enum class MemoryType : int { kHost = 1, kDevice = 2, kArray = 3, kUnified = 4 };
enum class CaptureMode : int { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };
enum class MapType : int { kF16 = 6, kF32 = 7, kBF16 = 9 };
enum class MapInterleave : int { kNone = 0 };
enum class MapSwizzle : int { k128Bytes = 3 };
enum class MapPromotion : int { k256Bytes = 3 };
enum class MapFill : int { kZero = 0 };

inline constexpr unsigned kNonBlocking = 1;  // a stream that does not wait for the default stream
inline constexpr size_t kTensorMapBytes = 128, kTensorMapAlignment = 64;

struct LaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  Stream stream;
  void* attributes;
  unsigned attribute_count;
};

// What cuGetProcAddress found.
struct Symbol {
  const char* name;
  void* address;
};

// A function of the driver. Null if the driver lacks it, which only those found by find_optional may.
template <typename... Args>
class DriverFunction {
 public:
  DriverFunction(Symbol symbol) : name_(symbol.name), address_(reinterpret_cast<Result (*)(Args...)>(symbol.address)) {}

  explicit operator bool() const { return address_; }
  const char* name() const { return name_; }
  Result operator()(Args... args) const { return address_(args...); }

 private:
  const char* name_;
  Result (*address_)(Args...);
};

// The table of what is used. The number is the CUDA version whose signature of the function is meant. Declared in this order: the library
// first, since every row is looked up in it.
class Driver {
 public:
  // Throws EnvironmentError if there is no driver, or one older than CUDA 12.0. Does not initialise it.
  Driver();

  Symbol find(const char* name, int version) const;           // throws EnvironmentError if the driver lacks it
  Symbol find_optional(const char* name, int version) const;  // a null address if it does

 private:
  using GetAddress = Result(const char* name, void** address, int version, uint64_t flags, int* status);
  static GetAddress* find_get_address(const SharedLibrary& library);

  SharedLibrary library_;
  GetAddress* get_address_ = find_get_address(library_);

 public:
  const DriverFunction<unsigned> init = find("cuInit", 2000);
  const DriverFunction<int*> driver_version = find("cuDriverGetVersion", 2020);
  const DriverFunction<Result, const char**> error_name = find("cuGetErrorName", 6000);
  const DriverFunction<Result, const char**> error_text = find("cuGetErrorString", 6000);

  const DriverFunction<int*> device_count = find("cuDeviceGetCount", 2000);
  const DriverFunction<Device*, int> device_get = find("cuDeviceGet", 2000);
  const DriverFunction<char*, int, Device> device_name = find("cuDeviceGetName", 2000);
  const DriverFunction<size_t*, Device> device_memory = find("cuDeviceTotalMem", 3020);
  const DriverFunction<int*, DeviceAttribute, Device> device_attribute = find("cuDeviceGetAttribute", 2000);

  const DriverFunction<Context*, Device> primary_context_retain = find("cuDevicePrimaryCtxRetain", 7000);
  const DriverFunction<Device*> context_device = find("cuCtxGetDevice", 2000);  // of the current one
  const DriverFunction<Context, unsigned long long*> context_id = find("cuCtxGetId", 12000);
  const DriverFunction<Context> context_push = find("cuCtxPushCurrent", 4000);
  const DriverFunction<Context*> context_pop = find("cuCtxPopCurrent", 4000);
  const DriverFunction<> context_synchronize = find("cuCtxSynchronize", 2000);

  const DriverFunction<Library*, const void*, void*, void*, unsigned, void*, void*, unsigned> library_load =
      find("cuLibraryLoadData", 12000);
  const DriverFunction<Library> library_unload = find("cuLibraryUnload", 12000);
  const DriverFunction<Kernel*, Library, const char*> library_kernel = find("cuLibraryGetKernel", 12000);
  const DriverFunction<Function*, Kernel> kernel_function = find("cuKernelGetFunction", 12000);  // in the current context
  const DriverFunction<int*, FunctionAttribute, Function> function_attribute = find("cuFuncGetAttribute", 2020);
  const DriverFunction<Function, FunctionAttribute, int> function_set_attribute = find("cuFuncSetAttribute", 9000);
  const DriverFunction<Function, size_t, size_t*, size_t*> function_parameter = find_optional("cuFuncGetParamInfo", 12040);
  const DriverFunction<const LaunchConfig*, Function, void**, void**> launch = find("cuLaunchKernelEx", 11060);
  const DriverFunction<void*, MapType, unsigned, void*, const uint64_t*, const uint64_t*, const uint32_t*, const uint32_t*, MapInterleave,
                       MapSwizzle, MapPromotion, MapFill>
      encode_map = find("cuTensorMapEncodeTiled", 12000);
  const DriverFunction<CaptureMode*> exchange_capture_mode = find("cuThreadExchangeStreamCaptureMode", 10010);

  const DriverFunction<Address*, size_t> memory_allocate = find("cuMemAlloc", 3020);
  const DriverFunction<Address> memory_free = find("cuMemFree", 3020);
  const DriverFunction<size_t*, size_t*> memory_info = find("cuMemGetInfo", 3020);  // free, total
  const DriverFunction<Address, const void*, size_t, Stream> copy_to_device = find("cuMemcpyHtoDAsync", 3020);
  const DriverFunction<void*, Address, size_t, Stream> copy_to_host = find("cuMemcpyDtoHAsync", 3020);
  const DriverFunction<Address, unsigned char, size_t, Stream> memory_set = find("cuMemsetD8Async", 3020);
  const DriverFunction<void*, PointerAttribute, Address> pointer_attribute = find("cuPointerGetAttribute", 4000);

  const DriverFunction<Stream*, unsigned> stream_create = find("cuStreamCreate", 2000);
  const DriverFunction<Stream> stream_destroy = find("cuStreamDestroy", 4000);
  const DriverFunction<Stream> stream_synchronize = find("cuStreamSynchronize", 2000);
  const DriverFunction<Event*, unsigned> event_create = find("cuEventCreate", 2000);
  const DriverFunction<Event> event_destroy = find("cuEventDestroy", 4000);
  const DriverFunction<Event, Stream> event_record = find("cuEventRecord", 2000);
  const DriverFunction<Event> event_synchronize = find("cuEventSynchronize", 2000);
  const DriverFunction<float*, Event, Event> event_elapsed = find("cuEventElapsedTime", 2000);
};

// Where the driver is looked for: by the loader's path.
SharedLibrary open_driver_library();

// The driver, initialised, once a process and never destroyed. Throws EnvironmentError if there is none or no device; the next call tries
// again.
const Driver& driver();

// "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2), out of memory; while allocating 96 bytes on device 0"
[[noreturn]] void fail(const Driver& driver, const char* function, Result result, std::string_view doing);

// Calls the function, and throws EnvironmentError if it does not succeed. `doing` ("allocating 96 bytes") is a text, or makes one when it
// is needed.
template <typename Doing, typename... Args>
void call(const Driver& driver, const DriverFunction<Args...>& function, const Doing& doing, std::type_identity_t<Args>... args) {
  const Result result = function(args...);
  if (result == Result::kSuccess) return;
  if constexpr (std::is_invocable_v<Doing>) {
    fail(driver, function.name(), result, doing());
  } else {
    fail(driver, function.name(), result, doing);
  }
}

}  // namespace attune::runtime::cuda
