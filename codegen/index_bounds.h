// Plan-time check that no read leaves its tensor, with the actual sizes and scalars.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "codegen/eval/defaults.h"
#include "codegen/ir.h"

namespace attune::codegen {

struct IndexProblem {
  int param = 0;
  int axis = 0;
  // "'table': index 0 can be -3..12, its dim has size 8", and behind it, if the indices of the pair matter, which pairs were looked at:
  // "; the mask reads it for all pairs", "; for pairs that the mask may keep".
  std::string message;
};

// Reads in score, weights, sink and factor are checked for pairs that the mask may keep (box of indices cut by the mask's affine
// inequalities), reads in the mask for all pairs; an index that depends on neither q_idx nor k_idx is always checked. An index that depends
// on tensor data, or whose interval is not known, is not checked here: it is clamped by the kernel; see is_data_dependent. `scalar` gives
// the value of a scalar parameter; NaN, of any type, if it is not known; it is not asked for grad parameters, whose values lie in device
// memory. Sizes of one sequence. Where sequences are packed, `longest` holds the sizes that dims are taken of. In the order of reads in the
// graph, each message once.
std::vector<IndexProblem> check_indices(const Ir& ir, const Sizes& sizes, const std::function<double(int param)>& scalar,
                                        const Sizes* longest = nullptr);

// Whether an index of a read is not checked before the kernel runs, so that kernels must clamp it and raise the flag: it depends on tensor
// values, on an f32 scalar (which may lie in device memory), or on a function whose interval is unknown or too wide to be of use (log, exp,
// sqrt, pow, random, a division of f32 by what is not a constant, ...).
bool is_data_dependent(const Graph& graph, ValueId index);

}  // namespace attune::codegen
