// The backward pass of whole variants against central differences of the loss, in double: a few rows and keys whose dot products are the
// variables.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numbers>
#include <set>

#include "codegen/autodiff.h"
#include "codegen/lower.h"
#include "codegen/print_ir.h"
#include "codegen/rates.h"
#include "codegen/verify.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

constexpr int kRows = 3;
constexpr int kKeys = 5;

// One (b, h) with q . k and dO . v given for every pair.
struct Problem {
  double qk[kRows][kKeys];
  double dp[kRows][kKeys];

  explicit Problem(uint64_t seed, double scale = 2) {
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kKeys; ++j) {
        qk[i][j] = scale * (2 * uniform(seed, {1, i, j}) - 1);
        dp[i][j] = 2 * uniform(seed, {2, i, j}) - 1;
      }
    }
  }
};

void set_pair(TestEnv& env, const Problem& problem, int i, int j) {
  for (const auto& [symbol, value] : {std::pair<Symbol, double>{Symbol::kB, 0},
                                      {Symbol::kH, 1},
                                      {Symbol::kKvH, 0},
                                      {Symbol::kBatch, 1},
                                      {Symbol::kHeads, 2},
                                      {Symbol::kKvHeads, 1},
                                      {Symbol::kQLen, kRows},
                                      {Symbol::kKLen, kKeys},
                                      {Symbol::kHeadDim, 16},
                                      {Symbol::kVDim, 16}}) {
    env.symbols[symbol] = value;
  }
  env.symbols[Symbol::kQIdx] = i;
  env.symbols[Symbol::kKIdx] = j;
  env.symbols[Symbol::kQk] = problem.qk[i][j];
  env.symbols[Symbol::kDp] = problem.dp[i][j];
}

struct Row {
  double loss = 0;         // dO . O
  double lse = -INFINITY;  // natural
};

// Forward by definition, from the typed program.
Row forward_row(const Ir& ir, TestEnv& env, const Problem& problem, int i) {
  Row row;
  double denominator = 0;
  const auto value = [&](ValueId id) { return value_of(ir.graph, id, env); };
  const bool is_softmax = ir.weight_kind == WeightKind::kSoftmax;
  for (int j = 0; j < kKeys; ++j) {
    set_pair(env, problem, i, j);
    if (value(ir.mask) == 0) continue;
    if (!is_softmax) {
      row.loss += value(ir.weight) * problem.dp[i][j];
      continue;
    }
    const double p = std::exp(value(ir.score));
    denominator += p;
    if (p != 0) row.loss += p * (ir.factor == kNoValue ? 1 : value(ir.factor)) * problem.dp[i][j];
  }
  if (!is_softmax) return row;
  if (ir.sink != kNoValue) denominator += std::exp(value(ir.sink));
  row.lse = std::log(denominator);
  row.loss = denominator == 0 ? 0 : row.loss / denominator;
  return row;
}

double loss(const Ir& ir, TestEnv& env, const Problem& problem) {
  double total = 0;
  for (int i = 0; i < kRows; ++i) total += forward_row(ir, env, problem, i).loss;
  return total;
}

using Element = std::pair<int, std::vector<double>>;  // a parameter and the indices of one element; none for a scalar

struct Gradients {
  double dqk[kRows][kKeys] = {};
  std::map<Element, double> params;
};

Element element_of(const Ir& ir, ValueId read, const TestEnv& env) {
  Element element = {ir.graph[read].index, {}};
  for (ValueId index : ir.graph[read].operands) element.second.push_back(value_of(ir.graph, index, env));
  return element;
}

Gradients backward(const Ir& typed, const Lowered& lowered, TestEnv& env, const Problem& problem) {
  Gradients gradients;
  const Graph& graph = lowered.ir.graph;
  for (int i = 0; i < kRows; ++i) {
    const Row row = forward_row(typed, env, problem, i);
    env.symbols[Symbol::kLse2] = row.lse == -INFINITY ? INFINITY : row.lse * std::numbers::log2e;
    env.symbols[Symbol::kDelta] = row.loss;
    for (int j = 0; j < kKeys; ++j) {
      set_pair(env, problem, i, j);
      const bool is_kept = value_of(graph, lowered.ir.mask, env) != 0;
      if (is_kept) gradients.dqk[i][j] = value_of(graph, lowered.backward.dqk, env);
      for (const ParamGradient& gradient : lowered.backward.params) {
        if (is_kept && gradient.per_element != kNoValue) {
          gradients.params[element_of(lowered.ir, gradient.read, env)] += value_of(graph, gradient.per_element, env);
        }
        if (j == 0 && gradient.per_row != kNoValue) {
          gradients.params[element_of(lowered.ir, gradient.read, env)] += value_of(graph, gradient.per_row, env);
        }
      }
    }
  }
  return gradients;
}

