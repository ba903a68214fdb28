// The errors that math_forms.h states, against double over all magnitudes, with and without a fused multiply-add; special values; integers
// against the value rules of the operator table; the generator against published vectors.
#include "codegen/math_forms.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "codegen/op_table.h"
#include "codegen/philox.h"
#include "codegen/scalar_math_builder.h"

namespace attune::codegen {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kLeastNormal = 0x1p-126;
constexpr double kGreatest = std::numeric_limits<float>::max();
// Every so many bit patterns of f32; primes. Sanitizers look for what code does, not for its accuracy.
#ifdef __SANITIZE_ADDRESS__
constexpr uint32_t kStride = 65537;
#else
constexpr uint32_t kStride = 4099;
#endif

template <int kNumerator, int kDenominator>
MathBuilder::Value power(MathBuilder& b, MathBuilder::Value x) {
  return form_pow(b, x, static_cast<float>(kNumerator) / kDenominator);
}

double exact_pow(double x, float exponent) {
  return std::pow(x, static_cast<double>(exponent));
}

struct Case {
  const char* name;
  MathForm form;
  std::function<double(double)> exact;
  double low, high;  // of x
  double ulp;        // the bound
};

std::vector<Case> cases() {
  const auto softplus = [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); };
  return {
      {"exp2", form_exp2, [](double x) { return std::exp2(x); }, -INFINITY, INFINITY, 1.6},
      {"exp2_nonpositive", form_exp2_nonpositive, [](double x) { return std::exp2(x); }, -INFINITY, 0, 2.2},
      {"exp", form_exp, [](double x) { return std::exp(x); }, -INFINITY, INFINITY, 1.8},
      {"log2", form_log2, [](double x) { return std::log2(x); }, 0, INFINITY, 1.3},
      {"log", form_log, [](double x) { return std::log(x); }, 0, INFINITY, 1.0},
      {"rsqrt", form_rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0, INFINITY, 1.5},
      {"tanh", form_tanh, [](double x) { return std::tanh(x); }, -INFINITY, INFINITY, 5.0},
      {"sigmoid", form_sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -INFINITY, INFINITY, 3.4},
      {"silu", form_silu, [](double x) { return x / (1 + std::exp(-x)); }, -87, kGreatest, 3.6},
      {"gelu", form_gelu, [](double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }, -kGreatest, kGreatest, 6.2},
      {"erf", form_erf, [](double x) { return std::erf(x); }, -INFINITY, INFINITY, 1.3},
      {"softplus", form_softplus, softplus, -INFINITY, INFINITY, 2.4},
      {"pow 3/2", power<3, 2>, [](double x) { return exact_pow(x, 1.5f); }, 0, INFINITY, 1.7},
      {"pow -1/3", power<-1, 3>, [](double x) { return exact_pow(x, -1.0f / 3); }, 0, INFINITY, 1.7},
      {"pow 1/2", power<1, 2>, [](double x) { return exact_pow(x, 0.5f); }, 0, INFINITY, 1.7},
      {"pow 11", power<11, 1>, [](double x) { return exact_pow(x, 11); }, -INFINITY, INFINITY, 1.7},
      {"pow 2", power<2, 1>, [](double x) { return exact_pow(x, 2); }, -INFINITY, INFINITY, 0.51},
  };
}

// In ulps of the exact value; what would be denormal may be 0, what overflows must.
double error_in_ulp(float got, double want) {
  if (std::isnan(want)) return std::isnan(got) ? 0 : INFINITY;
  if (std::isinf(want) || std::abs(want) > kGreatest * (1 + 0x1p-24))
    return got == static_cast<float>(want) || std::abs(got) == kGreatest ? 0 : INFINITY;
  if (std::abs(want) > kGreatest * (1 - 0x1p-20) && std::isinf(got)) return 0;
  if (std::abs(want) < kLeastNormal) return std::abs(got - want) <= kLeastNormal ? 0 : INFINITY;
  return std::abs(got - want) / std::ldexp(1.0, std::ilogb(want) - 23);
}

