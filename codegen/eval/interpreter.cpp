#include "codegen/eval/interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace attune::codegen {
namespace {

class NoLeaves : public Env {};

bool is_tile(Op op) {
  return op == Op::k_tile_min || op == Op::k_tile_max;
}

std::vector<bool> mark(const Graph& graph, std::span<const ValueId> roots, bool below_tiles, ValueId barrier = kNoValue) {
  std::vector<bool> needed(graph.size(), false);
  for (ValueId root : roots) needed.at(root) = true;
  for (auto id = static_cast<ValueId>(graph.size()); id-- > 0;) {
    if (!needed[id] || id == barrier || (!below_tiles && is_tile(graph[id].op))) continue;
    for (ValueId operand : graph[id].operands) needed[operand] = true;
  }
  return needed;
}

}  // namespace

double Env::symbol(Symbol symbol) const {
  throw std::logic_error(fmt::format("no value for '{}'", symbol_name(symbol)));
}
double Env::param(int index) const {
  throw std::logic_error(fmt::format("no value for parameter {}", index));
}
double Env::read(int param, std::span<const double>) const {
  throw std::logic_error(fmt::format("no values for tensor {}", param));
}
double Env::tile(Op op, ValueId) const {
  throw std::logic_error(fmt::format("no value for {}", info(op).name));
}

std::vector<bool> reachable(const Graph& graph, std::span<const ValueId> roots, ValueId barrier) {
  return mark(graph, roots, true, barrier);
}

bool has_symbol(const Graph& graph, const std::vector<bool>& nodes, std::initializer_list<Symbol> symbols) {
  for (ValueId id = 0; id < graph.size(); ++id) {
    const bool is_symbol = nodes[id] && graph[id].op == Op::k_symbol;
    if (is_symbol && std::count(symbols.begin(), symbols.end(), static_cast<Symbol>(graph[id].index)) > 0) return true;
  }
  return false;
}

Interpreter::Interpreter(const Graph& graph, const std::vector<ValueId>& roots, Precision precision) {
  const std::vector<bool> needed = mark(graph, roots, false);
  std::vector<ValueId> position(graph.size(), kNoValue);
  size_t most_operands = 0;
  for (ValueId id = 0; id < graph.size(); ++id) {
    if (!needed[id]) continue;
    const Node& node = graph[id];
    Step step;
    step.op = node.op;
    step.type = node.type;
    step.operand_type = node.operands.empty() ? node.type : graph[node.operands[0]].type;
    step.is_rounded = precision == Precision::kF32 && node.type == Type::kF32;
    step.index = node.index;
    step.value = info(node.op).value;
    step.first_operand = static_cast<uint32_t>(operands_.size());
    step.operand_count = static_cast<uint32_t>(node.operands.size());
    step.number = node.number;
    // The environment evaluates a tile's least and greatest value, and knows the operand by the graph's id.
    for (ValueId operand : node.operands) operands_.push_back(is_tile(node.op) ? operand : position[operand]);
    most_operands = std::max(most_operands, node.operands.size());
    position[id] = static_cast<ValueId>(steps_.size());
    steps_.push_back(step);
  }
  for (ValueId root : roots) roots_.push_back(position[root]);
  values_.resize(steps_.size());
  results_.resize(roots_.size());
  arguments_.resize(most_operands);
}

double Interpreter::evaluate(const Step& step, const Env& env) {
  switch (step.op) {
    case Op::k_constant:
      return step.number;
    case Op::k_symbol:
      return env.symbol(static_cast<Symbol>(step.index));
    case Op::k_param:
      return env.param(step.index);
    case Op::k_tile_min:
    case Op::k_tile_max:
      return env.tile(step.op, operands_[step.first_operand]);
    default:
      break;
  }
  for (uint32_t i = 0; i < step.operand_count; ++i) arguments_[i] = values_[operands_[step.first_operand + i]];
  const std::span<const double> arguments(arguments_.data(), step.operand_count);
  return step.op == Op::k_read ? env.read(step.index, arguments) : step.value(arguments, step.type, step.operand_type);
}

std::span<const double> Interpreter::operator()(const Env& env) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const double value = evaluate(steps_[i], env);
    values_[i] = steps_[i].is_rounded ? static_cast<double>(static_cast<float>(value)) : value;
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
