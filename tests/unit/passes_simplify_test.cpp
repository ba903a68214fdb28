// Simplification: the form of what it makes, the values it keeps, and that it is done after one call.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "codegen/print_ir.h"
#include "codegen/rates.h"
#include "codegen/simplify.h"
#include "codegen/verify.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

constexpr const char* kParams =
    "u: f32, v: f32, w: f32, i: i32, j: i32, flag: bool, other: bool, row: f32[q_len], col: f32[k_len], pair: f32[q_len, k_len], ids: "
    "i32[k_len]";

struct Case {
  const char* expr;
  const char* simplified;
};

void expect_forms(std::initializer_list<Case> cases) {
  for (const Case& c : cases) {
    Ir ir = build_score(kParams, c.expr);
    simplify(ir);
    verify(ir);
    EXPECT_EQ(print_expr(ir, ir.score), c.simplified) << "of " << c.expr;
    const ValueId once = ir.score;
    simplify(ir);
    EXPECT_EQ(ir.score, once) << "a second time, of " << c.expr << ": " << print_expr(ir, ir.score);
  }
}

TEST(Simplify, FoldsConstants) {
  expect_forms({
      {"1 + 2 * 3", "7.0"},
      {"2 / 3", "0.6666667"},
      {"f32(7 // 2 + -7 % 4)", "4.0"},
      {"where(2 > 1 and not false, 5, 6)", "5.0"},
      {"log(8.0) / log(2.0)", "3.0"},
      {"1e38 * 10", "inf"},
      {"-inf", "-inf"},
      {"2147483647 + 1", "-2147483600.0"},
      {"max(1.0, 2)", "2.0"},
      {"f32(3) ** 2", "9.0"},
      {"f32(bit(5, 2))", "1.0"},
  });
}

TEST(Simplify, NeverFoldsToNaN) {
  expect_forms({
      {"inf - inf", "inf - inf"},
      {"0.0 / 0.0", "0.0 / 0.0"},
      {"log(-1.0)", "log(-1.0)"},
      {"0 * inf", "0.0 * inf"},
      {"f32(i32(inf - inf))", "f32(i32(inf - inf))"},
  });
}

TEST(Simplify, Identities) {
  expect_forms({
      {"qk * 1", "qk"},
      {"1 * qk", "qk"},
      {"qk / 1", "qk"},
      {"qk + 0", "qk"},
      {"0 + qk", "qk"},
      {"qk - 0", "qk"},
      {"0 - qk", "-qk"},
      {"qk * -1", "-qk"},
      {"qk / -1", "-qk"},
      {"-(-qk)", "qk"},
      {"u + -qk", "u - qk"},
      {"-qk + u", "u - qk"},
      {"qk - -u", "qk + u"},
      {"-(qk - u)", "u - qk"},
      {"-qk * -u", "qk * u"},
      {"qk + -2", "qk - 2.0"},
      {"qk - -2", "qk + 2.0"},
      {"qk + qk", "qk * 2.0"},
      {"qk * pair[q_idx, k_idx] + pair[q_idx, k_idx] * qk", "qk * pair[q_idx, k_idx] * 2.0"},
      {"qk ** 0", "1.0"},
      {"qk ** 1", "qk"},
      {"qk ** 2", "qk * qk"},
      {"qk ** 3", "qk * qk * qk"},
      {"qk ** -1", "1.0 / qk"},
      {"qk ** 5", "qk ** 5.0"},
      {"qk ** 0.5", "qk ** 0.5"},
      {"min(qk, qk)", "qk"},
      {"max(qk, qk)", "qk"},
      {"abs(-qk)", "abs(qk)"},
      {"abs(abs(qk))", "abs(qk)"},
      {"abs(relu(qk))", "relu(qk)"},
      {"relu(relu(qk))", "relu(qk)"},
      {"floor(floor(qk))", "floor(qk)"},
      {"floor(f32(i))", "f32(i)"},
      {"relu(qk) * where(qk > 0, u, 0)", "relu(qk) * u"},
      {"where(qk > 0, u, 0) * relu(qk)", "relu(qk) * u"},
  });
}

