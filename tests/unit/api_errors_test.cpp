// Every mistake of a caller, with the exact text that names it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "api/explain.h"
#include "tests/unit/api_util.h"

namespace attune {
namespace {

using test::count_of;
using test::error_of;
using test::Floats;
using test::Halves;
using test::Ints;
using test::Problem;

constexpr Shape kShape = {.batch = 2, .heads = 4, .kv_heads = 2, .q_len = 6, .k_len = 8, .head_dim = 16, .v_dim = 8};

constexpr std::string_view kPlain = "attention plain() {\n  score = qk\n  weights = softmax(score)\n}\n";
constexpr std::string_view kPointwise = "attention pointwise() {\n  score = qk\n  weights = sigmoid(score)\n}\n";
constexpr std::string_view kCapped =
    "attention capped(cap: f32, on: bool = true, window: const i32 = 4, shift: i32 = 0, slopes: grad f32[heads], gain: grad f32 = 1) {\n"
    "  score = where(on, cap * tanh(qk / cap) + slopes[h] * gain, qk)\n"
    "  mask = q_pos - k_pos < window + shift\n"
    "  weights = softmax(score)\n"
    "}\n";

std::string shape_error(const Shape& shape) {
  return error_of<ArgumentError>([&] { compile(kPlain).plan(shape); });
}

Shape with(int64_t Shape::* member, int64_t value) {
  Shape shape = kShape;
  shape.*member = value;
  return shape;
}

std::string plan_error(std::string_view text, const PlanOptions& options, const Shape& shape = kShape) {
  return error_of<ArgumentError>([&] { compile(text).plan(shape, options); });
}

TEST(Errors, Shapes) {
  EXPECT_EQ(shape_error(with(&Shape::batch, 0)), "shape: batch is 0, expected at least 1");
  EXPECT_EQ(shape_error(with(&Shape::heads, 0)), "shape: heads is 0, expected at least 1");
  EXPECT_EQ(shape_error(with(&Shape::kv_heads, -1)), "shape: kv_heads is -1, expected at least 1");
  EXPECT_EQ(shape_error(with(&Shape::kv_heads, 3)), "shape: heads is 4, expected a multiple of kv_heads, 3");
  EXPECT_EQ(shape_error(with(&Shape::q_len, -1)), "shape: q_len is -1, expected at least 0");
  EXPECT_EQ(shape_error(with(&Shape::k_len, (int64_t{1} << 30) + 1)), "shape: k_len is 1073741825, expected at most 1073741824");
  EXPECT_EQ(shape_error(with(&Shape::head_dim, 513)),
            "shape: head_dim is 513, expected 1..512: a kernel keeps whole rows of q and out near the registers");
  EXPECT_EQ(shape_error(with(&Shape::v_dim, 0)),
            "shape: v_dim is 0, expected 1..512: a kernel keeps whole rows of q and out near the registers");
}

TEST(Errors, DTypeAndThreads) {
  PlanOptions options;
  options.dtype = DType::kI32;
  EXPECT_EQ(plan_error(kPlain, options), "dtype is i32, expected f32, f16 or bf16");
  CompileOptions compile_options;
  compile_options.threads = -1;
  EXPECT_EQ(error_of<ArgumentError>([&] { compile(kPlain, compile_options); }), "threads is -1, expected 0..4096");
}

// All that kCapped needs, changed by each test.
PlanOptions capped_options(Floats& slopes) {
  PlanOptions options;
  options.scalars["cap"] = 30.0;
  options.tensors["slopes"] = slopes;
  return options;
}

TEST(Errors, ScalarNames) {
  Floats slopes({4});
  PlanOptions options = capped_options(slopes);
  options.scalars["slope"] = 1.0;
  EXPECT_EQ(plan_error(kCapped, options), "'capped' has no parameter 'slope'; did you mean 'slopes'?");
  options = capped_options(slopes);
  options.scalars["zzz"] = 1.0;
  EXPECT_EQ(plan_error(kCapped, options), "'capped' has no parameter 'zzz'");
  options = capped_options(slopes);
  options.scalars["window"] = int64_t{3};
  EXPECT_EQ(plan_error(kCapped, options), "parameter 'window': is const, its value is given to compile()");
  options = capped_options(slopes);
  options.scalars["slopes"] = 1.0;
  EXPECT_EQ(plan_error(kCapped, options), "parameter 'slopes': is a tensor, expected it among the tensors");
  options = capped_options(slopes);
  options.scalars.erase("cap");
  EXPECT_EQ(plan_error(kCapped, options), "parameter 'cap': missing, expected a value of f32");
}

TEST(Errors, ScalarValues) {
  Floats slopes({4});
  const auto error_with = [&](const char* name, Scalar value) {
    PlanOptions options = capped_options(slopes);
    options.scalars[name] = value;
    return plan_error(kCapped, options);
  };
  EXPECT_EQ(error_with("cap", std::nan("")), "parameter 'cap': expected a value of f32, found nan");
  EXPECT_EQ(error_with("cap", true), "parameter 'cap': expected a value of f32, found true");
  EXPECT_EQ(error_with("shift", 1.5), "parameter 'shift': expected a value of i32, found 1.5");
  EXPECT_EQ(error_with("shift", int64_t{1} << 31), "parameter 'shift': expected a value of i32, found 2147483648");
  EXPECT_EQ(error_with("shift", false), "parameter 'shift': expected a value of i32, found false");
  EXPECT_EQ(error_with("on", int64_t{2}), "parameter 'on': expected a value of bool, found 2");
  EXPECT_EQ(error_with("on", 1.0), "parameter 'on': expected a value of bool, found 1");
}

TEST(Errors, TensorParameters) {
  Floats slopes({4}), wrong({5}), flat({2, 2}), gain({1}), pair({2});
  Halves halves({4});
  const auto error_with = [&](const char* name, const Tensor& tensor) {
    PlanOptions options = capped_options(slopes);
    options.tensors[name] = tensor;
    return plan_error(kCapped, options);
  };
  EXPECT_EQ(error_with("slope", slopes), "'capped' has no parameter 'slope'; did you mean 'slopes'?");
  EXPECT_EQ(error_with("window", slopes), "parameter 'window': is const, its value is given to compile()");
  EXPECT_EQ(error_with("shift", slopes), "parameter 'shift': is a scalar of the host, expected it among the scalars");
  EXPECT_EQ(error_with("slopes", wrong), "parameter 'slopes': expected f32[4], found f32[5]");
  EXPECT_EQ(error_with("slopes", flat), "parameter 'slopes': expected f32[4], found f32[2, 2]");
  EXPECT_EQ(error_with("slopes", halves), "parameter 'slopes': expected f32[4], found f16[4]");
  EXPECT_EQ(error_with("slopes", Tensor{nullptr, DType::kF32, {4}, {}}), "parameter 'slopes': data is null");
  EXPECT_EQ(error_with("slopes", Tensor{slopes.values().data(), DType::kF32, {4}, {1, 1}}),
            "parameter 'slopes': expected 1 strides, found 2");
  EXPECT_EQ(error_with("slopes", Tensor{reinterpret_cast<char*>(slopes.values().data()) + 1, DType::kF32, {4}, {}}),
            "parameter 'slopes': data is not aligned to the 4 bytes of f32");
  EXPECT_EQ(error_with("gain", pair), "parameter 'gain': expected f32[1], found f32[2]");
  PlanOptions options = capped_options(slopes);
  options.tensors.erase("slopes");
  EXPECT_EQ(plan_error(kCapped, options), "parameter 'slopes': missing, expected f32[4]");
  options = capped_options(slopes);
  options.tensors["gain"] = gain;
  options.scalars["gain"] = 2.0;
  EXPECT_EQ(plan_error(kCapped, options), "parameter 'gain': is given twice, as a scalar and as a tensor");
}

TEST(Errors, DimsOfParameters) {
  const std::string_view text =
      "attention dims(n: const i32 = 3, t: f32[k_len - n]) {\n  score = qk + t[0]\n  weights = softmax(score)\n}\n";
  Floats t({5});
  PlanOptions options;
  options.tensors["t"] = t;
  EXPECT_EQ(plan_error(text, options, with(&Shape::k_len, 3)), "parameter 't': dim 0 is 0 here, expected 1..1073741824");
  EXPECT_EQ(plan_error(text, options, with(&Shape::k_len, 1)), "parameter 't': dim 0 is -2 here, expected 1..1073741824");
}

TEST(Errors, IndicesThatLeaveTheirTensor) {
  const std::string_view text =
      "attention table(t: f32[8]) {\n  score = qk + t[q_idx - k_idx]\n  mask = k_idx <= q_idx\n  weights = softmax(score)\n}\n";
  Floats t({8});
  PlanOptions options;
  options.tensors["t"] = t;
  EXPECT_EQ(plan_error(text, options, with(&Shape::q_len, 8)), "");
  const std::string error = plan_error(text, options, with(&Shape::q_len, 12));
  EXPECT_EQ(error.rfind("index out of range: 't': index 0 ", 0), 0u) << error;
}

TEST(Errors, PackedOffsets) {
  const auto error_with = [](std::vector<int32_t> cu_q, std::vector<int32_t> cu_k) {
    PlanOptions options;
    options.cu_q = cu_q.empty() ? nullptr : cu_q.data();
    options.cu_k = cu_k.empty() ? nullptr : cu_k.data();
    return plan_error(kPlain, options);
  };
  EXPECT_EQ(error_with({0, 1, 2}, {}), "cu_q is given without cu_k, expected both or neither");
  EXPECT_EQ(error_with({}, {0, 1, 2}), "cu_k is given without cu_q, expected both or neither");
  EXPECT_EQ(error_with({1, 2, 3}, {0, 1, 2}), "cu_q[0] is 1, expected 0");
  EXPECT_EQ(error_with({0, 3, 5}, {0, 4, 3}), "cu_k[2] is 3, expected at least cu_k[1], 4");
  EXPECT_EQ(error_with({0, 3, 10}, {0, 4, 8}), "cu_q: sequence 1 has length 7, expected at most shape's q_len, 6");
}

TEST(Errors, DimsThatShrinkWithTheLength) {
  const std::string_view text = "attention shrink(t: f32[20 - k_len]) {\n  score = qk + t[0]\n  weights = softmax(score)\n}\n";
  Floats t({12});
  const std::vector<int32_t> cu_q = {0, 6, 12}, cu_k = {0, 8, 10};
  PlanOptions options;
  options.tensors["t"] = t;
  options.cu_q = cu_q.data();
  options.cu_k = cu_k.data();
  EXPECT_EQ(plan_error(text, options),
            "parameter 't': dim 0 is 12 for the longest lengths, expected at least 18 (in a sequence of q_len 6, k_len 2)");
}

class CallErrors : public testing::Test {
 protected:
  Variant variant = compile(kPlain);
  Plan plan = variant.plan(kShape);
  Problem problem{kShape, 1};

