#include "codegen/autodiff.h"

#include <algorithm>
#include <numbers>
#include <utility>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/expr_builder.h"
#include "codegen/finiteness.h"
#include "codegen/fold_scale.h"
#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

// The value of a node, as an operand of tangent rules.
Ex ex(Graph& graph, ValueId id) {
  return id == kNoValue ? Ex{} : Ex{&graph, id};
}

Ex tangent(Graph& graph, ValueId id, const std::vector<Ex>& tangents) {
  const Node node = graph[id];
  const OpInfo& row = info(node.op);
  if (node.type != Type::kF32 || !row.tangent) return {};
  std::vector<Ex> x, dx;
  for (ValueId operand : node.operands) {
    x.push_back(ex(graph, operand));
    dx.push_back(tangents[operand]);
  }
  const bool is_zero = std::all_of(dx.begin(), dx.end(), [](Ex d) { return d.is_zero(); });
  return is_zero ? Ex{} : row.tangent(x, dx, ex(graph, id));
}

class Differentiator {
 public:
  Differentiator(Ir& ir, ValueId score2) : ir_(ir), graph_(ir.graph), dp_(symbol(graph_, Symbol::kDp)), is_finite_(graph_) {
    if (is_pointwise()) return;
    lse2_ = symbol(graph_, Symbol::kLse2);
    delta_ = symbol(graph_, Symbol::kDelta);
    p_ = apply(Op::k_exp2, {ex(graph_, score2) - lse2_});
    const Ex factor = ex(graph_, ir.factor);
    ds_weight_ = p_ * ((factor.is_zero() ? dp_ : factor * dp_) - delta_);
    if (ir.sink == kNoValue) return;
    const Ex sink2 = ex(graph_, fold_scale(graph_, ir.sink, std::numbers::log2e));
    sink_p_ = apply(Op::k_exp2, {sink2 - lse2_});
  }

  Backward run() {
    Backward backward;
    const std::vector<std::pair<int, ValueId>> variables = gradient_reads();
    backward.weight = weight().id;
    // d (qk) is always there: for a weight that does not depend on qk it is 0.
    const Ex dqk = per_element(graph_.symbol(Symbol::kQk));
    backward.dqk = dqk.is_zero() ? graph_.constant(Type::kF32, 0) : dqk.id;
    for (const auto& [param, read] : variables) {
      const ParamGradient gradient = {param, read, per_element(read).id, per_row(read).id};
      if (gradient.per_element != kNoValue || gradient.per_row != kNoValue) backward.params.push_back(gradient);
    }
    backward.uses_delta = uses_delta(backward);
    return backward;
  }

 private:
  bool is_pointwise() const { return ir_.weight_kind == WeightKind::kPointwise; }

  // Reads of grad parameters that the weights depend on, by parameter, then by node.
  std::vector<std::pair<int, ValueId>> gradient_reads() const {
    std::vector<ValueId> roots;
    for (ValueId root : {ir_.score, ir_.weight, ir_.sink, ir_.factor}) {
      if (root != kNoValue) roots.push_back(root);
    }
    const std::vector<bool> needed = reachable(graph_, roots);
    std::vector<std::pair<int, ValueId>> reads;
    for (ValueId id = 0; id < graph_.size(); ++id) {
      const Node& node = graph_[id];
      const bool is_read = node.op == Op::k_read || node.op == Op::k_param;
      if (needed[id] && is_read && ir_.params[node.index].is_grad) reads.emplace_back(node.index, id);
    }
    std::sort(reads.begin(), reads.end());
    return reads;
  }

  Ex derivative_of(ValueId value, ValueId variable) { return value == kNoValue ? Ex{} : ex(graph_, derivative(graph_, value, variable)); }

  Ex weight() {
    if (is_pointwise()) return ex(graph_, ir_.weight);
    const Ex factor = ex(graph_, ir_.factor);
    return factor.is_zero() ? p_ : guarded(p_ * factor, {factor});
  }

  // What a kept pair contributes to the gradient of the variable.
  Ex per_element(ValueId variable) {
    if (is_pointwise()) return dp_ * derivative_of(ir_.weight, variable);
    const Ex ds = derivative_of(ir_.score, variable);
    const Ex df = derivative_of(ir_.factor, variable);
    return guarded(ds_weight_ * ds + p_ * dp_ * df, {ex(graph_, ds.is_zero() ? kNoValue : ir_.factor), ds, df});
  }

  // 0 where p is, although one of `parts` may be infinite or NaN there.
  Ex guarded(Ex value, std::initializer_list<Ex> parts) {
    if (value.is_zero()) return value;
    const bool is_safe = std::all_of(parts.begin(), parts.end(), [this](Ex part) { return is_finite_(part.id); });
    if (is_safe || is_finite_(ir_.score)) return value;
    return zero_where_zero(p_, value);
  }

  Ex zero_where_zero(Ex p, Ex value) { return where(apply(Op::k_eq, {p, constant(graph_, Type::kF32, 0)}), {}, value); }

  // What a row contributes, through the sink. A sink of -inf weighs 0 too; a guard costs nothing in a row.
  Ex per_row(ValueId variable) {
    if (is_pointwise() || ir_.sink == kNoValue) return {};
    const Ex dsink = derivative_of(ir_.sink, variable);
    if (dsink.is_zero()) return {};
    const Ex contribution = -(sink_p_ * delta_) * dsink;
    return graph_[dsink.id].op == Op::k_constant ? contribution : zero_where_zero(sink_p_, contribution);
  }

  bool uses_delta(const Backward& backward) const {
    std::vector<ValueId> roots = {backward.weight, backward.dqk};
    for (const ParamGradient& gradient : backward.params) {
      for (ValueId root : {gradient.per_element, gradient.per_row}) {
        if (root != kNoValue) roots.push_back(root);
      }
    }
    return !is_pointwise() && reachable(graph_, roots)[delta_.id];
  }

  Ir& ir_;
  Graph& graph_;
  Ex dp_, lse2_, delta_;
  Ex p_;          // softmax: the probability of a pair
  Ex ds_weight_;  // softmax: dL / d score, without the path through the factor
  Ex sink_p_;     // softmax: the probability of the sink
  Finiteness is_finite_;
};

}  // namespace

ValueId derivative(Graph& graph, ValueId value, ValueId variable) {
  const std::vector<bool> needed = reachable(graph, std::span(&value, 1));
  if (variable > value || !needed[variable]) return kNoValue;
  std::vector<Ex> tangents(value + 1);
  for (ValueId id = variable; id <= value; ++id) {
    if (!needed[id]) continue;
    tangents[id] = id == variable ? constant(graph, Type::kF32, 1) : tangent(graph, id, tangents);
  }
  return tangents[value].id;
}

Backward differentiate(Ir& ir, ValueId score2) {
  return Differentiator(ir, score2).run();
}

}  // namespace attune::codegen
