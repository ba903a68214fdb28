// Text of expressions and of roots.
#include <gtest/gtest.h>

#include <sstream>

#include "codegen/print_ir.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

constexpr const char* kParams = "u: f32, i: i32, flag: bool, other: bool, t: f32[q_len, k_len]";

// Each text reads back to the same graph.
TEST(PrintExpr, MinimalBrackets) {
  const char* cases[] = {
      "qk * u + u",
      "qk * (u + u)",
      "qk - (u - qk)",
      "qk - u - qk",
      "qk / (u * qk)",
      "-(qk * u)",
      "-qk * u",
      "-(-qk)",
      "(-qk) ** 2.0",
      "-qk ** 2.0",
      "(qk ** 2.0) ** 3.0",
      "qk ** -1.0",
      "qk * 1e-05",
      "-inf",
      "t[q_idx, k_idx - 1]",
      "t[(q_idx + 1) % q_len, k_idx // 2]",
      "where(flag and (other or flag), qk, -1.5)",
      "where(not flag or other, min(qk, u), clamp(qk, -1.0, 1.0))",
      "where(not (flag and other), qk, u)",
      "where((qk < u) == flag, qk, u)",
      "where(not qk < u, qk, u)",
      "f32(i ** 2 * 3 - -4)",
      "f32(bit(i, 3))",
      "random(i)",
      "exp2(qk) + sigmoid(rsqrt(u))",
  };
  for (const char* text : cases) {
    const Ir ir = build_score(kParams, text);
    EXPECT_EQ(print_expr(ir, ir.score), text);
  }
}

TEST(PrintExpr, InnerOperators) {
  Ir ir = build_score("u: f32", "qk");
  Graph& g = ir.graph;
  const ValueId least = g.op(Op::k_tile_min, {g.symbol(Symbol::kQIdx)});
  const ValueId sum = g.op(Op::k_add, {least, g.op(Op::k_to_f64, {g.symbol(Symbol::kLastK)})});
  EXPECT_EQ(print_expr(ir, g.op(Op::k_f64_to_i32, {sum})), "f64_to_i32(tile_min(q_idx) + to_f64(last_k))");
  EXPECT_EQ(print_expr(ir, g.constant(Type::kF64, 0.1)), "0.1");
  EXPECT_EQ(print_expr(ir, g.constant(Type::kF32, 0.1)), "0.1");
  EXPECT_EQ(print_expr(ir, g.op(Op::k_random, {g.constant(Type::kI32, 1), g.symbol(Symbol::kB), g.symbol(Symbol::kH),
                                               g.symbol(Symbol::kKIdx), g.symbol(Symbol::kQIdx)})),
            "random(1, b, h, k_idx, q_idx)");
}

TEST(PrintRoots, SharedValuesGetLinesInOrderOfUse) {
  Ir ir = build("attention test(u: f32) {\n  let x = tanh(qk)\n  let y = x * x + u\n  score = y * y\n  weights = softmax(score)\n}\n");
  const ValueId root = ir.graph.op(Op::k_add, {ir.score, ir.score});
  const std::pair<std::string, ValueId> roots[] = {{"twice", root}, {"once", ir.score}};
  EXPECT_EQ(print_roots(ir, roots),
            "%1 = tanh(qk)\n"
            "%2 = %1 * %1 + u\n"
            "%3 = %2 * %2\n"
            "twice = %3 + %3\n"
            "once = %3\n");
}

TEST(PrintRoots, LinesAreShort) {
  std::string expr = "qk";
  for (int i = 0; i < 20; ++i) expr += " + t[q_idx, k_idx + " + std::to_string(i) + "]";
  const Ir ir = build_score(kParams, expr);
  std::istringstream text(print_ir(ir));
  std::string joined;
  for (std::string line; std::getline(text, line);) {
    EXPECT_LE(line.size(), 140u) << line;
    joined += line.substr(line.find_first_not_of(' ')) + " ";
  }
  EXPECT_NE(joined.find("score = " + expr), std::string::npos);
}

// Lets can make chains as long as a program.
TEST(PrintRoots, DeepExpressions) {
  Ir ir = build_score(kParams, "qk");
  for (int i = 0; i < 20000; ++i) ir.score = ir.graph.op(Op::k_tanh, {ir.score});
  EXPECT_GT(print_ir(ir).size(), 100000u);
  // Shared twice at every step, so that it would be 2^100 long without names.
  for (int i = 0; i < 100; ++i) ir.score = ir.graph.op(Op::k_add, {ir.score, ir.score});
  EXPECT_LT(print_ir(ir).size(), 200000u);
}

}  // namespace
}  // namespace attune::codegen