class MathForms : public testing::TestWithParam<bool> {
 protected:
  MathForms() : math_(std::make_unique<ScalarMath>(GetParam())) {}
  ScalarMath& math() { return *math_; }

 private:
  std::unique_ptr<ScalarMath> math_;
};

TEST_P(MathForms, KeepTheirStatedErrors) {
  for (const Case& c : cases()) {
    double worst = 0;
    float where = 0;
    for (uint64_t bits = 0; bits <= 0xffffffffu; bits += kStride) {
      const auto x = std::bit_cast<float>(static_cast<uint32_t>(bits));
      if (!(x >= c.low && x <= c.high)) continue;
      const double error = error_in_ulp(evaluate(math(), c.form, x), c.exact(x));
      if (error > worst) {
        worst = error;
        where = x;
      }
    }
    EXPECT_LE(worst, c.ulp) << c.name << " at " << where;
    EXPECT_GT(worst, 0) << c.name << " was not measured";
  }
}

TEST_P(MathForms, WavesKeepTheirAbsoluteErrorUpTo1e5) {
  double worst = 0;
  for (float x = -1e5f; x < 1e5f; x += 0.1237f) {
    worst = std::max(worst, std::abs(evaluate(math(), form_sin, x) - std::sin(double{x})));
    worst = std::max(worst, std::abs(evaluate(math(), form_cos, x) - std::cos(double{x})));
  }
  EXPECT_LE(worst, 1.2e-7);
  for (float x = 1e5f; x < 1e38f; x *= 1.37f) {
    EXPECT_LE(std::abs(evaluate(math(), form_sin, x)), 1.0f) << x;
    EXPECT_LE(std::abs(evaluate(math(), form_cos, x)), 1.0f) << x;
  }
  EXPECT_TRUE(std::isnan(evaluate(math(), form_sin, kInf)));
  EXPECT_TRUE(std::isnan(evaluate(math(), form_cos, -kInf)));
}

TEST_P(MathForms, PassNan) {
  for (const Case& c : cases()) EXPECT_TRUE(std::isnan(evaluate(math(), c.form, kNan))) << c.name;
  EXPECT_TRUE(std::isnan(evaluate(math(), form_sin, kNan)));
  for (const auto form : {form_min, form_max}) {
    math().reset();
    EXPECT_TRUE(std::isnan(ScalarMath::as_f32(form(math(), math().f32(kNan), math().f32(1)))));
    EXPECT_TRUE(std::isnan(ScalarMath::as_f32(form(math(), math().f32(1), math().f32(kNan)))));
  }
}

TEST_P(MathForms, HaveTheirLimits) {
  EXPECT_EQ(evaluate(math(), form_exp2_nonpositive, -kInf), 0);
  EXPECT_EQ(evaluate(math(), form_exp2_nonpositive, 0), 1);
  EXPECT_EQ(evaluate(math(), form_exp2, kInf), kInf);
  EXPECT_EQ(evaluate(math(), form_exp, -kInf), 0);
  EXPECT_EQ(evaluate(math(), form_sigmoid, -kInf), 0);
  EXPECT_EQ(evaluate(math(), form_sigmoid, kInf), 1);
  EXPECT_EQ(evaluate(math(), form_tanh, kInf), 1);
  EXPECT_EQ(evaluate(math(), form_tanh, -kInf), -1);
  EXPECT_EQ(evaluate(math(), form_erf, -kInf), -1);
  EXPECT_EQ(evaluate(math(), form_log, 0), -kInf);
  EXPECT_TRUE(std::isnan(evaluate(math(), form_log2, -1)));
  EXPECT_EQ(evaluate(math(), form_log2, kInf), kInf);
  EXPECT_EQ(evaluate(math(), form_softplus, -kInf), 0);
}

