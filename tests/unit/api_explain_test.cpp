// explain.h and doctor.h.
#include <gtest/gtest.h>

#include "api/doctor.h"
#include "api/explain.h"
#include "tests/unit/api_util.h"

namespace attune {
namespace {

using test::error_of;
using test::Ints;

constexpr std::string_view kText =
    "attention capped(cap: const f32 = 50, slopes: grad f32[heads]) {\n"
    "  let soft = cap * tanh(qk / cap)\n"
    "  score = soft - slopes[h] * (q_pos - k_pos)\n"
    "  mask = k_pos <= q_pos\n"
    "  weights = softmax(score, sink = -1)\n"
    "}\n";

TEST(Explain, SyntaxTree) {
  EXPECT_EQ(explain(kText, Stage::kAst),
            "(attention capped\n"
            "  (param cap const f32\n"
            "    (default\n"
            "      50))\n"
            "  (param slopes grad f32\n"
            "    (dims\n"
            "      heads))\n"
            "  (let soft\n"
            "    (*\n"
            "      cap\n"
            "      (call tanh\n"
            "        (/\n"
            "          qk\n"
            "          cap))))\n"
            "  (score\n"
            "    (-\n"
            "      soft\n"
            "      (*\n"
            "        (index slopes\n"
            "          h)\n"
            "        (-\n"
            "          q_pos\n"
            "          k_pos))))\n"
            "  (mask\n"
            "    (<=\n"
            "      k_pos\n"
            "      q_pos))\n"
            "  (weights\n"
            "    (call softmax sink\n"
            "      score\n"
            "      (-\n"
            "        1))))\n");
}

TEST(Explain, EveryStageHasText) {
  for (Stage stage : {Stage::kIr, Stage::kGrad, Stage::kRates, Stage::kBounds}) {
    EXPECT_NE(explain(kText, stage), "") << static_cast<int>(stage);
    EXPECT_EQ(explain(kText, stage), explain(kText, stage)) << static_cast<int>(stage);
  }
  EXPECT_NE(explain(kText, Stage::kIr).find("score"), std::string::npos);
  EXPECT_NE(explain(kText, Stage::kGrad).find("slopes"), std::string::npos);
}

TEST(Explain, LlvmOfBothPasses) {
  const std::string text = explain(kText, Stage::kLlvm);
  EXPECT_NE(text.find("define"), std::string::npos);
  EXPECT_NE(text.find("define", text.find("define") + 1), std::string::npos);
}

TEST(Explain, ConstDefaultsMayNeedTheHeadDim) {
  const std::string text =
      explain("attention a(n: const i32 = head_dim // 2) {\n  score = qk * n\n  weights = softmax(score)\n}\n", Stage::kIr,
              {.compile = {}, .shape = {.batch = 1, .heads = 1, .kv_heads = 1, .q_len = 1, .k_len = 1, .head_dim = 34, .v_dim = 1}});
  EXPECT_NE(text.find("17"), std::string::npos) << text;
}

TEST(Explain, WrongProgramsAreRefused) {
  EXPECT_NE(
      error_of<ProgramError>([] { explain("attention a() {\n  score = qkk\n  weights = softmax(score)\n}\n", Stage::kAst); }).find("'qkk'"),
      std::string::npos);
}

TEST(Explain, KernelsOfAGpu) {
  ExplainOptions options;
  options.dtype = DType::kBF16;
  EXPECT_NE(explain(kText, Stage::kCuda, options).find("attention_forward_sm90<Config, Variant>(p);"), std::string::npos);
  options.backward = true;
  const std::string backward = explain(kText, Stage::kCuda, options);
  EXPECT_NE(backward.find("attention_backward_sm90<Config, Variant>(p);"), std::string::npos);
  EXPECT_NE(backward.find(" --emit cuda --backward --arch sm_90a --dtype bf16 --shape 1,4096,4096,16,16,64,64"), std::string::npos);
  options.shape.q_len = 16;
  options.backward = false;
  EXPECT_NE(explain(kText, Stage::kCuda, options).find("attention_forward_sm80<Config, Variant>(p);"), std::string::npos);
}

constexpr Shape kSquare = {.batch = 1, .heads = 1, .kv_heads = 1, .q_len = 200, .k_len = 200, .head_dim = 8, .v_dim = 8};

// Classes must be sound with respect to the pairs; `partial` tiles are the price of being incomplete.
void check_classes(const MaskTiles& tiles, int64_t max_partial) {
  const int64_t rows = (tiles.q_len + tiles.block_q - 1) / tiles.block_q, columns = (tiles.k_len + tiles.block_k - 1) / tiles.block_k;
  ASSERT_EQ(tiles.classes.size(), static_cast<size_t>(rows * columns));
  ASSERT_EQ(tiles.kept.size(), static_cast<size_t>(tiles.q_len * tiles.k_len));
  EXPECT_LE(rows, 64);
  EXPECT_LE(columns, 64);
  int64_t partial = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      int64_t kept = 0, pairs = 0;
      for (int64_t q = r * tiles.block_q; q < std::min(tiles.q_len, (r + 1) * tiles.block_q); ++q) {
        for (int64_t k = c * tiles.block_k; k < std::min(tiles.k_len, (c + 1) * tiles.block_k); ++k) {
          kept += tiles.kept[static_cast<size_t>(q * tiles.k_len + k)];
          ++pairs;
        }
      }
      const TileClass found = tiles.classes[static_cast<size_t>(r * columns + c)];
      const bool is_sound = found == TileClass::kPartial || kept == (found == TileClass::kFull ? pairs : 0);
      EXPECT_TRUE(is_sound) << "tile " << r << ", " << c << " of class " << static_cast<int>(found) << " keeps " << kept << " of " << pairs;
      partial += found == TileClass::kPartial;
    }
  }
  EXPECT_LE(partial, max_partial);
}

