// Symbolic differentiation: the backward pass of one variant, from the same source as its forward pass.
//
// With p_ij = exp2(score2_ij - lse2_i), f the factor, s the score and g = p * (f * dp - delta), where dp = dO . v and delta = rowsum(dO *
// O):
//   softmax    weight = p * f    dqk = g * ds/dqk + p * dp * df/dqk    (the same for a parameter r in place of qk)
//              a sink t          dt  = -exp2(t * log2(e) - lse2) * delta, a row
//   pointwise  weight = w        dqk = dp * dw/dqk
//
// A kept pair with a score of -inf has p = 0 and must give 0. Where ds, df and f are finite that follows by itself. Where one of them, and
// the score too, may be infinite or NaN (see finiteness.h), as in score = log(relu(qk)), the results are guarded by where(p == 0, 0, ...);
// a NaN in p passes. score = qk * a + table[...] with -inf in the table needs no guard: its ds/dqk = a does not read the table.
#pragma once

#include "codegen/ir.h"
#include "codegen/lower.h"

namespace attune::codegen {

// d value / d variable for f32 nodes, by forward differentiation with the tangents of op_table.def; `variable` is any node: a symbol, a
// parameter, one read. kNoValue if no path leads from one to the other (a structural zero: its product with NaN would still be 0). Not
// simplified.
ValueId derivative(Graph& graph, ValueId value, ValueId variable);

// The backward pass. Precondition: ir is verified and simplified; score2 is score * log2(e), for softmax only. Parameters in the order of
// their declaration, reads of one parameter in the order of their nodes; those without any contribution are left out. Not simplified.
Backward differentiate(Ir& ir, ValueId score2);

}  // namespace attune::codegen