TEST(Simplify, KeepsWhatIsNotTheSame) {
  expect_forms({
      {"qk * 0", "qk * 0.0"},
      {"qk - qk", "qk - qk"},
      {"qk / qk", "qk / qk"},
      {"where(not (qk < u), 1, 2)", "f32(where(qk < u, 2, 1))"},
      {"f32(not (qk < u))", "f32(not qk < u)"},
      {"f32(qk == qk)", "f32(qk == qk)"},
      {"f32(qk != qk)", "f32(qk != qk)"},
      {"f32(qk <= qk)", "f32(qk <= qk)"},
      {"(qk + 3.0) - 3.0", "qk + 3.0 - 3.0"},
      {"max(qk, 0)", "max(qk, 0.0)"},
      {"qk ** 2.5", "qk ** 2.5"},
      {"relu(qk) * where(qk > 0, pair[q_idx, k_idx], 0)", "relu(qk) * where(qk > 0.0, pair[q_idx, k_idx], 0.0)"},
  });
}

TEST(Simplify, Logic) {
  expect_forms({
      {"where(true, qk, u)", "qk"},
      {"where(false, qk, u)", "u"},
      {"where(flag, qk, qk)", "qk"},
      {"where(not flag, qk, u)", "where(flag, u, qk)"},
      {"where(flag, where(flag, qk, u), v)", "where(flag, qk, v)"},
      {"where(flag, qk, where(flag, u, v))", "where(flag, qk, v)"},
      {"f32(flag and true)", "f32(flag)"},
      {"f32(false and flag)", "0.0"},
      {"f32(flag or true)", "1.0"},
      {"f32(false or flag)", "f32(flag)"},
      {"f32(flag and flag)", "f32(flag)"},
      {"f32(flag or not flag)", "1.0"},
      {"f32(not flag and flag)", "0.0"},
      {"f32(not not flag)", "f32(flag)"},
      {"f32(not (i < j))", "f32(i >= j)"},
      {"f32(not (qk == u))", "f32(qk != u)"},
      {"f32(not (i != j))", "f32(i == j)"},
      {"f32(flag == true)", "f32(flag)"},
      {"f32(flag == false)", "f32(not flag)"},
      {"f32(true != flag)", "f32(not flag)"},
      {"f32(flag == flag)", "1.0"},
      {"f32(i == i)", "1.0"},
      {"f32(i + j <= j + i)", "1.0"},
      {"f32(i < i)", "0.0"},
      {"f32(qk < qk)", "0.0"},
      {"f32(3 < i)", "f32(i > 3)"},
      {"f32(0 >= qk)", "f32(qk <= 0.0)"},
      {"f32(where(flag, true, other))", "f32(flag or other)"},
      {"f32(where(flag, other, false))", "f32(flag and other)"},
      {"f32(where(flag, false, other))", "f32(not flag and other)"},
      {"f32(where(flag, other, true))", "f32(not flag or other)"},
      {"f32(i32(flag))", "f32(flag)"},
      {"f32(i32(f32(flag)))", "f32(flag)"},
  });
}

TEST(Simplify, IntegerSumsAreCanonical) {
  expect_forms({
      {"f32(q_pos - k_pos)", "f32(q_idx + (k_len - q_len) - k_idx)"},
      {"f32(k_pos - q_pos)", "f32(k_idx - (q_idx + (k_len - q_len)))"},
      {"f32(k_len + q_idx - k_idx - q_len)", "f32(q_idx + (k_len - q_len) - k_idx)"},
      {"f32(-(k_idx + q_len) + q_idx + k_len)", "f32(q_idx + (k_len - q_len) - k_idx)"},
      {"f32(q_pos - k_pos - i + 3 - 1)", "f32(q_idx + (k_len - q_len - i + 2) - k_idx)"},
      {"f32(i - i)", "0.0"},
      {"f32(i - j + j)", "f32(i)"},
      {"f32(i + i + i)", "f32(i * 3)"},
      {"f32(2 * (i + j) - i * 2)", "f32(j * 2)"},
      {"f32(4 * (q_idx - k_idx))", "f32(q_idx * 4 - k_idx * 4)"},
      {"f32(i * 0)", "0.0"},
      {"f32(-i)", "f32(-i)"},
      {"f32(-i - j)", "f32(-(i + j))"},
      {"f32(1 - k_idx)", "f32(1 - k_idx)"},
      {"f32(k_idx - 1)", "f32(k_idx - 1)"},
      {"f32(-1 - k_idx)", "f32(-1 - k_idx)"},
      {"f32(-1 + q_idx - k_idx)", "f32(q_idx - 1 - k_idx)"},
      {"f32(ids[k_idx] + q_idx * i - 2)", "f32(q_idx * i - 2 + ids[k_idx])"},
      {"f32(i // 1)", "f32(i)"},
      {"f32(i // -1)", "f32(-i)"},
      {"f32(i % 1)", "0.0"},
      {"f32(i // 0)", "0.0"},
      {"f32(i % 0)", "0.0"},
      {"f32(i ** 0)", "1.0"},
      {"f32(i ** 1)", "f32(i)"},
      {"f32(i ** 2)", "f32(i * i)"},
      {"f32(i ** 5)", "f32(i ** 5)"},
      {"f32(i - 2147483647 - 1)", "f32(i - -2147483648)"},
  });
}

