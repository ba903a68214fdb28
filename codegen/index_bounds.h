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
  std::string message;  // "'table': index 0 can be -3..12, its dim has size 8"
};

// Reads in score, weights, sink and factor are checked for pairs that the mask may keep (box of indices cut by the mask's affine inequalities),
// reads in the mask for all pairs. An index that depends on tensor data, or whose interval is not known, is not checked here: it is clamped
// by the kernel; see is_data_dependent. `scalar` gives the value of a scalar parameter. Sizes of one sequence.
std::vector<IndexProblem> check_indices(const Ir& ir, const Sizes& sizes, const std::function<double(int param)>& scalar);

// Whether index `axis` of the read may leave its tensor at run time because it depends on tensor values, so that kernels must clamp it.
bool is_data_dependent(const Graph& graph, ValueId index);

}  // namespace attune::codegen
