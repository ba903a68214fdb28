// Plans run and give the numbers of plain loops. (Accuracy and wide coverage are the numeric tests' affair.)
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/half.h"
#include "tests/unit/api_naive.h"

namespace attune {
namespace {

using test::error_of;
using test::expect_near;
using test::expect_pass;
using test::Floats;
using test::Ints;
using test::Naive;
using test::Pair;
using test::Problem;

constexpr uint32_t kSeed = 4711;
constexpr double kTolerance = 5e-6;

void run(const Plan& plan, Problem& problem, bool softmax, std::map<std::string, Tensor> param_grads = {}) {
  plan.forward(problem.forward(softmax));
  BackwardTensors backward = problem.backward(softmax);
  backward.param_grads = std::move(param_grads);
  plan.backward(backward);
}

Naive causal(const Shape& s) {
  Naive naive;
  const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  naive.score = [=](double qk, const Pair&) { return qk * scale; };
  naive.slope = [=](double, const Pair&) { return scale; };
  naive.keep = [=](const Pair& p) { return p.j <= p.i + s.k_len - s.q_len; };
  return naive;
}

constexpr std::string_view kCausal =
    "attention causal() {\n  score = qk * rsqrt(head_dim)\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";

TEST(Numbers, CausalSoftmaxOfManyShapes) {
  const Variant variant = compile(kCausal);
  const Shape shapes[] = {
      {.batch = 1, .heads = 1, .kv_heads = 1, .q_len = 1, .k_len = 1, .head_dim = 1, .v_dim = 1},
      {.batch = 2, .heads = 4, .kv_heads = 2, .q_len = 37, .k_len = 53, .head_dim = 24, .v_dim = 16},
      {.batch = 1, .heads = 2, .kv_heads = 1, .q_len = 200, .k_len = 130, .head_dim = 64, .v_dim = 64},  // the first rows keep nothing
      {.batch = 1, .heads = 3, .kv_heads = 3, .q_len = 1, .k_len = 300, .head_dim = 40, .v_dim = 72},
      {.batch = 3, .heads = 1, .kv_heads = 1, .q_len = 65, .k_len = 65, .head_dim = 7, .v_dim = 5},
  };
  for (const Shape& s : shapes) {
    const Plan plan = variant.plan(s);
    Problem problem(s, kSeed);
    Naive naive = causal(s);
    naive.run(s, problem);
    run(plan, problem, true);
    expect_pass(problem, naive, kTolerance, fmt::format("q_len {}, head_dim {}, seed {}", s.q_len, s.head_dim, kSeed));
  }
}

TEST(Numbers, SigmoidHasNoRowStatistics) {
  const Shape s = {.batch = 2, .heads = 2, .kv_heads = 2, .q_len = 70, .k_len = 45, .head_dim = 32, .v_dim = 32};
  const Plan plan =
      compile("attention s(bias: f32 = -log(k_len)) {\n  score = qk * rsqrt(head_dim) + bias\n  weights = sigmoid(score)\n}\n").plan(s);
  Naive naive;
  const double scale = 1 / std::sqrt(32.0), bias = -std::log(45.0);
  naive.softmax = false;
  naive.score = [=](double qk, const Pair&) { return qk * scale + bias; };
  naive.slope = [=](double, const Pair&) { return scale; };
  naive.weight = [](double x) { return 1 / (1 + std::exp(-x)); };
  naive.weight_slope = [](double x) { return std::exp(-x) / std::pow(1 + std::exp(-x), 2); };
  Problem problem(s, kSeed);
  naive.run(s, problem);
  run(plan, problem, false);
  expect_pass(problem, naive, kTolerance, "sigmoid");
}

TEST(Numbers, GradientsOfParametersOfEachKind) {
  const Shape s = {.batch = 2, .heads = 4, .kv_heads = 2, .q_len = 60, .k_len = 50, .head_dim = 16, .v_dim = 8};
  const Variant variant = compile(
      "attention g(gain: grad f32, slopes: grad f32[heads], bias: grad f32[batch, heads, q_len, k_len], keys: grad f32[heads, k_len], "
      "sinks: grad "
      "f32[heads]) {\n"
      "  score = gain * qk - slopes[h] * (q_idx - k_idx) + bias[b, h, q_idx, k_idx] + keys[h, k_idx]\n"
      "  weights = softmax(score, sink = sinks[h])\n"
      "}\n");
  std::mt19937 random(kSeed);
  Floats gain({1}, 0.3f), slopes = test::random_floats({4}, random), bias = test::random_floats({2, 4, 60, 50}, random);
  Floats keys = test::random_floats({1, 50}, random), sinks = test::random_floats({4}, random);  // keys are the same for all heads
  for (float& slope : slopes.values()) slope *= 0.01f;
  PlanOptions options;
  options.tensors = {{"gain", gain}, {"slopes", slopes}, {"bias", bias}, {"keys", keys}, {"sinks", sinks}};
  Problem problem(s, kSeed);

  std::vector<double> dgain(1), dslopes(4), dbias(bias.values().size()), dkeys(50), dsinks(4);
  Naive naive;
  const auto bias_at = [](const Pair& p) { return static_cast<size_t>(((p.b * 4 + p.h) * 60 + p.i) * 50 + p.j); };
  naive.score = [&](double qk, const Pair& p) {
    return 0.3f * qk - static_cast<double>(slopes[static_cast<size_t>(p.h)]) * static_cast<double>(p.i - p.j) + bias[bias_at(p)] +
           keys[static_cast<size_t>(p.j)];
  };
  naive.slope = [](double, const Pair&) { return 0.3f; };
  naive.sink = [&](int64_t h) { return static_cast<double>(sinks[static_cast<size_t>(h)]); };
  naive.on_dscore = [&](const Pair& p, double qk, double ds) {
    dgain[0] += ds * qk;
    dslopes[static_cast<size_t>(p.h)] -= ds * static_cast<double>(p.i - p.j);
    dbias[bias_at(p)] += ds;
    dkeys[static_cast<size_t>(p.j)] += ds;
  };
  naive.on_dsink = [&](int64_t h, double ds) { dsinks[static_cast<size_t>(h)] += ds; };
  naive.run(s, problem);

  Floats got_gain({1}, 9), got_slopes({4}, 9), got_bias({2, 4, 60, 50}, 9), got_keys({1, 50}, 9), got_sinks({4}, 9);
  run(variant.plan(s, options), problem, true,
      {{"gain", got_gain}, {"slopes", got_slopes}, {"bias", got_bias}, {"keys", got_keys}, {"sinks", got_sinks}});
  expect_pass(problem, naive, kTolerance, "with parameters");
  expect_near(got_gain.values(), dgain, 2e-5, "gain");
  expect_near(got_slopes.values(), dslopes, 2e-5, "slopes");
  expect_near(got_bias.values(), dbias, kTolerance, "bias");
  expect_near(got_keys.values(), dkeys, 2e-5, "keys");
  expect_near(got_sinks.values(), dsinks, 2e-5, "sinks");
}

TEST(Numbers, AGradScalarMayBeAValue) {
  const Shape s = {.batch = 1, .heads = 1, .kv_heads = 1, .q_len = 9, .k_len = 9, .head_dim = 8, .v_dim = 8};
  const Variant variant = compile("attention g(gain: grad f32 = 0.5) {\n  score = gain * qk\n  weights = softmax(score)\n}\n");
  Problem by_default(s, kSeed), by_value(s, kSeed), in_memory(s, kSeed);
  Floats gain({1}, 0.5f), first({1}), second({1}), third({1});
  PlanOptions value, memory;
  value.scalars["gain"] = 0.5;
  memory.tensors["gain"] = gain;
  run(variant.plan(s), by_default, true, {{"gain", first}});
  run(variant.plan(s, value), by_value, true, {{"gain", second}});
  run(variant.plan(s, memory), in_memory, true, {{"gain", third}});
  EXPECT_EQ(by_default.out.values(), by_value.out.values());
  EXPECT_EQ(by_default.out.values(), in_memory.out.values());
  EXPECT_NE(first[0], 0);
  EXPECT_EQ(first[0], second[0]);
  EXPECT_EQ(first[0], third[0]);
}

TEST(Numbers, ConstantsAndScalarsOfEveryType) {
  const Shape s = {.batch = 1, .heads = 2, .kv_heads = 2, .q_len = 20, .k_len = 20, .head_dim = 8, .v_dim = 8};
  constexpr std::string_view text =
      "attention c(window: const i32 = 3, shift: i32 = 0, on: bool = false) {\n"
      "  score = qk\n  mask = not on or (q_idx - k_idx < window + shift and k_idx <= q_idx)\n  weights = softmax(score)\n}\n";
  CompileOptions compile_options;
  compile_options.constants["window"] = int64_t{5};
  PlanOptions options;
  options.scalars = {{"shift", int64_t{2}}, {"on", true}};
  Problem problem(s, kSeed);
  Naive naive;
  naive.keep = [](const Pair& p) { return p.i - p.j < 7 && p.j <= p.i; };
  naive.run(s, problem);
  run(compile(text, compile_options).plan(s, options), problem, true);
  expect_pass(problem, naive, kTolerance, "window of 7");
}

TEST(Numbers, HalfPrecisionTensors) {
  const Shape s = {.batch = 1, .heads = 2, .kv_heads = 1, .q_len = 33, .k_len = 40, .head_dim = 16, .v_dim = 16};
  const Variant variant = compile(kCausal);
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    const auto type = dtype == DType::kF16 ? runtime::FloatType::kF16 : runtime::FloatType::kBF16;
    Problem problem(s, kSeed);
    std::map<Floats*, std::vector<uint16_t>> narrow;
    const auto tensor = [&](Floats& x) {
      std::vector<uint16_t>& bits = narrow[&x];
      bits.resize(x.values().size());
      for (size_t i = 0; i < bits.size(); ++i) {
        runtime::store_float(type, bits.data(), static_cast<int64_t>(i), x[i]);
        x[i] = runtime::load_float(type, bits.data(), static_cast<int64_t>(i));
      }
      return Tensor{bits.data(), dtype, x.shape(), {}};
    };
    const ForwardTensors forward = {tensor(problem.q), tensor(problem.k), tensor(problem.v), tensor(problem.out), problem.lse};
    const BackwardTensors backward = {
        forward.q,          forward.k,          forward.v,          forward.out, forward.lse, tensor(problem.dout),
        tensor(problem.dq), tensor(problem.dk), tensor(problem.dv), {}};
    Naive naive = causal(s);
    naive.run(s, problem);
    PlanOptions options;
    options.dtype = dtype;
    const Plan plan = variant.plan(s, options);
    plan.forward(forward);
    plan.backward(backward);
    for (Floats* x : {&problem.out, &problem.dq, &problem.dk, &problem.dv}) {
      for (size_t i = 0; i < x->values().size(); ++i) (*x)[i] = runtime::load_float(type, narrow[x].data(), static_cast<int64_t>(i));
    }
    expect_pass(problem, naive, dtype == DType::kF16 ? 2e-3 : 1.5e-2, std::string(dtype_name(dtype)));
  }
}

TEST(Numbers, StridedTensorsAndPartsOfTheBackward) {
  const Shape s = {.batch = 2, .heads = 2, .kv_heads = 1, .q_len = 19, .k_len = 23, .head_dim = 8, .v_dim = 8};
  const Plan plan = compile(kCausal).plan(s);
  Problem problem(s, kSeed);
  run(plan, problem, true);
  // The same q as [batch, heads, q_len, head_dim] in memory.
  Floats turned({2, 2, 19, 8});
  for (size_t b = 0; b < 2; ++b) {
    for (size_t i = 0; i < 19; ++i) {
      for (size_t h = 0; h < 2; ++h) {
        for (size_t d = 0; d < 8; ++d) turned[((b * 2 + h) * 19 + i) * 8 + d] = problem.q[((b * 19 + i) * 2 + h) * 8 + d];
      }
    }
  }
  Problem strided(s, kSeed);
  ForwardTensors forward = strided.forward(true);
  forward.q = {turned.values().data(), DType::kF32, {2, 19, 2, 8}, {2 * 19 * 8, 8, 19 * 8, 1}};
  plan.forward(forward);
  EXPECT_EQ(strided.out.values(), problem.out.values());
  EXPECT_EQ(strided.lse.values(), problem.lse.values());
  BackwardTensors backward = strided.backward(true);
  backward.dq = {};
  backward.dk = {};
  plan.backward(backward);
  EXPECT_EQ(strided.dv.values(), problem.dv.values());
  EXPECT_EQ(strided.dq.values(), std::vector<float>(strided.dq.values().size(), -7.0f)) << "written though not asked for";
  backward = strided.backward(true);
  backward.dv = {};
  plan.backward(backward);
  EXPECT_EQ(strided.dk.values(), problem.dk.values());
  EXPECT_EQ(strided.dq.values(), problem.dq.values());
}

TEST(Numbers, NoKeysAndNoQueries) {
  const Shape no_keys = {.batch = 1, .heads = 2, .kv_heads = 1, .q_len = 5, .k_len = 0, .head_dim = 8, .v_dim = 4};
  Problem problem(no_keys, kSeed);
  run(compile(kCausal).plan(no_keys), problem, true);
  EXPECT_EQ(problem.out.values(), std::vector<float>(40, 0.0f));
  EXPECT_EQ(problem.lse.values(), std::vector<float>(10, -INFINITY));
  EXPECT_EQ(problem.dq.values(), std::vector<float>(80, 0.0f));

  const Variant with_sink = compile("attention s() {\n  score = qk\n  weights = softmax(score, sink = 2)\n}\n");
  Problem sink_problem(no_keys, kSeed);
  run(with_sink.plan(no_keys), sink_problem, true);
  EXPECT_EQ(sink_problem.out.values(), std::vector<float>(40, 0.0f));
  for (float lse : sink_problem.lse.values()) EXPECT_NEAR(lse, 2, 1e-6);

  const Shape no_queries = {.batch = 1, .heads = 2, .kv_heads = 1, .q_len = 0, .k_len = 5, .head_dim = 8, .v_dim = 4};
  Problem empty(no_queries, kSeed);
  run(compile(kCausal).plan(no_queries), empty, true);
  EXPECT_EQ(empty.dk.values(), std::vector<float>(40, 0.0f));
  EXPECT_EQ(empty.dv.values(), std::vector<float>(20, 0.0f));
}

TEST(Numbers, SameBitsForAnyNumberOfThreads) {
  const Shape s = {.batch = 1, .heads = 2, .kv_heads = 1, .q_len = 300, .k_len = 280, .head_dim = 16, .v_dim = 16};
  constexpr std::string_view text =
      "attention t(gain: grad f32 = 0.2, bias: grad f32[q_len, k_len]) {\n"
      "  score = gain * qk + bias[q_idx, k_idx]\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";
  std::mt19937 random(kSeed);
  Floats bias = test::random_floats({300, 280}, random);
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2, 3, 5}) {
    CompileOptions compile_options;
    compile_options.threads = threads;
    PlanOptions options;
    options.tensors["bias"] = bias;
    Problem problem(s, kSeed);
    Floats dgain({1}), dbias({300, 280});
    run(compile(text, compile_options).plan(s, options), problem, true, {{"gain", dgain}, {"bias", dbias}});
    const std::vector<std::vector<float>> all = {problem.out.values(), problem.lse.values(), problem.dq.values(), problem.dk.values(),
                                                 problem.dv.values(),  dgain.values(),       dbias.values()};
    if (first.empty()) first = all;
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], first[i]) << threads << " threads, tensor " << i;
  }
}

