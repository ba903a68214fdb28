// Parts of the command line that need no program: 16-bit floats, pictures of masks, output files, texts of arguments.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "cli/arguments.h"
#include "cli/device.h"
#include "cli/floats.h"
#include "cli/mask_picture.h"
#include "cli/output_files.h"

namespace attune::cli {
namespace {

TEST(Floats, EveryF16RoundTrips) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    float value = f16_to_f32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value)))) << bits;
    } else {
      EXPECT_EQ(f32_to_f16(value), bits) << bits;
    }
  }
}

TEST(Floats, F16IsTheNearest) {
  const unsigned seed = 11;
  std::mt19937 random(seed);
  for (int i = 0; i < 200000; ++i) {
    auto value = std::bit_cast<float>(static_cast<uint32_t>((random() & 0x807fffff) | (100 + random() % 46) << 23));  // 2**-27 .. 2**18
    auto low = static_cast<uint16_t>(f32_to_f16(std::abs(value)));
    float got = f16_to_f32(low);
    if (std::isinf(got)) {
      EXPECT_GE(std::abs(value), 65520.0f);
      continue;
    }
    float distance = std::abs(got - std::abs(value));
    float up = low == 0x7bff ? 65536.0f : f16_to_f32(static_cast<uint16_t>(low + 1));
    EXPECT_LE(distance, std::abs(up - std::abs(value))) << "seed " << seed << " value " << value;
    float down = low == 0 ? -1.0f : f16_to_f32(static_cast<uint16_t>(low - 1));
    EXPECT_LE(distance, std::abs(down - std::abs(value))) << "seed " << seed << " value " << value;
    EXPECT_EQ(f32_to_f16(-std::abs(value)), low | 0x8000);
  }
}

TEST(Floats, F16TiesGoToEven) {
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
  EXPECT_EQ(f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3c02);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);
  EXPECT_EQ(f32_to_f16(3 * 0x1p-25f), 0x0002);
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-INFINITY), 0xfc00);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(NAN))));
}

TEST(Floats, BFloat16) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    float value = bf16_to_f32(static_cast<uint16_t>(bits));
    EXPECT_TRUE(std::isnan(value) || f32_to_bf16(value) == bits) << bits;
  }
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

// --- pictures ---

MaskTiles tiles_of(int64_t q_len, int64_t k_len, int64_t block, const std::function<bool(int64_t, int64_t)>& keep) {
  MaskTiles tiles{q_len, k_len, block, block, {}, {}};
  for (int64_t i = 0; i < q_len; ++i) {
    for (int64_t j = 0; j < k_len; ++j) tiles.kept.push_back(keep(i, j));
  }
  for (int64_t i = 0; i < q_len; i += block) {
    for (int64_t j = 0; j < k_len; j += block) {
      int64_t kept = 0, pairs = 0;
      for (int64_t r = i; r < std::min(i + block, q_len); ++r) {
        for (int64_t c = j; c < std::min(j + block, k_len); ++c) kept += keep(r, c), ++pairs;
      }
      tiles.classes.push_back(kept == 0 ? TileClass::kSkipped : kept == pairs ? TileClass::kFull : TileClass::kPartial);
    }
  }
  return tiles;
}

Shape square(int64_t length) {
  return {.batch = 2, .heads = 4, .kv_heads = 4, .q_len = length, .k_len = length, .head_dim = 64, .v_dim = 64};
}

