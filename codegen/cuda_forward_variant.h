// A program as the `Variant` of a forward kernel.
#pragma once

#include "codegen/cuda_variant.h"

namespace attune::codegen {

class ForwardVariant : public CudaVariant {
 public:
  ForwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config);

  std::string text() const;
  // What one block of keys needs in memory so that tiles can be classified.
  size_t extent_bytes() const { return CudaVariant::extent_bytes(Rate::kColumn); }

 private:
  std::string constants_text() const;

  const GpuConfig& config_;
  const ValueId score2_;
  ValueId sink2_ = kNoValue;
  bool factor_of_score_ = false;
  bool is_near_ = false;  // tiles may take a polynomial for tanh
};

}  // namespace attune::codegen
