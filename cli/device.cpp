#include "cli/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <stdexcept>
#include <vector>

#include "cli/arguments.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"

namespace attune::cli {
namespace {

constexpr int64_t kGpuMaxHeadDim = 256;
constexpr int kMaxCalls = 50;
constexpr double kMaxMs = 1000;

// The number of "cuda" or "cuda:N".
std::optional<int> ordinal_of(std::string_view text) {
  if (!text.starts_with("cuda")) return std::nullopt;
  text.remove_prefix(4);
  if (text.empty()) return 0;
  if (!text.starts_with(':')) return std::nullopt;
  text.remove_prefix(1);
  uint16_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

void check_device(const std::string& text) {
  if (text == "auto" || text == "cpu" || ordinal_of(text)) return;
  throw UsageError(fmt::format("--device: expected auto, cpu or cuda[:N], found '{}'", text));
}

Device choose_device(const std::string& text, DType dtype, const Shape& shape) {
  Device device;
  const std::optional<int> ordinal = ordinal_of(text);
  if (!ordinal) {
    const bool fits = dtype != DType::kF32 && std::max(shape.head_dim, shape.v_dim) <= kGpuMaxHeadDim;
    if (text == "auto" && fits && !runtime::gpu_devices().empty()) device.kind = Device::kCuda;
    return device;
  }
  device = {Device::kCuda, *ordinal};
  if (dtype == DType::kF32) throw UsageError(fmt::format("--device: '{}': f32 runs on the CPU, expected --dtype f16 or bf16", text));
  try {
    runtime::gpu_device(*ordinal);
  } catch (const EnvironmentError& error) {
    throw UsageError(fmt::format("--device: '{}': {}", text, error.what()));
  }
  return device;
}

std::string device_text(const Device& device) {
  return device.kind == Device::kCpu ? "cpu" : fmt::format("cuda:{}", device.ordinal);
}

std::string gpu_name(const Device& device) {
  return runtime::gpu_device(device.ordinal).name;
}

Tensor GpuArrays::upload(Buffer& buffer) {
  Tensor tensor = buffer.tensor();
  runtime::GpuBuffer& memory = buffers_.emplace_back(device_.ordinal, buffer.data.size());
  memory.copy_from_host(buffer.data.data(), buffer.data.size());
  tensor.data = memory.data();
  return tensor;
}

void GpuArrays::download(const Tensor& tensor, Buffer& buffer) const {
  for (const runtime::GpuBuffer& memory : buffers_) {
    if (memory.data() != tensor.data) continue;
    memory.copy_to_host(buffer.data.data(), buffer.data.size());
    runtime::synchronize(device_.ordinal, nullptr);
    return;
  }
  throw std::logic_error("no such array on the GPU");
}

double gpu_median_ms(const Device& device, const std::function<void()>& call) {
  call();  // the driver loads the kernels, and the backward pass may compile its own
  runtime::synchronize(device.ordinal, nullptr);
  std::vector<double> times;
  double sum = 0;
  runtime::GpuEvent start(device.ordinal), end(device.ordinal);
  while (times.size() < kMaxCalls && sum < kMaxMs) {
    start.record(nullptr);
    call();
    end.record(nullptr);
    times.push_back(end.milliseconds_since(start));
    sum += times.back();
  }
  std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace attune::cli