TEST(MaskPicture, CausalCounts) {
  MaskTiles tiles = tiles_of(64, 64, 16, [](int64_t i, int64_t j) { return j <= i; });
  EXPECT_EQ(mask_summary(tiles), "skipped 6 (37.5%), partial 4 (25.0%), full 6 (37.5%) of 16 tiles; 2080 of 4096 pairs kept (50.8%)");
  std::string svg = mask_picture("causal", square(64), tiles);
  for (const char* text :
       {"mask of causal", "q_len 64, k_len 64, heads 4, batch 2; tiles of 16 x 16 pairs", "skipped: 6 of 16 tiles (37.5%)",
        "partial: 4 of 16 tiles (25.0%)", "full: 6 of 16 tiles (37.5%)", "2080 of 4096 in all (50.8%)", ">q_idx<", ">k_idx<",
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"}) {
    EXPECT_NE(svg.find(text), std::string::npos) << text;
  }
  // Row 2 of the full tiles' layer: columns 0 and 1 as one run.
  EXPECT_NE(svg.find("M0 2h2v1h-2z"), std::string::npos);
  // Row 3 of the kept pairs: 0..3 of the first, partial tile.
  EXPECT_NE(svg.find("M0 3h4v1h-4z"), std::string::npos);
  // Row 17: its first tile is full and shows its own colour.
  EXPECT_NE(svg.find("M16 17h2v1h-2z"), std::string::npos);
}

TEST(MaskPicture, SizeIsBoundedForEveryMask) {
  const unsigned seed = 3;
  std::mt19937 random(seed);
  for (int64_t length : {1, 7, 512, 1000, 2048}) {
    MaskTiles tiles = tiles_of(length, length, std::max<int64_t>(length / 64, 1),
                               [&](int64_t i, int64_t j) { return (i * 2654435761u ^ j * 40503u) >> 7 & 1; });
    for (uint8_t& kept : tiles.kept) kept = random() & 1;
    for (TileClass& value : tiles.classes) value = static_cast<TileClass>(random() % 2);
    std::string svg = mask_picture("noise", square(length), tiles);
    EXPECT_LT(svg.size(), kMaxPictureBytes) << length << " seed " << seed;
    EXPECT_TRUE(svg.ends_with("</svg>\n"));
  }
}

TEST(MaskPicture, DecodingIsStillVisible) {
  std::string svg = mask_picture("decode", square(1), tiles_of(1, 4096, 64, [](int64_t, int64_t j) { return j >= 1000; }));
  EXPECT_NE(svg.find("<clipPath id=\"plot\"><rect width=\"640.00\" height=\"48.00\"/>"), std::string::npos) << svg.substr(0, 1500);
}

// --- arguments ---

std::string usage_error(const std::function<void()>& body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Arguments, Assignments) {
  auto parse = [](std::vector<std::string> texts) { return parse_assignments("--param", texts); };
  EXPECT_EQ(parse({"a=1", "b=x=y"}), (std::map<std::string, std::string>{{"a", "1"}, {"b", "x=y"}}));
  for (const char* text : {"a", "=1", "a=", ""}) {
    EXPECT_EQ(usage_error([&] { parse({text}); }), "--param: expected NAME=VALUE, found '" + std::string(text) + "'");
  }
  EXPECT_EQ(usage_error([&] { parse({"a=1", "a=2"}); }), "--param: 'a' is given twice");
}

TEST(Arguments, Constants) {
  auto parse = [](const char* text) { return parse_constants(std::vector<std::string>{text}).at("c"); };
  EXPECT_EQ(parse("c=true"), Scalar(true));
  EXPECT_EQ(parse("c=-4"), Scalar(int64_t{-4}));
  EXPECT_EQ(parse("c=2.5e3"), Scalar(2500.0));
  EXPECT_EQ(parse("c=-inf"), Scalar(-INFINITY));
  for (const char* text : {"c=nan", "c=1x", "c=0x10", "c= 1"}) {
    EXPECT_EQ(usage_error([&] { parse(text); }),
              "--const c: expected a number, true or false, found '" + std::string(text).substr(2) + "'");
  }
}

TEST(Arguments, ShapeSizes) {
  Shape shape = parse_shape("1,2,3,8,4,6,7");
  EXPECT_EQ((std::vector{shape.batch, shape.q_len, shape.k_len, shape.heads, shape.kv_heads, shape.head_dim, shape.v_dim}),
            (std::vector<int64_t>{1, 2, 3, 8, 4, 6, 7}));
  for (const char* text :
       {"", "1,2,3", "1,2,3,4,5,6,7,8", "1,2,3,4,4,6,", "1,2,3,4,4,6,0", "1,2,3,4,4,6,-7", "1, 2,3,4,4,6,7", "1,2,3,4,4,6,99999999999"}) {
    EXPECT_EQ(
        usage_error([&] { parse_shape(text); }),
        "--shape: expected seven sizes from 1 on, batch,q_len,k_len,heads,kv_heads,head_dim,v_dim, found '" + std::string(text) + "'");
  }
  EXPECT_EQ(usage_error([&] { parse_shape("1,2,3,8,3,6,7"); }), "--shape: heads 8 is not a multiple of kv_heads 3");
}

TEST(Arguments, Devices) {
  EXPECT_NO_THROW(check_device("auto"));
  EXPECT_NO_THROW(check_device("cpu"));
  EXPECT_NO_THROW(check_device("cuda:1"));
  EXPECT_EQ(usage_error([] { check_device("cuda:"); }), "--device: expected auto, cpu or cuda[:N], found 'cuda:'");
  EXPECT_EQ(usage_error([] { check_device("gpu"); }), "--device: expected auto, cpu or cuda[:N], found 'gpu'");
}

TEST(Arguments, DidYouMean) {
  const std::vector<std::string> names = {"window", "slopes", "cap"};
  EXPECT_EQ(did_you_mean("windwo", names), " (did you mean 'window'?)");
  EXPECT_EQ(did_you_mean("slope", names), " (did you mean 'slopes'?)");
  EXPECT_EQ(did_you_mean("cup", names), " (did you mean 'cap'?)");
  EXPECT_EQ(did_you_mean("bias", names), "");
  EXPECT_EQ(did_you_mean("", names), "");
}

// --- output files ---

class OutputFilesTest : public testing::Test {
 protected:
  OutputFilesTest() {
    std::string name = testing::TempDir() + "outputs-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~OutputFilesTest() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }

  std::string folder_;
};

TEST_F(OutputFilesTest, NothingUntilCommit) {
  {
    OutputFiles outputs;
    outputs.add("--a", path("a"));
    outputs.add("--b", path("b"));
    outputs.write_text("--a", "first");
    outputs.write_text("--b", "second");
    EXPECT_FALSE(std::filesystem::exists(path("a")));
    outputs.commit();
  }
  EXPECT_EQ(contents(path("a")), "first");
  EXPECT_EQ(contents(path("b")), "second");
  EXPECT_EQ(files(), 2u);
}

TEST_F(OutputFilesTest, LeavesNothingBehindWithoutCommit) {
  {
    OutputFiles outputs;
    outputs.add("--a", path("a"));
    outputs.write_text("--a", "first");
    EXPECT_EQ(files(), 1u);
  }
  EXPECT_EQ(files(), 0u);
  EXPECT_EQ(usage_error([&] {
              OutputFiles outputs;
              outputs.add("--a", path("a"));
              outputs.write("--a", [](const std::string&) { throw std::runtime_error("disk full"); });
            }),
            "--a: cannot write '" + path("a") + "': disk full");
  EXPECT_EQ(files(), 0u);
}

TEST_F(OutputFilesTest, KeepsPermissionsAndLinks) {
  std::ofstream(path("real")) << "old";
  chmod(path("real").c_str(), 0640);
  std::filesystem::create_symlink("real", path("link"));
  OutputFiles outputs;
  outputs.add("--a", path("link"));
  outputs.write_text("--a", "new");
  outputs.commit();
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_EQ(contents(path("real")), "new");
  struct stat status{};
  ASSERT_EQ(stat(path("real").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST_F(OutputFilesTest, RefusesWhatItCannotWrite) {
  auto add = [&](const std::string& name) { return usage_error([&] { OutputFiles().add("--out", name); }); };
  EXPECT_EQ(add(""), "--out: expected a file name, found ''");
  EXPECT_EQ(add(folder_), "--out: '" + folder_ + "' is a folder, expected a file name");
  EXPECT_EQ(add("/dev/null"), "--out: '/dev/null' is a device or pipe, expected a file name");
  EXPECT_EQ(add(path("no/o.npy")), "--out: cannot write '" + path("no/o.npy") + "': no folder '" + path("no") + "'");
  std::ofstream(path("file")) << "x";
  EXPECT_EQ(add(path("file/o.npy")), "--out: cannot write '" + path("file/o.npy") + "': no folder '" + path("file") + "'");
}

TEST_F(OutputFilesTest, RefusesTheSameFileTwice) {
  std::ofstream(path("q.npy")) << "x";
  std::filesystem::create_symlink(path("q.npy"), path("link.npy"));
  OutputFiles outputs;
  outputs.add_input("--q", path("q.npy"));
  outputs.add_input("--k", path("q.npy"));  // two inputs may be one file
  outputs.add("--out", path("o.npy"));
  EXPECT_EQ(usage_error([&] { outputs.add("--dq", folder_ + "/./o.npy"); }),
            "--dq: '" + folder_ + "/./o.npy' is already the output of --out");
  EXPECT_EQ(usage_error([&] { outputs.add("--dk", path("link.npy")); }),
            "--dk: '" + path("link.npy") + "' is also the input of --q; name another file");
}

}  // namespace
}  // namespace attune::cli