TEST(Simplify, SlowFactorsAreGathered) {
  expect_forms({
      {"u * qk", "qk * u"},
      {"qk * u * v", "qk * (u * v)"},
      {"qk * 2 * u * 3", "qk * (u * 6.0)"},
      {"qk * row[q_idx] * u", "qk * (row[q_idx] * u)"},
      {"qk * u * row[q_idx]", "qk * (row[q_idx] * u)"},
      {"qk * col[k_idx] * u", "qk * (col[k_idx] * u)"},
      {"qk * row[q_idx] * col[k_idx]", "qk * row[q_idx] * col[k_idx]"},
      {"row[q_idx] * u * col[k_idx]", "row[q_idx] * u * col[k_idx]"},
      {"qk * u * tanh(qk)", "qk * tanh(qk) * u"},
      {"(qk * u) * (tanh(qk) * v)", "qk * tanh(qk) * (v * u)"},
      {"u * v * w", "u * v * w"},
      {"qk / 8", "qk * 0.125"},
      {"u / 8", "u * 0.125"},
      {"u / 3", "u / 3.0"},
      {"qk / 3", "qk * 0.33333334"},
      {"qk / u", "qk * (1.0 / u)"},
      {"qk / row[q_idx]", "qk * (1.0 / row[q_idx])"},
      {"qk * u / v", "qk * (u / v)"},
      {"qk / pair[q_idx, k_idx]", "qk / pair[q_idx, k_idx]"},
      {"u / qk", "u / qk"},
      {"qk / 0", "qk / 0.0"},
      {"qk / 1e-39", "qk / 1e-39"},
      {"-qk * u", "qk * -u"},
      {"-(qk * 2)", "qk * -2.0"},
      {"qk * 1e30 * 1e30", "qk * 1e+30 * 1e+30"},
  });
}

TEST(Simplify, SlowAddendsAreGathered) {
  expect_forms({
      {"u + qk", "qk + u"},
      {"qk + u + v", "qk + (u + v)"},
      {"qk + u - v", "qk + (u - v)"},
      {"qk - u + v", "qk + (v - u)"},
      {"qk - u - v", "qk - (u + v)"},
      {"u - qk + v", "u + v - qk"},
      {"u - qk - v", "u - v - qk"},
      {"u - (qk + v)", "u - v - qk"},
      {"u - (qk - v)", "v + u - qk"},
      {"u - (v - qk)", "qk + (u - v)"},
      {"qk + row[q_idx] + u", "qk + (row[q_idx] + u)"},
      {"qk + row[q_idx] + col[k_idx]", "qk + row[q_idx] + col[k_idx]"},
      {"qk + 1 + 2", "qk + 3.0"},
      {"qk - 1 - 2", "qk - 3.0"},
  });
}

// A shared product keeps its factor: it would be multiplied twice.
TEST(Simplify, SharedProductsStay) {
  Ir ir = build("attention test(u: f32) {\n  let s = qk * u\n  score = s * tanh(s)\n  weights = softmax(score)\n}\n");
  simplify(ir);
  EXPECT_EQ(print_expr(ir, ir.score), "qk * u * tanh(qk * u)");
}

TEST(Simplify, AllRootsOfAVariant) {
  Ir ir = build(
      "attention test(w: const i32 = 2 + 2, t: f32[2 * w - 1, heads + 0], d: f32 = 1 * log(k_len)) {\n  score = qk * 1\n  mask = k_idx - "
      "k_idx <= 0 and "
      "k_idx <= q_idx\n  weights = softmax(score, sink = d * 1) * (1 + 1)\n}\n");
  simplify(ir);
  verify(ir);
  EXPECT_EQ(print_ir(ir),
            "attention test\n"
            "param w: const i32 = 4\n"
            "param t: f32[7, heads]\n"
            "param d: f32 = log(f32(k_len))\n"
            "score = qk\n"
            "mask = k_idx <= q_idx\n"
            "sink = d\n"
            "factor = 2.0\n"
            "weights = softmax(score, sink = sink) * factor\n");
}

