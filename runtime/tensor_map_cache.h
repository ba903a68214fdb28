// Encoded tensor maps of a plan: each is made once for an address, and the last few addresses are remembered.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "runtime/kernel_plan.h"

namespace attune::runtime {

inline constexpr size_t kTensorMapBytes = 128;

// Safe on several threads at once; never allocates after add().
class TensorMapCache {
 public:
  // Throws std::logic_error if the copy engine cannot use such a map: it is the planner's to say so better. Equal maps get the same number.
  int add(const GpuTensorMap& map);

  // Writes the map of the tensor at `address`, 16-aligned, to `out`. Throws EnvironmentError if the driver refuses it.
  void encode(int number, const void* address, void* out);

 private:
  static constexpr size_t kRemembered = 4;
  struct alignas(64) Encoded {
    std::array<std::byte, kTensorMapBytes> bytes = {};
    const void* address = nullptr;
  };
  struct Slot {
    GpuTensorMap map;
    std::array<Encoded, kRemembered> encoded = {};
    size_t oldest = 0;
  };

  std::mutex mutex_;
  std::vector<Slot> slots_;
};

}  // namespace attune::runtime
