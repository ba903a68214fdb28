// Simplification: constants folded, identities applied, products and sums regrouped so that what is slow is computed once.
//
// Postcondition: simplifying again changes nothing. Equal inputs give equal outputs.
//
// What stays exact, NaN and infinities included: i32 and bool arithmetic, and every identity of f32 (x * 1, x / 2 -> x * 0.5, where(true,
// a, b), not (a == b) -> a != b, ...), except that the sign of a zero is not kept (x + 0 -> x, 0 - x -> -x, -(a - b) -> b - a). Nothing is
// folded to NaN, x * 0 and x - x stay for f32, and `not (a < b)` stays for numbers that may be NaN. Each identity keeps the derivative too,
// also at kinks, so that a program may be simplified before it is differentiated.
//
// What may differ by rounding, and is assumed: f32 divisions by a slower value become a product with its reciprocal (1 ulp); factors and
// addends that are slower than the rest (uniform before row or column before element) are gathered, (qk * a) * b -> qk * (a * b), where
// such factors, their products and reciprocals, and sums of such addends are assumed to stay in f32's range. A sum of two constants that
// cancel, (x + c) - c, is left alone, since it rounds x on purpose.
#pragma once

#include <span>

#include "codegen/ir.h"

namespace attune::codegen {

// Replaces each root by its simplified equal, of the same type; kNoValue stays. The graph grows.
void simplify(Graph& graph, std::span<ValueId* const> roots);

// All roots of the variant: score, mask, weight, sink, factor, dims and defaults of parameters.
void simplify(Ir& ir);

}  // namespace attune::codegen