TEST(Numbers, IndicesThatDependOnDataAreClampedAndReported) {
  const Shape s = {.batch = 1, .heads = 1, .kv_heads = 1, .q_len = 4, .k_len = 6, .head_dim = 8, .v_dim = 8};
  const Variant variant =
      compile("attention d(which: i32[k_len], t: f32[3]) {\n  score = qk + t[which[k_idx]]\n  weights = softmax(score)\n}\n");
  Ints which({6});
  Floats t({3});
  for (size_t i = 0; i < 3; ++i) t[i] = static_cast<float>(i) - 1;
  which.values() = {0, 1, 2, 2, 1, 0};
  PlanOptions options;
  options.tensors = {{"which", which}, {"t", t}};
  const Plan plan = variant.plan(s, options);
  Problem problem(s, kSeed);
  run(plan, problem, true);
  EXPECT_NO_THROW(plan.check());
  const std::vector<float> inside = problem.out.values();

  which[0] = -5;  // clamped to 0, which it was
  which[3] = 99;  // clamped to 2
  run(plan, problem, true);
  EXPECT_EQ(problem.out.values(), inside);
  EXPECT_EQ(error_of<ArgumentError>([&] { plan.check(); }), "'d': an index that depends on data was outside its tensor and was clamped");
  EXPECT_NO_THROW(plan.check()) << "the report is not taken back";
}

}  // namespace
}  // namespace attune
