// Runs a case through the library and compares everything that it gives with the reference.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "codegen/ir.h"
#include "numeric_case.h"
#include "random_data.h"

namespace attune::numeric {

// The typed program, sizes unknown, or with the case's head dims as constants. Throws std::runtime_error with the rendered errors.
enum class HeadDims : uint8_t { kUnknown, kConstant };
codegen::Ir reference_ir(const Case& c, HeadDims head_dims = HeadDims::kUnknown);

// The data's parameters as a plan wants them. `place` puts values into a tensor of that shape, repeated dims with stride 0.
using PlaceTensor = std::function<Tensor(const std::string& name, DType dtype, const std::vector<int64_t>& shape,
                                         const std::vector<bool>& is_repeated, const std::vector<double>& values)>;
void bind_parameters(const codegen::Ir& ir, const ProblemData& data, const PlaceTensor& place, PlanOptions& options);

std::vector<int32_t> offsets_of(const std::vector<int>& lengths);
// An lse as calls give it, [batch, heads, q_len] or [heads, rows], as [row, head].
std::vector<double> lse_by_row(const ProblemData& data, const std::vector<double>& values);

// What a call gave, in the order of codegen::ReferenceResult of the whole data.
struct CallResult {
  std::vector<double> out, lse, dq, dk, dv;
  std::vector<std::vector<double>> param_grads;
};

// Forward and backward with poisoned results. Throws std::runtime_error if something beside the results was written.
CallResult run_library(const Case& c, const codegen::Ir& ir, const ProblemData& data);

// The greatest magnitude among finite values; 0 if there are none.
double greatest_magnitude(const std::vector<double>& values);

// What terms of a gradient of a parameter leave of their rounding to `dtype`, as PyTorch rounds dS before it sums: 0 for f32, whose is
// elsewhere. `squares`: sums of the terms' squares.
double rounding_of_terms(DType dtype, const std::vector<double>& squares);
// What is left of an element of dq or dk where dP - delta cancels, as it does for a single key: the roundings of a pair's dP in f32, times
// a row of K or Q.
struct CancellationNoise {
  double dq = 0, dk = 0;
};
CancellationNoise cancellation_noise(const ProblemData& data);

// What is wrong with the results of a call, or nullopt.
std::optional<std::string> difference_of(const Case& c, const codegen::Ir& ir, const ProblemData& data, const CallResult& got);

// What is wrong with a case, or nullopt. Exceptions are "exception: ...".
std::optional<std::string> failure_of(const Case& c);

}  // namespace attune::numeric