// The elements of grad parameters that the program reads at kept pairs.
std::set<Element> elements_read(const Ir& ir, TestEnv& env, const Problem& problem) {
  std::set<Element> elements;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kKeys; ++j) {
      set_pair(env, problem, i, j);
      if (value_of(ir.graph, ir.mask, env) == 0) continue;
      for (ValueId id = 0; id < ir.graph.size(); ++id) {
        const Node& node = ir.graph[id];
        if ((node.op == Op::k_read || node.op == Op::k_param) && ir.params[node.index].is_grad) elements.insert(element_of(ir, id, env));
      }
    }
  }
  return elements;
}

double value_of_element(const TestEnv& env, const Element& element, bool is_tensor) {
  return is_tensor ? env.read(element.first, element.second) : env.param(element.first);
}

void set_element(TestEnv& env, const Element& element, bool is_tensor, double value) {
  if (is_tensor) {
    env.elements[element] = value;
  } else {
    env.params[element.first] = value;
  }
}

void expect_gradients(const std::string& text, uint64_t seed, double tolerance = 2e-6) {
  const Ir typed = build(text);
  const Lowered lowered = lower(typed);
  Problem problem(seed);
  TestEnv env(typed, seed);
  const Gradients got = backward(typed, lowered, env, problem);
  const std::string context = fmt::format("seed {}\n{}{}", seed, text, print_backward(lowered));
  constexpr double kStep = 1e-5;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kKeys; ++j) {
      const double x = problem.qk[i][j];
      problem.qk[i][j] = x + kStep;
      const double above = loss(typed, env, problem);
      problem.qk[i][j] = x - kStep;
      const double want = (above - loss(typed, env, problem)) / (2 * kStep);
      problem.qk[i][j] = x;
      ASSERT_NEAR(got.dqk[i][j], want, tolerance) << "dqk of row " << i << ", key " << j << ", " << context;
    }
  }
  for (const Element& element : elements_read(typed, env, problem)) {
    const bool is_tensor = typed.params[element.first].is_tensor;
    const double x = value_of_element(env, element, is_tensor);
    set_element(env, element, is_tensor, x + kStep);
    const double above = loss(typed, env, problem);
    set_element(env, element, is_tensor, x - kStep);
    const double want = (above - loss(typed, env, problem)) / (2 * kStep);
    set_element(env, element, is_tensor, x);
    const auto found = got.params.find(element);
    ASSERT_NEAR(found == got.params.end() ? 0 : found->second, want, tolerance)
        << "gradient of " << typed.params[element.first].name << ", " << context;
  }
}

std::string program(const std::string& params, const std::string& body) {
  return "attention test(" + params + ") {\n" + body + "}\n";
}

