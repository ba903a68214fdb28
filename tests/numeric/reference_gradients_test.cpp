// The gradients of the reference against central differences of its own forward pass, which knows no derivatives.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "example_files.h"
#include "random_data.h"
#include "random_program.h"
#include "run_case.h"

namespace attune::numeric {
namespace {

double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

double loss(const codegen::Ir& ir, const ProblemData& data) {
  return dot(reference_result(ir, reference_problems(data), data).out, data.dout);
}

// Moves `values` along a random direction by +-step, and compares the slope of the loss with the gradient.
void expect_slope(const codegen::Ir& ir, ProblemData& data, std::vector<double>& values, const std::vector<double>& gradient,
                  const std::string& name) {
  ASSERT_EQ(values.size(), gradient.size()) << name;
  constexpr double kStep = 1e-5;
  std::mt19937_64 random(values.size());
  std::normal_distribution<double> normal;
  std::vector<double> direction(values.size());
  for (double& x : direction) x = normal(random);
  const std::vector<double> start = values;
  const auto loss_at = [&](double step) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = start[i] + step * direction[i];
    return loss(ir, data);
  };
  const double slope = (8 * (loss_at(kStep) - loss_at(-kStep)) - (loss_at(2 * kStep) - loss_at(-2 * kStep))) / (12 * kStep);
  values = start;
  const double expected = dot(gradient, direction);
  const double size = std::sqrt(dot(gradient, gradient)) + 1e-3;
  EXPECT_NEAR(slope, expected, 2e-7 * (size + std::abs(expected)) + 1e-8) << "along " << name;
}

void expect_gradients(const Case& c) {
  const codegen::Ir ir = reference_ir(c);
  ProblemData data = random_data(ir, c, 0);
  const codegen::ReferenceResult result = reference_result(ir, reference_problems(data), data);
  expect_slope(ir, data, data.q, result.dq, "q");
  expect_slope(ir, data, data.k, result.dk, "k");
  expect_slope(ir, data, data.v, result.dv, "v");
  for (size_t i = 0; i < ir.params.size(); ++i) {
    if (!ir.params[i].is_grad) continue;
    if (ir.params[i].is_tensor) {
      expect_slope(ir, data, data.tensor_params[i]->values, result.param_grads[i], ir.params[i].name);
      continue;
    }
    if (!data.scalars[i]) data.scalars[i] = 0.25;  // instead of the default
    const codegen::ReferenceResult here = reference_result(ir, reference_problems(data), data);
    std::vector<double> value = {*data.scalars[i]};
    const double start = value[0];
    constexpr double kStep = 1e-5;
    const auto loss_at = [&](double x) {
      data.scalars[i] = x;
      return loss(ir, data);
    };
    const double slope = (loss_at(start + kStep) - loss_at(start - kStep)) / (2 * kStep);
    data.scalars[i] = start;
    EXPECT_NEAR(slope, here.param_grads[i].at(0), 1e-6 * (1 + std::abs(slope))) << "by " << ir.params[i].name;
  }
}

Case small_case(const std::string& text, const ProblemShape& shape, uint64_t seed) {
  Case c;
  c.text = text;
  c.head_dim = 5;
  c.v_dim = 4;
  c.seed = seed;
  c.problems = {shape};
  return c;
}

ProblemShape batch_shape(int batch, int q_len, int k_len) {
  ProblemShape shape;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.q_lens.assign(static_cast<size_t>(batch), q_len);
  shape.k_lens.assign(static_cast<size_t>(batch), k_len);
  return shape;
}

ProblemShape packed_shape() {
  ProblemShape shape;
  shape.heads = 2;
  shape.kv_heads = 1;
  shape.packed = true;
  shape.q_lens = {3, 0, 6};
  shape.k_lens = {5, 4, 2};
  return shape;
}

TEST(ReferenceGradients, OfRandomProgramsMatchFiniteDifferences) {
  RandomOptions options;
  options.smooth = true;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    const std::string text = random_case(seed, options).program.text();
    SCOPED_TRACE(fmt::format("seed {}\n{}", seed, text));
    expect_gradients(small_case(text, seed % 4 == 0 ? packed_shape() : batch_shape(1 + static_cast<int>(seed % 2), 6, 9), seed));
  }
}

TEST(ReferenceGradients, OfExamplesMatchFiniteDifferences) {
  const std::vector<Example> examples = load_examples();
  ASSERT_GE(examples.size(), 12u);
  for (const Example& example : examples) {
    SCOPED_TRACE(example.name);
    Case c = small_case(example.text, example.any_lengths ? batch_shape(2, 6, 9) : batch_shape(1, example.length, example.length), 3);
    c.constants = example.constants;
    expect_gradients(c);
  }
}

// Each function that has a derivative, of arguments in the middle of its domain and away from kinks.
TEST(ReferenceGradients, OfEveryFunctionMatchFiniteDifferences) {
  const std::vector<std::string> functions = {"exp(x * 0.3)",
                                              "exp2(x * 0.3)",
                                              "log(x ** 2 + 0.5)",
                                              "log2(x ** 2 + 0.5)",
                                              "sqrt(x ** 2 + 0.5)",
                                              "rsqrt(x ** 2 + 0.5)",
                                              "tanh(x)",
                                              "sigmoid(x)",
                                              "relu(x)",
                                              "gelu(x)",
                                              "silu(x)",
                                              "softplus(x)",
                                              "erf(x)",
                                              "sin(x)",
                                              "cos(x)",
                                              "abs(x)",
                                              "min(x, t)",
                                              "max(x, t)",
                                              "clamp(x, t, t + 0.5)",
                                              "clamp(t, x, x + 0.5)",
                                              "clamp(x - 5, t - 9, t)",
                                              "floor(x) + x",
                                              "where(x > t, x * x, t * x)",
                                              "x / (t * t + 1)",
                                              "t / (x * x + 1)",
                                              "x % (t * t + 1)",
                                              "(x + 40) ** 2.5 * 0.001",
                                              "x ** 3",
                                              "(x * x + 1) ** -2",
                                              "x ** 1 + x ** 0",
                                              "x // 0.5 + x * t",
                                              "-x * t - x",
                                              "t - x",
                                              "x + t",
                                              "where(b == 0, x, t)",
                                              "max(x, x) + min(x, x)",
                                              "x * f32(k_idx < 4) + t * i32(t * 4)"};
  for (const std::string& function : functions) {
    const std::string text = fmt::format(
        "attention f(bias: grad f32[heads, k_len]) {{ let x = qk * 0.4\n let t = bias[h, k_idx]\n score = {}\n weights = ", function);
    SCOPED_TRACE(function);
    expect_gradients(small_case(text + "softmax(score) }", batch_shape(1, 3, 7), 8));
    expect_gradients(small_case(text + "sigmoid(score) * (0.5 + score) }", batch_shape(1, 3, 7), 9));
  }
}

}  // namespace
}  // namespace attune::numeric