// Random expressions over leaves whose arithmetic is exact in double, so that regrouping shows no rounding, save for quotients.
class RandomExpressions {
 public:
  RandomExpressions(Ir& ir, uint64_t seed) : ir_(ir), graph_(ir.graph), random_(seed) {
    for (Symbol symbol : {Symbol::kQIdx, Symbol::kKIdx, Symbol::kQLen, Symbol::kKLen}) integers_.push_back(graph_.symbol(symbol));
    for (double c : {0.0, 1.0, 2.0, -3.0}) integers_.push_back(graph_.constant(Type::kI32, c));
    for (const char* name : {"i", "j"}) integers_.push_back(graph_.param(Type::kI32, index_of(name)));
    floats_ = {graph_.symbol(Symbol::kQk), graph_.symbol(Symbol::kDp), graph_.symbol(Symbol::kDelta)};
    for (double c : {0.0, 1.0, -1.0, 2.0, 0.5, -3.0}) floats_.push_back(graph_.constant(Type::kF32, c));
    for (const char* name : {"u", "v", "w"}) floats_.push_back(graph_.param(Type::kF32, index_of(name)));
    divisors_ = {floats_.back(), floats_[5], floats_[6], graph_.symbol(Symbol::kLse2)};
    bools_ = {graph_.param(Type::kBool, index_of("flag")), graph_.param(Type::kBool, index_of("other")), graph_.constant(Type::kBool, 1)};
    for (int n = 0; n < 60; ++n) grow();
  }

  std::vector<ValueId> roots() const { return {floats_.end() - 8, floats_.end()}; }

 private:
  int index_of(std::string_view name) const {
    for (size_t i = 0; i < ir_.params.size(); ++i) {
      if (ir_.params[i].name == name) return static_cast<int>(i);
    }
    throw std::logic_error("no such parameter");
  }

  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }
  // Half of the time something recent, so that expressions grow deep.
  ValueId pick(const std::vector<ValueId>& from) {
    const size_t recent = std::min<size_t>(from.size(), 6);
    return below(2) == 0 ? from[from.size() - 1 - below(recent)] : from[below(from.size())];
  }

  void grow() {
    switch (below(10)) {
      case 0:
      case 1: {
        constexpr Op kOps[] = {Op::k_add, Op::k_sub, Op::k_mul, Op::k_floor_div, Op::k_mod, Op::k_min, Op::k_max};
        integers_.push_back(graph_.op(kOps[below(std::size(kOps))], {pick(integers_), pick(integers_)}));
        return;
      }
      case 2: {
        constexpr Op kOps[] = {Op::k_eq, Op::k_ne, Op::k_lt, Op::k_le, Op::k_gt, Op::k_ge};
        const bool is_integer = below(2) == 0;
        bools_.push_back(
            graph_.op(kOps[below(std::size(kOps))], {pick(is_integer ? integers_ : floats_), pick(is_integer ? integers_ : floats_)}));
        return;
      }
      case 3: {
        constexpr Op kOps[] = {Op::k_and, Op::k_or, Op::k_eq, Op::k_ne};
        bools_.push_back(below(4) == 0 ? graph_.op(Op::k_not, {pick(bools_)})
                                       : graph_.op(kOps[below(std::size(kOps))], {pick(bools_), pick(bools_)}));
        return;
      }
      case 4:
        floats_.push_back(graph_.op(Op::k_to_f32, {pick(below(3) == 0 ? bools_ : integers_)}));
        return;
      case 5:
        floats_.push_back(graph_.op(Op::k_where, {pick(bools_), pick(floats_), pick(floats_)}));
        return;
      case 6: {
        constexpr Op kOps[] = {Op::k_neg, Op::k_abs, Op::k_relu};
        floats_.push_back(graph_.op(kOps[below(std::size(kOps))], {pick(floats_)}));
        return;
      }
      case 7:
        floats_.push_back(graph_.op(Op::k_div, {pick(floats_), pick(divisors_)}));
        return;
      default: {
        constexpr Op kOps[] = {Op::k_add, Op::k_sub, Op::k_mul, Op::k_min, Op::k_max};
        floats_.push_back(graph_.op(kOps[below(std::size(kOps))], {pick(floats_), pick(floats_)}));
      }
    }
  }

  Ir& ir_;
  Graph& graph_;
  std::mt19937_64 random_;
  std::vector<ValueId> integers_, floats_, divisors_, bools_;
};

