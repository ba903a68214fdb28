// What of a score is affine in the key's index.
#include <gtest/gtest.h>

#include "codegen/print_ir.h"
#include "codegen/score_line.h"
#include "codegen/simplify.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

constexpr const char* kParams = "u: f32, slopes: f32[heads], row: f32[q_len], column: f32[k_len], pair: f32[q_len, k_len]";

TEST(ScoreLine, SlopeAndRest) {
  struct Case {
    const char *expr, *slope, *rest;
  };
  const Case cases[] = {
      {"qk * u - slopes[h] * (q_pos - k_pos)", "slopes[h]", "qk * u"},
      {"tanh(qk) * u + slopes[h] * f32(k_idx) + row[q_idx]", "slopes[h]", "tanh(qk) * u"},
      {"qk - 0.5 * (q_pos - k_pos)", "0.5", "qk"},
      {"qk + u * (k_pos - q_pos) + column[k_idx]", "u", "qk + column[k_idx]"},
      {"qk - u * f32(k_pos + 3) - slopes[h] * (q_pos - k_pos)", "slopes[h] - u", "qk"},
      {"-(qk + u * k_pos)", "-u", "-qk"},
      {"qk + u * (f32(k_idx) - f32(k_idx)) + 0.5 * f32(k_idx)", "u * 0.0 + 0.5", "qk"},
  };
  for (const Case& one : cases) {
    Ir ir = build_score(kParams, one.expr);
    simplify(ir);
    const std::optional<ScoreLine> found = split_line(ir.graph, ir.score);
    ASSERT_TRUE(found) << one.expr;
    EXPECT_EQ(print_expr(ir, found->slope), one.slope) << one.expr;
    EXPECT_EQ(print_expr(ir, found->rest), one.rest) << one.expr;
    for (int k = 0; k < 5; ++k) {
      TestEnv env(ir, 7);
      env.symbols = {{Symbol::kQk, 0.3}, {Symbol::kH, 1},     {Symbol::kQIdx, 11},
                     {Symbol::kKIdx, k}, {Symbol::kQLen, 20}, {Symbol::kKLen, 24}};
      const double line = value_of(ir.graph, found->line, env);
      EXPECT_NEAR(value_of(ir.graph, found->rest, env) + line, value_of(ir.graph, ir.score, env), 1e-12) << one.expr;
      const double slope = value_of(ir.graph, found->slope, env);
      env.symbols[Symbol::kKIdx] = k + 1;
      EXPECT_NEAR(value_of(ir.graph, found->line, env) - line, slope, 1e-12) << one.expr;
    }
  }
}

TEST(ScoreLine, NoneWhereTheSlopeIsNotOneOfAHead) {
  for (const char* expr : {"qk * u", "qk + row[q_idx]", "qk + column[k_idx]", "qk - row[q_idx] * (q_pos - k_pos)",
                           "qk - u * abs(q_pos - k_pos)", "qk * (q_pos - k_pos)", "qk + u * f32(k_pos * k_pos)", "qk + pair[q_idx, k_idx]",
                           "u * (q_pos - k_pos)", "qk - u * f32(k_pos * 1000000000)"}) {
    Ir ir = build_score(kParams, expr);
    simplify(ir);
    EXPECT_FALSE(split_line(ir.graph, ir.score)) << expr;
  }
}

}  // namespace
}  // namespace attune::codegen
