// --device of `attune run`: where to run, and host arrays on a GPU.
#pragma once

#include <functional>
#include <list>
#include <string>

#include "api/attune.h"
#include "cli/tensors.h"
#include "runtime/gpu_memory.h"

namespace attune::cli {

// Throws UsageError unless it is auto, cpu or cuda[:N].
void check_device(const std::string& text);

// The device to run on. `auto` is GPU 0 if there is one that can do it, else the CPU. Throws UsageError that says why a GPU that
// was asked for cannot: no driver, no such GPU, f32.
Device choose_device(const std::string& text, DType dtype, const Shape& shape);

std::string device_text(const Device& device);  // "cpu", "cuda:0"
std::string gpu_name(const Device& device);     // "NVIDIA H100 80GB HBM3"

// Tensors in the memory of a GPU, kept as long as this.
class GpuArrays {
 public:
  explicit GpuArrays(const Device& device) : device_(device) {}

  Tensor upload(Buffer& buffer);
  // Waits for the device's default stream.
  void download(const Tensor& tensor, Buffer& buffer) const;

 private:
  Device device_;
  std::list<runtime::GpuBuffer> buffers_;
};

// Median time on the GPU of several calls after the first, on the default stream.
double gpu_median_ms(const Device& device, const std::function<void()>& call);

}  // namespace attune::cli
