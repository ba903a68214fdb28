// What a compiled program says of itself.
#include <gtest/gtest.h>

#include "api/attune.h"

namespace attune {
namespace {

TEST(Compile, ParametersAsTheProgramHasThem) {
  const Variant variant = compile(
      "attention many(cap: f32 = -log(k_len), w: const i32 = 4, slopes: grad f32[heads, 2*w-1], doc: i32[batch, k_len], on: bool, keep: "
      "u8[1], "
      "gain: grad f32) {\n"
      "  score = cap * qk + slopes[h, 0] * gain\n"
      "  mask = on and doc[b, k_idx] > keep[0]\n"
      "  weights = softmax(score)\n"
      "}\n");
  EXPECT_EQ(variant.name(), "many");
  EXPECT_TRUE(variant.is_softmax());
  const std::vector<ParamInfo>& params = variant.params();
  ASSERT_EQ(params.size(), 7u);
  const char* declarations[] = {"cap: f32 = -log(k_len)", "w: const i32 = 4", "slopes: grad f32[heads, 2 * w - 1]",
                                "doc: i32[batch, k_len]", "on: bool",         "keep: u8[1]",
                                "gain: grad f32"};
  for (size_t i = 0; i < params.size(); ++i) EXPECT_EQ(params[i].declaration, declarations[i]);
  EXPECT_EQ(params[0].name, "cap");
  EXPECT_TRUE(params[0].has_default && !params[0].is_tensor && !params[0].is_const && !params[0].is_grad);
  EXPECT_TRUE(params[1].is_const && params[1].dtype == DType::kI32);
  EXPECT_TRUE(params[2].is_tensor && params[2].is_grad && !params[2].has_default);
  EXPECT_TRUE(params[3].is_tensor && params[3].dtype == DType::kI32);
  EXPECT_TRUE(params[4].is_bool && params[4].dtype == DType::kU8);
  EXPECT_TRUE(!params[5].is_bool && params[5].dtype == DType::kU8);
  EXPECT_TRUE(params[6].is_grad && !params[6].is_tensor);
}

TEST(Compile, CanonicalTextCompilesToTheSame) {
  const Variant variant = compile("attention a ( ) {  score=qk ;weights = sigmoid( score )#x\n}");
  EXPECT_FALSE(variant.is_softmax());
  const Variant again = compile(variant.canonical());
  EXPECT_EQ(again.canonical(), variant.canonical());
  EXPECT_EQ(again.name(), "a");
}

TEST(Compile, DTypes) {
  const DType all[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI32, DType::kU8};
  const char* names[] = {"f32", "f16", "bf16", "i32", "u8"};
  const size_t sizes[] = {4, 2, 2, 4, 1};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(dtype_name(all[i]), names[i]);
    EXPECT_EQ(dtype_size(all[i]), sizes[i]);
  }
}

}  // namespace
}  // namespace attune
