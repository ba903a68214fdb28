#include <gtest/gtest.h>

#include <random>

#include "codegen/index_region.h"

namespace attune::codegen {
namespace {

TEST(IndexRegion, BoxAlone) {
  IndexRegion region(5, 9);
  region.add({});
  const NumberRange range = region.range(1, -1);
  EXPECT_EQ(range.low, -8);
  EXPECT_EQ(range.high, 4);
}

TEST(IndexRegion, CausalDistance) {
  IndexRegion region(5, 9);
  const HalfPlane causal = {1, -1, 4};  // k <= q + 4
  region.add({{causal}});
  const NumberRange range = region.range(1, -1);
  EXPECT_EQ(range.low, -4);
  EXPECT_EQ(range.high, 4);
}

TEST(IndexRegion, NothingLeft) {
  IndexRegion region(5, 9);
  const HalfPlane before = {0, -1, 2}, behind = {0, 1, -3};  // k <= 2, k >= 3
  region.add({{before, behind}});
  EXPECT_TRUE(region.is_empty());
  IndexRegion none(0, 9);
  none.add({});
  EXPECT_TRUE(none.is_empty());
}

TEST(IndexRegion, OnePairAndLargeLengths) {
  IndexRegion pair(1, 1);
  pair.add({});
  EXPECT_EQ(pair.range(7, 3).high, 0);
  constexpr int kLength = (1 << 30) - 1;
  IndexRegion large(kLength, kLength);
  const HalfPlane causal = {1, -1, 0}, window = {-1, 1, 4095};
  large.add({{causal, window}});
  const NumberRange range = large.range(1, -1);
  EXPECT_EQ(range.low, 0);
  EXPECT_EQ(range.high, 4095);
}

TEST(IndexRegion, CoversEveryPairOfRandomUnions) {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    std::mt19937 rng(seed);
    const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
    const int q_len = draw(1, 12), k_len = draw(1, 12);
    IndexRegion region(q_len, k_len);
    std::vector<std::vector<HalfPlane>> polygons(draw(1, 3));
    for (auto& half_planes : polygons) {
      half_planes.resize(draw(0, 4));
      for (HalfPlane& plane : half_planes) plane = {double(draw(-3, 3)), double(draw(-3, 3)), double(draw(-12, 12))};
      region.add(half_planes);
    }
    const double cq = draw(-3, 3), ck = draw(-3, 3);
    for (int q = 0; q < q_len; ++q) {
      for (int k = 0; k < k_len; ++k) {
        bool is_inside = false;
        for (const auto& half_planes : polygons) {
          is_inside = is_inside || std::all_of(half_planes.begin(), half_planes.end(),
                                               [&](const HalfPlane& p) { return p.q * q + p.k * k + p.offset >= 0; });
        }
        if (!is_inside) continue;
        ASSERT_FALSE(region.is_empty()) << "seed " << seed;
        const NumberRange range = region.range(cq, ck);
        ASSERT_LE(range.low, cq * q + ck * k) << "seed " << seed;
        ASSERT_GE(range.high, cq * q + ck * k) << "seed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace attune::codegen