TestEnv random_env(const Ir& ir, uint64_t seed, bool has_specials) {
  TestEnv env(ir, seed);
  const auto pick = [&](int word, std::initializer_list<double> values) {
    return values.begin()[static_cast<size_t>(uniform(seed, {word}) * values.size())];
  };
  // Where scores are infinite or NaN, what is uniform stays finite, as the header assumes.
  const std::initializer_list<double> plain = {-2.5, -1, -0.25, 0, 0.5, 1, 3};
  const std::initializer_list<double> special = {-INFINITY, INFINITY, NAN, 0, 1};
  env.symbols[Symbol::kQk] = pick(1, has_specials ? special : plain);
  env.symbols[Symbol::kDp] = pick(2, plain);
  env.symbols[Symbol::kDelta] = pick(3, plain);
  env.symbols[Symbol::kLse2] = pick(4, {0.5, 2, -4});
  env.symbols[Symbol::kQIdx] = pick(5, {0, 1, 5});
  env.symbols[Symbol::kKIdx] = pick(6, {0, 2, 7});
  env.symbols[Symbol::kQLen] = pick(7, {6, 9, 2000000000});
  env.symbols[Symbol::kKLen] = pick(8, {8, 13, 2000000000});
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const int index = static_cast<int>(i);
    if (ir.params[i].name == "u" || ir.params[i].name == "v") env.params[index] = pick(20 + index, {-1.5, 0.25, 1, 2});
    if (ir.params[i].name == "w") env.params[index] = pick(20 + index, {0.25, -2, 4});
  }
  return env;
}

bool is_same(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a == b;
  return std::abs(a - b) <= 1e-6 * std::max({1.0, std::abs(a), std::abs(b)});
}

TEST(Simplify, KeepsTheValueOfRandomExpressions) {
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    Ir ir = build_score(kParams, "qk");
    const std::vector<ValueId> before = RandomExpressions(ir, seed).roots();
    std::vector<ValueId> after = before;
    std::vector<ValueId*> roots;
    for (ValueId& id : after) roots.push_back(&id);
    simplify(ir.graph, roots);
    const std::vector<ValueId> once = after;
    simplify(ir.graph, roots);
    EXPECT_EQ(after, once) << "not idempotent, seed " << seed;
    for (uint64_t point = 0; point < 12; ++point) {
      const TestEnv env = random_env(ir, 1000 * seed + point, point % 4 == 3);
      for (size_t i = 0; i < before.size(); ++i) {
        ASSERT_EQ(ir.graph[before[i]].type, ir.graph[after[i]].type);
        const double want = value_of(ir.graph, before[i], env);
        const double got = value_of(ir.graph, after[i], env);
        ASSERT_TRUE(is_same(want, got)) << fmt::format("seed {}, point {}: got {}, want {}\n  before {}\n  after  {}", seed, point, got,
                                                       want, print_expr(ir, before[i]), print_expr(ir, after[i]));
      }
    }
  }
}

TEST(Simplify, IsDeterministic) {
  std::string texts[2];
  for (std::string& text : texts) {
    Ir ir = build_score(kParams, "qk");
    std::vector<ValueId> ids = RandomExpressions(ir, 7).roots();
    std::vector<ValueId*> roots;
    for (ValueId& id : ids) roots.push_back(&id);
    simplify(ir.graph, roots);
    for (ValueId id : ids) text += print_expr(ir, id) + "\n";
  }
  EXPECT_EQ(texts[0], texts[1]);
}

// A program of many lets over long sums takes linear time and keeps its value.
TEST(Simplify, LongChains) {
  Ir ir = build_score(kParams, "qk");
  Graph& graph = ir.graph;
  ValueId sum = graph.symbol(Symbol::kQIdx);
  for (int n = 0; n < 5000; ++n) {
    const ValueId term = graph.op(
        Op::k_mul, {graph.symbol(n % 2 == 0 ? Symbol::kKIdx : Symbol::kQLen), graph.op(Op::k_min, {sum, graph.constant(Type::kI32, n)})});
    sum = graph.op(n % 3 == 0 ? Op::k_sub : Op::k_add, {sum, term});
  }
  const ValueId before = sum;
  ValueId* root = &sum;
  simplify(graph, std::span(&root, 1));
  const TestEnv env = random_env(ir, 3, false);
  EXPECT_EQ(value_of(graph, before, env), value_of(graph, sum, env));
}

}  // namespace
}  // namespace attune::codegen
