// examples/*.attn and the special cases of docs/language.md through the library, against the reference; and the same bits for any number of
// threads.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "example_files.h"
#include "own_cache.h"
#include "run_case.h"

namespace attune::numeric {
namespace {

// Not to fill the user's cache; kernels are compiled once for all shapes.
const testing::Environment* const kOwnCache = testing::AddGlobalTestEnvironment(new OwnCache());

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

class Examples : public ::testing::Test {
 protected:
  static void expect_agreement(const Case& c) {
    const auto failure = failure_of(c);
    EXPECT_FALSE(failure) << *failure << "\n" << describe(c) << "\n" << c.text;
  }
};

ProblemShape batch_shape(int batch, int q_len, int k_len, int heads = 4, int kv_heads = 2) {
  ProblemShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.q_lens.assign(static_cast<size_t>(batch), q_len);
  shape.k_lens.assign(static_cast<size_t>(batch), k_len);
  return shape;
}

ProblemShape packed_shape(std::vector<int> q_lens, std::vector<int> k_lens) {
  ProblemShape shape;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.packed = true;
  shape.q_lens = std::move(q_lens);
  shape.k_lens = std::move(k_lens);
  return shape;
}

Case case_of(const std::string& text, std::vector<ProblemShape> problems) {
  Case c;
  c.text = text;
  c.head_dim = 24;
  c.v_dim = 24;
  c.seed = 11;
  c.problems = std::move(problems);
  return c;
}

Case case_of(const Example& example) {
  Case c = case_of(example.text, {batch_shape(2, example.length, example.length),
                                  packed_shape({example.length, 0, example.length}, {example.length, 0, example.length})});
  if (example.any_lengths) {
    c.problems = {batch_shape(2, 37, 37), batch_shape(1, 20, 131), batch_shape(1, 70, 33), batch_shape(1, 1, 65, 6, 1),
                  packed_shape({17, 0, 40, 1}, {33, 5, 12, 0})};
  }
  c.constants = example.constants;
  return c;
}

TEST_F(Examples, AgreeWithTheReferenceAtEveryDtype) {
  const std::vector<Example> examples = load_examples();
  ASSERT_GE(examples.size(), 12u);
  for (const Example& example : examples) {
    for (DType dtype : kDTypes) {
      SCOPED_TRACE(example.name);
      Case c = case_of(example);
      c.dtype = dtype;
      expect_agreement(c);
    }
  }
}

TEST_F(Examples, AgreeAtOddHeadDimsAndStrides) {
  for (const Example& example : load_examples()) {
    SCOPED_TRACE(example.name);
    Case c = case_of(example);
    c.head_dim = 7;
    c.v_dim = 33;
    c.strided = true;
    expect_agreement(c);
  }
}

TEST_F(Examples, GiveTheSameBitsForAnyNumberOfThreads) {
  for (const Example& example : load_examples()) {
    SCOPED_TRACE(example.name);
    Case c = case_of(example);
    c.dtype = DType::kBF16;
    c.problems.resize(1);
    c.problems[0].q_lens = {c.problems[0].q_lens[0], c.problems[0].q_lens[0]};
    const codegen::Ir ir = reference_ir(c);
    const ProblemData data = random_data(ir, c, 0);
    const CallResult one = run_library(c, ir, data);
    for (int threads : {2, 3}) {
      c.threads = threads;
      const CallResult many = run_library(c, ir, data);
      EXPECT_EQ(one.out, many.out) << threads;
      EXPECT_EQ(one.lse, many.lse) << threads;
      EXPECT_EQ(one.dq, many.dq) << threads;
      EXPECT_EQ(one.dk, many.dk) << threads;
      EXPECT_EQ(one.dv, many.dv) << threads;
      EXPECT_EQ(one.param_grads, many.param_grads) << threads;
    }
  }
}

std::string softmax_of(const std::string& score, const std::string& mask, const std::string& params = "",
                       const std::string& weights = "softmax(score)") {
  return fmt::format("attention special({}) {{\n  score = {}\n  mask = {}\n  weights = {}\n}}\n", params, score, mask, weights);
}

class SpecialCases : public Examples {
 protected:
  static void expect_everywhere(const std::string& text, const std::vector<ProblemShape>& problems) {
    for (DType dtype : kDTypes) {
      Case c = case_of(text, problems);
      c.dtype = dtype;
      expect_agreement(c);
    }
  }
};

TEST_F(SpecialCases, RowsWithoutKeys) {
  expect_everywhere(softmax_of("qk * 0.2", "k_pos <= q_pos"), {batch_shape(2, 70, 33), batch_shape(1, 5, 1)});
  expect_everywhere(softmax_of("qk * 0.2", "k_pos <= q_pos", "s: grad f32[heads]", "softmax(score, sink = s[h])"),
                    {batch_shape(2, 70, 33)});
  expect_everywhere(softmax_of("qk * 0.2", "k_pos <= q_pos", "s: grad f32[heads]", "sigmoid(score + s[h])"), {batch_shape(2, 70, 33)});
  expect_everywhere(softmax_of("qk * 0.2", "false", "s: grad f32[heads]", "softmax(score, sink = s[h])"), {batch_shape(1, 19, 33)});
  expect_everywhere(softmax_of("qk * 0.2", "q_idx % 3 == 1"), {batch_shape(1, 40, 70)});
}

TEST_F(SpecialCases, NoKeysAtAll) {
  expect_everywhere(softmax_of("qk * 0.2", "true"), {batch_shape(1, 19, 0), batch_shape(2, 0, 7), packed_shape({3, 0, 2}, {0, 4, 0})});
}

TEST_F(SpecialCases, ScoresOfMinusInfinity) {
  expect_everywhere(softmax_of("where(k_idx % 3 == 0, -inf, qk * 0.2)", "k_pos <= q_pos"), {batch_shape(1, 67, 67), batch_shape(1, 40, 1)});
  expect_everywhere(softmax_of("where(q_idx % 5 == 2, -inf, qk * 0.2)", "true"), {batch_shape(1, 40, 67)});
  // The first tiles of keys hold nothing but -inf.
  expect_everywhere(softmax_of("where(k_idx < 100, -inf, qk * 0.2)", "true"), {batch_shape(1, 40, 130)});
  expect_everywhere(softmax_of("where(k_idx < 100, -inf, qk * 0.2)", "true", "s: grad f32[heads]", "softmax(score, sink = s[h])"),
                    {batch_shape(1, 40, 130), batch_shape(1, 20, 50)});
}

TEST_F(SpecialCases, NanOfAMaskedPairDoesNotMatter) {
  expect_everywhere(softmax_of("qk * 0.2 + log(f32(k_idx <= q_idx) - 0.5)", "k_idx <= q_idx"), {batch_shape(1, 67, 67)});
  expect_everywhere(softmax_of("qk * 0.2 + log(f32(k_idx % 7 != 3) - 0.5)", "k_idx % 7 != 3"), {batch_shape(1, 67, 67)});
}

TEST_F(SpecialCases, NanOfAKeptPairMakesItsRowNan) {
  expect_everywhere(softmax_of("qk * 0.2 + where(q_idx == 3 and k_idx == 50, log(-1.0), 0)", "true"), {batch_shape(1, 20, 67)});
  expect_everywhere(softmax_of("qk * 0.2 + where(q_idx == 3 and k_idx == 0, log(-1.0), 0)", "k_idx <= q_idx"), {batch_shape(1, 20, 67)});
  expect_everywhere(softmax_of("max(qk * 0.2, where(q_idx == 3 and k_idx == 5, log(-1.0), -1))", "true"), {batch_shape(1, 20, 67)});
}

TEST_F(SpecialCases, BranchesNotTakenHaveNoGradient) {
  expect_everywhere(softmax_of("where(qk > 1, log(qk), qk - 1)", "true"), {batch_shape(1, 20, 67)});
}

TEST_F(SpecialCases, LargeScoresDoNotOverflow) {
  expect_everywhere(softmax_of("qk + 300", "true"), {batch_shape(1, 20, 67)});
  expect_everywhere(softmax_of("qk * 40 - 2000", "k_pos <= q_pos"), {batch_shape(1, 67, 67)});
}

TEST_F(SpecialCases, IndicesOfDataAreClamped) {
  expect_everywhere(softmax_of("qk * 0.2 + table[id[k_idx]]", "true", "id: i32[k_len], table: grad f32[6]"), {batch_shape(1, 20, 67)});
}

TEST_F(SpecialCases, BroadcastGradientsAreSummed) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {  // other dims are broadcast
    Case c = case_of(softmax_of("qk * 0.2 + t[b, h, q_idx, k_idx]", "true", "t: grad f32[batch, heads, q_len, k_len]"),
                     {batch_shape(3, 20, 35)});
    c.seed = seed;
    expect_agreement(c);
  }
}

}  // namespace
}  // namespace attune::numeric
