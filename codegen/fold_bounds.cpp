#include "codegen/fold_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "codegen/conditions.h"
#include "codegen/interval_eval.h"
#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr StaticRange kAnything = {-kInfinity, kInfinity, true, false, false};

StaticRange nan_range() {
  return {-kInfinity, kInfinity, true, true, false};
}

bool is_comparison(Op op) {
  return op == Op::k_eq || op == Op::k_ne || op == Op::k_lt || op == Op::k_le || op == Op::k_gt || op == Op::k_ge;
}

// not (x op y) is x opposite(op) y, if neither is NaN.
Op opposite(Op op) {
  switch (op) {
    case Op::k_eq:
      return Op::k_ne;
    case Op::k_ne:
      return Op::k_eq;
    case Op::k_lt:
      return Op::k_ge;
    case Op::k_le:
      return Op::k_gt;
    case Op::k_gt:
      return Op::k_le;
    default:
      return Op::k_lt;
  }
}

StaticRange i32_range(const Node& node) {
  if (node.op == Op::k_constant) return {node.number, node.number, false, false, true};
  if (node.op == Op::k_symbol) return {0, kIndexLimit - 1, false, false, true};
  return {-2147483648.0, 2147483647.0, false, false, true};
}

bool is_finite(const StaticRange& x) {
  return !x.may_be_nan && std::isfinite(x.low) && std::isfinite(x.high);
}

// The product of end points, with 0 * inf = 0: the infinity stands for large finite values here, since NaN is tracked on its own.
double end_product(double x, double y) {
  return x == 0 || y == 0 ? 0 : x * y;
}

StaticRange arithmetic_range(Op op, const StaticRange& x, const StaticRange& y) {
  StaticRange result;
  result.is_whole = x.is_whole && y.is_whole && op != Op::k_div;
  const bool is_safe = is_finite(x) && is_finite(y);
  result.may_be_nan = !is_safe;
  switch (op) {
    case Op::k_add:
      result.low = x.low + y.low;
      result.high = x.high + y.high;
      break;
    case Op::k_sub:
      result.low = x.low - y.high;
      result.high = x.high - y.low;
      break;
    case Op::k_mul: {
      const auto [low, high] =
          std::minmax({end_product(x.low, y.low), end_product(x.low, y.high), end_product(x.high, y.low), end_product(x.high, y.high)});
      result.low = low;
      result.high = high;
      break;
    }
    default:
      return kAnything;
  }
  if (std::isnan(result.low) || std::isnan(result.high)) return kAnything;
  return result;
}

StaticRange extremum_range(bool is_min, const StaticRange& x, const StaticRange& y) {
  StaticRange result;
  result.low = is_min ? std::min(x.low, y.low) : std::max(x.low, y.low);
  result.high = is_min ? std::min(x.high, y.high) : std::max(x.high, y.high);
  result.may_be_nan = x.may_be_nan || y.may_be_nan;
  result.is_whole = x.is_whole && y.is_whole;
  return result;
}

StaticRange choice_range(const StaticRange& x, const StaticRange& y) {
  return {std::min(x.low, y.low), std::max(x.high, y.high), x.may_be_nan || y.may_be_nan, false, x.is_whole && y.is_whole};
}

}  // namespace

bool BoundFolder::looks_into(ValueId id) const {
  const Node& node = graph_[id];
  if (node.operands.empty() || node.op == Op::k_tile_min || node.op == Op::k_tile_max) return false;
  if (node.op == Op::k_to_f64) return false;
  if (node.type == Type::kF64 || node.op == Op::k_f64_to_i32) return true;
  if (is_comparison(node.op)) return graph_[node.operands[0]].type == Type::kF64;
  const bool is_logic = node.op == Op::k_and || node.op == Op::k_or || node.op == Op::k_not || node.op == Op::k_where;
  return is_logic && node.type == Type::kBool;
}

Ex BoundFolder::operator()(Ex x) {
  std::vector<ValueId> open = {x.id};
  while (!open.empty()) {
    const ValueId id = open.back();
    folded_.resize(graph_.size(), kNoValue);
    if (folded_[id] != kNoValue) {
      open.pop_back();
      continue;
    }
    bool is_ready = true;
    if (looks_into(id)) {
      for (ValueId operand : graph_[id].operands) {
        if (folded_[operand] != kNoValue) continue;
        open.push_back(operand);
        is_ready = false;
      }
    }
    if (!is_ready) continue;
    open.pop_back();
    const ValueId result = fold_node(id);
    folded_.resize(graph_.size(), kNoValue);
    folded_[id] = result;
    folded_[result] = result;
    range(result);  // so that the ranges of operands are always known, and range() does not go deep
  }
  return {&graph_, folded_[x.id]};
}

