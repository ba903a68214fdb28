#include "runtime/gpu_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "runtime/cuda_driver.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"

namespace attune::runtime {
namespace {

using Kind = GpuPatch::Kind;

constexpr size_t kMaxArgumentBytes = 4096, kAlignment = 16;

bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kAlignment == 0;
}

// The plan is ours to make: what is wrong with it is a bug.
void verify(const GpuPlan& plan, const GpuLaunch& launch) {
  const auto expect = [&](bool good, const std::string& what) {
    if (!good) throw std::logic_error(fmt::format("launch of '{}': {}", launch.kernel, what));
  };
  const size_t bytes = launch.argument.size();
  expect(launch.source >= 0 && static_cast<size_t>(launch.source) < plan.sources.size(),
         fmt::format("source {} of {}", launch.source, plan.sources.size()));
  expect(bytes <= kMaxArgumentBytes, fmt::format("an argument of {} bytes, expected at most {}", bytes, kMaxArgumentBytes));
  for (const GpuPatch& patch : launch.patches) {
    const bool is_map = patch.kind == Kind::kTensorMap;
    const size_t size = is_map ? kTensorMapBytes : sizeof(void*), alignment = is_map ? cuda::kTensorMapAlignment : alignof(void*);
    expect(patch.offset <= bytes && size <= bytes - patch.offset,
           fmt::format("a patch of {} bytes at {} in an argument of {}", size, patch.offset, bytes));
    expect(patch.offset % alignment == 0, fmt::format("a patch at {}, expected a multiple of {}", patch.offset, alignment));
    expect(patch.index >= 0, fmt::format("a patch of index {}", patch.index));
    if (is_map) {
      const auto index = static_cast<size_t>(patch.index);
      expect(index < launch.tensor_maps.size(), fmt::format("tensor map {} of {}", index, launch.tensor_maps.size()));
      expect(launch.tensor_maps[index].tensor >= 0, fmt::format("a map of tensor {}", launch.tensor_maps[index].tensor));
    } else if (patch.kind == Kind::kWorkspace) {
      expect(static_cast<size_t>(patch.index) <= plan.workspace_bytes,
             fmt::format("byte {} of a workspace of {}", patch.index, plan.workspace_bytes));
    }
  }
}

size_t tensor_of(const GpuLaunch& launch, const GpuPatch& patch) {
  return static_cast<size_t>(patch.kind == Kind::kTensorMap ? launch.tensor_maps[static_cast<size_t>(patch.index)].tensor : patch.index);
}

size_t needed_tensors(const GpuPlan& plan) {
  size_t count = 0;
  for (const GpuLaunch& launch : plan.launches) {
    for (const GpuPatch& patch : launch.patches) {
      if (patch.kind != Kind::kWorkspace) count = std::max(count, tensor_of(launch, patch) + 1);
    }
  }
  return count;
}

// From the address to the end of what a map shows.
size_t bytes_of(const GpuTensorMap& map) {
  size_t last = (map.dims[0] - 1) * float_size(map.type);
  for (size_t i = 1; i < map.dims.size(); ++i) last += (map.dims[i] - 1) * map.strides[i - 1];
  return last + float_size(map.type);
}

[[noreturn]] void fail_launch(const cuda::Driver& driver, cuda::Result result, const GpuLaunch& launch) {
  const auto& [x, y, z] = launch.grid;
  cuda::fail(driver, driver.launch.name(), result,
             fmt::format("launching kernel '{}', grid {}x{}x{}, block {}x{}x{}, {} bytes of dynamic shared memory", launch.kernel, x, y, z,
                         launch.block[0], launch.block[1], launch.block[2], launch.shared_bytes));
}

// `bytes` from the address on are memory that the device reaches.
void check_memory(const cuda::Driver& driver, const std::string& what, void* address, size_t bytes, int device) {
  const auto ask = [&](cuda::PointerAttribute attribute, auto& value) {
    return driver.pointer_attribute(&value, attribute, reinterpret_cast<cuda::Address>(address)) == cuda::Result::kSuccess;
  };
  unsigned type = 0;
  int owner = 0;
  const bool known = ask(cuda::PointerAttribute::kMemoryType, type) && ask(cuda::PointerAttribute::kDevice, owner);
  const bool on_gpu = type == static_cast<unsigned>(cuda::MemoryType::kDevice) || type == static_cast<unsigned>(cuda::MemoryType::kUnified);
  if (!known || !on_gpu) throw ArgumentError(fmt::format("{}: {} is not memory of GPU {}", what, address, device));
  if (owner != device) throw ArgumentError(fmt::format("{}: {} is memory of GPU {}, expected GPU {}", what, address, owner, device));
  cuda::Address start = 0;
  size_t size = 0;
  if (!ask(cuda::PointerAttribute::kRangeStart, start) || !ask(cuda::PointerAttribute::kRangeBytes, size)) return;
  const size_t left = start + size - reinterpret_cast<cuda::Address>(address);
  if (left < bytes) throw ArgumentError(fmt::format("{}: {} bytes of memory from {} on, expected {}", what, left, address, bytes));
}

}  // namespace

