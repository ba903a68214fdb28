// The error that a forward pass cannot avoid: everything exact but P and out, which are rounded to the dtype.
#pragma once

#include <vector>

#include "codegen/ir.h"
#include "random_data.h"

namespace attune::numeric {

// `out` of such a pass, in the order of ReferenceResult. `ir` has the head dims as constants.
std::vector<double> out_of_rounded_p(const codegen::Ir& ir, const ProblemData& data, DType dtype);

}  // namespace attune::numeric