ValueId BoundFolder::fold_node(ValueId id) {
  Node node = graph_[id];
  if (node.op == Op::k_to_f64 && graph_[node.operands[0]].op == Op::k_constant) {
    return graph_.constant(Type::kF64, graph_[node.operands[0]].number);
  }
  if (!looks_into(id)) return id;
  std::vector<double> numbers;
  for (ValueId& operand : node.operands) {
    operand = folded_[operand];
    if (graph_[operand].op == Op::k_constant) numbers.push_back(graph_[operand].number);
  }
  if (numbers.size() == node.operands.size()) {
    const double value = info(node.op).value(numbers, node.type, graph_[node.operands[0]].type);
    if (!std::isnan(value)) return graph_.constant(node.type, value);
  }
  if (node.op == Op::k_where) return fold_where(node);
  if (node.type == Type::kBool) return is_comparison(node.op) ? fold_comparison(node) : fold_bool(node);
  return fold_number(node);
}

ValueId BoundFolder::fold_number(const Node& node) {
  const ValueId x = node.operands[0];
  const ValueId y = node.operands.size() > 1 ? node.operands[1] : kNoValue;
  if (range(x).is_nan || (y != kNoValue && range(y).is_nan)) {
    if (node.op == Op::k_f64_to_i32) return graph_.constant(Type::kI32, 0);
    return unknown_interval(graph_, Type::kF64).low.id;
  }
  switch (node.op) {
    case Op::k_f64_to_i32:
      if (const Node& inner = graph_[x]; inner.op == Op::k_to_f64 && graph_[inner.operands[0]].type == Type::kI32) return inner.operands[0];
      break;
    case Op::k_add:
      if (is_constant(x, 0)) return y;
      if (is_constant(y, 0)) return x;
      if (graph_[y].op == Op::k_neg) return fold_number({Op::k_sub, Type::kF64, {x, graph_[y].operands[0]}});
      if (graph_[x].op == Op::k_neg) return fold_number({Op::k_sub, Type::kF64, {y, graph_[x].operands[0]}});
      break;
    case Op::k_sub:
      if (is_constant(y, 0)) return x;
      if (x == y && is_finite(range(x))) return graph_.constant(Type::kF64, 0);
      if (graph_[y].op == Op::k_neg) return fold_number({Op::k_add, Type::kF64, {x, graph_[y].operands[0]}});
      break;
    case Op::k_mul:
      if (is_constant(x, 1)) return y;
      if (is_constant(y, 1)) return x;
      break;
    case Op::k_div:
      if (is_constant(y, 1)) return x;
      break;
    case Op::k_neg:
      if (graph_[x].op == Op::k_neg) return graph_[x].operands[0];
      if (graph_[x].op == Op::k_sub) return fold_number({Op::k_sub, Type::kF64, {graph_[x].operands[1], graph_[x].operands[0]}});
      break;
    case Op::k_floor:
      if (range(x).is_whole) return x;
      break;
    case Op::k_abs:
      if (range(x).low >= 0) return x;
      break;
    case Op::k_min:
    case Op::k_max:
      return fold_extremum(node);
    default:
      break;
  }
  return rebuilt(node);
}

ValueId BoundFolder::fold_extremum(const Node& node) {
  const ValueId x = node.operands[0];
  const ValueId y = node.operands[1];
  if (x == y) return x;
  const StaticRange a = range(x);
  const StaticRange b = range(y);
  const bool is_min = node.op == Op::k_min;
  if (!a.may_be_nan && !b.may_be_nan) {
    if (a.high <= b.low) return is_min ? x : y;
    if (b.high <= a.low) return is_min ? y : x;
  }
  const auto contains = [&](ValueId outer, Op op, ValueId inner) {
    const Node& candidate = graph_[outer];
    return candidate.op == op && (candidate.operands[0] == inner || candidate.operands[1] == inner);
  };
  // min(min(a, b), b) is min(a, b), min(max(a, b), b) is b unless a is NaN.
  if (contains(x, node.op, y)) return x;
  if (contains(y, node.op, x)) return y;
  const Op other = is_min ? Op::k_max : Op::k_min;
  if (!a.may_be_nan && contains(x, other, y)) return y;
  if (!b.may_be_nan && contains(y, other, x)) return x;
  return rebuilt(node);
}

ValueId BoundFolder::fold_where(const Node& node) {
  const auto [condition, x, y] = std::tuple(node.operands[0], node.operands[1], node.operands[2]);
  if (x == y) return x;
  if (is_constant(condition, 1)) return x;
  if (is_constant(condition, 0)) return y;
  if (node.type == Type::kBool) {
    if (is_constant(x, 1) && is_constant(y, 0)) return condition;
    if (is_constant(y, 0)) return fold_bool({Op::k_and, Type::kBool, {condition, x}});
    if (is_constant(x, 1)) return fold_bool({Op::k_or, Type::kBool, {condition, y}});
  }
  return rebuilt(node);
}