GpuExecutor::GpuExecutor(GpuPlan plan, std::span<const std::shared_ptr<const GpuBinary>> binaries, int device)
    : plan_(std::move(plan)), device_(device) {
  if (binaries.size() != plan_.sources.size()) {
    throw std::logic_error(fmt::format("{} binaries of {} sources", binaries.size(), plan_.sources.size()));
  }
  for (const GpuLaunch& launch : plan_.launches) {
    verify(plan_, launch);
    std::vector<int>& numbers = maps_.emplace_back();
    for (const GpuTensorMap& map : launch.tensor_maps) numbers.push_back(map_cache_.add(map));
  }
  tensor_count_ = needed_tensors(plan_);
  for (const auto& binary : binaries) modules_.push_back(gpu_module(binary));
  const GpuContextScope scope(device_);
  loaded_in(scope.id());
}

GpuExecutor::~GpuExecutor() = default;

const GpuExecutor::Loaded& GpuExecutor::loaded_in(uint64_t context) {
  const std::lock_guard lock(mutex_);
  for (const auto& known : loaded_) {
    if (known->context == context) return *known;
  }
  auto made = std::make_unique<Loaded>();
  made->context = context;
  for (const GpuLaunch& launch : plan_.launches) {
    const GpuModule& module = *modules_[static_cast<size_t>(launch.source)];
    made->functions.push_back(module.function(launch.kernel, launch.shared_bytes, launch.argument.size()));
  }
  return *loaded_.emplace_back(std::move(made));
}

void GpuExecutor::fill(const GpuLaunch& launch, std::span<const int> maps, std::span<void* const> tensors, void* workspace,
                       std::byte* argument) {
  std::memcpy(argument, launch.argument.data(), launch.argument.size());
  for (const GpuPatch& patch : launch.patches) {
    std::byte* to = argument + patch.offset;
    if (patch.kind == Kind::kWorkspace) {
      void* address = static_cast<std::byte*>(workspace) + patch.index;
      std::memcpy(to, &address, sizeof(address));
      continue;
    }
    const size_t index = tensor_of(launch, patch);
    void* const address = tensors[index];
    if (patch.kind == Kind::kTensor) {
      std::memcpy(to, &address, sizeof(address));
      continue;
    }
    if (!address) throw ArgumentError(fmt::format("tensor {}: not given, kernel '{}' needs it", index, launch.kernel));
    if (!is_aligned(address)) {
      throw ArgumentError(fmt::format("tensor {}: its address {} is not a multiple of {} bytes", index, address, kAlignment));
    }
    map_cache_.encode(maps[static_cast<size_t>(patch.index)], address, to);
  }
}

void GpuExecutor::run(void* stream, std::span<void* const> tensors, void* workspace) {
  if (tensors.size() < tensor_count_) throw ArgumentError(fmt::format("{} tensors, expected {}", tensors.size(), tensor_count_));
  if (plan_.workspace_bytes > 0 && (!workspace || !is_aligned(workspace))) {
    throw ArgumentError(fmt::format("workspace: {}, expected {} bytes at a multiple of {}", workspace, plan_.workspace_bytes, kAlignment));
  }
  const cuda::Driver& driver = cuda::driver();
  const GpuContextScope scope(device_);
  const Loaded& loaded = loaded_in(scope.id());
  alignas(cuda::kTensorMapAlignment) std::byte argument[kMaxArgumentBytes];
  for (size_t i = 0; i < plan_.launches.size(); ++i) {
    const GpuLaunch& launch = plan_.launches[i];
    const auto& [x, y, z] = launch.grid;
    if (x == 0 || y == 0 || z == 0) continue;
    fill(launch, maps_[i], tensors, workspace, argument);
    cuda::LaunchConfig config = {};
    std::copy(launch.grid.begin(), launch.grid.end(), config.grid);
    std::copy(launch.block.begin(), launch.block.end(), config.block);
    config.shared_bytes = launch.shared_bytes;
    config.stream = static_cast<cuda::Stream>(stream);
    void* parameters[] = {argument};
    // The driver copies the argument before it returns.
    const cuda::Result result = driver.launch(&config, static_cast<cuda::Function>(loaded.functions[i]), parameters, nullptr);
    if (result != cuda::Result::kSuccess) fail_launch(driver, result, launch);
  }
}

void GpuExecutor::check(std::span<void* const> tensors, void* workspace) const {
  if (tensors.size() < tensor_count_) throw ArgumentError(fmt::format("{} tensors, expected {}", tensors.size(), tensor_count_));
  const cuda::Driver& driver = cuda::driver();
  if (plan_.workspace_bytes > 0) check_memory(driver, "workspace", workspace, plan_.workspace_bytes, device_);
  for (const GpuLaunch& launch : plan_.launches) {
    for (const GpuPatch& patch : launch.patches) {
      if (patch.kind == Kind::kWorkspace) continue;
      const size_t index = tensor_of(launch, patch);
      if (!tensors[index]) continue;
      const size_t bytes = patch.kind == Kind::kTensorMap ? bytes_of(launch.tensor_maps[static_cast<size_t>(patch.index)]) : 1;
      check_memory(driver, fmt::format("tensor {}", index), tensors[index], bytes, device_);
    }
  }
}

}  // namespace attune::runtime
