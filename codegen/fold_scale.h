// A value times a constant, the constant folded into what is computed once: how a score enters the exp2 domain.
#pragma once

#include "codegen/ir.h"

namespace attune::codegen {

// value * factor, f32; factor > 0. Precondition: `value` is simplified. Where every path of sums, differences, negations, selections
// (where, min, max, clamp, abs, relu) from the value leads to something that takes the factor for nothing - a product with a slower factor,
// a value that is slower than a pair, a constant - it is folded there: qk * a + b -> qk * (a * c) + b * c, one multiply-add a pair. Else
// one product is added. The same up to rounding; infinities and NaN stay what they are.
ValueId fold_scale(Graph& graph, ValueId value, double factor);

}  // namespace attune::codegen
