#include <cmath>
#include <limits>
#include <stdexcept>

#include "dsl/builder.h"
#include "dsl/limits.h"
#include "dsl_util.h"

namespace attune::dsl::build {
namespace {

TEST(Builder, MakesTheProgramOfTheText) {
  Attention a("capped");
  const Value cap = a.param("cap", f32, 50);
  const Value window = a.param("window", constant(i32), 4096);
  const Tensor slopes = a.tensor("slopes", grad(f32), {heads});
  const Tensor sinks = a.tensor("sinks", grad(f32), {heads});
  const Value distance = a.let("distance", q_pos - k_pos);
  const Value soft = a.let("soft", cap * tanh(qk * rsqrt(head_dim) / cap));
  a.score(soft - slopes[h] * distance);
  a.mask(distance >= 0 && distance < window);
  a.weights(softmax(score, sinks[h]));
  const std::string text =
      "attention capped(cap: f32 = 50, window: const i32 = 4096, slopes: grad f32[heads], sinks: grad f32[heads]) {\n"
      "  let distance = q_pos - k_pos\n"
      "  let soft = cap * tanh(qk * rsqrt(head_dim) / cap)\n"
      "  score   = soft - slopes[h] * distance\n"
      "  mask    = distance >= 0 and distance < window\n"
      "  weights = softmax(score, sink = sinks[h])\n"
      "}\n";
  EXPECT_EQ(a.text(), text);
  const Built built = a.build();
  ASSERT_TRUE(built.program.has_value()) << built.diagnostics.render();
  EXPECT_EQ(print(*built.program), print(parsed(text)));
  EXPECT_EQ(built.diagnostics.text(), text);
  EXPECT_EQ(built.diagnostics.file_name(), "capped");
}

TEST(Builder, ReadsTensorsOfAnyRank) {
  Attention a("documents");
  const Tensor doc = a.tensor("doc", i32, {batch, k_len});
  const Value keep = a.param("keep", f32, 0.9);
  const Value seed = a.param("seed", i32, 0);
  a.score(qk * rsqrt(head_dim));
  a.mask(doc(b, q_idx) == doc(b, k_idx) and k_idx <= q_idx);
  a.weights(softmax(score) * where(random(seed) < keep, 1 / keep, 0));
  EXPECT_EQ(a.text(),
            "attention documents(doc: i32[batch, k_len], keep: f32 = 0.9, seed: i32 = 0) {\n"
            "  score   = qk * rsqrt(head_dim)\n"
            "  mask    = doc[b, q_idx] == doc[b, k_idx] and k_idx <= q_idx\n"
            "  weights = softmax(score) * where(random(seed) < keep, 1 / keep, 0)\n"
            "}\n");
}

// The text of a value, which must be what the printer makes of it.
std::string text_of(const Value& value) {
  EXPECT_EQ(printed_expression(value.text()), value.text());
  return value.text();
}

TEST(Builder, BracketsWhatBindsLooser) {
  const Value x = symbol("x"), y = symbol("y"), z = symbol("z");
  EXPECT_EQ(text_of((x + y) * z), "(x + y) * z");
  EXPECT_EQ(text_of(x + y * z), "x + y * z");
  EXPECT_EQ(text_of(x - (y - z)), "x - (y - z)");
  EXPECT_EQ(text_of(x - y - z), "x - y - z");
  EXPECT_EQ(text_of(pow(-x, 2)), "(-x) ** 2");
  EXPECT_EQ(text_of(-pow(x, 2)), "-x ** 2");
  EXPECT_EQ(text_of(pow(pow(x, y), z)), "(x ** y) ** z");
  EXPECT_EQ(text_of(pow(x, pow(y, z))), "x ** y ** z");
  EXPECT_EQ(text_of(floor_div(x, y) % z / x), "x // y % z / x");
  EXPECT_EQ(text_of(!(x < y) || y != z), "not x < y or y != z");
  EXPECT_EQ(text_of((!(x > y)) == (y >= z)), "(not x > y) == (y >= z)");
  EXPECT_EQ(text_of((x || y) && !z), "(x or y) and not z");
  EXPECT_EQ(text_of(x <= y), "x <= y");
}

TEST(Builder, WritesLiterals) {
  EXPECT_EQ(text_of(3), "3");
  EXPECT_EQ(text_of(int64_t{2147483647}), "2147483647");
  EXPECT_EQ(text_of(std::numeric_limits<int32_t>::min()), "-2147483648");
  EXPECT_EQ(text_of(pow(-3, 2)), "(-3) ** 2");
  EXPECT_EQ(text_of(true), "true");
  EXPECT_EQ(text_of(false), "false");
  EXPECT_EQ(text_of(2.0), "2.0");
  EXPECT_EQ(text_of(0.1), "0.1");
  EXPECT_EQ(text_of(0.1F), "0.1");
  EXPECT_EQ(text_of(-0.5), "-0.5");
  EXPECT_EQ(text_of(pow(-0.5, 2)), "(-0.5) ** 2");
  EXPECT_EQ(Value(std::numeric_limits<float>::max()).text(), "3.4028235e38");
  EXPECT_EQ(printed_expression("3.4028235e38"), "3.4028234663852886e38");
  EXPECT_EQ(text_of(INFINITY), "inf");
  EXPECT_EQ(text_of(-INFINITY), "-inf");
  EXPECT_EQ(text_of(pow(-INFINITY, 2)), "(-inf) ** 2");
}

TEST(Builder, NamesFunctionsAsTheLanguageDoes) {
  const Value x = symbol("x");
  EXPECT_EQ(text_of(exp(x) + exp2(x) + log(x) + log2(x) + sqrt(x) + rsqrt(x)), "exp(x) + exp2(x) + log(x) + log2(x) + sqrt(x) + rsqrt(x)");
  EXPECT_EQ(text_of(tanh(x) + sigmoid(x) + relu(x) + gelu(x) + silu(x) + softplus(x)),
            "tanh(x) + sigmoid(x) + relu(x) + gelu(x) + silu(x) + softplus(x)");
  EXPECT_EQ(text_of(erf(x) + sin(x) + cos(x) + abs(x) + floor(x)), "erf(x) + sin(x) + cos(x) + abs(x) + floor(x)");
  EXPECT_EQ(text_of(min(x, 1) + max(2, x) + clamp(x, 0, 1)), "min(x, 1) + max(2, x) + clamp(x, 0, 1)");
  EXPECT_EQ(text_of(f32(x) + i32(x) + bit(x, 3)), "f32(x) + i32(x) + bit(x, 3)");
  EXPECT_EQ(text_of(kv_h + q_len + kv_heads + v_dim + inf), "kv_h + q_len + kv_heads + v_dim + inf");
}

TEST(Builder, ErrorsPointIntoItsText) {
  Attention a("wrong");
  a.param("score", f32);
  a.let("big", 3000000000);
  a.score(qk);
  const Built built = a.build();
  EXPECT_FALSE(built.program.has_value());
  EXPECT_EQ(built.diagnostics.render(),
            "wrong:1:17: error: 'score' is a keyword of the language: expected another name\n"
            "attention wrong(score: f32) {\n"
            "                ^~~~~\n"
            "wrong:2:13: error: integer 3000000000 does not fit i32: expected at most 2147483647\n"
            "  let big = 3000000000\n"
            "            ^~~~~~~~~~\n");
}

template <typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Builder, ThrowsForWhatCannotBeText) {
  Attention a("a");
  EXPECT_EQ(message_of([] { Attention("a()"); }), "Attention: expected a name of letters, digits and '_', found 'a()'");
  EXPECT_EQ(message_of([&] { a.let("x = 1; let y", 2); }), "let: expected a name of letters, digits and '_', found 'x = 1; let y'");
  EXPECT_EQ(message_of([&] { a.param("", f32); }), "param: expected a name of letters, digits and '_', found ''");
  EXPECT_EQ(message_of([&] { a.tensor("2t", f32, {heads}); }), "tensor: expected a name of letters, digits and '_', found '2t'");
  EXPECT_EQ(message_of([] { Value(std::nan("")); }), "Value: expected a number, found NaN");
}

TEST(Builder, SharedValuesDoNotGrowForEver) {
  Attention a("large");
  Value x = symbol("qk");
  for (int i = 0; i < 100; ++i) x = x * x;
  EXPECT_EQ(x.text().size(), kMaxSourceBytes + 1);
  a.score(x);
  const Built built = a.build();
  EXPECT_FALSE(built.program.has_value());
  ASSERT_EQ(built.diagnostics.errors().size(), 1U);
  EXPECT_TRUE(built.diagnostics.errors()[0].message.ends_with("bytes: the limit is 262144"));
}

TEST(Builder, LongSumsAreNoDeeperThanInText) {
  Attention a("sum");
  Value x = 1;
  for (int i = 1; i < kMaxNesting; ++i) x = x + 1;
  a.let("x", x);
  EXPECT_TRUE(a.build().program.has_value());
}

}  // namespace
}  // namespace attune::dsl::build
