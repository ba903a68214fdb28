#include "tests/unit/fake_cuda.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string_view>

using attune::test::FakeContext;
using attune::test::FakeCuda;
using attune::test::FakeLaunch;
using attune::test::FakeTensorMap;

namespace {

constexpr int kDevices = 2;
constexpr int kInvalidValue = 1, kOutOfMemory = 2, kInvalidContext = 201, kNotFound = 500;
constexpr size_t kMemory = size_t{80} << 30;

FakeCuda& fake() {
  static auto* const state = new FakeCuda();
  return *state;
}

struct Kernel {
  std::string name;
};

FakeContext* current() {
  return fake().contexts.empty() ? nullptr : fake().contexts.back();
}

int fault(const char* function) {
  const auto found = fake().faults.find(function);
  return found == fake().faults.end() ? 0 : found->second;
}

Kernel* kernel_named(const char* name) {
  static auto* const kernels = new std::map<std::string, std::unique_ptr<Kernel>>();
  std::unique_ptr<Kernel>& kernel = (*kernels)[name];
  if (!kernel) kernel = std::make_unique<Kernel>(Kernel{name});
  return kernel.get();
}

int init(unsigned) {
  return fault("cuInit");
}

int driver_version(int* version) {
  *version = 13000;
  return 0;
}

int error_name(int code, const char** text) {
  *text = code == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : code == kNotFound ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_OTHER";
  return 0;
}

int error_text(int code, const char** text) {
  *text = code == kOutOfMemory ? "out of memory" : code == kNotFound ? "named symbol not found" : "something else";
  return 0;
}

int device_count(int* count) {
  *count = kDevices;
  return fault("cuDeviceGetCount");
}

int device_get(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}

int device_name(char* name, int size, int) {
  std::strncpy(name, "Fake H100", static_cast<size_t>(size));
  return 0;
}

int device_memory(size_t* bytes, int) {
  *bytes = kMemory;
  return 0;
}

int device_attribute(int* value, int attribute, int) {
  const std::map<int, int> kValues = {{16, fake().multiprocessors}, {36, 2619000}, {38, 50 << 20}, {75, 9}, {76, 0}, {97, 227 << 10}};
  const auto found = kValues.find(attribute);
  if (found == kValues.end()) return kInvalidValue;
  *value = found->second;
  return 0;
}

int primary_context_retain(FakeContext** context, int device) {
  static FakeContext primaries[kDevices] = {{100, 0}, {101, 1}};
  *context = &primaries[device];
  return fault("cuDevicePrimaryCtxRetain");
}

int context_device(int* device) {
  if (!current()) return kInvalidContext;
  *device = current()->device;
  return 0;
}

int context_id(FakeContext* context, unsigned long long* id) {
  if (!context) context = current();
  if (!context) return kInvalidContext;
  *id = context->id;
  return 0;
}

int context_push(FakeContext* context) {
  fake().contexts.push_back(context);
  return 0;
}

int context_pop(FakeContext** context) {
  if (!current()) return kInvalidContext;
  *context = current();
  fake().contexts.pop_back();
  return 0;
}

int context_synchronize() {
  return 0;
}

int library_load(void** library, const void*, void*, void*, unsigned, void*, void*, unsigned) {
  if (const int code = fault("cuLibraryLoadData")) return code;
  ++fake().library_loads;
  *library = &fake();
  return 0;
}

int library_unload(void*) {
  ++fake().library_unloads;
  return 0;
}

int library_kernel(Kernel** kernel, void*, const char* name) {
  if (const int code = fault("cuLibraryGetKernel")) return code;
  *kernel = kernel_named(name);
  return 0;
}

int kernel_function(Kernel** function, Kernel* kernel) {
  if (!current()) return kInvalidContext;
  ++fake().functions;
  *function = kernel;
  return 0;
}

int function_attribute(int* value, int attribute, Kernel*) {
  if (attribute != 1) return kInvalidValue;
  *value = fake().static_shared_bytes;
  return 0;
}

int function_set_attribute(Kernel* kernel, int attribute, int value) {
  if (attribute != 8) return kInvalidValue;
  fake().max_dynamic_shared[kernel->name] = value;
  return 0;
}

size_t argument_bytes(const Kernel* kernel) {
  const auto found = fake().argument_bytes.find(kernel->name);
  return found == fake().argument_bytes.end() ? 256 : found->second;
}

int function_parameter(Kernel* kernel, size_t, size_t* offset, size_t* size) {
  *offset = 0;
  *size = argument_bytes(kernel);
  return 0;
}

struct Config {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

int launch(const Config* config, Kernel* kernel, void** parameters, void**) {
  if (const int code = fault("cuLaunchKernelEx")) return code;
  if (!current()) return kInvalidContext;
  if (!fake().records) return 0;
  FakeLaunch& made = fake().launches.emplace_back();
  made.kernel = kernel->name;
  std::memcpy(made.grid.data(), config->grid, sizeof(config->grid));
  std::memcpy(made.block.data(), config->block, sizeof(config->block));
  made.shared_bytes = config->shared_bytes;
  made.stream = config->stream;
  const auto* bytes = static_cast<const std::byte*>(parameters[0]);
  made.argument.assign(bytes, bytes + argument_bytes(kernel));
  made.context = current()->id;
  return 0;
}

int encode_map(void* map, int type, unsigned rank, void* address, const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
               const uint32_t*, int interleave, int swizzle, int promotion, int fill) {
  if (const int code = fault("cuTensorMapEncodeTiled")) return code;
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || reinterpret_cast<uintptr_t>(address) % 16 != 0) return kInvalidValue;
  ++fake().encodings;
  const FakeTensorMap encoded = {
      address, type, interleave, swizzle, promotion, fill, rank, dims[rank - 1], rank < 2 ? 0 : strides[rank - 2], box[rank - 1]};
  std::memset(map, 0, 128);
  std::memcpy(map, &encoded, sizeof(encoded));
  return 0;
}

int exchange_capture_mode(int* mode) {
  static int now = 0;
  std::swap(now, *mode);
  return 0;
}

int memory_allocate(uint64_t* address, size_t bytes) {
  if (!current()) return kInvalidContext;
  if (bytes > kMemory) return kOutOfMemory;
  *address = reinterpret_cast<uint64_t>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  fake().memory[*address] = {bytes, current()->device};
  return 0;
}

int memory_free(uint64_t address) {
  if (fake().memory.erase(address) == 0) return kInvalidValue;
  std::free(reinterpret_cast<void*>(address));
  return 0;
}

int memory_info(size_t* free, size_t* total) {
  *free = *total = kMemory;
  return 0;
}

int copy_to_device(uint64_t to, const void* from, size_t bytes, void*) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return 0;
}

