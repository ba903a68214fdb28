// gradient_sums.h.
#include <gtest/gtest.h>

#include <vector>

#include "runtime/gradient_sums.h"

namespace attune::runtime {
namespace {

CpuParamGradient gradient_of(int param, std::vector<float>& data, std::vector<int64_t> shape, std::vector<int64_t> strides) {
  CpuParamGradient gradient;
  gradient.param = param;
  gradient.data = data.data();
  gradient.shape = std::move(shape);
  gradient.strides = std::move(strides);
  return gradient;
}

float* element(const GradientSums::Chain& chain, size_t param, std::vector<int64_t> index) {
  const CpuTensor& tensor = chain.params[param];
  int64_t offset = 0;
  for (size_t axis = 0; axis < index.size(); ++axis) offset += index[axis] * tensor.strides[axis];
  return static_cast<float*>(tensor.data) + offset;
}

TEST(GradientSums, SmallOnesAreSummedInTheOrderOfChains) {
  // 1e8 + 1 - 1e8 depends on the order in f32; the total is kept in double, so that it does not here.
  std::vector<float> scalar(1, -1.0f), table(6, -1.0f);
  const std::vector<CpuParamGradient> gradients = {gradient_of(2, scalar, {}, {}), gradient_of(0, table, {2, 3}, {1, 2})};
  GradientSums sums(gradients, 4);
  EXPECT_TRUE(sums.by_b() && sums.by_h() && sums.by_q());
  std::vector<GradientSums::Chain> chains;
  const float values[3] = {1e8f, 1.0f, -1e8f};
  for (float value : values) {
    chains.push_back(sums.start());
    EXPECT_EQ(chains.back().params.size(), 4u);
    EXPECT_EQ(chains.back().params[1].data, nullptr);
    EXPECT_EQ(chains.back().params[3].data, nullptr);
    *element(chains.back(), 2, {}) += value;
    *element(chains.back(), 0, {1, 2}) += value;
    *element(chains.back(), 0, {0, 1}) += 1;
  }
  for (int64_t number : {2, 0, 1}) sums.finish(number, std::move(chains[static_cast<size_t>(number)]));
  sums.write();
  EXPECT_EQ(scalar[0], 1.0f);
  EXPECT_EQ(table, (std::vector<float>{0, 0, 3, 0, 0, 1})) << "the caller's strides are not kept";
}

TEST(GradientSums, BroadcastDimsMeet) {
  std::vector<float> table(3, -1.0f);
  const std::vector<CpuParamGradient> gradients = {gradient_of(0, table, {1, 3}, {17, 1})};
  GradientSums sums(gradients, 1);
  GradientSums::Chain chain = sums.start();
  EXPECT_EQ(chain.params[0].strides[0], 0);
  *element(chain, 0, {5, 2}) += 1;
  *element(chain, 0, {9, 2}) += 1;
  sums.finish(0, std::move(chain));
  sums.write();
  EXPECT_EQ(table, (std::vector<float>{0, 0, 2}));
}

TEST(GradientSums, LargeOnesAreWrittenWhereTheyStand) {
  constexpr int64_t kSize = GradientSums::kPrivateBytes / 4 + 1;
  std::vector<float> large(2 * kSize, -1.0f), small(5, -1.0f);
  std::vector<CpuParamGradient> gradients = {gradient_of(0, large, {kSize}, {2}), gradient_of(1, small, {5}, {1})};
  gradients[0].by_h = true;
  gradients[1].by_b = true;  // no matter, it is private
  GradientSums sums(gradients, 2);
  EXPECT_FALSE(sums.by_b());
  EXPECT_TRUE(sums.by_h());
  EXPECT_FALSE(sums.by_q());
  EXPECT_EQ(large[0], 0.0f);
  EXPECT_EQ(large[1], -1.0f) << "written between the strides";
  EXPECT_EQ(large[2 * (kSize - 1)], 0.0f);
  GradientSums::Chain chain = sums.start();
  EXPECT_EQ(chain.params[0].data, large.data());
  EXPECT_NE(chain.params[1].data, small.data());
  *element(chain, 0, {kSize - 1}) += 4;
  *element(chain, 1, {4}) += 5;
  sums.finish(0, std::move(chain));
  sums.write();
  EXPECT_EQ(large[2 * (kSize - 1)], 4.0f);
  EXPECT_EQ(small, (std::vector<float>{0, 0, 0, 0, 5}));
}

TEST(GradientSums, TheSmallestArePrivateWhileTheyFit) {
  constexpr int64_t kHalf = GradientSums::kPrivateBytes / 8;
  std::vector<float> a(kHalf), b(kHalf), c(kHalf + 1);
  const std::vector<CpuParamGradient> gradients = {gradient_of(0, c, {kHalf + 1}, {1}), gradient_of(1, a, {kHalf}, {1}),
                                                   gradient_of(2, b, {kHalf}, {1})};
  const GradientSums sums(gradients, 3);
  const GradientSums::Chain chain = sums.start();
  EXPECT_EQ(chain.params[0].data, c.data());
  EXPECT_NE(chain.params[1].data, a.data());
  EXPECT_NE(chain.params[2].data, b.data());
}

}  // namespace
}  // namespace attune::runtime
