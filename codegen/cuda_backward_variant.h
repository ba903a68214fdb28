// A program as the `Variant` of the backward kernels.
#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "codegen/cuda_variant.h"
#include "codegen/pair_sums.h"

namespace attune::codegen {

class BackwardVariant : public CudaVariant {
 public:
  BackwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config);

  std::string text() const;
  bool uses_delta() const { return backward_.uses_delta; }
  // Whether anything has to be done before and behind the main kernels, whatever these leave to do.
  bool is_prepared() const;
  bool has_row_gradients() const;
  bool has_gradients() const;
  int feed_bytes() const { return config_.block_m / 64 * pair_bytes(config_.block_n); }  // of a step

 private:
  // Where the contributions to a read's gradient are summed.
  enum class Place : uint8_t {
    kHead,    // one address a head: in Gradients
    kKey,     // one address a key: in KeyGradients
    kMemory,  // one address a row or a pair: added at once
    kRun,     // by an index of row and column together: in Gradients while the address stays the same
  };

  // A gradient that follows from sums over dqk.
  struct SumGradient {
    ParamGradient gradient;
    PairSum sum;
  };

  bool has_place(PairSumOf of) const;
  void find_sums();
  std::vector<SumGradient> sums_of(std::initializer_list<PairSumOf> kinds) const;
  std::vector<ValueId> roots_of(const std::vector<SumGradient>& sums) const;
  Place place_of(ValueId read) const;
  bool reaches(ValueId root, Symbol symbol) const;
  bool has_pair_gradients() const;
  bool has_sums(std::initializer_list<PairSumOf> kinds) const;
  std::vector<ValueId> gradient_indices(bool of_pairs) const;

  std::string constants_text() const;
  std::string gradients_struct_text() const;
  std::string pair_text() const;
  std::string dqk_text() const;
  std::string gradients_text() const;
  std::string row_gradients_text() const;
  std::string scale_text() const;
  std::string sums_text(std::string_view declared, std::initializer_list<PairSumOf> kinds) const;
  std::string each_pair_text() const;
  std::string feeds_text() const;
  std::string flush_text() const;
  std::string flush_keys_text() const;
  std::string clear_text() const;
  std::string take_text() const;

  std::string added_text(CudaWriter& writer, bool of_pairs) const;
  std::string summed_text(Place place, CudaWriter& writer) const;

  // Where gradients are added up: members of Params, by the parameter's name behind this.
  const char* sums() const { return deterministic_ ? "p.sum_" : "p.g_"; }

  const GpuConfig& config_;
  const bool deterministic_;
  Backward backward_;  // dqk without dqk_scale
  ValueId scale_ = kNoValue;
  std::vector<SumGradient> sums_;  // no longer in backward_, but for what rows contribute
  bool from_weight_ = false;
};

}  // namespace attune::codegen
