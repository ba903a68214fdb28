// Interval evaluation of IR by the interval column of the operator table.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "codegen/op_table.h"

namespace attune::codegen {

// The interval of a node where the caller knows it; nullopt: the operator's rule on the intervals of the operands decides.
using IntervalLeaf = std::function<std::optional<Interval>(ValueId id)>;

// The intervals of `roots`, as nodes added to `graph`. What has neither a leaf's interval nor a rule gets unknown_interval(). Exponents of
// pow and ipow must come out as points of constants, as point_interval() makes them.
std::vector<Interval> evaluate_intervals(Graph& graph, std::span<const ValueId> roots, const IntervalLeaf& leaf);

Interval point_interval(Graph& graph, ValueId id);   // the value itself
Interval unknown_interval(Graph& graph, Type type);  // bool: undecided; i32: all of it; f32: NaN end points
Interval fit_i32_interval(Ex low, Ex high);          // all of i32 where the exact end points do not fit it

}  // namespace attune::codegen