int copy_to_host(void* to, uint64_t from, size_t bytes, void*) {
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return 0;
}

int memory_set(uint64_t to, unsigned char value, size_t bytes, void*) {
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return 0;
}

int pointer_attribute(void* value, int attribute, uint64_t address) {
  for (const auto& [start, block] : fake().memory) {
    if (address < start || address >= start + block.first) continue;
    switch (attribute) {
      case 2:
        *static_cast<unsigned*>(value) = 2;
        return 0;
      case 9:
        *static_cast<int*>(value) = block.second;
        return 0;
      case 11:
        *static_cast<uint64_t*>(value) = start;
        return 0;
      case 12:
        *static_cast<size_t*>(value) = block.first;
        return 0;
      default:
        return kInvalidValue;
    }
  }
  return kInvalidValue;
}

// Streams and events are numbers: all work is done already.
int make_handle(uintptr_t* handle, unsigned) {
  static uintptr_t last = 0x1000;
  *handle = ++last;
  return 0;
}
int nothing(void*) {
  return 0;
}
int event_record(void*, void*) {
  return 0;
}
int event_elapsed(float* milliseconds, void*, void*) {
  *milliseconds = 0.5f;
  return 0;
}

struct Entry {
  const char* name;
  void* address;
};

#define ENTRY(name, function) {name, reinterpret_cast<void*>(&(function))}
const Entry kFunctions[] = {
    ENTRY("cuInit", init),
    ENTRY("cuDriverGetVersion", driver_version),
    ENTRY("cuGetErrorName", error_name),
    ENTRY("cuGetErrorString", error_text),
    ENTRY("cuDeviceGetCount", device_count),
    ENTRY("cuDeviceGet", device_get),
    ENTRY("cuDeviceGetName", device_name),
    ENTRY("cuDeviceTotalMem", device_memory),
    ENTRY("cuDeviceGetAttribute", device_attribute),
    ENTRY("cuDevicePrimaryCtxRetain", primary_context_retain),
    ENTRY("cuCtxGetDevice", context_device),
    ENTRY("cuCtxGetId", context_id),
    ENTRY("cuCtxPushCurrent", context_push),
    ENTRY("cuCtxPopCurrent", context_pop),
    ENTRY("cuCtxSynchronize", context_synchronize),
    ENTRY("cuLibraryLoadData", library_load),
    ENTRY("cuLibraryUnload", library_unload),
    ENTRY("cuLibraryGetKernel", library_kernel),
    ENTRY("cuKernelGetFunction", kernel_function),
    ENTRY("cuFuncGetAttribute", function_attribute),
    ENTRY("cuFuncSetAttribute", function_set_attribute),
    ENTRY("cuFuncGetParamInfo", function_parameter),
    ENTRY("cuLaunchKernelEx", launch),
    ENTRY("cuTensorMapEncodeTiled", encode_map),
    ENTRY("cuThreadExchangeStreamCaptureMode", exchange_capture_mode),
    ENTRY("cuMemAlloc", memory_allocate),
    ENTRY("cuMemFree", memory_free),
    ENTRY("cuMemGetInfo", memory_info),
    ENTRY("cuMemcpyHtoDAsync", copy_to_device),
    ENTRY("cuMemcpyDtoHAsync", copy_to_host),
    ENTRY("cuMemsetD8Async", memory_set),
    ENTRY("cuPointerGetAttribute", pointer_attribute),
    ENTRY("cuStreamCreate", make_handle),
    ENTRY("cuStreamDestroy", nothing),
    ENTRY("cuStreamSynchronize", nothing),
    ENTRY("cuEventCreate", make_handle),
    ENTRY("cuEventDestroy", nothing),
    ENTRY("cuEventRecord", event_record),
    ENTRY("cuEventSynchronize", nothing),
    ENTRY("cuEventElapsedTime", event_elapsed),
};
#undef ENTRY

}  // namespace

extern "C" {

FakeCuda* attune_fake_cuda() {
  return &fake();
}

int cuInit(unsigned flags) {
  return init(flags);
}

int cuDriverGetVersion(int* version) {
  return driver_version(version);
}

int cuGetProcAddress_v2(const char* name, void** address, int, uint64_t, int*) {
  for (const Entry& entry : kFunctions) {
    if (std::string_view(entry.name) != name) continue;
    *address = entry.address;
    return 0;
  }
  return kNotFound;
}

}  // extern "C"
