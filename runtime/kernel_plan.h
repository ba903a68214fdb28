// What runs on a GPU for one problem, as plain data: sources, launches in their order, the bytes of each kernel's argument and what is
// patched into them at every call. Made by the planner in codegen, run by gpu_executor, printed as C by `attune emit`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/half.h"

namespace attune::runtime {

// One self-contained CUDA C++ file without includes, and what NVRTC is told.
struct GpuSource {
  std::string text;
  std::string arch;  // "sm_90a"
};

// A tiled view for the bulk tensor copy engine (cuTensorMapEncodeTiled): 128-byte swizzle, zero fill, no interleave. Dims and strides from
// the innermost on; strides in bytes, of the dims behind the first, multiples of 16; the address of the tensor is a multiple of 16.
struct GpuTensorMap {
  int tensor = 0;  // index into the call's tensors
  FloatType type = FloatType::kBF16;
  std::vector<uint64_t> dims;
  std::vector<uint64_t> strides;
  std::vector<uint32_t> box;
};

// Something that is only known when a call is made, written over the argument's bytes.
struct GpuPatch {
  enum class Kind : uint8_t {
    kTensorMap,  // 128 bytes, 64-aligned: `index` into GpuLaunch::tensor_maps
    kTensor,     // an address: that of the call's tensor `index`, null if it was not given
    kWorkspace,  // an address: `index` bytes into the workspace
  };
  Kind kind = Kind::kTensor;
  int64_t index = 0;
  size_t offset = 0;  // into GpuLaunch::argument
};

// One kernel launch. The kernel takes one struct by value (__grid_constant__).
struct GpuLaunch {
  int source = 0;                                               // index into GpuPlan::sources
  std::string kernel;                                           // its extern "C" name
  std::array<uint32_t, 3> grid = {1, 1, 1}, block = {1, 1, 1};  // with a 0 in its grid it is left out
  uint32_t shared_bytes = 0;                                    // dynamic; above 48 KiB the executor raises the kernel's limit
  std::vector<std::byte> argument;
  std::vector<GpuTensorMap> tensor_maps;
  std::vector<GpuPatch> patches;
};

struct GpuPlan {
  std::vector<GpuSource> sources;
  std::vector<GpuLaunch> launches;
  // Zero before the first call; every call leaves zero what the next one of this plan needs so. One call at a time may use it. Its address
  // is a multiple of 16.
  size_t workspace_bytes = 0;
};

}  // namespace attune::runtime
