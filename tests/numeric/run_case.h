// Runs a case through the library and compares everything that it gives with the reference.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "codegen/ir.h"
#include "numeric_case.h"
#include "random_data.h"

namespace attune::numeric {

// The typed program, sizes unknown. Throws std::runtime_error with the rendered errors.
codegen::Ir reference_ir(const Case& c);

// What a call gave, in the order of codegen::ReferenceResult of the whole data.
struct CallResult {
  std::vector<double> out, lse, dq, dk, dv;
  std::vector<std::vector<double>> param_grads;
};

// Forward and backward with poisoned results. Throws std::runtime_error if something beside the results was written.
CallResult run_library(const Case& c, const codegen::Ir& ir, const ProblemData& data);

// What is wrong, or nullopt. Exceptions are "exception: ...".
std::optional<std::string> failure_of(const Case& c);

}  // namespace attune::numeric
