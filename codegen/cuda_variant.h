// A program as the `Variant` of a forward kernel, as CUDA text; docs/decisions/gpu-kernel.md is the contract.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "codegen/cuda_values.h"
#include "codegen/cuda_writer.h"
#include "codegen/gpu_kernel.h"
#include "codegen/lower.h"

namespace attune::codegen {

class ForwardVariant {
 public:
  ForwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config);
  ForwardVariant(const ForwardVariant&) = delete;  // values_ refers to ir_
  ForwardVariant& operator=(const ForwardVariant&) = delete;

  std::string text() const;
  bool is_sigmoid() const { return exponent2_ != kNoValue; }
  // Whether the mask's tiles have to be classified, and what one block of keys needs in memory for that.
  bool is_searched() const { return bounds_.kind == MaskBounds::Kind::kTileMap; }
  size_t extent_bytes() const;
  // Whether an index depends on data.
  bool has_index_flag() const;

 private:
  bool is_softmax() const { return ir_.weight_kind == WeightKind::kSoftmax; }
  bool has_mask() const { return bounds_.kind != MaskBounds::Kind::kAll; }
  void find_roots();
  ValueId without_qk(ValueId root);
  CudaRoots roots() const;

  std::string constants_text() const;
  std::string uniform_text() const;
  std::string row_text() const;
  std::string column_text() const;
  std::string element_text(std::string_view name, ValueId root, bool carries) const;
  std::string center_text() const;
  std::string keep_text() const;
  std::string range_text(std::string_view name, const IndexRange& range) const;
  std::string extent_text(Rate rate) const;
  std::string classify_text() const;
  std::string stored_extents_text() const;

  const GpuKernelOptions& options_;
  const GpuConfig& config_;
  Ir ir_;  // a copy: it grows
  MaskBounds bounds_;
  ValueId score2_ = kNoValue, sink2_ = kNoValue;                        // softmax
  ValueId exponent2_ = kNoValue, half_ = kNoValue, center_ = kNoValue;  // sigmoid
  bool factor_of_score_ = false;
  std::optional<CudaValues> values_;
};

}  // namespace attune::codegen
