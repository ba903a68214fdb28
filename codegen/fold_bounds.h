// Folding of the f64 and bool arithmetic that bounds are made of, with what is known of ranges: sizes and indices lie in [0, kIndexLimit),
// so that most tests for wrapping i32 vanish.
#pragma once

#include <vector>

#include "codegen/expr_builder.h"

namespace attune::codegen {

// What is known of a number before any value is: it lies in [low, high], or is NaN if may_be_nan.
struct StaticRange {
  double low = 0, high = 0;
  bool may_be_nan = false;
  bool is_nan = false;    // always
  bool is_whole = false;  // or infinite
};

class BoundFolder {
 public:
  explicit BoundFolder(Graph& graph) : graph_(graph) {}

  // An equal value, simpler if possible, as nodes of the same graph. Only f64 and bool operators and the conversions from and to f64 are
  // looked into; everything below is left as it is. Equal bounds become one node where they have the same shape.
  Ex operator()(Ex x);

 private:
  ValueId fold_node(ValueId id);
  ValueId fold_number(const Node& node);
  ValueId fold_bool(const Node& node);
  ValueId fold_where(const Node& node);
  ValueId fold_comparison(const Node& node);
  ValueId fold_extremum(const Node& node);
  ValueId rebuilt(const Node& node) { return graph_.op(node.op, node.operands); }
  ValueId truth(bool value) { return graph_.constant(Type::kBool, value); }

  StaticRange range(ValueId id);
  StaticRange range_of(ValueId id);
  bool is_constant(ValueId id, double number) const;
  bool looks_into(ValueId id) const;

  Graph& graph_;
  std::vector<ValueId> folded_;      // by id; kNoValue: not yet
  std::vector<StaticRange> ranges_;  // by id, of those that has_range_ marks
  std::vector<bool> has_range_;
};

}  // namespace attune::codegen
