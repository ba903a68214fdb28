// A score that falls or rises with the key's index: score = rest + line, where the line is affine in k_idx with a slope that all pairs of a
// head share (ALiBi). A kernel takes the line at the first key of a block once a row, and one operation a pair from there on.
#pragma once

#include <optional>

#include "codegen/ir.h"

namespace attune::codegen {

struct ScoreLine {
  ValueId line = kNoValue;   // by element, without qk: all addends that do not depend on the pair otherwise
  ValueId slope = kNoValue;  // uniform: line(k_idx + 1) - line(k_idx)
  ValueId rest = kNoValue;
};

// Nothing if there is no slope, or no rest. Distances have to be f32 (float_distances.h); the graph grows.
std::optional<ScoreLine> split_line(Graph& graph, ValueId score);

}  // namespace attune::codegen
