#include "codegen/float_distances.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "codegen/rates.h"
#include "codegen/whole_numbers.h"

namespace attune::codegen {
namespace {

class Splitter {
 public:
  explicit Splitter(Graph& graph) : graph_(graph), rates_(assign_rates(graph)), whole_(whole_ranges(graph)) {}

  // f32(id) from conversions of values by row or by column; kNoValue if it is not a sum of such.
  ValueId split(ValueId id) {
    if (rates_[id] != Rate::kElement) return graph_.op(Op::k_to_f32, {id});
    const Node node = graph_[id];
    const bool is_sum = node.op == Op::k_add || node.op == Op::k_sub || node.op == Op::k_neg || node.op == Op::k_abs;
    if (!is_sum || node.type != Type::kI32 || (whole_[id] && whole_[id]->wraps)) return kNoValue;
    std::vector<ValueId> parts;
    for (const ValueId operand : node.operands) {
      parts.push_back(split(operand));
      if (parts.back() == kNoValue) return kNoValue;
    }
    return graph_.op(node.op, std::move(parts));
  }
  bool is_distance(const Node& node) const {
    if (node.op != Op::k_to_f32) return false;
    const ValueId of = node.operands[0];
    return graph_[of].type == Type::kI32 && rates_[of] == Rate::kElement;
  }

 private:
  Graph& graph_;
  std::vector<Rate> rates_;
  std::vector<std::optional<WholeRange>> whole_;
};

}  // namespace

Lowered with_float_distances(Lowered lowered) {
  std::vector<ValueId*> roots = {&lowered.ir.score, &lowered.ir.weight,       &lowered.ir.sink,     &lowered.ir.factor,
                                 &lowered.score2,   &lowered.backward.weight, &lowered.backward.dqk};
  for (ParamGradient& gradient : lowered.backward.params) {
    for (ValueId* root : {&gradient.read, &gradient.per_element, &gradient.per_row}) roots.push_back(root);
  }
  std::erase_if(roots, [](const ValueId* root) { return *root == kNoValue; });
  Graph& graph = lowered.ir.graph;
  Splitter splitter(graph);
  std::vector<ValueId> now(graph.size());
  for (ValueId id = 0; id < now.size(); ++id) {
    Node node = graph[id];
    now[id] = id;
    if (splitter.is_distance(node)) {
      const ValueId split = splitter.split(node.operands[0]);
      if (split != kNoValue) now[id] = split;
      continue;
    }
    bool is_same = true;
    for (ValueId& operand : node.operands) {
      is_same = is_same && now[operand] == operand;
      operand = now[operand];
    }
    if (!is_same) now[id] = graph.add(std::move(node));
  }
  for (ValueId* root : roots) *root = now[*root];
  lowered.rates = assign_rates(graph);
  return lowered;
}

}  // namespace attune::codegen
