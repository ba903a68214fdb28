// Values for the tensors and parameters of a case: each depends on the seed and its own name only, so that taking a case apart does not
// change what is left of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "codegen/eval/reference.h"
#include "codegen/ir.h"
#include "numeric_case.h"

namespace attune::numeric {

// Rounded to the dtype.
double rounded(DType dtype, double value);

struct TensorParam {
  DType dtype = DType::kF32;
  std::vector<int64_t> dims;      // as bound: some are 1 where the program declares more
  std::vector<double> values;     // dense
  std::vector<bool> is_repeated;  // by dim: all its values are the same, so that it can be bound with stride 0
};

// Everything of one call. Rows are those of all sequences, one after the other: [rows, heads, dim]; for equal lengths that is
// [batch, length, heads, dim].
struct ProblemData {
  ProblemShape shape;
  codegen::Sizes sizes;  // the longest lengths
  std::vector<double> q, k, v, dout;
  std::vector<std::optional<double>> scalars;             // by parameter; nullopt: take the default
  std::vector<std::optional<TensorParam>> tensor_params;  // by parameter

  int64_t q_rows() const;
  int64_t k_rows() const;
};

ProblemData random_data(const codegen::Ir& ir, const Case& c, size_t problem);

// The data as problems of the reference: one, or one a sequence.
std::vector<codegen::ReferenceProblem> reference_problems(const ProblemData& data);

// Results of them, put together as calls see them: rows as in ProblemData, lse by [row, head], gradients of parameters summed.
codegen::ReferenceResult reference_result(const codegen::Ir& ir, const std::vector<codegen::ReferenceProblem>& problems,
                                          const ProblemData& data);

}  // namespace attune::numeric
