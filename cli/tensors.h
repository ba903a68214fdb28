// Arrays of files as tensors of the API, and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "api/attune.h"

namespace attune::cli {

// Memory of a contiguous tensor.
struct Buffer {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<std::byte> data;

  Tensor tensor();  // views the data
};

Buffer make_buffer(DType dtype, std::vector<int64_t> shape);  // zeroed

// An f32 or f16 file as `dtype`. Values beyond the range of f16 become inf, which a warning on standard error counts.
Buffer read_floats(const std::string& option, const std::string& path, DType dtype);

// An i32 file of offsets, for --cu-q and --cu-k: [batch + 1], from 0, not decreasing.
Buffer read_offsets(const std::string& option, const std::string& path);

// An f32 .npy of a float buffer.
void write_floats(const std::string& path, const Buffer& buffer);

// Values of run-time parameters. The tensors of options() view the buffers.
struct Bindings {
  std::map<std::string, Scalar> scalars;
  std::map<std::string, Buffer> buffers;  // tensors and `grad` scalars

  void apply(PlanOptions& options);
};

// Binds each NAME=VALUE or NAME=FILE.npy of --param. Throws UsageError for an unknown name, a value that does not suit the declaration, a
// file of another dtype, and NaN.
Bindings bind_params(const Variant& variant, std::span<const std::string> texts);

// Throws UsageError for a run-time parameter that has neither a value nor a default.
void check_all_bound(const Variant& variant, const Bindings& bindings);

}  // namespace attune::cli
