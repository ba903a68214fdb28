#include "codegen/ir.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

struct SymbolInfo {
  std::string_view name;
  Type type;
};

// In the order of Symbol.
constexpr std::array<SymbolInfo, static_cast<size_t>(Symbol::kCount)> kSymbols = {{
    {"b", Type::kI32},        {"h", Type::kI32},       {"kv_h", Type::kI32},     {"q_idx", Type::kI32},   {"k_idx", Type::kI32},
    {"batch", Type::kI32},    {"heads", Type::kI32},   {"kv_heads", Type::kI32}, {"q_len", Type::kI32},   {"k_len", Type::kI32},
    {"head_dim", Type::kI32}, {"v_dim", Type::kI32},   {"qk", Type::kF32},       {"dp", Type::kF32},      {"lse2", Type::kF32},
    {"delta", Type::kF32},    {"first_q", Type::kI32}, {"last_q", Type::kI32},   {"first_k", Type::kI32}, {"last_k", Type::kI32},
}};

size_t hash(const Node& node) {
  size_t h = static_cast<size_t>(node.op) * 31 + static_cast<size_t>(node.type);
  const auto mix = [&h](uint64_t value) { h = (h ^ value) * 0x9e3779b97f4a7c15ull + (h >> 29); };
  mix(std::bit_cast<uint64_t>(node.number));
  mix(static_cast<uint64_t>(node.index));
  for (ValueId operand : node.operands) mix(operand);
  return h;
}

}  // namespace

std::string_view type_name(Type type) {
  switch (type) {
    case Type::kBool:
      return "bool";
    case Type::kI32:
      return "i32";
    case Type::kF32:
      return "f32";
    case Type::kF64:
      return "f64";
  }
  return "?";
}

std::string_view symbol_name(Symbol symbol) {
  return kSymbols[static_cast<size_t>(symbol)].name;
}
Type symbol_type(Symbol symbol) {
  return kSymbols[static_cast<size_t>(symbol)].type;
}

Type value_type(dsl::ElementType element) {
  switch (element) {
    case dsl::ElementType::kI32:
    case dsl::ElementType::kU8:
      return Type::kI32;
    case dsl::ElementType::kBool:
      return Type::kBool;
    default:
      return Type::kF32;
  }
}

std::string_view rate_name(Rate rate) {
  switch (rate) {
    case Rate::kUniform:
      return "uniform";
    case Rate::kRow:
      return "row";
    case Rate::kColumn:
      return "column";
    case Rate::kElement:
      return "element";
  }
  return "?";
}

ValueId Graph::add(Node node) {
  if (std::isnan(node.number)) throw std::logic_error("a NaN constant");
  for (ValueId operand : node.operands) {
    if (operand >= nodes_.size()) throw std::logic_error(fmt::format("operand %{} of a {} does not exist", operand, info(node.op).name));
  }
  const size_t key = hash(node);
  const auto [first, last] = by_hash_.equal_range(key);
  for (auto it = first; it != last; ++it) {
    const Node& other = nodes_[it->second];
    // 0 and -0 are different values, but equal doubles.
    if (other == node && std::signbit(other.number) == std::signbit(node.number)) return it->second;
  }
  const auto id = static_cast<ValueId>(nodes_.size());
  nodes_.push_back(std::move(node));
  by_hash_.emplace(key, id);
  return id;
}

ValueId Graph::constant(Type type, double number) {
  if (type == Type::kF32 && std::isfinite(number)) {
    constexpr double kMax = std::numeric_limits<float>::max();
    number = std::abs(number) > kMax ? std::copysign(INFINITY, number) : static_cast<float>(number);
  }
  Node node;
  node.op = Op::k_constant;
  node.type = type;
  node.number = number;
  return add(std::move(node));
}

ValueId Graph::symbol(Symbol symbol) {
  Node node;
  node.op = Op::k_symbol;
  node.type = symbol_type(symbol);
  node.index = static_cast<int32_t>(symbol);
  return add(std::move(node));
}

ValueId Graph::param(Type type, int index) {
  Node node;
  node.op = Op::k_param;
  node.type = type;
  node.index = index;
  return add(std::move(node));
}

ValueId Graph::read(Type type, int param, std::vector<ValueId> indices) {
  Node node;
  node.op = Op::k_read;
  node.type = type;
  node.index = param;
  node.operands = std::move(indices);
  return add(std::move(node));
}

ValueId Graph::op(Op op, std::vector<ValueId> operands) {
  const OpInfo& row = info(op);
  std::vector<Type> types;
  for (ValueId operand : operands) types.push_back(nodes_.at(operand).type);
  const std::optional<Type> type = row.type && row.arity == static_cast<int>(operands.size()) ? row.type(types) : std::nullopt;
  if (!type) {
    std::string found;
    for (Type operand : types) found += fmt::format("{}{}", found.empty() ? "" : ", ", type_name(operand));
    throw std::logic_error(fmt::format("{} does not take ({})", row.name, found));
  }
  Node node;
  node.op = op;
  node.type = *type;
  node.operands = std::move(operands);
  return add(std::move(node));
}

}  // namespace attune::codegen
