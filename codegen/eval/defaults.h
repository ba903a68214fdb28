// What a program says about its parameters, for actual sizes: values of defaults, dims of tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/ir.h"

namespace attune::codegen {

struct Sizes {
  int batch = 1, heads = 1, kv_heads = 1, q_len = 1, k_len = 1, head_dim = 1, v_dim = 1;
};

// The size that a symbol names; throws std::logic_error if it names none.
int size_of(const Sizes& sizes, Symbol symbol);

// The value of a scalar parameter's default, in double; the parameter has one.
double default_value(const Ir& ir, const Param& param, const Sizes& sizes);

// The dims of a tensor parameter; they may be 0 or negative, which the caller refuses. Packed sequences: sizes.q_len and k_len are the
// longest.
std::vector<int64_t> tensor_dims(const Ir& ir, const Param& param, const Sizes& sizes);

}  // namespace attune::codegen