TEST(Backward, OfPrograms) {
  const std::string causal = "  mask = k_pos <= q_pos\n";
  const std::string softmax = "  weights = softmax(score)\n";
  const std::pair<std::string, std::string> programs[] = {
      {"", "  score = qk\n" + softmax},
      {"", "  score = qk * rsqrt(head_dim)\n" + causal + softmax},
      {"scale: grad f32", "  score = qk * scale\n" + causal + softmax},
      {"bias: f32 = -log(k_len)", "  score = qk * rsqrt(head_dim) + bias\n" + causal + "  weights = sigmoid(score)\n"},
      {"bias: grad f32, scale: grad f32[heads]", "  score = qk * scale[h] + bias\n" + causal + "  weights = sigmoid(score)\n"},
      {"cap: f32, window: const i32 = 3, slopes: grad f32[heads], sinks: grad f32[heads]",
       "  let distance = q_pos - k_pos\n  let soft = cap * tanh(qk * rsqrt(head_dim) / cap)\n  score = soft - slopes[h] * distance\n"
       "  mask = distance >= 0 and distance < window\n  weights = softmax(score, sink = sinks[h])\n"},
      {"cap: grad f32", "  score = cap * tanh(qk / cap)\n" + softmax},
      {"doc: i32[batch, k_len], keep: f32 = 0.9, seed: i32 = 0",
       "  score = qk * rsqrt(head_dim)\n  mask = doc[b, q_idx] == doc[b, k_idx] and k_idx <= q_idx\n"
       "  weights = softmax(score) * where(random(seed) < keep, 1 / keep, 0)\n"},
      {"table: grad f32[16, heads]", "  score = qk + table[k_idx - q_idx + 8, h]\n" + softmax},
      {"pair: grad bf16[batch, heads, q_len, k_len]", "  score = qk * rsqrt(head_dim) + pair[b, h, q_idx, k_idx]\n" + softmax},
      {"gate: grad f32[q_len, k_len]", "  score = qk\n  weights = softmax(score) * gate[q_idx, k_idx]\n"},
      {"t: grad f32[heads]", "  score = qk * t[h]\n  weights = softmax(score, sink = log(t[h])) * sigmoid(t[h])\n"},
      {"", "  score = qk\n  weights = softmax(score, sink = 0)\n"},
      {"s: grad f32", "  score = qk + s\n  weights = softmax(score, sink = s * s)\n"},
      {"u: grad f32", "  score = qk * 0.5\n  weights = softmax(score) * tanh(score * u)\n"},
      {"u: grad f32", "  score = qk\n  weights = softmax(score) * score / u\n"},
      {"rows: grad f32[q_len], sinks: grad f32[q_len]",
       "  score = qk * rows[q_idx]\n  weights = softmax(score, sink = sinks[q_idx] * 2)\n"},
      {"cols: grad f32[k_len]", "  score = qk / cols[k_idx]\n" + softmax},
      {"scale: grad f32[heads]", "  score = qk * scale[h] * rsqrt(head_dim)\n" + causal + "  weights = relu(score) ** 2 / k_len\n"},
      {"", "  score = qk\n  weights = silu(score) / k_len\n"},
      {"a: grad f32, c: grad f32", "  score = a * qk ** 2 + c * qk\n  weights = gelu(score) * a\n"},
      {"", "  score = softplus(qk)\n  weights = score ** 3\n"},
      {"", "  score = erf(qk) + sin(qk) * cos(qk)\n  weights = exp(score) / k_len\n"},
      {"t: grad f32[heads, 4]", "  score = t[h, 0] * qk + t[h, 1] * t[0, 1] + t[1, 0]\n" + softmax},
      {"lo: grad f32, hi: grad f32", "  score = clamp(qk, lo - 1.5, hi) + max(qk, lo) * min(qk, hi)\n" + softmax},
      {"x: grad f32", "  score = where(k_idx % 2 == 0, qk * x, abs(qk - x))\n" + causal + softmax},
      {"x: grad f32", "  score = log(1 + exp2(qk * x)) - log2(x)\n" + softmax},
      {"x: grad f32[heads]", "  score = qk\n  weights = x[h] * k_idx\n"},
      {"x: grad f32", "  score = qk + floor(x * 3.3)\n  weights = softmax(score, sink = sqrt(x))\n"},
      {"x: grad f32", "  score = qk\n  mask = f32(k_idx) < x * 2\n" + softmax},
  };
  for (const auto& [params, body] : programs) {
    for (uint64_t seed = 1; seed <= 3; ++seed) expect_gradients(program(params, body), seed);
  }
}

// A score of -inf weighs 0 and gets the gradient 0, never NaN.
TEST(Backward, InfiniteScoresGetZero) {
  const std::pair<std::string, std::string> programs[] = {
      {"", "  score = where(k_idx == 2, -inf, qk)\n  weights = softmax(score)\n"},
      {"", "  score = where(qk > 0, qk, -inf)\n  weights = softmax(score)\n"},
      {"", "  score = log(relu(qk))\n  weights = softmax(score)\n"},
      {"", "  score = log(relu(qk))\n  weights = softmax(score) * exp(-score)\n"},
      {"", "  score = where(qk > 0, qk, -inf)\n  weights = softmax(score) * score\n"},
      {"", "  score = -1 / relu(qk)\n  weights = softmax(score)\n"},
      {"", "  score = -exp(qk * 1000)\n  weights = softmax(score, sink = -2)\n"},
      {"", "  score = where(q_idx == 1, -inf, qk)\n  weights = softmax(score)\n"},
      {"", "  score = where(q_idx == 1, -inf, log(relu(qk)))\n  weights = softmax(score, sink = log(f32(q_idx)))\n"},
      {"s: grad f32", "  score = where(q_idx == 1, -inf, qk)\n  weights = softmax(score, sink = log(f32(q_idx) * s))\n"},
  };
  for (const auto& [params, body] : programs) {
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      const std::string text = program(params, body);
      const Ir typed = build(text);
      const Lowered lowered = lower(typed);
      const Problem problem(seed);
      TestEnv env(typed, seed);
      const Gradients got = backward(typed, lowered, env, problem);
      for (const auto& [element, value] : got.params) EXPECT_TRUE(std::isfinite(value)) << text;
      for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kKeys; ++j) {
          set_pair(env, problem, i, j);
          const double score = value_of(typed.graph, typed.score, env);
          const std::string at = fmt::format("row {}, key {}, seed {}\n{}{}", i, j, seed, text, print_backward(lowered));
          ASSERT_TRUE(std::isfinite(got.dqk[i][j])) << at;
          if (score == -INFINITY) {
            ASSERT_EQ(got.dqk[i][j], 0) << at;
          }
        }
      }
    }
  }
}

