#include "codegen/rates.h"

namespace attune::codegen {
namespace {

// Rates as bits: a row and a column make an element.
constexpr unsigned bits(Rate rate) {
  return static_cast<unsigned>(rate);
}
static_assert((bits(Rate::kRow) | bits(Rate::kColumn)) == bits(Rate::kElement) && bits(Rate::kUniform) == 0);

Rate symbol_rate(Symbol symbol) {
  switch (symbol) {
    case Symbol::kQIdx:
    case Symbol::kLse2:
    case Symbol::kDelta:
      return Rate::kRow;
    case Symbol::kKIdx:
      return Rate::kColumn;
    case Symbol::kQk:
    case Symbol::kDp:
      return Rate::kElement;
    default:
      return Rate::kUniform;
  }
}

}  // namespace

Rate join(Rate a, Rate b) {
  return static_cast<Rate>(bits(a) | bits(b));
}

bool is_slower(Rate a, Rate b) {
  return a != b && join(a, b) == b;
}

std::vector<Rate> assign_rates(const Graph& graph) {
  std::vector<Rate> rates;
  extend_rates(graph, rates);
  return rates;
}

void extend_rates(const Graph& graph, std::vector<Rate>& rates) {
  for (auto id = static_cast<ValueId>(rates.size()); id < graph.size(); ++id) {
    const Node& node = graph[id];
    // The least and greatest of a row's or column's value over a tile is one number for the tile.
    const bool is_tile = node.op == Op::k_tile_min || node.op == Op::k_tile_max;
    Rate rate = node.op == Op::k_symbol ? symbol_rate(static_cast<Symbol>(node.index)) : Rate::kUniform;
    if (!is_tile) {
      for (ValueId operand : node.operands) rate = join(rate, rates[operand]);
    }
    rates.push_back(rate);
  }
}

}  // namespace attune::codegen
