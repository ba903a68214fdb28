// Derivatives of every operator against central differences, and at kinks by the rules of docs/language.md.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>

#include "codegen/autodiff.h"
#include "codegen/op_table.h"
#include "codegen/print_ir.h"
#include "codegen/simplify.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

// Three f32 leaves to differentiate by.
constexpr Symbol kVariables[] = {Symbol::kQk, Symbol::kDp, Symbol::kDelta};

class PointEnv : public Env {
 public:
  double values[3] = {};
  double symbol(Symbol symbol) const override {
    for (int i = 0; i < 3; ++i) {
      if (kVariables[i] == symbol) return values[i];
    }
    throw std::logic_error("an unexpected symbol");
  }
};

double value_or_zero(const Graph& graph, ValueId id, const Env& env) {
  return id == kNoValue ? 0 : value_of(graph, id, env);
}

double central_difference(const Graph& graph, ValueId id, PointEnv env, int variable) {
  const double h = 1e-6 * std::max(1.0, std::abs(env.values[variable]));
  const double x = env.values[variable];
  env.values[variable] = x + h;
  const double above = value_of(graph, id, env);
  env.values[variable] = x - h;
  return (above - value_of(graph, id, env)) / (2 * h);
}

// Derivatives by all three variables at random points.
void expect_derivatives(Graph& graph, ValueId y, double low, double high, const std::string& name) {
  for (int variable = 0; variable < 3; ++variable) {
    ValueId dy = derivative(graph, y, graph.symbol(kVariables[variable]));
    ValueId simple = dy;
    ValueId* root = &simple;
    simplify(graph, std::span(&root, 1));
    for (uint64_t seed = 1; seed <= 30; ++seed) {
      PointEnv env;
      for (int i = 0; i < 3; ++i) env.values[i] = low + (high - low) * uniform(seed, {i});
      const double want = central_difference(graph, y, env, variable);
      const double tolerance = 2e-6 * std::max(1.0, std::abs(want));  // constants of derivatives are rounded to f32
      const std::string at =
          fmt::format("{} by variable {} at ({}, {}, {}), seed {}", name, variable, env.values[0], env.values[1], env.values[2], seed);
      ASSERT_NEAR(value_or_zero(graph, dy, env), want, tolerance) << at;
      ASSERT_NEAR(value_or_zero(graph, simple, env), want, tolerance) << at << ", simplified";
    }
  }
}

// Where the operator is smooth; the default suits functions of a positive number.
std::pair<double, double> domain(Op op) {
  switch (op) {
    case Op::k_sin:
    case Op::k_cos:
    case Op::k_exp:
    case Op::k_exp2:
    case Op::k_tanh:
    case Op::k_sigmoid:
    case Op::k_gelu:
    case Op::k_silu:
    case Op::k_softplus:
    case Op::k_erf:
    case Op::k_add:
    case Op::k_sub:
    case Op::k_mul:
    case Op::k_neg:
      return {-3, 3};
    default:
      return {0.3, 2.9};
  }
}

// Every operator of the table that makes an f32 of f32 operands, so that a new one is tested as it comes.
TEST(Derivative, OfEveryOperator) {
  int tested = 0;
  for (int i = 0; i < static_cast<int>(Op::kCount); ++i) {
    const Op op = static_cast<Op>(i);
    const OpInfo& row = info(op);
    if (!row.type || !row.value || op == Op::k_pow) continue;
    const std::vector<Type> types(row.arity, Type::kF32);
    if (row.type(types) != Type::kF32) continue;
    Graph graph;
    std::vector<ValueId> operands;
    for (int n = 0; n < row.arity; ++n) operands.push_back(graph.symbol(kVariables[n]));
    const ValueId y = graph.op(op, operands);
    const auto [low, high] = domain(op);
    expect_derivatives(graph, y, low, high, std::string(row.name));
    // By the chain rule: of operands that are sums of all variables.
    for (ValueId& operand : operands) {
      for (Symbol variable : kVariables)
        operand = graph.op(Op::k_add, {operand, graph.op(Op::k_mul, {graph.constant(Type::kF32, 0.25), graph.symbol(variable)})});
    }
    expect_derivatives(graph, graph.op(op, operands), low, high, std::string(row.name) + " of sums");
    ++tested;
  }
  EXPECT_GE(tested, 27);
}

TEST(Derivative, OfPowers) {
  for (double exponent : {-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0}) {
    Graph graph;
    const ValueId x = graph.symbol(Symbol::kQk);
    expect_derivatives(graph, graph.op(Op::k_pow, {x, graph.constant(Type::kF32, exponent)}), 0.3, 2.9, fmt::format("pow {}", exponent));
  }
  for (double exponent : {1.0, 2.0, 3.0}) {
    Graph graph;
    const ValueId x = graph.symbol(Symbol::kQk);
    expect_derivatives(graph, graph.op(Op::k_pow, {x, graph.constant(Type::kF32, exponent)}), -2.9, 2.9, fmt::format("pow {}", exponent));
  }
}

TEST(Derivative, OfSelections) {
  Graph graph;
  const ValueId x = graph.symbol(Symbol::kQk);
  const ValueId y = graph.symbol(Symbol::kDp);
  const ValueId condition = graph.op(Op::k_lt, {x, y});
  expect_derivatives(graph, graph.op(Op::k_where, {condition, graph.op(Op::k_mul, {x, y}), graph.op(Op::k_sub, {x, y})}), -3, 3, "where");
  expect_derivatives(graph, graph.op(Op::k_to_f32, {condition}), -3, 3, "f32(bool)");
}

