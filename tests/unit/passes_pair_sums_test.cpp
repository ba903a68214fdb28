// Which gradients of parameters follow from sums over dqk.
#include <gtest/gtest.h>

#include "codegen/float_distances.h"
#include "codegen/lower.h"
#include "codegen/pair_sums.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

constexpr const char* kHead =
    "attention test(s: grad f32, u: f32, slopes: grad f32[heads], row: grad f32[q_len], table: grad f32[8],"
    " pairs: grad f32[heads, q_len, k_len]) {\n";

Lowered program(const std::string& body) {
  return lower(build(kHead + body + "}\n"));
}
Lowered softmax_of(const std::string& score) {
  return program("  score = " + score + "\n  weights = softmax(score)\n");
}

// contribution = factor dqk {1, q_idx - k_idx + offset, qk, 1} at any values.
void expect_sum(Lowered lowered, PairSumOf of, const std::string& what) {
  Graph& graph = lowered.ir.graph;
  const ScaledDerivative scaled = split_scale(graph, lowered.backward.dqk);
  ASSERT_EQ(lowered.backward.params.size(), 1u) << what;
  const ParamGradient& gradient = lowered.backward.params[0];
  const std::optional<PairSum> sum = split_pair_sum(graph, scaled.rest, gradient);
  ASSERT_TRUE(sum) << what;
  EXPECT_EQ(sum->of, of) << what;
  for (int i = 0; i < 4; ++i) {
    TestEnv env(lowered.ir, 5 + i);
    const double qk = 0.3 - 0.2 * i, q_idx = 3 + i, k_idx = 2 * i;
    env.symbols = {{Symbol::kQk, qk},   {Symbol::kDp, 0.7},     {Symbol::kLse2, 0.4},   {Symbol::kDelta, -0.2},
                   {Symbol::kH, 1},     {Symbol::kKvH, 0},      {Symbol::kQIdx, q_idx}, {Symbol::kQLen, 20},
                   {Symbol::kKLen, 26}, {Symbol::kHeadDim, 64}, {Symbol::kKIdx, k_idx}};
    const double offset = sum->offset == kNoValue ? 0 : value_of(graph, sum->offset, env);
    const double x = of == PairSumOf::kDistances ? q_idx - k_idx + offset : of == PairSumOf::kQk ? qk : 1;
    const double of_sum = value_of(graph, sum->factor, env) * value_of(graph, scaled.rest, env) * x;
    EXPECT_NEAR(value_of(graph, gradient.per_element, env), of_sum, 1e-12) << what;
  }
}

TEST(PairSums, AreFound) {
  const std::pair<const char*, PairSumOf> cases[] = {
      {"qk * u + s", PairSumOf::kPairs},
      {"0.5 * (qk - slopes[h] / u)", PairSumOf::kPairs},
      {"u * (qk - pairs[h, q_idx, k_idx] / 2)", PairSumOf::kEachPair},
      {"qk * s", PairSumOf::kQk},
      {"u * qk / s + 3", PairSumOf::kQk},
      {"qk * s * (q_pos - k_pos)", PairSumOf::kQk},
      {"qk * u - slopes[h] * (q_pos - k_pos)", PairSumOf::kDistances},
      {"qk + u * s * (k_pos - q_pos)", PairSumOf::kDistances},
      {"qk + s * (f32(q_idx) - f32(k_idx) + u)", PairSumOf::kDistances},
      {"qk - slopes[h] * f32(2 + k_idx - q_idx)", PairSumOf::kDistances},
  };
  for (const auto& [score, of] : cases) {
    expect_sum(softmax_of(score), of, score);
    expect_sum(with_float_distances(softmax_of(score)), of, score);
    expect_sum(program(std::string("  score = ") + score + "\n  weights = sigmoid(score)\n"), of, score);
  }
}

TEST(PairSums, AreNotFoundWhereAPairHasAFactorOfItsOwn) {
  for (const char* score : {"qk - s * abs(q_pos - k_pos)", "qk * u - slopes[h] * (q_pos + k_pos)", "tanh(qk) * s", "qk + s * qk * qk",
                            "qk + row[q_idx]", "qk * pairs[h, q_idx, k_idx]", "qk + pairs[h, k_idx, q_idx]",
                            "qk + pairs[h, q_idx, k_idx] * (q_pos - k_pos)", "qk + table[clamp(q_idx - k_idx, 0, 7)]", "tanh(qk) + s",
                            "qk * slopes[h]", "qk + s * (2 * q_pos - k_pos)", "qk + s * f32(q_idx * 1000000000 - k_idx)"}) {
    Lowered lowered = softmax_of(score);
    const ValueId dqk = split_scale(lowered.ir.graph, lowered.backward.dqk).rest;
    for (const ParamGradient& gradient : lowered.backward.params) EXPECT_FALSE(split_pair_sum(lowered.ir.graph, dqk, gradient)) << score;
  }
}

TEST(PairSums, OfAProgram) {
  const PairGradients slopes = pair_gradients(softmax_of("qk * s - slopes[h] * (q_pos - k_pos)"), false);
  EXPECT_TRUE(slopes.has_sums && !slopes.has_others);
  const PairGradients scale = pair_gradients(softmax_of("qk * s"), false);
  EXPECT_TRUE(!scale.has_sums && !scale.has_others);
  const PairGradients rows = pair_gradients(softmax_of("qk + s + row[q_idx]"), false);
  EXPECT_TRUE(rows.has_sums && rows.has_others && rows.has_tensors);
  const PairGradients curve = pair_gradients(softmax_of("qk + s * abs(q_pos - k_pos)"), false);
  EXPECT_TRUE(!curve.has_sums && curve.has_others && !curve.has_tensors);
  for (const bool deterministic : {false, true}) {
    const PairGradients pairs = pair_gradients(softmax_of("qk + pairs[h, q_idx, k_idx]"), deterministic);
    EXPECT_EQ(pairs.has_others, deterministic);
    EXPECT_EQ(pairs.has_tensors, deterministic);
  }
}

}  // namespace
}  // namespace attune::codegen
