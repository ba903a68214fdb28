// codegen/device/sm90_feed.cuh on the host: where the copy engine leaves the elements of a tile, each thread finds its own.
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

namespace attune::codegen {
namespace {

#define DEVICE inline
using u32 = uint32_t;
using i64 = int64_t;
struct float2 {
  float x, y;
};
struct int2 {
  int x, y;
};

std::vector<uint8_t> memory;  // shared
std::set<u32> touched;        // words that were read

u32 read_shared(u32 from) {
  u32 value;
  std::memcpy(&value, memory.data() + from, sizeof(value));
  touched.insert(from);
  return value;
}
int2 read_shared_x2(u32 from) {
  EXPECT_EQ(from % 8, 0u);
  return {static_cast<int>(read_shared(from)), static_cast<int>(read_shared(from + 4))};
}
float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}

// Of whole numbers: 256 * row + column.
struct TensorMap {
  int element_bytes;
};
// A box of 64 rows of 128 bytes, swizzled.
void tma_load_4d(u32 to, const TensorMap* map, u32, int column, int row, int, int) {
  const int count = 128 / map->element_bytes;
  for (int r = 0; r < 64; ++r) {
    for (int c = 0; c < count; ++c) {
      const auto value = static_cast<uint32_t>(256 * (row + r) + column + c);
      const int byte = c * map->element_bytes;
      std::memcpy(memory.data() + to + r * 128 + ((byte / 16 ^ r % 8) << 4) + byte % 16, &value, static_cast<size_t>(map->element_bytes));
    }
  }
}
// Elements of 16 bits that are whole numbers, too.
struct Halves {
  static float2 unpack(u32 x) { return {static_cast<float>(x & 0xFFFF), static_cast<float>(x >> 16)}; }
};

#include "codegen/device/sm90_feed.cuh"

float number(float x, bool is_whole) {
  return is_whole ? x : static_cast<float>(std::bit_cast<uint32_t>(x));
}

template <int kElementBytes, int kBlockN>
void check_tile() {
  SCOPED_TRACE(testing::Message() << kElementBytes << " bytes, " << kBlockN << " columns");
  constexpr u32 kBase = 3 * 1024, kOffset = 8192;
  using Tile = PairTile<kElementBytes, kBlockN>;
  memory.assign(kBase + kOffset + Tile::kBoxes * 64 * 128, 0xff);
  const TensorMap map = {kElementBytes};
  Tile::load(kBase + kOffset, &map, 0, 0, 0, 0, 0);
  for (int warp = 0; warp < 4; ++warp) {
    for (int group = 0; group < kBlockN / 8; ++group) {
      for (int place = 0; place < 2; ++place) {
        touched.clear();
        for (int lane = 0; lane < 32; ++lane) {
          const FedPlace from = FedPlace::of(kBase, 0, 0, warp, lane);
          const bool is_whole = kElementBytes == 2;
          const float2 got = is_whole ? read_pair<Halves>(from, kOffset, group, place) : read_pair<float>(from, kOffset, group, place);
          const int row = warp * 16 + lane / 4 + 8 * place, column = 8 * group + lane % 4 * 2;
          ASSERT_EQ(number(got.x, is_whole), 256 * row + column) << "warp " << warp << ", lane " << lane << ", group " << group;
          ASSERT_EQ(number(got.y, is_whole), 256 * row + column + 1);
        }
        // One bank each of 16-bit pairs.
        std::set<u32> banks;
        for (const u32 word : touched) banks.insert(word / 4 % 32);
        EXPECT_EQ(banks.size(), kElementBytes == 2 ? 32u : 16u * 2);
      }
    }
  }
}

TEST(CudaFeed, ThreadsFindTheirPairs) {
  check_tile<2, 64>();
  check_tile<2, 96>();
  check_tile<2, 128>();
  check_tile<4, 64>();
  check_tile<4, 96>();
  check_tile<4, 128>();
}

TEST(CudaFeed, ThreadsFindTheirColumnsAndTables) {
  const FedPlace from = FedPlace::of(2048, 512, 768, 3, 22);
  EXPECT_EQ(from.columns, 2048u + 512 + 2 * (22 % 4) * 4);
  memory.assign(4096, 0);
  const float value = 1.5f;
  std::memcpy(memory.data() + 2048 + 768 + 4 * 7, &value, sizeof(value));
  EXPECT_EQ(read_table(from.tables, 7), 1.5f);
  EXPECT_EQ(read_table_i32(from.tables, 7), std::bit_cast<int>(value));
}

}  // namespace
}  // namespace attune::codegen
