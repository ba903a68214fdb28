// The reference against values worked out by hand. Its gradients are compared with finite differences in tests/numeric.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "codegen/eval/reference.h"
#include "codegen/math_forms.h"
#include "ir_test_util.h"

namespace attune::codegen {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Head dim 1, one head, q all 1: qk is k. Values of v are 1, 10, 100, ...
ReferenceProblem line_problem(int q_len, std::vector<double> k) {
  ReferenceProblem problem;
  problem.sizes.q_len = q_len;
  problem.sizes.k_len = static_cast<int>(k.size());
  problem.q.assign(static_cast<size_t>(q_len), 1);
  for (size_t j = 0; j < k.size(); ++j) problem.v.push_back(std::pow(10, j));
  problem.k = std::move(k);
  return problem;
}

ReferenceProblem with_gradients(ReferenceProblem problem) {
  problem.wants_gradients = true;
  problem.dout.assign(problem.q.size() / problem.sizes.head_dim * problem.sizes.v_dim, 1);
  return problem;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(want[i])) {
      EXPECT_TRUE(std::isnan(got[i])) << i << ": " << got[i];
    } else if (std::isinf(want[i])) {
      EXPECT_EQ(got[i], want[i]) << i;
    } else {
      EXPECT_NEAR(got[i], want[i], 1e-12 * (1 + std::abs(want[i]))) << i;
    }
  }
}

TEST(Reference, Softmax) {
  const Ir ir = typed("attention a() { score = qk; weights = softmax(score) }");
  const ReferenceResult result = evaluate_reference(ir, line_problem(1, {0, std::log(3)}));
  expect_near(result.out, {0.25 * 1 + 0.75 * 10});
  expect_near(result.lse, {std::log(4)});
  EXPECT_TRUE(result.dq.empty());
}

TEST(Reference, SoftmaxGradients) {
  const Ir ir = typed("attention a() { score = qk; weights = softmax(score) }");
  const ReferenceResult result = evaluate_reference(ir, with_gradients(line_problem(1, {0, std::log(3)})));
  // dP = (1, 10), delta = 7.75, dS = P * (dP - delta).
  const double ds0 = 0.25 * (1 - 7.75), ds1 = 0.75 * (10 - 7.75);
  expect_near(result.dq, {ds1 * std::log(3)});
  expect_near(result.dk, {ds0, ds1});
  expect_near(result.dv, {0.25, 0.75});
}

TEST(Reference, StoredOutGivesDelta) {
  const Ir ir = typed("attention a() { score = qk; weights = softmax(score) }");
  ReferenceProblem problem = with_gradients(line_problem(1, {0, std::log(3)}));
  problem.stored_out = {7};
  expect_near(evaluate_reference(ir, problem).dk, {0.25 * (1 - 7), 0.75 * (10 - 7)});
}

TEST(Reference, PointwiseWeights) {
  const Ir ir = typed("attention a(bias: grad f32 = -log(k_len)) { score = qk + bias; weights = relu(score) ** 2 }");
  ReferenceProblem problem = with_gradients(line_problem(1, {2, 3}));
  const double s0 = 2 - std::log(2), s1 = 3 - std::log(2);
  ReferenceResult result = evaluate_reference(ir, problem);
  expect_near(result.out, {s0 * s0 + s1 * s1 * 10});
  EXPECT_TRUE(result.lse.empty());
  expect_near(result.dk, {2 * s0 * 1, 2 * s1 * 10});
  expect_near(result.param_grads.at(0), {2 * s0 + 20 * s1});
  problem.scalars = {-2.5};
  result = evaluate_reference(ir, problem);
  expect_near(result.out, {0.25 * 10});
  expect_near(result.dk, {0, 10});
}

TEST(Reference, RowsThatKeepNothing) {
  const Ir ir = typed("attention a(s: grad f32 = 1) { score = qk * s; mask = k_pos <= q_pos; weights = softmax(score) }");
  const ReferenceResult result = evaluate_reference(ir, with_gradients(line_problem(3, {5})));
  expect_near(result.out, {0, 0, 1});  // aligned at the end: only the last query sees the key
  expect_near(result.lse, {-INFINITY, -INFINITY, 5});
  expect_near(result.dq, {0, 0, 0});
  expect_near(result.dv, {1});
}

TEST(Reference, Sinks) {
  const Ir ir = typed("attention a(s: grad f32 = 0) { score = qk; mask = k_pos <= q_pos; weights = softmax(score, sink = s) }");
  const ReferenceResult result = evaluate_reference(ir, with_gradients(line_problem(2, {0})));
  expect_near(result.out, {0, 0.5});
  expect_near(result.lse, {0, std::log(2)});  // the empty row has the sink alone
  // d out / d sink = -p_sink * out.
  expect_near(result.param_grads.at(0), {-0.25});
  expect_near(result.dk, {0.5 * (1 - 0.5)});
}

