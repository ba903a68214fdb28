// The mask over a tile, and over ranges of indices, without looking at a pair: see MaskBounds in lower.h for what the fields mean.
//
// Affine inequalities in q_idx and k_idx with whole coefficients, under and, or and not, beside uniform conditions, give ranges in closed
// form. `or` keeps the convex hull of both ranges, which may hold keys that nobody keeps (k_idx < 4 or distance < w): test may_keep in it.
// Of a full range of an `or` the greater part is kept where the parts do not touch. Everything else is evaluated as intervals; what reads
// tensors by the row or by the column enters as tile_min and tile_max. Where i32 arithmetic might wrap for the sizes and scalars at hand
// the bounds fall back to "unknown" at run time; sizes and indices alone, in [0, 2^30), are known not to.
#pragma once

#include "codegen/lower.h"

namespace attune::codegen {

// Adds nodes to `ir.graph`, which is verified and folded (a mask that is constant must be a constant). Deterministic. For kAll may_keep and
// all_kept are true and the ranges everything; for kTileMap there are no ranges.
MaskBounds mask_bounds(Ir& ir);

}  // namespace attune::codegen
