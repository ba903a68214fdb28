// Values of the IR as CUDA text, each at the place where its rate allows: members of Uniform, Row and Column, or locals of a function.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "codegen/lower.h"
#include "codegen/whole_numbers.h"

namespace attune::codegen {

// Where a text stands: what it can see. kBounds: q_idx or k_idx of an extent, or the indices of a tile.
enum class CudaScope : uint8_t { kUniform, kRow, kColumn, kElement, kBounds };

// What the functions of a Variant compute.
struct CudaRoots {
  std::vector<ValueId> element;  // for every pair
  std::vector<ValueId> row;      // for every row, beside what pairs need
  std::vector<ValueId> bounds;   // for tiles
};

class CudaValues {
 public:
  CudaValues(const Ir& ir, bool packed, const CudaRoots& roots);

  // Names `mul(qk, member)` "PREFIXscale" and what is added to it "PREFIXbias", if they are members of Uniform.
  void name_line(ValueId root, const std::string& prefix);

  const std::vector<ValueId>& members(CudaScope scope) const;  // of kUniform, kRow, kColumn; operands first
  std::string members_text(CudaScope scope) const;             // declarations, a line a type, indented by four
  // tile_min and tile_max nodes whose operand has this rate.
  const std::vector<ValueId>& extents(Rate rate) const { return rate == Rate::kRow ? row_extents_ : column_extents_; }
  // Whether a member reads at an index that depends on data. The struct says in `outside` whether one was clamped.
  bool may_clamp(CudaScope scope) const;

  const Ir& ir() const { return ir_; }
  const Graph& graph() const { return ir_.graph; }
  Rate rate(ValueId id) const { return rates_[id]; }
  const std::string& name(ValueId id) const;
  // "bool", "int", "i64", "float" or "double". Bounds that are whole are integers.
  std::string_view type_text(ValueId id) const;
  bool wraps(ValueId id) const { return whole_[id] && whole_[id]->wraps; }
  std::optional<WholeDivision> whole_division(ValueId floor) const { return codegen::whole_division(graph(), whole_, floor); }
  // What is computed to have the value: not always all of the node's own operands.
  std::vector<ValueId> operands(ValueId id) const;
  bool is_leaf(ValueId id) const;
  bool has_own_default(const Node& node) const;

 private:
  void find_members(const CudaRoots& roots);
  void find_extents(const std::vector<ValueId>& roots);
  void mark(ValueId id, std::vector<bool>& is_member) const;
  bool is_cheap(ValueId id, int depth = 0) const;
  const Param* scaled_param(const Node& node) const;
  bool takes_name(ValueId id, std::string name) const;

  const Ir& ir_;
  const bool packed_;
  std::vector<Rate> rates_;
  std::vector<std::optional<WholeRange>> whole_;
  std::vector<ValueId> uniform_, row_, column_;
  std::vector<ValueId> row_extents_, column_extents_;
  mutable std::map<ValueId, std::string> names_;
  mutable std::set<std::string> taken_;
  mutable int numbered_ = 0;
};

// A line of CUDA at that indentation, broken at blanks where it is too long.
std::string cuda_line(int indent, const std::string& text);

}  // namespace attune::codegen
