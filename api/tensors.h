// Checks of the tensors that a caller hands over. Inner part of the library.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "api/attune.h"
#include "dsl/ast.h"
#include "runtime/half.h"

namespace attune {

DType dtype_of(dsl::ElementType element);  // bool: kU8
dsl::ElementType element_of(DType dtype);
runtime::FloatType float_type_of(DType dtype);  // f32, f16, bf16

int64_t element_count(std::span<const int64_t> shape);              // the greatest number where it is more
std::string describe(DType dtype, std::span<const int64_t> shape);  // "f32[2, 512]"

// The strides, those of a contiguous tensor where none are given.
std::vector<int64_t> strides_of(const Tensor& tensor);

enum class Access : uint8_t { kRead, kWrite };

// What a tensor must look like. `what` begins every message: "tensor 'q'", "parameter 'doc'".
struct TensorRule {
  std::string what;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  Access access = Access::kRead;
  bool may_broadcast = false;  // any dim may have size 1
  bool rows = false;           // the last dimension is contiguous
};

// Throws ArgumentError unless the tensor follows the rule and has data (a tensor without elements needs none).
void check_tensor(const TensorRule& rule, const Tensor& tensor);

// q, k, v, out and their gradients as executors see them: rows of a contiguous last dimension, [batch, length, heads] of them; batch has
// stride 0 where sequences are packed.
struct RowTensor {
  char* data = nullptr;
  int64_t strides[3] = {};
  size_t element_bytes = 0;

  // The tensor from that position along the length on.
  void* from(int64_t position) const { return data ? data + position * strides[1] * static_cast<int64_t>(element_bytes) : nullptr; }
};
RowTensor rows_of(const Tensor& tensor, bool packed);

// Element at `offset`, in elements, as a number.
double load_element(const Tensor& tensor, int64_t offset);

}  // namespace attune
