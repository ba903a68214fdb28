// A CUDA driver without a GPU, for tests of what calls it: libcuda.so.1 of two devices that records launches. Memory is the host's, and all
// work is done at once. One thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace attune::test {

struct FakeContext {
  uint64_t id = 0;
  int device = 0;
};

struct FakeLaunch {
  std::string kernel;
  std::array<uint32_t, 3> grid = {}, block = {};
  uint32_t shared_bytes = 0;
  void* stream = nullptr;
  std::vector<std::byte> argument;
  uint64_t context = 0;  // that was current
};

// What stands at the begin of an encoded map.
struct FakeTensorMap {
  void* address;
  int type, interleave, swizzle, promotion, fill;
  uint32_t rank;
  uint64_t last_dim, last_stride;
  uint32_t last_box;
};

struct FakeCuda {
  // What the driver was asked to do.
  std::vector<FakeLaunch> launches;
  int encodings = 0;
  int library_loads = 0, library_unloads = 0, functions = 0;
  std::map<std::string, int> max_dynamic_shared;  // by kernel
  std::vector<FakeContext*> contexts;             // the stack of this thread

  // What it is to answer.
  std::map<std::string, int, std::less<>> faults;  // by function: the code that it returns
  int multiprocessors = 132;
  std::map<std::string, size_t> argument_bytes;       // by kernel; default 256
  std::map<uint64_t, std::pair<size_t, int>> memory;  // by address: bytes, device
  bool records = true;                                // launches
  int static_shared_bytes = 1024;
};

// The state of the library, exported as this name.
inline constexpr char kFakeCudaSymbol[] = "attune_fake_cuda";

}  // namespace attune::test