struct KinkCase {
  const char* expr;  // of qk and u
  double qk, u;
  double d_qk, d_u;  // 0 also for a structural zero
};

TEST(Derivative, AtKinks) {
  const KinkCase cases[] = {
      {"min(qk, u)", 2, 2, 0.5, 0.5},
      {"max(qk, u)", 2, 2, 0.5, 0.5},
      {"min(qk, u)", 1, 2, 1, 0},
      {"max(qk, u)", 1, 2, 0, 1},
      {"min(3 * qk, u)", 2, 6, 1.5, 0.5},
      {"min(qk, qk)", 2, 2, 1, 0},
      {"relu(qk)", 0, 0, 0, 0},
      {"relu(qk)", 1, 0, 1, 0},
      {"abs(qk)", 0, 0, 0, 0},
      {"abs(qk)", -2, 0, -1, 0},
      {"abs(-qk)", -2, 0, -1, 0},
      {"clamp(qk, -1.0, 1.0)", 1, 0, 1, 0},
      {"clamp(qk, -1.0, 1.0)", -1, 0, 1, 0},
      {"clamp(qk, -1.0, 1.0)", 1.5, 0, 0, 0},
      {"clamp(qk, u, 1.0)", -2, -1, 0, 1},
      {"clamp(qk, u, 1.0)", -1, -1, 1, 0},
      {"clamp(qk, -1.0, u)", 3, 1, 0, 1},
      {"clamp(qk, 2.0, u)", 0, 1, 0, 1},
      {"floor(qk)", 1, 0, 0, 0},
      {"qk // u", 3, 2, 0, 0},
      {"qk % u", 3, 0, 0, 0},
      {"qk % u", 3.5, 2, 1, -1},
      {"relu(qk) ** 2", 0, 0, 0, 0},
      {"relu(qk) ** 2", -1, 0, 0, 0},
      {"qk ** 2", 0, 0, 0, 0},
      {"qk ** 1", 0, 0, 1, 0},
      {"qk ** 0", 0, 0, 0, 0},
      {"f32(i32(qk)) * u", 2.5, 3, 0, 2},
      {"f32(qk < u)", 1, 1, 0, 0},
      {"qk * 0 + u", 1, 1, 0, 1},
  };
  for (const KinkCase& c : cases) {
    for (const bool is_simplified : {false, true}) {
      Ir ir = build_score("u: f32", c.expr);
      if (is_simplified) simplify(ir);
      Graph& graph = ir.graph;
      TestEnv env(ir, 1);
      env.symbols[Symbol::kQk] = c.qk;
      env.params[0] = c.u;
      const std::string at = fmt::format("{} at qk = {}, u = {}{}", c.expr, c.qk, c.u, is_simplified ? ", simplified" : "");
      EXPECT_EQ(value_or_zero(graph, derivative(graph, ir.score, graph.symbol(Symbol::kQk)), env), c.d_qk) << at;
      EXPECT_EQ(value_or_zero(graph, derivative(graph, ir.score, graph.param(Type::kF32, 0)), env), c.d_u) << at;
    }
  }
}

// The branch that is not taken gives 0, although its own derivative is NaN or infinite.
TEST(Derivative, BranchNotTaken) {
  for (const char* expr : {"where(qk > 0, qk, log(qk - qk))", "where(qk > 0, qk, sqrt(-qk) / 0)", "where(qk <= 0, 1 / (qk - qk), qk)",
                           "where(qk > 0, qk, inf * qk)"}) {
    Ir ir = build_score("u: f32", expr);
    const ValueId dy = derivative(ir.graph, ir.score, ir.graph.symbol(Symbol::kQk));
    TestEnv env(ir, 1);
    env.symbols[Symbol::kQk] = 1;
    EXPECT_EQ(value_of(ir.graph, dy, env), 1) << expr;
  }
}

TEST(Derivative, StructuralZeros) {
  Ir ir = build_score("u: f32, i: i32, t: f32[heads]", "u * floor(qk) + t[h] + f32(i * 2)");
  Graph& graph = ir.graph;
  EXPECT_EQ(derivative(graph, ir.score, graph.symbol(Symbol::kQk)), kNoValue);
  EXPECT_EQ(derivative(graph, ir.score, graph.symbol(Symbol::kDp)), kNoValue);
  EXPECT_EQ(derivative(graph, ir.score, graph.param(Type::kI32, 1)), kNoValue);
  EXPECT_EQ(print_expr(ir, derivative(graph, ir.score, graph.param(Type::kF32, 0))), "1.0 * floor(qk)");
  EXPECT_EQ(print_expr(ir, derivative(graph, ir.score, graph.read(Type::kF32, 2, {graph.symbol(Symbol::kH)}))), "1.0");
}

TEST(Derivative, ByAnInnerValue) {
  Ir ir = build_score("u: f32", "tanh(qk) * tanh(qk) + u");
  const ValueId inner = ir.graph.op(Op::k_tanh, {ir.graph.symbol(Symbol::kQk)});
  ValueId dy = derivative(ir.graph, ir.score, inner);
  ValueId* root = &dy;
  simplify(ir.graph, std::span(&root, 1));
  EXPECT_EQ(print_expr(ir, dy), "tanh(qk) * 2.0");
}

}  // namespace
}  // namespace attune::codegen
