#include "api/tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "runtime/error.h"

namespace attune {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 56;  // so that offsets in bytes fit 64 bits

struct DTypeInfo {
  std::string_view name;
  size_t size;
};

// In the order of DType.
constexpr DTypeInfo kDTypes[] = {{"f32", 4}, {"f16", 2}, {"bf16", 2}, {"i32", 4}, {"u8", 1}};

[[noreturn]] void fail(const TensorRule& rule, const std::string& message) {
  throw ArgumentError(fmt::format("{}: {}", rule.what, message));
}

bool shape_fits(const TensorRule& rule, std::span<const int64_t> shape) {
  if (shape.size() != rule.shape.size()) return false;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] != rule.shape[axis] && !(rule.may_broadcast && shape[axis] == 1)) return false;
  }
  return true;
}

void check_strides(const TensorRule& rule, const Tensor& tensor) {
  if (!tensor.strides.empty() && tensor.strides.size() != tensor.shape.size()) {
    fail(rule, fmt::format("expected {} strides, found {}", tensor.shape.size(), tensor.strides.size()));
  }
  const std::vector<int64_t> strides = strides_of(tensor);
  if (rule.rows && tensor.shape.back() > 1 && strides.back() != 1) {
    fail(rule, fmt::format("expected a contiguous last dim, found stride {}", strides.back()));
  }
  const bool is_empty = std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end();
  if (rule.access == Access::kRead || is_empty) return;
  for (size_t axis = 0; axis < strides.size(); ++axis) {
    if (strides[axis] == 0 && tensor.shape[axis] > 1) fail(rule, fmt::format("dim {} is broadcast (stride 0), but is written to", axis));
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].name;
}

size_t dtype_size(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].size;
}

DType dtype_of(dsl::ElementType element) {
  switch (element) {
    case dsl::ElementType::kF32:
      return DType::kF32;
    case dsl::ElementType::kF16:
      return DType::kF16;
    case dsl::ElementType::kBF16:
      return DType::kBF16;
    case dsl::ElementType::kI32:
      return DType::kI32;
    default:
      return DType::kU8;
  }
}

dsl::ElementType element_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return dsl::ElementType::kF32;
    case DType::kF16:
      return dsl::ElementType::kF16;
    case DType::kBF16:
      return dsl::ElementType::kBF16;
    case DType::kI32:
      return dsl::ElementType::kI32;
    default:
      return dsl::ElementType::kU8;
  }
}

runtime::FloatType float_type_of(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return runtime::FloatType::kF16;
    case DType::kBF16:
      return runtime::FloatType::kBF16;
    default:
      return runtime::FloatType::kF32;
  }
}

int64_t element_count(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape) {
    if (size == 0) return 0;
    if (__builtin_mul_overflow(count, size, &count)) count = std::numeric_limits<int64_t>::max();
  }
  return count;
}

std::string describe(DType dtype, std::span<const int64_t> shape) {
  return fmt::format("{}[{}]", dtype_name(dtype), fmt::join(shape, ", "));
}

std::vector<int64_t> strides_of(const Tensor& tensor) {
  if (!tensor.strides.empty()) return tensor.strides;
  std::vector<int64_t> strides(tensor.shape.size());
  int64_t stride = 1;
  for (size_t axis = strides.size(); axis-- > 0; stride *= tensor.shape[axis]) strides[axis] = stride;
  return strides;
}

void check_tensor(const TensorRule& rule, const Tensor& tensor) {
  const bool is_empty = element_count(rule.shape) == 0;
  if (element_count(rule.shape) > kMaxElements) {
    fail(rule, fmt::format("expected {}, which is more than 2^56 elements", describe(rule.dtype, rule.shape)));
  }
  if (!tensor.data && tensor.shape.empty() && !rule.shape.empty()) {
    if (is_empty) return;
    fail(rule, fmt::format("missing, expected {}", describe(rule.dtype, rule.shape)));
  }
  if (tensor.dtype != rule.dtype || !shape_fits(rule, tensor.shape)) {
    fail(rule, fmt::format("expected {}, found {}", describe(rule.dtype, rule.shape), describe(tensor.dtype, tensor.shape)));
  }
  check_strides(rule, tensor);
  if (is_empty) return;
  if (!tensor.data) fail(rule, "data is null");
  if (reinterpret_cast<uintptr_t>(tensor.data) % dtype_size(tensor.dtype) != 0) {
    fail(rule, fmt::format("data is not aligned to the {} bytes of {}", dtype_size(tensor.dtype), dtype_name(tensor.dtype)));
  }
}

RowTensor rows_of(const Tensor& tensor, bool packed) {
  RowTensor rows;
  rows.data = static_cast<char*>(tensor.data);
  rows.element_bytes = dtype_size(tensor.dtype);
  if (!tensor.data || tensor.shape.empty()) return rows;
  const std::vector<int64_t> strides = strides_of(tensor);
  const size_t first = packed ? 1 : 0;
  for (size_t axis = first; axis < 3; ++axis) rows.strides[axis] = strides[axis - first];
  return rows;
}

double load_element(const Tensor& tensor, int64_t offset) {
  switch (tensor.dtype) {
    case DType::kI32:
      return static_cast<const int32_t*>(tensor.data)[offset];
    case DType::kU8:
      return static_cast<const uint8_t*>(tensor.data)[offset];
    default:
      return runtime::load_float(float_type_of(tensor.dtype), tensor.data, offset);
  }
}

}  // namespace attune
