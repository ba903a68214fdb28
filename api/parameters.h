// A program's parameters bound to the caller's values, and checked. Inner part of the library.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/attune.h"
#include "api/problem.h"
#include "codegen/ir.h"
#include "runtime/cpu_executor.h"
#include "runtime/cpu_kernel.h"

namespace attune {

class Parameters {
 public:
  // Throws ArgumentError for a name that is unknown, a value of a wrong type, a tensor of a wrong shape, a parameter without a value, or an
  // index that leaves its tensor. Parameters that `needed` (one flag each) leaves out may be missing.
  Parameters(const codegen::Ir& ir, const Problem& problem, const PlanOptions& options, const std::vector<bool>& needed);

  // What kernels see, for sequences of problem.lengths[lengths]; valid as long as this.
  const runtime::CpuTensor* tensors(size_t lengths) const { return sets_[lengths].tensors.data(); }
  const int32_t* dims() const { return dims_.data(); }

  // Bound to the caller's memory: tensors, and grad scalars that are given as tensors.
  bool is_in_memory(int param) const { return bound_[static_cast<size_t>(param)].has_value(); }

  // The value of a scalar parameter now, NaN if it is missing; of a grad scalar in memory, what stands there.
  double scalar(size_t lengths, int param) const;
  // A read of a bound tensor, the indices clamped to its dims.
  double element(int param, std::span<const double> indices) const;

  // The rule for the gradient's tensor; throws ArgumentError if there is no such gradient.
  runtime::CpuParamGradient gradient(const std::string& name, const Tensor& tensor) const;
  // Of a tensor parameter's gradient; 0 along all dims where the tensor is missing.
  std::vector<int64_t> gradient_shape(int param) const;

 private:
  union ScalarValue {
    float f32;
    int32_t i32;
    uint8_t boolean;
  };
  struct Set {  // of one pair of lengths
    std::vector<ScalarValue> scalars;
    std::vector<runtime::CpuTensor> tensors;
  };

  int find(const std::string& name) const;
  void check_names(const PlanOptions& options) const;
  void bind_tensor(int index, const PlanOptions& options, bool needed);
  void bind_set(Set& set, Lengths lengths, const PlanOptions& options, const std::vector<bool>& needed);
  void check_dims(int index) const;
  void check_index_ranges(const std::vector<bool>& needed) const;

  const codegen::Ir& ir_;
  const Problem& problem_;
  std::vector<std::optional<Tensor>> bound_;         // tensors and grad scalars in memory
  std::vector<std::vector<int64_t>> declared_dims_;  // of tensors
  std::vector<int32_t> dims_;
  std::vector<std::vector<bool>> has_value_;  // by set, by parameter
  std::vector<Set> sets_;
};

// Flags of the parameters that the roots read.
std::vector<bool> params_of_roots(const codegen::Ir& ir, std::span<const codegen::ValueId> roots);

}  // namespace attune