  std::string forward_error(const ForwardTensors& tensors) {
    return error_of<ArgumentError>([&] { plan.forward(tensors); });
  }
  std::string backward_error(const BackwardTensors& tensors) {
    return error_of<ArgumentError>([&] { plan.backward(tensors); });
  }
};

TEST_F(CallErrors, MissingTensors) {
  ForwardTensors tensors = problem.forward(true);
  EXPECT_EQ(forward_error(tensors), "");
  tensors.q = {};
  EXPECT_EQ(forward_error(tensors), "tensor 'q': missing, expected f32[2, 6, 4, 16]");
  tensors = problem.forward(true);
  tensors.out = {};
  EXPECT_EQ(forward_error(tensors), "tensor 'out': missing, expected f32[2, 6, 4, 8]");
  BackwardTensors backward = problem.backward(true);
  backward.lse = {};
  EXPECT_EQ(backward_error(backward), "tensor 'lse': missing, expected f32[2, 4, 6]");
  backward = problem.backward(true);
  backward.out = {};
  EXPECT_EQ(backward_error(backward), "tensor 'out': missing, expected f32[2, 6, 4, 8]");
  backward = problem.backward(true);
  backward.dout = {};
  EXPECT_EQ(backward_error(backward), "tensor 'dout': missing, expected f32[2, 6, 4, 8]");
}

TEST_F(CallErrors, WrongShapesAndTypes) {
  Floats wrong({2, 6, 4, 15});
  Halves halves({2, 8, 2, 8});
  ForwardTensors tensors = problem.forward(false);
  tensors.q = wrong;
  EXPECT_EQ(forward_error(tensors), "tensor 'q': expected f32[2, 6, 4, 16], found f32[2, 6, 4, 15]");
  tensors = problem.forward(false);
  tensors.v = halves;
  EXPECT_EQ(forward_error(tensors), "tensor 'v': expected f32[2, 8, 2, 8], found f16[2, 8, 2, 8]");
  tensors = problem.forward(false);
  tensors.k = problem.q;
  EXPECT_EQ(forward_error(tensors), "tensor 'k': expected f32[2, 8, 2, 16], found f32[2, 6, 4, 16]");
  tensors = problem.forward(true);
  tensors.lse.shape = {2, 6, 4};
  EXPECT_EQ(forward_error(tensors), "tensor 'lse': expected f32[2, 4, 6], found f32[2, 6, 4]");
  BackwardTensors backward = problem.backward(true);
  backward.dq = problem.dk;
  EXPECT_EQ(backward_error(backward), "tensor 'dq': expected f32[2, 6, 4, 16], found f32[2, 8, 2, 16]");
  backward = problem.backward(true);
  backward.dk = problem.dv;
  EXPECT_EQ(backward_error(backward), "tensor 'dk': expected f32[2, 8, 2, 16], found f32[2, 8, 2, 8]");
  backward = problem.backward(true);
  backward.dv = problem.dk;
  EXPECT_EQ(backward_error(backward), "tensor 'dv': expected f32[2, 8, 2, 8], found f32[2, 8, 2, 16]");
}

TEST_F(CallErrors, Strides) {
  ForwardTensors tensors = problem.forward(false);
  tensors.q.strides = {1, 2, 3};
  EXPECT_EQ(forward_error(tensors), "tensor 'q': expected 4 strides, found 3");
  tensors.q.strides = {384, 64, 16, 2};
  EXPECT_EQ(forward_error(tensors), "tensor 'q': expected a contiguous last dim, found stride 2");
  tensors = problem.forward(false);
  tensors.out.strides = {0, 32, 8, 1};
  EXPECT_EQ(forward_error(tensors), "tensor 'out': dim 0 is broadcast (stride 0), but is written to");
  tensors = problem.forward(false);
  tensors.q.strides = {0, 64, 16, 1};  // what is only read may be broadcast
  EXPECT_EQ(forward_error(tensors), "");
  BackwardTensors backward = problem.backward(true);
  backward.dv.strides = {128, 16, 0, 1};
  EXPECT_EQ(backward_error(backward), "tensor 'dv': dim 2 is broadcast (stride 0), but is written to");
}

TEST_F(CallErrors, LseOfPointwiseWeights) {
  const Plan pointwise = compile(kPointwise).plan(kShape);
  const std::string text = "tensor 'lse': 'pointwise' has pointwise weights, which have no lse";
  EXPECT_EQ(error_of<ArgumentError>([&] { pointwise.forward(problem.forward(true)); }), text);
  BackwardTensors backward = problem.backward(false);
  backward.lse = problem.lse;
  EXPECT_EQ(error_of<ArgumentError>([&] { pointwise.backward(backward); }), text);
}

TEST_F(CallErrors, GradientsOfParameters) {
  Floats slopes({4}), gain({1}), broadcast({1}), two({2}), five({5});
  const Variant capped = compile(kCapped);
  const auto error_with = [&](const char* name, const Tensor& gradient, const Tensor& bound) {
    PlanOptions options = capped_options(slopes);
    options.tensors["slopes"] = bound;
    const Plan bound_plan = capped.plan(kShape, options);
    BackwardTensors backward = problem.backward(true);
    backward.param_grads[name] = gradient;
    return error_of<ArgumentError>([&] { bound_plan.backward(backward); });
  };
  EXPECT_EQ(error_with("slopes", slopes, slopes), "");
  EXPECT_EQ(error_with("slope", slopes, slopes), "'capped' has no parameter 'slope'; did you mean 'slopes'?");
  EXPECT_EQ(error_with("cap", gain, slopes), "parameter 'cap': has no gradient, it is not declared grad");
  EXPECT_EQ(error_with("slopes", five, slopes), "gradient of 'slopes': expected f32[4], found f32[5]");
  EXPECT_EQ(error_with("slopes", slopes, broadcast), "gradient of 'slopes': expected f32[1], found f32[4]");
  EXPECT_EQ(error_with("slopes", Tensor{}, slopes), "gradient of 'slopes': missing, expected f32[4]");
  EXPECT_EQ(error_with("gain", two, slopes), "gradient of 'gain': expected f32[1], found f32[2]");
  EXPECT_EQ(error_with("gain", Tensor{gain.values().data(), DType::kF32, {}, {}}, slopes), "");
  EXPECT_EQ(error_with("slopes", Tensor{slopes.values().data(), DType::kF32, {4}, {0}}, slopes),
            "gradient of 'slopes': dim 0 is broadcast (stride 0), but is written to");
}

TEST(Errors, MaskPictures) {
  const Variant plain = compile(kPlain);
  const auto error_with = [&](int64_t b, int64_t h, const Shape& shape) {
    return error_of<ArgumentError>([&] { mask_tiles(plain, shape, {}, b, h); });
  };
  EXPECT_EQ(error_with(2, 0, kShape), "b is 2, expected 0..1");
  EXPECT_EQ(error_with(0, -1, kShape), "h is -1, expected 0..3");
  Shape large = kShape;
  large.q_len = large.k_len = 4097;
  EXPECT_EQ(error_with(0, 0, large), "q_len * k_len is 16785409, expected at most 16777216 for a picture of the mask");
}

TEST(Errors, ProgramsWithAllTheirDiagnostics) {
  try {
    compile("attention a() {\n  score = qk + nothing\n  weights = softmax(score) * other\n}\n",
            {.file_name = "a.attn", .constants = {}, .threads = 0});
    ADD_FAILURE() << "nothing thrown";
  } catch (const ProgramError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("a.attn:2:16: error: unknown name 'nothing'"), std::string::npos) << text;
    EXPECT_NE(text.find("a.attn:3:30: error: unknown name 'other'"), std::string::npos) << text;
    EXPECT_NE(error.json().find("\"line\""), std::string::npos) << error.json();
  }
}

TEST(Errors, ConstantsThatTheProgramDoesNotHave) {
  const auto error_with = [](const char* name, Scalar value) {
    CompileOptions options;
    options.constants[name] = value;
    return error_of<ProgramError>([&] { compile(kCapped, options); });
  };
  EXPECT_EQ(error_with("window", int64_t{9}), "");
  EXPECT_NE(error_with("windov", int64_t{9}).find("'windov' is given a value, but is no const parameter of 'capped'"), std::string::npos);
  EXPECT_NE(error_with("windov", int64_t{9}).find("did you mean 'window'?"), std::string::npos);
  EXPECT_NE(error_with("window", 2.5).find("const parameter 'window': expected a value of i32, found 2.5"), std::string::npos);
}

TEST(Errors, ConstDefaultsThatTheHeadDimsSpoil) {
  // Fine for compile(), which does not know head_dim yet.
  const Variant variant =
      compile("attention late(n: const i32 = head_dim // 16, t: f32[n]) {\n  score = qk + t[0]\n  weights = softmax(score)\n}\n");
  Floats t({1});
  PlanOptions options;
  options.tensors["t"] = t;
  EXPECT_EQ(error_of<ArgumentError>([&] { variant.plan(kShape, options); }), "");
  EXPECT_EQ(error_of<ArgumentError>([&] { variant.plan(with(&Shape::head_dim, 8), options); }),
            "parameter 't': dim 0 is 0 here, expected 1..1073741824");
}

}  // namespace
}  // namespace attune
