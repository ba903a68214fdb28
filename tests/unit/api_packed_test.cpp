// Packed sequences: the same as each on its own.
#include <gtest/gtest.h>

#include "tests/unit/api_naive.h"

namespace attune {
namespace {

using test::expect_near;
using test::expect_pass;
using test::Floats;
using test::Naive;
using test::Pair;
using test::Problem;

constexpr uint32_t kSeed = 99;

struct Packing {
  Shape shape = {.batch = 4, .heads = 4, .kv_heads = 2, .q_len = 40, .k_len = 45, .head_dim = 16, .v_dim = 8};
  std::vector<int32_t> cu_q = {0, 40, 40, 47, 60};
  std::vector<int32_t> cu_k = {0, 30, 41, 41, 86};  // the second has no queries, the third no keys

  PlanOptions options() const {
    PlanOptions options;
    options.cu_q = cu_q.data();
    options.cu_k = cu_k.data();
    return options;
  }
  Problem problem() const { return Problem::packed(shape, 60, 86, kSeed); }
  Shape own(size_t s) const {
    Shape own = shape;
    own.batch = 1;
    own.q_len = cu_q[s + 1] - cu_q[s];
    own.k_len = cu_k[s + 1] - cu_k[s];
    return own;
  }
};

TEST(Packed, SoftmaxWithGradientsOfParameters) {
  const Packing packing;
  const Variant variant = compile(
      "attention p(slopes: grad f32[heads], keys: grad f32[batch, k_len]) {\n"
      "  score = qk * 0.25 + slopes[h] + keys[b, k_idx]\n"
      "  mask = k_pos <= q_pos\n"
      "  weights = softmax(score, sink = 0)\n"
      "}\n");
  std::mt19937 random(kSeed);
  Floats slopes = test::random_floats({4}, random), keys = test::random_floats({4, 45}, random);
  PlanOptions options = packing.options();
  options.tensors = {{"slopes", slopes}, {"keys", keys}};
  Problem problem = packing.problem();
  std::vector<double> dslopes(4), dkeys(4 * 45);
  Naive naive;
  naive.slope = [](double, const Pair&) { return 0.25; };
  naive.sink = [](int64_t) { return 0.0; };
  naive.score = [&](double qk, const Pair& p) {
    return qk * 0.25 + slopes[static_cast<size_t>(p.h)] + keys[static_cast<size_t>(p.b * 45 + p.j)];
  };
  naive.on_dscore = [&](const Pair& p, double, double ds) {
    dslopes[static_cast<size_t>(p.h)] += ds;
    dkeys[static_cast<size_t>(p.b * 45 + p.j)] += ds;
  };
  for (size_t s = 0; s < 4; ++s) {
    const Shape own = packing.own(s);
    naive.keep = [=](const Pair& p) { return p.j <= p.i + own.k_len - own.q_len; };
    naive.run(own, problem, packing.cu_q[s], packing.cu_k[s], static_cast<int64_t>(s));
  }
  const Plan plan = variant.plan(packing.shape, options);
  plan.forward(problem.forward(true));
  BackwardTensors backward = problem.backward(true);
  Floats got_slopes({4}, 9), got_keys({4, 45}, 9);
  backward.param_grads = {{"slopes", got_slopes}, {"keys", got_keys}};
  plan.backward(backward);
  expect_pass(problem, naive, 5e-6, "packed");
  expect_near(got_slopes.values(), dslopes, 2e-5, "slopes");
  expect_near(got_keys.values(), dkeys, 5e-6, "keys");
}

TEST(Packed, DefaultsAreThoseOfTheOwnSequence) {
  const Packing packing;
  const Variant variant = compile("attention p(bias: f32 = -log(k_len)) {\n  score = qk + bias\n  weights = sigmoid(score)\n}\n");
  Problem problem = packing.problem();
  Naive naive;
  naive.softmax = false;
  naive.weight = [](double x) { return 1 / (1 + std::exp(-x)); };
  naive.weight_slope = [](double x) { return std::exp(-x) / std::pow(1 + std::exp(-x), 2); };
  for (size_t s = 0; s < 4; ++s) {
    const double bias = -std::log(static_cast<double>(packing.own(s).k_len));
    naive.score = [=](double qk, const Pair&) { return qk + bias; };
    naive.run(packing.own(s), problem, packing.cu_q[s], packing.cu_k[s], static_cast<int64_t>(s));
  }
  const Plan plan = variant.plan(packing.shape, packing.options());
  plan.forward(problem.forward(false));
  plan.backward(problem.backward(false));
  expect_pass(problem, naive, 5e-6, "packed sigmoid");
}

}  // namespace
}  // namespace attune
