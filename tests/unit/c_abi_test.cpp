// attune_c.h through libattune.so: the CPU path, and the text of each kind of error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "api/attune_c.h"

extern "C" const char* attune_c11_run(float* out);  // c_abi_c11.c

namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr char kPlain[] =
    "attention plain(shift: f32, on: bool = true) {\n  score = qk + where(on, shift, 0)\n  weights = softmax(score)\n}\n";
constexpr attune_shape kShape = {2, 4, 2, 5, 6, 16, 8};

class CAbi : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(attune_compile(kPlain, nullptr, 0, &program_), ATTUNE_OK) << attune_last_error(); }
  void TearDown() override {
    attune_plan_release(plan_);
    attune_program_release(program_);
  }

  // Views the parameters.
  static attune_plan_options options_of(const std::vector<attune_param>& params) {
    attune_plan_options options = {};
    options.size = sizeof(options);
    options.params = params.data();
    options.param_count = static_cast<int32_t>(params.size());
    return options;
  }

  static attune_tensor tensor_of(std::vector<float>& values, int64_t len, int64_t heads, int64_t dim) {
    values.resize(static_cast<size_t>(2 * len * heads * dim), 0.5f);
    return {values.data(), ATTUNE_F32, 4, {2, len, heads, dim}, {len * heads * dim, heads * dim, dim, 1}};
  }

  std::string plan_error(attune_status expected, const attune_plan_options& options, const attune_shape& shape = kShape) {
    attune_plan* plan = nullptr;
    EXPECT_EQ(attune_plan_make(program_, &shape, &options, &plan), expected);
    EXPECT_EQ(plan, nullptr);
    return attune_last_error();
  }

  const std::vector<attune_param> params_ = {{"shift", 1, nullptr}};
  attune_program* program_ = nullptr;
  attune_plan* plan_ = nullptr;
};

TEST(CAbiFromC, CompilesAndRuns) {
  float out[6] = {};
  ASSERT_EQ(attune_c11_run(out), nullptr);
  for (int i = 0; i < 6; ++i) EXPECT_FLOAT_EQ(out[i], static_cast<float>(3 + i % 2)) << i;  // the mean of v's rows
}

