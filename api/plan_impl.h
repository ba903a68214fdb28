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

// Which parameters have to be there: all, those that the mask reads, or none.
enum class Needed : uint8_t { kAll, kMask, kNone };

// Checks everything that is known before a call.
BoundProgram bind_program(const std::shared_ptr<const Variant::Impl>& variant, const Shape& shape, const PlanOptions& options,
                          Needed needed = Needed::kAll);

}  // namespace attune
