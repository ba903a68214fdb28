// Rates of expressions.
#include <gtest/gtest.h>

#include "codegen/rates.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

constexpr const char* kParams =
    "u: f32, i: i32, head: f32[heads], by_q: f32[heads, q_len], by_k: f32[k_len], pair: f32[q_len, k_len], doc: i32[k_len]";

struct Case {
  const char* expr;
  Rate rate;
};

TEST(Rates, OfExpressions) {
  const Case cases[] = {
      {"1.0", Rate::kUniform},
      {"f32(k_len - q_len) * rsqrt(head_dim)", Rate::kUniform},
      {"u + f32(b + h * kv_h)", Rate::kUniform},
      {"head[h] * u", Rate::kUniform},
      {"f32(q_idx)", Rate::kRow},
      {"f32(q_pos)", Rate::kRow},
      {"by_q[h, q_idx] * u", Rate::kRow},
      {"head[q_idx % heads]", Rate::kRow},
      {"f32(k_pos)", Rate::kColumn},
      {"by_k[k_idx] * u", Rate::kColumn},
      {"by_k[doc[k_idx]]", Rate::kColumn},
      {"by_k[doc[q_idx]]", Rate::kRow},
      {"f32(q_idx - k_idx)", Rate::kElement},
      {"pair[q_idx, k_idx]", Rate::kElement},
      {"pair[q_idx, 0]", Rate::kRow},
      {"pair[0, k_idx]", Rate::kColumn},
      {"qk", Rate::kElement},
      {"where(i == 0, by_k[k_idx], by_q[h, q_idx])", Rate::kElement},
      {"random(i)", Rate::kElement},
  };
  for (const Case& c : cases) {
    const Ir ir = build_score(kParams, c.expr);
    EXPECT_EQ(rate_name(assign_rates(ir.graph)[ir.score]), rate_name(c.rate)) << c.expr;
  }
}

TEST(Rates, OfSymbols) {
  const std::pair<Symbol, Rate> cases[] = {
      {Symbol::kB, Rate::kUniform},     {Symbol::kKvH, Rate::kUniform}, {Symbol::kKLen, Rate::kUniform}, {Symbol::kFirstQ, Rate::kUniform},
      {Symbol::kLastK, Rate::kUniform}, {Symbol::kQIdx, Rate::kRow},    {Symbol::kLse2, Rate::kRow},     {Symbol::kDelta, Rate::kRow},
      {Symbol::kKIdx, Rate::kColumn},   {Symbol::kQk, Rate::kElement},  {Symbol::kDp, Rate::kElement},
  };
  Graph graph;
  for (const auto& [symbol, rate] : cases) {
    const ValueId id = graph.symbol(symbol);
    EXPECT_EQ(rate_name(assign_rates(graph)[id]), rate_name(rate)) << symbol_name(symbol);
  }
}

TEST(Rates, LeastOfATileIsOneNumber) {
  Graph graph;
  const ValueId row = graph.symbol(Symbol::kQIdx);
  const ValueId least = graph.op(Op::k_tile_min, {row});
  const std::vector<Rate> rates = assign_rates(graph);
  EXPECT_EQ(rate_name(rates[row]), "row");
  EXPECT_EQ(rate_name(rates[least]), "uniform");
}

TEST(Rates, Extended) {
  Graph graph;
  const ValueId row = graph.symbol(Symbol::kQIdx);
  std::vector<Rate> rates = assign_rates(graph);
  const ValueId pair = graph.op(Op::k_sub, {row, graph.symbol(Symbol::kKIdx)});
  extend_rates(graph, rates);
  EXPECT_EQ(rates, assign_rates(graph));
  EXPECT_EQ(rate_name(rates[pair]), "element");
}

TEST(Rates, Order) {
  EXPECT_TRUE(is_slower(Rate::kUniform, Rate::kRow));
  EXPECT_TRUE(is_slower(Rate::kColumn, Rate::kElement));
  EXPECT_FALSE(is_slower(Rate::kRow, Rate::kColumn));
  EXPECT_FALSE(is_slower(Rate::kRow, Rate::kRow));
  EXPECT_EQ(rate_name(join(Rate::kRow, Rate::kColumn)), "element");
}

}  // namespace
}  // namespace attune::codegen
