#include "codegen/eval/interpreter.h"

#include <fmt/format.h>

#include <stdexcept>

namespace attune::codegen {
namespace {

class NoLeaves : public Env {};

bool is_tile(Op op) { return op == Op::k_tile_min || op == Op::k_tile_max; }

std::vector<bool> mark(const Graph& graph, std::span<const ValueId> roots, bool below_tiles) {
  std::vector<bool> needed(graph.size(), false);
  for (ValueId root : roots) needed.at(root) = true;
  for (auto id = static_cast<ValueId>(graph.size()); id-- > 0;) {
    if (!needed[id] || (!below_tiles && is_tile(graph[id].op))) continue;
    for (ValueId operand : graph[id].operands) needed[operand] = true;
  }
  return needed;
}

}  // namespace

double Env::symbol(Symbol symbol) const { throw std::logic_error(fmt::format("no value for '{}'", symbol_name(symbol))); }
double Env::param(int index) const { throw std::logic_error(fmt::format("no value for parameter {}", index)); }
double Env::read(int param, std::span<const double>) const { throw std::logic_error(fmt::format("no values for tensor {}", param)); }
double Env::tile(Op op, ValueId) const { throw std::logic_error(fmt::format("no value for {}", info(op).name)); }

std::vector<bool> reachable(const Graph& graph, std::span<const ValueId> roots) { return mark(graph, roots, true); }

Interpreter::Interpreter(const Graph& graph, std::vector<ValueId> roots) {
  const std::vector<bool> needed = mark(graph, roots, false);
  std::vector<ValueId> position(graph.size(), kNoValue);
  for (ValueId id = 0; id < graph.size(); ++id) {
    if (!needed[id]) continue;
    Node node = graph[id];
    operand_types_.push_back(node.operands.empty() ? node.type : graph[node.operands[0]].type);
    // The environment evaluates a tile's least and greatest value, and knows the operand by the graph's id.
    if (!is_tile(node.op)) {
      for (ValueId& operand : node.operands) operand = position[operand];
    }
    position[id] = static_cast<ValueId>(nodes_.size());
    nodes_.push_back(std::move(node));
  }
  for (ValueId root : roots) roots_.push_back(position[root]);
  values_.resize(nodes_.size());
  results_.resize(roots_.size());
}

std::span<const double> Interpreter::operator()(const Env& env) {
  std::vector<double> x;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    switch (node.op) {
      case Op::k_constant: values_[i] = node.number; continue;
      case Op::k_symbol: values_[i] = env.symbol(static_cast<Symbol>(node.index)); continue;
      case Op::k_param: values_[i] = env.param(node.index); continue;
      case Op::k_tile_min:
      case Op::k_tile_max: values_[i] = env.tile(node.op, node.operands[0]); continue;
      default: break;
    }
    x.clear();
    for (ValueId operand : node.operands) x.push_back(values_[operand]);
    values_[i] = node.op == Op::k_read ? env.read(node.index, x) : info(node.op).value(x, node.type, operand_types_[i]);
  }
  for (size_t i = 0; i < roots_.size(); ++i) results_[i] = values_[roots_[i]];
  return results_;
}

std::optional<double> constant_value(const Graph& graph, ValueId id) {
  const std::vector<bool> needed = reachable(graph, std::span(&id, 1));
  for (ValueId i = 0; i < graph.size(); ++i) {
    const Node& node = graph[i];
    if (needed[i] && node.op != Op::k_constant && !info(node.op).value) return std::nullopt;
  }
  return Interpreter(graph, {id})(NoLeaves())[0];
}

}  // namespace attune::codegen
