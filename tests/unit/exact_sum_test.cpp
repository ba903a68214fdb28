// ExactSum of codegen/device/gradients.cuh, as C++ of the host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

// In the order of a generated file.
// clang-format off
#include "tests/unit/cuda_on_host.h"
#include "codegen/device/types.cuh"
#include "codegen/device/gradients.cuh"
// clang-format on

namespace attune::codegen {
namespace {

uint32_t bits(float x) {
  return std::bit_cast<uint32_t>(x);
}

float sum_of(const std::vector<float>& terms) {
  ExactSum sum = {};
  for (float x : terms) add_global(&sum, x);
  const float result = sum.take();
  EXPECT_TRUE(std::all_of(std::begin(sum.digits), std::end(sum.digits), [](long long digit) { return digit == 0; }));
  EXPECT_EQ(bits(sum.others), 0u);
  return result;
}

TEST(ExactSum, HasTheSameBitsInAnyOrder) {
  std::mt19937_64 random(std::random_device{}());
  std::normal_distribution<float> normal;
  for (const int spread : {0, 8, 30, 120}) {
    std::uniform_int_distribution<int> exponent(-spread, spread);
    std::vector<float> terms(2000);
    for (float& x : terms) x = std::ldexp(normal(random), exponent(random));
    const uint32_t first = bits(sum_of(terms));
    for (int i = 0; i < 20; ++i) {
      std::shuffle(terms.begin(), terms.end(), random);
      ASSERT_EQ(bits(sum_of(terms)), first) << spread;
    }
  }
}

TEST(ExactSum, IsTheNearestNumber) {
  std::mt19937_64 random(std::random_device{}());
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> exponent(-12, 12);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> terms(round + 1);
    __float128 want = 0;
    for (float& x : terms) want += x = std::ldexp(normal(random), exponent(random));
    EXPECT_EQ(sum_of(terms), static_cast<float>(static_cast<double>(want)));
  }
  // All cancels but the least.
  EXPECT_EQ(sum_of({0x1p100f, 0x1p-149f, -0x1p100f}), 0x1p-149f);
  EXPECT_EQ(sum_of({0x1p100f, -0x1p-149f, -0x1p100f}), -0x1p-149f);
  EXPECT_EQ(sum_of({0x1.8p-127f, 0x1p-149f}), 0x1.8p-127f + 0x1p-149f);
  EXPECT_EQ(bits(sum_of({3.0f, -3.0f})), 0u);
  EXPECT_EQ(bits(sum_of({})), 0u);
  EXPECT_EQ(sum_of(std::vector<float>(100000, 0x1.FFFFFEp-3f)), static_cast<float>(0x1.FFFFFEp-3 * 100000));
}

TEST(ExactSum, PassesWhatIsNotFinite) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kGreatest = std::numeric_limits<float>::max();
  EXPECT_EQ(sum_of({1.0f, kInf, -2.0f}), kInf);
  EXPECT_EQ(sum_of({-kInf, 1.0f}), -kInf);
  EXPECT_TRUE(std::isnan(sum_of({kInf, 1.0f, -kInf})));
  EXPECT_TRUE(std::isnan(sum_of({1.0f, std::numeric_limits<float>::quiet_NaN()})));
  EXPECT_EQ(sum_of({kGreatest, kGreatest}), kInf);
  EXPECT_EQ(sum_of({kGreatest, kGreatest, -kGreatest}), kGreatest);
}

}  // namespace
}  // namespace attune::codegen