ValueId BoundFolder::fold_bool(const Node& node) {
  const ValueId x = node.operands[0];
  if (node.op == Op::k_not) {
    const Node inner = graph_[x];
    if (inner.op == Op::k_not) return inner.operands[0];
    if (inner.op == Op::k_constant) return truth(inner.number == 0);
    const bool flips = is_comparison(inner.op) && graph_[inner.operands[0]].type == Type::kF64 && !range(inner.operands[0]).may_be_nan &&
                       !range(inner.operands[1]).may_be_nan;
    return flips ? fold_comparison({opposite(inner.op), Type::kBool, inner.operands}) : rebuilt(node);
  }
  if (node.op != Op::k_and && node.op != Op::k_or) return rebuilt(node);
  const ValueId y = node.operands[1];
  const bool neutral = node.op == Op::k_and;
  if (x == y || is_constant(y, neutral)) return x;
  if (is_constant(x, neutral)) return y;
  if (is_constant(x, !neutral) || is_constant(y, !neutral)) return truth(!neutral);
  return rebuilt(node);
}

ValueId BoundFolder::fold_comparison(const Node& node) {
  ValueId x = node.operands[0];
  ValueId y = node.operands[1];
  Op op = node.op;
  const StaticRange a = range(x);
  const StaticRange b = range(y);
  if (a.is_nan || b.is_nan) return truth(op == Op::k_ne);
  if (a.may_be_nan || b.may_be_nan) return rebuilt(node);
  if (is_constant(y, 0) && graph_[x].op == Op::k_sub && is_finite(a)) return fold_comparison({op, Type::kBool, graph_[x].operands});
  if (is_constant(x, 0) && graph_[y].op == Op::k_sub && is_finite(b)) {
    return fold_comparison({op, Type::kBool, {graph_[y].operands[1], graph_[y].operands[0]}});
  }
  if (op == Op::k_gt || op == Op::k_ge) return fold_comparison({op == Op::k_gt ? Op::k_lt : Op::k_le, Type::kBool, {y, x}});
  switch (op) {
    case Op::k_lt:
      if (a.high < b.low) return truth(true);
      if (x == y || a.low >= b.high) return truth(false);
      break;
    case Op::k_le:
      if (x == y || a.high <= b.low) return truth(true);
      if (a.low > b.high) return truth(false);
      break;
    default:  // == and !=
      if (x == y) return truth(op == Op::k_eq);
      if (a.high < b.low || b.high < a.low) return truth(op == Op::k_ne);
  }
  return graph_.op(op, {x, y});
}

bool BoundFolder::is_constant(ValueId id, double number) const {
  const Node& node = graph_[id];
  return node.op == Op::k_constant && node.number == number;
}

StaticRange BoundFolder::range(ValueId id) {
  if (has_range_.size() < graph_.size()) {
    has_range_.resize(graph_.size(), false);
    ranges_.resize(graph_.size());
  }
  if (!has_range_[id]) {
    const StaticRange result = range_of(id);
    ranges_[id] = result;
    has_range_[id] = true;
  }
  return ranges_[id];
}

StaticRange BoundFolder::range_of(ValueId id) {
  const Node node = graph_[id];
  if (node.type == Type::kI32) return i32_range(node);
  if (node.type != Type::kF64) return kAnything;
  const auto operand = [&](int i) { return range(node.operands[i]); };
  switch (node.op) {
    case Op::k_constant:
      return {node.number, node.number, false, false, std::isinf(node.number) || node.number == std::floor(node.number)};
    case Op::k_to_f64:
      return operand(0);
    case Op::k_tile_min:
    case Op::k_tile_max:
      return graph_[node.operands[0]].type == Type::kI32 ? i32_range(graph_[node.operands[0]]) : kAnything;
    case Op::k_add:
    case Op::k_sub:
    case Op::k_mul:
    case Op::k_div: {
      const StaticRange x = operand(0);
      const StaticRange y = operand(1);
      const bool is_unknown = node.op == Op::k_sub && node.operands[0] == node.operands[1] && std::isinf(x.low) && x.low == x.high;
      return x.is_nan || y.is_nan || is_unknown ? nan_range() : arithmetic_range(node.op, x, y);
    }
    case Op::k_neg: {
      const StaticRange x = operand(0);
      return {-x.high, -x.low, x.may_be_nan, x.is_nan, x.is_whole};
    }
    case Op::k_abs: {
      const StaticRange x = operand(0);
      const double low = std::max({x.low, -x.high, 0.0});
      return {low, std::max(-x.low, x.high), x.may_be_nan, x.is_nan, x.is_whole};
    }
    case Op::k_floor: {
      const StaticRange x = operand(0);
      return {std::floor(x.low), std::floor(x.high), x.may_be_nan, x.is_nan, true};
    }
    case Op::k_min:
    case Op::k_max: {
      const StaticRange x = operand(0);
      const StaticRange y = operand(1);
      return x.is_nan || y.is_nan ? nan_range() : extremum_range(node.op == Op::k_min, x, y);
    }
    case Op::k_where:
      return choice_range(operand(1), operand(2));
    default:
      return kAnything;
  }
}

}  // namespace attune::codegen