TEST(Backward, InfiniteBiasGetsZero) {
  const Ir typed = build(program("t: grad f32[k_len], u: grad f32[q_len, k_len]",
                                 "  score = qk * 0.25 + t[k_idx] + (qk + u[q_idx, k_idx]) ** 3\n  weights = softmax(score)\n"));
  const Lowered lowered = lower(typed);
  const Problem problem(4);
  TestEnv env(typed, 4);
  env.elements[{0, {2}}] = -INFINITY;
  env.elements[{1, {0, 1}}] = -INFINITY;
  const Gradients got = backward(typed, lowered, env, problem);
  EXPECT_EQ(got.dqk[0][2], 0);
  EXPECT_EQ(got.dqk[0][1], 0);
  EXPECT_EQ(got.params.at({0, {2}}), 0);
  EXPECT_EQ(got.params.at({1, {0, 1}}), 0);
  EXPECT_NE(got.dqk[0][3], 0);
}

// The forward pass multiplies p by the factor: it must not be infinite where p is 0.
TEST(Lower, FactorOfAnInfiniteScoreIsZero) {
  const auto factor_of = [](const std::string& score, const std::string& factor) {
    const Lowered lowered =
        lower(build(program("gate: f32[q_len, k_len]", "  score = " + score + "\n  weights = softmax(score) * " + factor + "\n")));
    return print_expr(lowered.ir, lowered.ir.factor);
  };
  EXPECT_EQ(factor_of("where(qk > 0, qk, -inf)", "score"), "where(where(qk > 0.0, qk, -inf) == -inf, 0.0, where(qk > 0.0, qk, -inf))");
  EXPECT_EQ(factor_of("where(qk > 0, qk, -inf)", "sigmoid(score)"), "sigmoid(where(qk > 0.0, qk, -inf))");
  EXPECT_EQ(factor_of("qk", "gate[q_idx, k_idx]"), "gate[q_idx, k_idx]");
}

// NaN in a kept score is not hidden by a guard.
TEST(Backward, NaNPasses) {
  const Ir typed = build(program("", "  score = log(relu(qk))\n  weights = softmax(score)\n"));
  const Lowered lowered = lower(typed);
  Problem problem(1);
  problem.qk[0][1] = NAN;
  TestEnv env(typed, 1);
  EXPECT_TRUE(std::isnan(backward(typed, lowered, env, problem).dqk[0][1]));
}

// A guard costs two operations a pair: only where something may be infinite.
TEST(Backward, GuardsOnlyWhereNeeded) {
  const std::pair<const char*, bool> cases[] = {
      {"qk * rsqrt(head_dim)", false},
      {"cap * tanh(qk * rsqrt(head_dim) / cap)", false},
      {"qk * by_head[h] - by_head[h] * abs(q_pos - k_pos)", false},
      {"qk + pair[q_idx, k_idx]", false},
      {"cap * tanh((qk + pair[q_idx, k_idx]) / cap)", false},
      {"where(pair[q_idx, k_idx] > 0, qk, -inf)", false},
      {"qk + log(pair[q_idx, k_idx])", false},
      {"qk * pair[q_idx, k_idx]", true},
      {"qk / pair[q_idx, k_idx]", true},
      {"log(relu(qk))", true},
      {"-exp(qk)", true},
      {"sqrt(relu(qk))", false},
  };
  for (const auto& [score, is_guarded] : cases) {
    const Lowered lowered = lower(build(program("cap: f32, by_head: f32[heads], pair: f32[q_len, k_len]",
                                                fmt::format("  score = {}\n  weights = softmax(score)\n", score))));
    const std::string text = print_backward(lowered);
    EXPECT_EQ(text.find("== 0.0") != std::string::npos, is_guarded) << score << "\n" << text;
  }
}

