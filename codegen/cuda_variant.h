// A program as the `Variant` of a kernel, as CUDA text: what forward and backward kernels share. docs/decisions/gpu-kernel.md is the
// contract.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "codegen/cuda_values.h"
#include "codegen/cuda_writer.h"
#include "codegen/gpu_kernel.h"
#include "codegen/lower.h"

namespace attune::codegen {

class CudaVariant {
 public:
  CudaVariant(const CudaVariant&) = delete;  // values_ refers to ir_
  CudaVariant& operator=(const CudaVariant&) = delete;

  bool is_sigmoid() const { return exponent2_ != kNoValue; }
  // Whether the mask's tiles have to be classified.
  bool is_searched() const { return bounds_.kind == MaskBounds::Kind::kTileMap; }
  // Whether an index depends on data.
  bool has_index_flag() const;
  // What one block of queries or keys needs in memory so that tiles can be classified.
  size_t row_extent_bytes() const { return extent_bytes(Rate::kRow); }
  size_t column_extent_bytes() const { return extent_bytes(Rate::kColumn); }

 protected:
  CudaVariant(const Lowered& lowered, const GpuKernelOptions& options);
  ~CudaVariant() = default;

  bool is_softmax() const { return ir_.weight_kind == WeightKind::kSoftmax; }
  bool has_mask() const { return bounds_.kind != MaskBounds::Kind::kAll; }
  // Once, when all nodes are there. To `roots` come those of the mask, except ranges, and of the sigmoid; `weight`: what is named "scale"
  // and "bias" in it.
  void place_values(CudaRoots roots, ValueId weight);

  std::string kinds_text() const;
  std::string uniform_text() const;
  std::string row_text(ValueId sink2) const;
  std::string column_text() const;
  // `is_near`: with tanh_near().
  std::string element_text(std::string_view name, ValueId root, bool carries, std::string_view arguments = "float qk",
                           bool is_near = false) const;
  std::string sigmoid_text() const;
  std::string keep_text() const;
  std::string range_text(std::string_view name, std::string_view tile, const IndexRange& range) const;  // of tile "q" or "k"
  std::string extent_text(Rate rate) const;
  std::string classify_text() const;
  std::string stored_text(Rate rate, std::string_view name, std::string_view member, std::string_view blocks) const;

  // What is fed of pairs, for tiles of that many keys: bytes of one tensor's tile, and of all of 64 queries; members of a Pair; and the
  // function that has the copy engine load it.
  int tile_bytes(ValueId read, int block_n) const;
  int pair_bytes(int block_n) const;
  std::string_view pair_element(ValueId read) const;
  std::string pair_members_text() const;
  std::string load_pairs_text(int block_n) const;

  // Parts of functions.
  std::string outside_text(const CudaWriter& writer, bool carries) const;
  std::string statements_text(CudaWriter& writer) const;
  std::string raise_text(const std::string& outside) const;

  Ir ir_;  // a copy: it grows
  const MaskBounds bounds_;
  const bool packed_;
  ValueId exponent2_ = kNoValue, half_ = kNoValue, center_ = kNoValue;  // sigmoid
  std::optional<CudaValues> values_;
  // Reads that functions of pairs find in `column`, which is a Pair then: a Column with members of the names of the values.
  std::vector<ValueId> of_pairs_;
  // And tables, from an address in its member `tables` on.
  std::map<ValueId, CudaWriter::Table> tables_;

 private:
  size_t extent_bytes(Rate rate) const;
  void find_sigmoid();
  ValueId without_qk(ValueId root);
  std::string center_text() const;

  CudaRoots roots_;
};

}  // namespace attune::codegen