TEST(MaskPicture, Causal) {
  const MaskTiles tiles =
      mask_tiles(compile("attention a() {\n  score = qk\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n"), kSquare);
  EXPECT_EQ(tiles.block_q, 4);
  EXPECT_EQ(tiles.block_k, 4);
  EXPECT_EQ(tiles.kept[5 * 200 + 5], 1);
  EXPECT_EQ(tiles.kept[5 * 200 + 6], 0);
  check_classes(tiles, 50);
  EXPECT_EQ(tiles.classes[0], TileClass::kPartial);
  EXPECT_EQ(tiles.classes[1], TileClass::kSkipped);
  EXPECT_EQ(tiles.classes[50], TileClass::kFull);
}

TEST(MaskPicture, NoMask) {
  const MaskTiles tiles = mask_tiles(compile("attention a() {\n  score = qk\n  weights = softmax(score)\n}\n"), kSquare);
  check_classes(tiles, 0);
  EXPECT_EQ(tiles.classes, std::vector<TileClass>(2500, TileClass::kFull));
}

TEST(MaskPicture, DocumentsOfATensorOnlyNeedTheMasksParameters) {
  Ints doc({1, 200});
  for (size_t i = 0; i < 200; ++i) doc[i] = static_cast<int32_t>(i / 50);
  PlanOptions options;
  options.tensors["doc"] = doc;
  const Variant variant = compile(
      "attention a(doc: i32[batch, k_len], slopes: f32[heads], cap: f32) {\n"
      "  score = cap * qk + slopes[h]\n"
      "  mask = doc[b, q_idx] == doc[b, k_idx] and k_idx <= q_idx\n"
      "  weights = softmax(score)\n"
      "}\n");
  const MaskTiles tiles = mask_tiles(variant, kSquare, options);
  EXPECT_EQ(tiles.kept[60 * 200 + 55], 1);
  EXPECT_EQ(tiles.kept[60 * 200 + 45], 0);
  check_classes(tiles, 300);
}

TEST(MaskPicture, OfOnePackedSequenceAndHead) {
  const std::vector<int32_t> cu_q = {0, 10, 13}, cu_k = {0, 10, 17};
  PlanOptions options;
  options.cu_q = cu_q.data();
  options.cu_k = cu_k.data();
  Shape shape = kSquare;
  shape.batch = 2;
  shape.heads = 2;
  shape.q_len = shape.k_len = 10;
  const Variant variant = compile("attention a() {\n  score = qk\n  mask = k_pos <= q_pos + h\n  weights = softmax(score)\n}\n");
  const MaskTiles tiles = mask_tiles(variant, shape, options, 1, 1);
  EXPECT_EQ(tiles.q_len, 3);
  EXPECT_EQ(tiles.k_len, 7);
  EXPECT_EQ(tiles.kept, (std::vector<uint8_t>{1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}));
}

TEST(Doctor, KnowsThisMachine) {
  const DoctorReport report = doctor();
  EXPECT_EQ(report.attune_version, "0.1.0");
  EXPECT_EQ(report.llvm_version.rfind("19.", 0), 0u) << report.llvm_version;
  EXPECT_NE(report.cpu, "");
  EXPECT_GE(report.cores, 1);
  EXPECT_NE(report.driver.path, "");
  EXPECT_NE(report.nvrtc.path, "");
  EXPECT_EQ(report.cache_usable, report.cache_problem.empty());
  EXPECT_GT(report.cache_limit_bytes, 0);
}

}  // namespace
}  // namespace attune
