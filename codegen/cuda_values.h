// Values of the IR as CUDA text, each at the place where its rate allows: members of Uniform, Row and Column, or locals of a function.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "codegen/lower.h"

namespace attune::codegen {

// Where a text stands: what it can see, and how often it is evaluated.
enum class CudaScope : uint8_t { kUniform, kRow, kColumn, kElement, kBounds };

// How a read treats indices that are not known to lie inside.
enum class CudaGuard : uint8_t { kNever, kAlways, kByTemplate };

class CudaValues {
 public:
  // `element_roots` are what per-element functions compute; all other roots stand in functions of their own.
  CudaValues(const Ir& ir, const Graph& graph, bool packed, std::span<const ValueId> element_roots);

  struct Body {
    std::string statements;          // lines of locals, indented by four
    std::vector<std::string> roots;  // one expression a root
  };
  Body body(std::span<const ValueId> roots, CudaScope scope, CudaGuard guard) const;

  const std::vector<ValueId>& members(CudaScope scope) const;  // of kUniform, kRow, kColumn
  std::string members_text(CudaScope scope) const;             // "float v3, v7; int v9;" as declarations, a line a type
  // tile_min and tile_max nodes whose operand has this rate.
  const std::vector<ValueId>& extents(Rate rate) const { return rate == Rate::kRow ? row_extents_ : column_extents_; }
  void find_extents(std::span<const ValueId> roots);

  Rate rate(ValueId id) const { return rates_[id]; }
  const Graph& graph() const { return graph_; }
  static std::string type_text(Type type);

 private:
  friend class CudaBodyWriter;

  bool is_leaf(const Node& node) const;
  bool has_own_default(int param) const;

  const Ir& ir_;
  const Graph& graph_;
  const bool packed_;
  std::vector<Rate> rates_;
  std::vector<ValueId> uniform_, row_, column_;
  std::vector<ValueId> row_extents_, column_extents_;
};

}  // namespace attune::codegen