TEST_P(MathForms, PowersFollowIeee) {
  for (const float exponent : {0.0f, 0.5f, -0.5f, 1.0f, -1.0f, 2.0f, 3.0f, -3.0f, 9.0f, -9.0f, 65.0f, 66.0f, 1.25f, -1.25f, kInf, -kInf}) {
    for (const float x : {0.0f, -0.0f, 1.0f, -1.0f, 0.25f, -0.25f, 4.0f, -4.0f, kInf, -kInf, kNan}) {
      math().reset();
      const float got = ScalarMath::as_f32(form_pow(math(), math().f32(x), exponent));
      const float want = std::pow(x, exponent);
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(got)) << x << " ** " << exponent << " is " << got;
      } else {
        EXPECT_LE(error_in_ulp(got, want), 2.5) << x << " ** " << exponent << " is " << got << ", not " << want;
        EXPECT_EQ(std::signbit(got), std::signbit(want)) << x << " ** " << exponent;
      }
    }
  }
}

TEST_P(MathForms, IntegersFollowTheTable) {
  constexpr int32_t kLeast = std::numeric_limits<int32_t>::min(), kMost = std::numeric_limits<int32_t>::max();
  const std::vector<int32_t> numbers = {kLeast, kLeast + 1, -1000000007, -65536, -17, -3,    -2,         -1,        0,
                                        1,      2,          3,           16,     17,  65537, 1000000007, kMost - 1, kMost};
  for (const int32_t x : numbers) {
    for (const int32_t y : numbers) {
      math().reset();
      const std::vector<double> operands = {double(x), double(y)};
      EXPECT_EQ(ScalarMath::as_i32(form_floor_div(math(), math().i32(x), math().i32(y))),
                info(Op::k_floor_div).value(operands, Type::kI32, Type::kI32))
          << x << " // " << y;
      EXPECT_EQ(ScalarMath::as_i32(form_floor_mod(math(), math().i32(x), math().i32(y))),
                info(Op::k_mod).value(operands, Type::kI32, Type::kI32))
          << x << " % " << y;
    }
  }
}

TEST_P(MathForms, ConversionToIntegersSaturates) {
  for (const float x :
       {0.0f, -0.0f, 0.99f, -0.99f, 1.5f, -1.5f, 0x1.fffffep30f, 0x1p31f, -0x1p31f, -0x1.000002p31f, 1e30f, -1e30f, kInf, -kInf, kNan}) {
    math().reset();
    const std::vector<double> operand = {x};
    EXPECT_EQ(ScalarMath::as_i32(form_f32_to_i32(math(), math().f32(x))), info(Op::k_to_i32).value(operand, Type::kI32, Type::kF32)) << x;
  }
}

TEST_P(MathForms, RandomIsTheHostsGenerator) {
  for (uint32_t i = 0; i < 2000; ++i) {
    math().reset();
    const uint32_t words[] = {i * 2654435761u, i % 7, i % 13, i * 97, i * 31337};
    const auto word = [&](int n) { return math().i32(static_cast<int32_t>(words[n])); };
    const float got = ScalarMath::as_f32(form_random(math(), word(0), word(1), word(2), word(3), word(4)));
    ASSERT_EQ(got, random_value(words[0], words[1], words[2], words[3], words[4])) << i;
    ASSERT_GE(got, 0);
    ASSERT_LT(got, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Fma, MathForms, testing::Bool(), [](const auto& info) { return info.param ? "Fused" : "Apart"; });

// Known answers of the Random123 distribution (Salmon et al. 2011), 10 rounds.
TEST(Philox, KnownAnswers) {
  constexpr uint32_t kOnes = 0xffffffffu;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}, 10), (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}, 10),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, 10),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, IsUniform) {
  double sum = 0, square = 0;
  constexpr int kCount = 1 << 20;
  for (int i = 0; i < kCount; ++i) {
    const double x = random_value(7, 0, 3, static_cast<uint32_t>(i) / 1024, static_cast<uint32_t>(i) % 1024);
    sum += x;
    square += x * x;
  }
  EXPECT_NEAR(sum / kCount, 0.5, 2e-3);
  EXPECT_NEAR(square / kCount, 1.0 / 3, 2e-3);
}

}  // namespace
}  // namespace attune::codegen