TEST(CAbiVersion, IsThatOfTheHeader) {
  EXPECT_EQ(attune_abi_version(), ATTUNE_ABI_VERSION);
  EXPECT_THAT(attune_version(), testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
}

TEST_F(CAbi, Forward) {
  const attune_plan_options options = options_of(params_);
  ASSERT_EQ(attune_plan_make(program_, &kShape, &options, &plan_), ATTUNE_OK) << attune_last_error();
  EXPECT_THAT(attune_plan_describe(plan_), StartsWith("cpu, "));
  EXPECT_EQ(attune_plan_workspace_size(plan_), 0u);
  std::vector<float> q, k, v, out, lse(2 * 4 * 5, 0);
  const attune_tensor of_q = tensor_of(q, 5, 4, 16), of_k = tensor_of(k, 6, 2, 16), of_v = tensor_of(v, 6, 2, 8),
                      of_out = tensor_of(out, 5, 4, 8), of_lse = {lse.data(), ATTUNE_F32, 3, {2, 4, 5}, {20, 5, 1}};
  ASSERT_EQ(attune_plan_forward(plan_, &of_q, &of_k, &of_v, &of_out, &of_lse, nullptr, nullptr), ATTUNE_OK) << attune_last_error();
  for (float value : out) ASSERT_FLOAT_EQ(value, 0.5f);
  for (float value : lse) ASSERT_NEAR(value, 16 * 0.25 + 1 + std::log(6.0), 1e-5);
}

TEST_F(CAbi, ProgramErrors) {
  attune_program* program = nullptr;
  EXPECT_EQ(attune_compile("attention a() {\n  score = qk\n}\n", nullptr, 0, &program), ATTUNE_PROGRAM_ERROR);
  EXPECT_EQ(program, nullptr);
  EXPECT_THAT(attune_last_error(), HasSubstr("<text>:1:11: error: "));
}

TEST_F(CAbi, ArgumentErrors) {
  EXPECT_EQ(attune_compile(nullptr, nullptr, 0, &program_), ATTUNE_ARGUMENT_ERROR);
  EXPECT_STREQ(attune_last_error(), "text is null");
  attune_plan_options options = options_of(params_);
  options.size = 8;
  EXPECT_EQ(
      plan_error(ATTUNE_ARGUMENT_ERROR, options),
      "attune_plan_options: size is 8, expected 56.." + std::to_string(sizeof(attune_plan_options)) + "; the header is of another version");
  options = options_of(params_);
  options.dtype = 9;
  EXPECT_EQ(plan_error(ATTUNE_ARGUMENT_ERROR, options), "dtype is 9, expected 0..4");
  options = options_of(params_);
  options.dtype = ATTUNE_I32;
  EXPECT_EQ(plan_error(ATTUNE_ARGUMENT_ERROR, options), "dtype is i32, expected f32, f16 or bf16");
  EXPECT_EQ(plan_error(ATTUNE_ARGUMENT_ERROR, options_of({})), "parameter 'shift': missing, expected a value of f32");
  EXPECT_EQ(plan_error(ATTUNE_ARGUMENT_ERROR, options_of({{"shift", 1, nullptr}, {"off", 1, nullptr}})), "'plain' has no parameter 'off'");
  EXPECT_EQ(plan_error(ATTUNE_ARGUMENT_ERROR, options_of({{"shift", 1, nullptr}, {"on", 2, nullptr}})),
            "parameter 'on': expected a value of bool, found 2");
  options = options_of(params_);
  options.device_kind = ATTUNE_CUDA;
  EXPECT_EQ(plan_error(ATTUNE_ARGUMENT_ERROR, options),
            "dtype is f32, expected f16 or bf16 on cuda: the matrix units of a GPU have no f32");
  EXPECT_EQ(attune_plan_forward(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), ATTUNE_ARGUMENT_ERROR);
  EXPECT_STREQ(attune_last_error(), "plan is null");
}

TEST_F(CAbi, OlderAndTieredOptions) {
  attune_plan_options options = options_of(params_);
  options.tiered = 2;
  EXPECT_EQ(plan_error(ATTUNE_ARGUMENT_ERROR, options), "tiered is 2, expected 0..1");
  options.size = offsetof(attune_plan_options, tiered);  // not looked at then
  ASSERT_EQ(attune_plan_make(program_, &kShape, &options, &plan_), ATTUNE_OK) << attune_last_error();
  EXPECT_EQ(attune_plan_is_tuned(plan_), 1);
  EXPECT_EQ(attune_plan_wait_until_tuned(plan_), ATTUNE_OK);
  EXPECT_EQ(attune_plan_is_tuned(nullptr), 0);
  EXPECT_EQ(attune_plan_wait_until_tuned(nullptr), ATTUNE_ARGUMENT_ERROR);
}

TEST_F(CAbi, TensorsOfACall) {
  const std::vector<attune_param> params = {{"shift", 1, nullptr}, {"on", 0, nullptr}};
  const attune_plan_options options = options_of(params);
  ASSERT_EQ(attune_plan_make(program_, &kShape, &options, &plan_), ATTUNE_OK) << attune_last_error();
  std::vector<float> values;
  attune_tensor q = tensor_of(values, 5, 4, 16);
  EXPECT_EQ(attune_plan_forward(plan_, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), ATTUNE_ARGUMENT_ERROR);
  EXPECT_STREQ(attune_last_error(), "tensor 'q': missing, expected f32[2, 5, 4, 16]");
  q.rank = 7;
  EXPECT_EQ(attune_plan_forward(plan_, &q, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), ATTUNE_ARGUMENT_ERROR);
  EXPECT_STREQ(attune_last_error(), "tensor 'q': rank is 7, expected 0..6");
}

TEST_F(CAbi, Backward) {
  attune_plan_options options = options_of(params_);
  options.backward = 1;
  ASSERT_EQ(attune_plan_make(program_, &kShape, &options, &plan_), ATTUNE_OK) << attune_last_error();
  size_t workspace_size = 7;
  EXPECT_EQ(attune_plan_backward_workspace_size(plan_, &workspace_size), ATTUNE_OK);
  EXPECT_EQ(workspace_size, 0u);
  std::vector<float> q, k, v, out, dout, dq, dv, lse(2 * 4 * 5, 0);
  const attune_tensor of_q = tensor_of(q, 5, 4, 16), of_k = tensor_of(k, 6, 2, 16), of_v = tensor_of(v, 6, 2, 8),
                      of_out = tensor_of(out, 5, 4, 8), of_dout = tensor_of(dout, 5, 4, 8), of_dq = tensor_of(dq, 5, 4, 16),
                      of_dv = tensor_of(dv, 6, 2, 8), of_lse = {lse.data(), ATTUNE_F32, 3, {2, 4, 5}, {20, 5, 1}};
  ASSERT_EQ(attune_plan_forward(plan_, &of_q, &of_k, &of_v, &of_out, &of_lse, nullptr, nullptr), ATTUNE_OK) << attune_last_error();
  attune_backward_tensors tensors = {};
  tensors.size = sizeof(tensors);
  tensors.q = &of_q;
  tensors.k = &of_k;
  tensors.v = &of_v;
  tensors.out = &of_out;
  tensors.lse = &of_lse;
  tensors.dout = &of_dout;
  tensors.dq = &of_dq;
  tensors.dv = &of_dv;
  ASSERT_EQ(attune_plan_backward(plan_, &tensors, nullptr, nullptr), ATTUNE_OK) << attune_last_error();
  for (float value : dq) ASSERT_NEAR(value, 0, 1e-6);
  for (float value : dv) ASSERT_NEAR(value, 5 * 2 * 0.5f / 6, 1e-6);  // 5 rows of 2 heads, each key a sixth

  const auto error = [&] {
    EXPECT_EQ(attune_plan_backward(plan_, &tensors, nullptr, nullptr), ATTUNE_ARGUMENT_ERROR);
    return std::string(attune_last_error());
  };
  const attune_gradient gradient = {"shift", &of_lse};
  tensors.gradients = &gradient;
  tensors.gradient_count = 1;
  EXPECT_EQ(error(), "parameter 'shift': has no gradient, it is not declared grad");
  tensors.gradients = nullptr;
  EXPECT_EQ(error(), "the array of gradients is null");
  tensors.gradient_count = -1;
  EXPECT_EQ(error(), "-1 gradients, expected 0 or more");
  tensors.gradient_count = 0;
  tensors.lse = nullptr;
  EXPECT_EQ(error(), "tensor 'lse': missing, expected f32[2, 4, 5]");
  tensors.size = 8;
  EXPECT_EQ(error(),
            "attune_backward_tensors: size is 8, expected " + std::to_string(sizeof(tensors)) + "; the header is of another version");
}

TEST_F(CAbi, EnvironmentErrors) {
  attune_plan_options options = options_of(params_);
  options.dtype = ATTUNE_BF16;
  options.device_kind = ATTUNE_CUDA;
  options.device_ordinal = 99;
  EXPECT_NE(plan_error(ATTUNE_ENVIRONMENT_ERROR, options), "");
}

TEST_F(CAbi, ErrorsBelongToTheirThread) {
  EXPECT_EQ(attune_compile(nullptr, nullptr, 0, &program_), ATTUNE_ARGUMENT_ERROR);
  std::thread([] { EXPECT_STREQ(attune_last_error(), ""); }).join();
  EXPECT_STREQ(attune_last_error(), "text is null");
}

TEST(CAbiRelease, NullIsNothing) {
  attune_plan_release(nullptr);
  attune_program_release(nullptr);
  EXPECT_EQ(attune_plan_workspace_size(nullptr), 0u);
  EXPECT_STREQ(attune_plan_describe(nullptr), "");
}

}  // namespace
