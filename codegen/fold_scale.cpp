#include "codegen/fold_scale.h"

#include <utility>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

class Scaling {
 public:
  Scaling(Graph& graph, ValueId value) : graph_(graph), value_(value), rates_(assign_rates(graph)) {}

  ValueId times(ValueId factor) {
    find_absorbing();
    if (!absorbs_[value_]) return graph_.op(Op::k_mul, {value_, factor});
    // What must be scaled: the value, and from there down to where the factor is absorbed.
    std::vector<bool> needed(value_ + 1, false);
    needed[value_] = true;
    for (ValueId id = value_ + 1; id-- > 0;) {
      if (!needed[id] || is_leaf(id)) continue;
      for (size_t i = first_number(id); i < graph_[id].operands.size(); ++i) needed[graph_[id].operands[i]] = true;
    }
    std::vector<ValueId> scaled(value_ + 1, kNoValue);
    for (ValueId id = 0; id <= value_; ++id) {
      if (needed[id]) scaled[id] = scale(id, factor, scaled);
    }
    return scaled[value_];
  }

 private:
  bool is_slow(ValueId id) const { return rates_[id] != Rate::kElement; }
  bool is_product_with_slow(ValueId id) const { return graph_[id].op == Op::k_mul && is_slow(graph_[id].operands[1]); }
  // Where the walk ends.
  bool is_leaf(ValueId id) const { return is_slow(id) || is_product_with_slow(id); }
  // The first operand that is scaled with the result.
  size_t first_number(ValueId id) const { return graph_[id].op == Op::k_where ? 1 : 0; }

  // Ops that commute with a positive factor.
  static bool is_homogeneous(Op op) {
    switch (op) {
      case Op::k_add:
      case Op::k_sub:
      case Op::k_neg:
      case Op::k_where:
      case Op::k_min:
      case Op::k_max:
      case Op::k_clamp:
      case Op::k_abs:
      case Op::k_relu:
        return true;
      default:
        return false;
    }
  }

  void find_absorbing() {
    const std::vector<bool> reached = reachable(graph_, std::span(&value_, 1));
    absorbs_.assign(value_ + 1, false);
    for (ValueId id = 0; id <= value_; ++id) {
      if (!reached[id] || graph_[id].type != Type::kF32) continue;
      bool absorbs = is_leaf(id);
      if (!absorbs && is_homogeneous(graph_[id].op)) {
        absorbs = true;
        for (size_t i = first_number(id); i < graph_[id].operands.size(); ++i) absorbs = absorbs && absorbs_[graph_[id].operands[i]];
      }
      absorbs_[id] = absorbs;
    }
  }

  ValueId scale(ValueId id, ValueId factor, const std::vector<ValueId>& scaled) {
    if (is_slow(id)) return graph_.op(Op::k_mul, {id, factor});
    Node node = graph_[id];
    if (is_product_with_slow(id)) return graph_.op(Op::k_mul, {node.operands[0], graph_.op(Op::k_mul, {node.operands[1], factor})});
    for (size_t i = first_number(id); i < node.operands.size(); ++i) node.operands[i] = scaled[node.operands[i]];
    return graph_.op(node.op, std::move(node.operands));
  }

  Graph& graph_;
  ValueId value_;
  std::vector<Rate> rates_;
  std::vector<bool> absorbs_;
};

}  // namespace

ValueId fold_scale(Graph& graph, ValueId value, double factor) {
  return Scaling(graph, value).times(graph.constant(Type::kF32, factor));
}

}  // namespace attune::codegen
