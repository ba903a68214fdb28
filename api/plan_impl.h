// A program bound to shapes and parameters. Inner part of the library.
#pragma once

#include <memory>

#include "api/parameters.h"
#include "api/problem.h"
#include "api/variant_impl.h"

namespace attune {

// What a plan is before it has kernels.
struct BoundProgram {
  std::shared_ptr<const Variant::Impl> variant;
  std::shared_ptr<const TypedProgram> typed;
  std::unique_ptr<const Problem> problem;
  std::unique_ptr<const Parameters> parameters;
};

// Checks everything that is known before a call. With `mask_only`, only parameters that the mask reads have to be there.
BoundProgram bind_program(const Variant& variant, const Shape& shape, const PlanOptions& options, bool mask_only = false);

}  // namespace attune