TEST(Reference, Factors) {
  const Ir ir = typed("attention a(f: grad f32[k_len]) { score = qk; weights = softmax(score) * f[k_idx] * score }");
  ReferenceProblem problem = with_gradients(line_problem(1, {1, 1 + std::log(3)}));
  problem.tensors = {{{2}, {2, 3}}};
  const double s0 = 1, s1 = 1 + std::log(3), w0 = 0.25 * 2 * s0, w1 = 0.75 * 3 * s1, delta = w0 + 10 * w1;
  const ReferenceResult result = evaluate_reference(ir, problem);
  expect_near(result.out, {delta});
  expect_near(result.dv, {w0, w1});
  expect_near(result.param_grads.at(0), {0.25 * s0, 0.75 * s1 * 10});
  expect_near(result.dk, {0.25 * (2 * s0 - delta) + 0.25 * 2, 0.75 * (10 * 3 * s1 - delta) + 0.75 * 3 * 10});
}

TEST(Reference, MinusInfinityWeighsNothing) {
  const Ir ir = typed("attention a() { score = where(k_idx == 0, -inf, qk); weights = softmax(score) }");
  ReferenceResult result = evaluate_reference(ir, with_gradients(line_problem(1, {3, 4})));
  expect_near(result.out, {10});
  expect_near(result.lse, {4});
  expect_near(result.dv, {0, 1});
  result = evaluate_reference(ir, with_gradients(line_problem(1, {3})));
  expect_near(result.out, {0});
  expect_near(result.lse, {-INFINITY});
  expect_near(result.dv, {0});
}

TEST(Reference, NanMattersOnlyWhereItIsKept) {
  const Ir ir = typed("attention a(bad: f32[q_len, k_len]) { score = qk + bad[q_idx, k_idx]; mask = k_idx > 0; weights = softmax(score) }");
  ReferenceProblem problem = with_gradients(line_problem(2, {1, 1, 1}));
  problem.tensors = {{{2, 3}, {kNan, 0, 0, kNan, kNan, 0}}};
  const ReferenceResult result = evaluate_reference(ir, problem);
  expect_near(result.out, {55, kNan});
  expect_near(result.lse, {1 + std::log(2), kNan});
  expect_near(result.dq, {0, kNan});
  expect_near(result.dv, {0, kNan, kNan});
}

TEST(Reference, BranchesNotTakenContributeNothing) {
  const Ir ir = typed("attention a() { score = where(qk > 0, log(qk), 0); weights = softmax(score) }");
  const ReferenceResult result = evaluate_reference(ir, with_gradients(line_problem(1, {-1, 1})));
  expect_near(result.out, {5.5});
  expect_near(result.dk, {0, 0.5 * (10 - 5.5)});
}

TEST(Reference, GroupedHeadsShareKeys) {
  const Ir ir = typed("attention a() { score = qk + h * 100 + kv_h * 10; weights = score }");
  ReferenceProblem problem;
  problem.sizes.heads = 4;
  problem.sizes.kv_heads = 2;
  problem.q = {1, 1, 1, 1};
  problem.k = {2, 3};
  problem.v = {1, 1};
  expect_near(evaluate_reference(ir, problem).out, {2, 102, 213, 313});
  const ReferenceResult result = evaluate_reference(ir, with_gradients(problem));
  expect_near(result.dk, {2, 2});
  expect_near(result.dv, {104, 526});
}

TEST(Reference, IndicesAreClampedAndDimsOfSizeOneBroadcast) {
  const Ir ir = typed("attention a(at: i32[k_len], t: grad f32[3, heads]) { score = t[at[k_idx], h]; weights = score }");
  ReferenceProblem problem = with_gradients(line_problem(1, {0, 0, 0}));
  problem.v = {1, 1, 1};
  problem.tensors = {{{3}, {-5, 1, 99}}, {{3, 1}, {1, 10, 100}}};
  ReferenceResult result = evaluate_reference(ir, problem);
  expect_near(result.out, {111});
  expect_near(result.param_grads.at(1), {1, 1, 1});
  problem.tensors[1] = {{1, 1}, {7}};
  result = evaluate_reference(ir, problem);
  expect_near(result.out, {21});
  expect_near(result.param_grads.at(1), {3});
}

TEST(Reference, SeveralReadsOfOneTensorSum) {
  const Ir ir = typed("attention a(t: grad f32[k_len]) { score = t[k_idx] * t[0]; weights = score }");
  ReferenceProblem problem = with_gradients(line_problem(1, {0, 0}));
  problem.tensors = {{{2}, {2, 3}}};
  expect_near(evaluate_reference(ir, problem).param_grads.at(0), {2 * 2 + 3 * 10, 2 * 10});
}

