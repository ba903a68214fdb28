// A program as the `Variant` of a forward kernel.
#pragma once

#include <optional>

#include "codegen/cuda_variant.h"
#include "codegen/feeds.h"
#include "codegen/score_line.h"

namespace attune::codegen {

class ForwardVariant : public CudaVariant {
 public:
  ForwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config);

  std::string text() const;
  // What feeder warps bring of each block of keys, for a warpgroup; 0: nothing.
  int feed_bytes() const;

 private:
  std::string constants_text() const;
  void find_feeds();
  std::string line_text() const;
  std::string feeds_text() const;
  std::string pairs_text() const;
  std::string columns_text() const;
  int column_words() const { return static_cast<int>(fed_columns_.size()) + carries_outside_; }
  int table_words() const;
  std::string tables_text() const;

  const GpuConfig& config_;
  const ValueId score2_;
  ValueId sink2_ = kNoValue;
  bool factor_of_score_ = false;
  bool is_near_ = false;              // tiles may take a polynomial for tanh
  std::optional<ScoreLine> line_;     // of score2
  std::vector<ValueId> fed_columns_;  // members of Column that come of tensors
  bool carries_outside_ = false;      // and what they clamped
  std::vector<TableRead> fed_tables_;
};

}  // namespace attune::codegen
