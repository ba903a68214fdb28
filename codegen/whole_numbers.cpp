#include "codegen/whole_numbers.h"

#include <algorithm>
#include <cmath>

#include "codegen/conditions.h"

namespace attune::codegen {
namespace {

constexpr double kLeastI32 = -2147483648.0, kGreatestI32 = 2147483647.0;
constexpr double kExact = 0x1p53;
constexpr WholeRange kAllI32 = {kLeastI32, kGreatestI32};

using Ranges = std::vector<std::optional<WholeRange>>;

WholeRange product(const WholeRange& x, const WholeRange& y) {
  const auto [low, high] = std::minmax({x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high});
  return {low, high};
}

WholeRange magnitude(const WholeRange& x) {
  const double low = x.low > 0 ? x.low : x.high < 0 ? -x.high : 0;
  return {low, std::max(-x.low, x.high)};
}

WholeRange symbol_range(Symbol symbol) {
  return symbol <= Symbol::kVDim || symbol >= Symbol::kFirstQ ? WholeRange{0, kIndexLimit - 1} : kAllI32;
}

// Of the exact result, of i32 and f64 alike; nothing: not known.
std::optional<WholeRange> exact_range(const Graph& graph, const Ranges& ranges, ValueId id) {
  const Node& node = graph[id];
  const auto x = [&](size_t i) { return ranges[node.operands[i]].value_or(WholeRange{-kExact, kExact}); };
  const auto all_known = [&](size_t first) {
    return std::all_of(node.operands.begin() + static_cast<std::ptrdiff_t>(first), node.operands.end(),
                       [&](ValueId operand) { return ranges[operand].has_value(); });
  };
  switch (node.op) {
    case Op::k_constant:
      if (node.number != std::floor(node.number) || std::isinf(node.number)) return std::nullopt;
      return WholeRange{node.number, node.number};
    case Op::k_symbol:
      return symbol_range(static_cast<Symbol>(node.index));
    case Op::k_floor:
      if (const auto division = whole_division(graph, ranges, id)) {
        const WholeRange& dividend = *ranges[division->dividend];
        const auto [low, high] = std::minmax({std::floor(dividend.low / division->divisor), std::floor(dividend.high / division->divisor)});
        return WholeRange{low, high};
      }
      break;
    default:
      break;
  }
  const size_t first = node.op == Op::k_where ? 1 : 0;
  if (node.operands.empty() || !all_known(first)) return std::nullopt;
  switch (node.op) {
    case Op::k_add:
      return WholeRange{x(0).low + x(1).low, x(0).high + x(1).high};
    case Op::k_sub:
      return WholeRange{x(0).low - x(1).high, x(0).high - x(1).low};
    case Op::k_mul:
      return product(x(0), x(1));
    case Op::k_neg:
      return WholeRange{-x(0).high, -x(0).low};
    case Op::k_abs:
      return magnitude(x(0));
    case Op::k_min:
      return WholeRange{std::min(x(0).low, x(1).low), std::min(x(0).high, x(1).high)};
    case Op::k_max:
      return WholeRange{std::max(x(0).low, x(1).low), std::max(x(0).high, x(1).high)};
    case Op::k_clamp:
      return WholeRange{std::min(std::max(x(0).low, x(1).low), x(2).low), std::min(std::max(x(0).high, x(1).high), x(2).high)};
    case Op::k_where:
      return WholeRange{std::min(x(1).low, x(2).low), std::max(x(1).high, x(2).high)};
    case Op::k_floor:
    case Op::k_to_f64:
    case Op::k_tile_min:
    case Op::k_tile_max:
      return x(0);
    case Op::k_f64_to_i32:
      return WholeRange{std::clamp(x(0).low, kLeastI32, kGreatestI32), std::clamp(x(0).high, kLeastI32, kGreatestI32)};
    default:
      return std::nullopt;
  }
}

}  // namespace

bool WholeRange::fits_i32() const {
  return low >= kLeastI32 && high <= kGreatestI32;
}

std::optional<WholeDivision> whole_division(const Graph& graph, const Ranges& ranges, ValueId floor) {
  const Node& node = graph[floor];
  if (node.op != Op::k_floor || node.type != Type::kF64) return std::nullopt;
  const Node& of = graph[node.operands[0]];
  if (of.op != Op::k_div && of.op != Op::k_mul) return std::nullopt;
  for (const size_t place : {0, 1}) {
    const Node& constant = graph[of.operands[1 - place]];
    const auto& dividend = ranges[of.operands[place]];
    if (!dividend || constant.op != Op::k_constant || constant.number == 0 || (of.op == Op::k_div && place == 1)) continue;
    const double divisor = of.op == Op::k_div ? constant.number : 1 / constant.number;
    int exponent = 0;
    const bool is_exact = of.op == Op::k_div || std::abs(std::frexp(constant.number, &exponent)) == 0.5;
    // The quotient in double must not round up to a whole number: the integer division would not.
    constexpr double kSafe = 0x1p48;
    const bool is_safe = std::max(-dividend->low, dividend->high) < kSafe && std::abs(divisor) <= kGreatestI32;
    if (is_exact && is_safe && divisor == std::floor(divisor)) return WholeDivision{of.operands[place], divisor};
  }
  return std::nullopt;
}

std::vector<std::optional<WholeRange>> whole_ranges(const Graph& graph) {
  Ranges ranges(graph.size());
  for (ValueId id = 0; id < graph.size(); ++id) {
    const Type type = graph[id].type;
    if (type != Type::kI32 && type != Type::kF64) continue;
    std::optional<WholeRange> range = exact_range(graph, ranges, id);
    if (type == Type::kI32) {
      if (!range) {
        range = kAllI32;  // of operators that do not wrap, or wrap by themselves
      } else if (!range->fits_i32()) {
        range = {kLeastI32, kGreatestI32, true};
      }
    } else if (range && std::max(-range->low, range->high) >= kExact) {
      range = std::nullopt;
    }
    ranges[id] = range;
  }
  return ranges;
}

}  // namespace attune::codegen
