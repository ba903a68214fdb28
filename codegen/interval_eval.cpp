#include "codegen/interval_eval.h"

#include <cmath>

#include "codegen/op_intervals.h"

namespace attune::codegen {
namespace {

constexpr double kLeastI32 = -2147483648.0;
constexpr double kGreatestI32 = 2147483647.0;

}  // namespace

std::vector<Interval> evaluate_intervals(Graph& graph, std::span<const ValueId> roots, const IntervalLeaf& leaf) {
  const size_t size = graph.size();  // rules add nodes behind
  std::vector<bool> needed(size, false);
  std::vector<std::optional<Interval>> intervals(size);
  for (ValueId root : roots) needed.at(root) = true;
  for (auto id = static_cast<ValueId>(size); id-- > 0;) {
    if (!needed[id]) continue;
    intervals[id] = leaf(id);
    if (intervals[id] || !info(graph[id].op).interval) continue;
    for (ValueId operand : graph[id].operands) needed[operand] = true;
  }
  std::vector<Interval> operands;
  for (ValueId id = 0; id < size; ++id) {
    if (!needed[id] || intervals[id]) continue;
    const Node node = graph[id];  // a copy: the rule may move the graph's nodes
    if (!info(node.op).interval) {
      intervals[id] = unknown_interval(graph, node.type);
      continue;
    }
    operands.clear();
    for (ValueId operand : node.operands) operands.push_back(*intervals[operand]);
    intervals[id] = info(node.op).interval(graph, operands, node.type);
  }
  std::vector<Interval> results;
  for (ValueId root : roots) results.push_back(*intervals[root]);
  return results;
}

Interval point_interval(Graph& graph, ValueId id) {
  const Ex value = {&graph, id};
  if (graph[id].type == Type::kBool || graph[id].type == Type::kF64) return {value, value};
  const Ex point = apply(Op::k_to_f64, {value});
  return {point, point};
}

Interval unknown_interval(Graph& graph, Type type) {
  if (type == Type::kBool) return undecided(graph);
  if (type == Type::kI32) return {constant(graph, Type::kF64, kLeastI32), constant(graph, Type::kF64, kGreatestI32)};
  const Ex infinity = constant(graph, Type::kF64, INFINITY);
  const Ex nan = infinity - infinity;  // constants are never NaN
  return {nan, nan};
}

Interval fit_i32_interval(Ex low, Ex high) {
  const Interval all = unknown_interval(*low.graph, Type::kI32);
  const Ex fits = low >= kLeastI32 && high <= kGreatestI32;
  return {where(fits, low, all.low), where(fits, high, all.high)};
}

}  // namespace attune::codegen