TEST(Reference, ASequenceOfPackedOnes) {
  const Ir ir = typed("attention a(t: grad f32[batch], c: f32 = k_len) { score = t[b] + c * 100 + batch * 1000; weights = score }");
  ReferenceProblem problem = with_gradients(line_problem(1, {0}));
  problem.sizes.batch = 3;
  problem.sequence = 2;
  problem.tensors = {{{3}, {1, 2, 3}}, {}};
  const ReferenceResult result = evaluate_reference(ir, problem);
  expect_near(result.out, {3103});
  expect_near(result.param_grads.at(0), {0, 0, 1});
}

TEST(Reference, RandomIsThatOfTheLanguage) {
  const Ir ir = typed("attention a(seed: i32) { score = random(seed); weights = score }");
  ReferenceProblem problem = line_problem(2, {0});
  problem.scalars = {-3.0};
  const auto value = [](uint32_t q) { return static_cast<double>(random_value(static_cast<uint32_t>(-3), 0, 0, q, 0)); };
  expect_near(evaluate_reference(ir, problem).out, {value(0), value(1)});
}

TEST(Reference, F32RoundsWhatDoubleDoesNot) {
  const Ir ir = typed("attention a() { score = qk * 0.1; weights = score }");
  ReferenceProblem problem = line_problem(1, {1, 1, 1});
  problem.k = {0.3f, 0.7f, 1.1f};
  const double exact = evaluate_reference(ir, problem).out[0];
  problem.precision = Precision::kF32;
  const double rounded = evaluate_reference(ir, problem).out[0];
  EXPECT_NE(rounded, exact);
  EXPECT_NEAR(rounded, exact, 3e-7 * exact);
  EXPECT_EQ(rounded, static_cast<double>(static_cast<float>(rounded)));
}

TEST(Reference, ThreadsDoNotMatter) {
  const Ir ir = typed("attention a(s: grad f32[heads]) { score = qk * s[h]; mask = k_pos <= q_pos; weights = softmax(score) }");
  ReferenceProblem problem;
  problem.sizes = {3, 4, 2, 5, 7, 3, 2};
  const auto fill = [](std::vector<double>& values, size_t count) {
    for (size_t i = 0; i < count; ++i) values.push_back(std::sin(static_cast<double>(i * i)));
  };
  fill(problem.q, 3 * 5 * 4 * 3);
  fill(problem.k, 3 * 7 * 2 * 3);
  fill(problem.v, 3 * 7 * 2 * 2);
  fill(problem.dout, 3 * 5 * 4 * 2);
  problem.wants_gradients = true;
  problem.tensors = {{{4}, {0.5, 1, 1.5, 2}}};
  const ReferenceResult one = evaluate_reference(ir, problem, 1), many = evaluate_reference(ir, problem, 4);
  EXPECT_EQ(one.out, many.out);
  EXPECT_EQ(one.lse, many.lse);
  EXPECT_EQ(one.dq, many.dq);
  EXPECT_EQ(one.dk, many.dk);
  EXPECT_EQ(one.dv, many.dv);
  expect_near(many.param_grads.at(0), one.param_grads.at(0));
}

TEST(Reference, RefusesVectorsOfTheWrongSize) {
  const Ir ir = typed("attention a(t: f32[heads], c: f32) { score = qk * c + t[h]; weights = softmax(score) }");
  const auto message_of = [&](auto change) -> std::string {
    ReferenceProblem problem = with_gradients(line_problem(2, {1, 2}));
    problem.tensors = {{{1}, {3}}, {}};
    problem.scalars = {std::nullopt, 1.0};
    change(problem);
    try {
      evaluate_reference(ir, problem);
    } catch (const std::logic_error& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  EXPECT_EQ(message_of([](ReferenceProblem&) {}), "nothing was thrown");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.q.pop_back(); }), "q has 1 values, not 2");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.k.push_back(0); }), "k has 3 values, not 2");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.v.clear(); }), "v has 0 values, not 2");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.dout.clear(); }), "dout has 0 values, not 2");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.stored_out = {1}; }), "stored_out has 1 values, not 2");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.tensors.clear(); }), "tensors has 0 values, not 2");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.tensors[0].dims = {1, 1}; }), "the shape of 't' has 2 values, not 1");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.tensors[0].values.clear(); }), "t has 0 values, not 1");
  EXPECT_EQ(message_of([](ReferenceProblem& p) { p.scalars.clear(); }), "no value for 'c'");
}

}  // namespace
}  // namespace attune::codegen
