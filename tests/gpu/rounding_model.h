// The error that a pass cannot avoid. Forward: everything is exact but P and out, which are rounded to the dtype. Backward: P, dS and the
// results are rounded, and out is what the forward pass has stored.
#pragma once

#include <vector>

#include "codegen/ir.h"
#include "random_data.h"

namespace attune::numeric {

// `out` of such a pass, in the order of ReferenceResult. `ir` has the head dims as constants.
std::vector<double> out_of_rounded_p(const codegen::Ir& ir, const ProblemData& data, DType dtype);

struct RoundedGradients {
  std::vector<double> dq, dk, dv;
  std::vector<std::vector<double>> param_grads;  // in f32: not rounded
};
// In the order of ReferenceResult; `stored_out` too.
RoundedGradients gradients_of_rounded_ds(const codegen::Ir& ir, const ProblemData& data, DType dtype,
                                         const std::vector<double>& stored_out);

}  // namespace attune::numeric
