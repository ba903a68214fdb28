// Where a constant factor goes.
#include <gtest/gtest.h>

#include "codegen/fold_scale.h"
#include "codegen/print_ir.h"
#include "codegen/simplify.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

constexpr const char* kParams = "u: f32, flag: bool, row: f32[q_len], pair: f32[q_len, k_len]";

std::string doubled(Ir& ir) {
  simplify(ir);
  ValueId scaled = fold_scale(ir.graph, ir.score, 2);
  ValueId* root = &scaled;
  simplify(ir.graph, std::span(&root, 1));
  return print_expr(ir, scaled);
}

TEST(FoldScale, Forms) {
  const std::pair<const char*, const char*> cases[] = {
      {"3.0", "6.0"},
      {"u", "u * 2.0"},
      {"row[q_idx]", "row[q_idx] * 2.0"},
      {"qk", "qk * 2.0"},
      {"qk * u", "qk * (u * 2.0)"},
      {"qk * row[q_idx]", "qk * (row[q_idx] * 2.0)"},
      {"qk * u + row[q_idx]", "qk * (u * 2.0) + row[q_idx] * 2.0"},
      {"u - qk * 3", "u * 2.0 - qk * 6.0"},
      {"where(flag, qk * u, -inf)", "where(flag, qk * (u * 2.0), -inf)"},
      {"clamp(qk * u, -5.0, 5.0)", "clamp(qk * (u * 2.0), -10.0, 10.0)"},
      {"max(qk * u, row[q_idx])", "max(qk * (u * 2.0), row[q_idx] * 2.0)"},
      {"relu(qk * u)", "relu(qk * (u * 2.0))"},
      {"abs(qk * u)", "abs(qk * (u * 2.0))"},
      {"tanh(qk) * u", "tanh(qk) * (u * 2.0)"},
      // Nothing takes the factor for nothing: one product.
      {"tanh(qk)", "tanh(qk) * 2.0"},
      {"qk * u + pair[q_idx, k_idx]", "(qk * u + pair[q_idx, k_idx]) * 2.0"},
      {"where(flag, tanh(qk), qk * u)", "where(flag, tanh(qk), qk * u) * 2.0"},
      {"qk * tanh(qk)", "qk * tanh(qk) * 2.0"},
  };
  for (const auto& [expr, want] : cases) {
    Ir ir = build_score(kParams, expr);
    EXPECT_EQ(doubled(ir), want) << "of " << expr;
  }
}

// Sums of shared values are walked once.
TEST(FoldScale, SharedChains) {
  Ir ir = build_score(kParams, "qk * u");
  for (int i = 0; i < 3000; ++i)
    ir.score = ir.graph.op(i % 2 == 0 ? Op::k_max : Op::k_min, {ir.score, ir.graph.op(Op::k_add, {ir.score, ir.score})});
  TestEnv env(ir, 5);
  env.symbols[Symbol::kQk] = 1e-4;
  const ValueId scaled = fold_scale(ir.graph, ir.score, 2);
  EXPECT_EQ(value_of(ir.graph, scaled, env), 2 * value_of(ir.graph, ir.score, env));
}

}  // namespace
}  // namespace attune::codegen
