#include "codegen/finiteness.h"

#include <algorithm>
#include <cmath>

#include "codegen/expr_builder.h"
#include "codegen/rates.h"

namespace attune::codegen {

bool Finiteness::operator()(ValueId id) {
  extend_rates(graph_, rates_);
  while (finite_.size() < graph_.size()) finite_.push_back(is_finite(static_cast<ValueId>(finite_.size())));
  return id == kNoValue || finite_[id];
}

bool Finiteness::is_finite(ValueId id) const {
  const Node& node = graph_[id];
  if (node.type != Type::kF32) return true;
  if (node.op == Op::k_constant) return std::isfinite(node.number);
  if (rates_[id] == Rate::kUniform) return true;
  switch (node.op) {
    case Op::k_symbol:
    case Op::k_tanh:
    case Op::k_sigmoid:
    case Op::k_erf:
      return true;  // the functions are bounded, also at infinities
    case Op::k_read:
    case Op::k_exp:
    case Op::k_exp2:
    case Op::k_log:
    case Op::k_log2:
    case Op::k_rsqrt:
      return false;
    case Op::k_div:
      return has_finite_operands(node) && rates_[node.operands[1]] == Rate::kUniform;
    case Op::k_pow:
      return has_finite_operands(node) && graph_[node.operands[1]].number >= 0;
    default:
      return has_finite_operands(node);
  }
}

bool Finiteness::has_finite_operands(const Node& node) const {
  return std::all_of(node.operands.begin(), node.operands.end(), [this](ValueId id) { return finite_[id]; });
}

void guard_factor(Ir& ir) {
  Finiteness is_finite(ir.graph);
  if (ir.factor == kNoValue || is_finite(ir.factor) || is_finite(ir.score)) return;
  const Ex score{&ir.graph, ir.score};
  const Ex is_nothing = apply(Op::k_eq, {score, constant(ir.graph, Type::kF32, -INFINITY)});
  ir.factor = where(is_nothing, {}, Ex{&ir.graph, ir.factor}).id;
}

}  // namespace attune::codegen
