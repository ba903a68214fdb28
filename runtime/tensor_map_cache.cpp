#include "runtime/tensor_map_cache.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <stdexcept>

#include "runtime/cuda_driver.h"

namespace attune::runtime {
namespace {

static_assert(kTensorMapBytes == cuda::kTensorMapBytes);

constexpr size_t kMaxRank = 5;
constexpr uint64_t kMaxDim = uint64_t{1} << 32, kMaxStride = uint64_t{1} << 40;
constexpr uint32_t kMaxBox = 256, kSwizzleBytes = 128;

cuda::MapType type_of(FloatType type) {
  switch (type) {
    case FloatType::kF16:
      return cuda::MapType::kF16;
    case FloatType::kBF16:
      return cuda::MapType::kBF16;
    case FloatType::kF32:
      break;
  }
  return cuda::MapType::kF32;
}

std::string describe(const GpuTensorMap& map) {
  return fmt::format("a tensor map with dims [{}], strides [{}] in bytes, box [{}]", fmt::join(map.dims, ", "),
                     fmt::join(map.strides, ", "), fmt::join(map.box, ", "));
}

void verify(const GpuTensorMap& map) {
  const auto expect = [&](bool good, const char* expected) {
    if (!good) throw std::logic_error(fmt::format("{}: expected {}", describe(map), expected));
  };
  const size_t rank = map.dims.size();
  expect(rank >= 1 && rank <= kMaxRank, "1 to 5 dims");
  expect(map.strides.size() == rank - 1 && map.box.size() == rank, "a stride of each dim but the first, a box size of each");
  for (const uint64_t dim : map.dims) expect(dim >= 1 && dim <= kMaxDim, "dims of 1 to 2^32");
  for (const uint64_t stride : map.strides) expect(stride % 16 == 0 && stride < kMaxStride, "strides that are multiples of 16 below 2^40");
  for (const uint32_t box : map.box) expect(box >= 1 && box <= kMaxBox, "box sizes of 1 to 256");
  const size_t row = map.box[0] * float_size(map.type);
  expect(row % 16 == 0 && row <= kSwizzleBytes, "box rows of at most 128 bytes, a multiple of 16");
}

bool same_view(const GpuTensorMap& a, const GpuTensorMap& b) {
  return a.type == b.type && a.dims == b.dims && a.strides == b.strides && a.box == b.box;
}

void encode_now(const GpuTensorMap& map, const void* address, std::byte* out) {
  const cuda::Driver& driver = cuda::driver();
  alignas(cuda::kTensorMapAlignment) std::byte bytes[kTensorMapBytes];
  constexpr uint32_t kElementStrides[kMaxRank] = {1, 1, 1, 1, 1};
  cuda::call(
      driver, driver.encode_map, [&] { return fmt::format("encoding {} at address {}", describe(map), address); }, bytes, type_of(map.type),
      static_cast<unsigned>(map.dims.size()), const_cast<void*>(address), map.dims.data(), map.strides.data(), map.box.data(),
      kElementStrides, cuda::MapInterleave::kNone, cuda::MapSwizzle::k128Bytes, cuda::MapPromotion::k256Bytes, cuda::MapFill::kZero);
  std::memcpy(out, bytes, sizeof(bytes));
}

}  // namespace

int TensorMapCache::add(const GpuTensorMap& map) {
  verify(map);
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (same_view(slots_[i].map, map)) return static_cast<int>(i);
  }
  slots_.push_back({map});
  return static_cast<int>(slots_.size()) - 1;
}

void TensorMapCache::encode(int number, const void* address, void* out) {
  const std::lock_guard lock(mutex_);
  Slot& slot = slots_[static_cast<size_t>(number)];
  for (const Encoded& known : slot.encoded) {
    if (known.address == address) {
      std::memcpy(out, known.bytes.data(), kTensorMapBytes);
      return;
    }
  }
  Encoded& encoded = slot.encoded[slot.oldest];
  encode_now(slot.map, address, encoded.bytes.data());
  encoded.address = address;
  slot.oldest = (slot.oldest + 1) % kRemembered;
  std::memcpy(out, encoded.bytes.data(), kTensorMapBytes);
}

}  // namespace attune::runtime