std::vector<std::string> param_reads(const Lowered& lowered) {
  std::vector<std::string> reads;
  for (const ParamGradient& gradient : lowered.backward.params) {
    reads.push_back(fmt::format("{}{}{}", print_expr(lowered.ir, gradient.read), gradient.per_element == kNoValue ? "" : " pair",
                                gradient.per_row == kNoValue ? "" : " row"));
  }
  return reads;
}

TEST(Backward, ParametersAndReads) {
  using Reads = std::vector<std::string>;
  const auto reads_of = [](const char* params, const char* body) { return param_reads(lower(build(program(params, body)))); };
  // By parameter, not by use; one entry for equal reads; pair and row together.
  EXPECT_EQ(reads_of("a: grad f32[heads], c: grad f32", "  score = qk * c + a[h] + a[h]\n  weights = softmax(score, sink = a[h])\n"),
            (Reads{"a[h] pair row", "c pair"}));
  EXPECT_EQ(reads_of("a: grad f32[heads]", "  score = qk * a[h] + a[0]\n  weights = softmax(score)\n"), (Reads{"a[h] pair", "a[0] pair"}));
  // No gradient is asked for, or there is none.
  EXPECT_EQ(reads_of("a: f32, c: grad f32, d: grad f32", "  score = qk * a + floor(c)\n  mask = d > 0\n  weights = softmax(score)\n"),
            Reads{});
  EXPECT_EQ(reads_of("a: grad f32", "  score = qk\n  weights = softmax(score, sink = a)\n"), (Reads{"a row"}));
}

TEST(Backward, UsesDelta) {
  EXPECT_TRUE(lower(build(program("", "  score = qk\n  weights = softmax(score)\n"))).backward.uses_delta);
  EXPECT_FALSE(lower(build(program("", "  score = qk\n  weights = sigmoid(score)\n"))).backward.uses_delta);
  // The score depends on nothing: no gradient but that of v.
  const Lowered constant = lower(build(program("", "  score = 1.0\n  weights = softmax(score)\n")));
  EXPECT_FALSE(constant.backward.uses_delta);
  EXPECT_EQ(print_expr(constant.ir, constant.backward.dqk), "0.0");
}

TEST(Lower, RatesCoverEveryNode) {
  const Lowered lowered =
      lower(build(program("t: grad f32[heads]", "  score = qk * t[h]\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n")));
  ASSERT_EQ(lowered.rates.size(), lowered.ir.graph.size());
  EXPECT_EQ(lowered.rates, assign_rates(lowered.ir.graph));
  EXPECT_EQ(rate_name(lowered.rate(lowered.score2)), "element");
  EXPECT_EQ(rate_name(lowered.rate(lowered.backward.params[0].read)), "uniform");
}

TEST(Lower, Pointwise) {
  const Lowered lowered = lower(build(program("", "  score = qk\n  weights = sigmoid(score)\n")));
  EXPECT_EQ(lowered.score2, kNoValue);
  EXPECT_EQ(lowered.backward.weight, lowered.ir.weight);
}

TEST(Lower, IsDeterministic) {
  const std::string text =
      program("t: grad f32[heads], n: i32",
              "  let x = qk * t[h] + n\n  score = where(x > 1, x, tanh(x) * 2)\n  mask = k_idx - q_idx < n or k_idx % 3 == n\n"
              "  weights = softmax(score, sink = t[0]) * sigmoid(score)\n");
  const auto print = [&text] {
    const Lowered lowered = lower(build(text));
    return print_ir(lowered.ir) + print_backward(lowered) + print_rates(lowered) + print_bounds(lowered);
  };
  EXPECT_EQ(print(), print());
}

TEST(Lower, RefusesAnIrThatDoesNotVerify) {
  Ir ir = build(program("", "  score = qk\n  weights = softmax(score)\n"));
  ir.score = ir.mask;
  EXPECT_THROW(lower(ir), std::logic_error);
}

}  // namespace
}  // namespace attune::codegen
