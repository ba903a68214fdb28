#include <algorithm>

#include "dsl/limits.h"
#include "dsl_util.h"

namespace attune::dsl {
namespace {

std::string repeated(const std::string& text, size_t count) {
  std::string result;
  for (size_t i = 0; i < count; ++i) result += text;
  return result;
}

TEST(Limits, Bytes) {
  const std::string program = "attention a() {\n}\n";
  EXPECT_EQ(errors_of(program + std::string(kMaxSourceBytes - program.size(), ' ')), "");
  EXPECT_EQ(messages_of(program + std::string(kMaxSourceBytes - program.size() + 1, ' ')),
            "1:1: the text has 262145 bytes: the limit is 262144");
}

TEST(Limits, Tokens) {
  // attention a ( ) { ... } and the newline behind it: 7
  EXPECT_EQ(errors_of("attention a() {" + repeated(";", kMaxTokens - 7) + "}\n"), "");
  EXPECT_EQ(messages_of("attention a() {" + repeated(";", kMaxTokens - 6) + "}\n"), "1:16395: too many tokens: the limit is 16384");
  // Also where each token is an error of its own, and where each is a newline.
  const std::string stray = messages_of(repeated("$ ", 20000));
  EXPECT_EQ(std::count(stray.begin(), stray.end(), '\n'), 49);  // those that are printed
  EXPECT_EQ(errors_of("attention a() {" + repeated("\n", 20000) + "}\n"), "");
}

TEST(Limits, NamesBytes) {
  EXPECT_EQ(errors_of("attention " + std::string(kMaxNameBytes, 'x') + "() {\n}\n"), "");
  EXPECT_EQ(messages_of("attention " + std::string(kMaxNameBytes + 1, 'x') + "() {\n}\n"), "1:11: a name of 129 bytes: the limit is 128");
}

TEST(Limits, Parameters) {
  std::string params = "p0: f32";
  for (size_t i = 1; i < kMaxParameters; ++i) params += ", p" + std::to_string(i) + ": f32";
  EXPECT_EQ(errors_of("attention a(" + params + ") {\n}\n"), "");
  EXPECT_EQ(messages_of("attention a(\n" + params + ",\n more: f32, and_more: f32) {\n}\n"), "3:2: too many parameters: the limit is 64");
}

TEST(Limits, Rank) {
  EXPECT_EQ(errors_of("attention a(t: f32[1, 2, 3, 4, 5, 6]) {\n}\n"), "");
  EXPECT_EQ(messages_of("attention a(t: f32[1, 2, 3, 4, 5, 6, 7, 8]) {\n}\n"), "1:38: too many dims: the limit is 6");
}

// Each way to nest: the first has a height of kMaxNesting, the second one more.
struct Nest {
  std::string what;
  std::string open, middle, close;
  size_t count = kMaxNesting - 1;
};

class Nesting : public testing::TestWithParam<Nest> {};

std::string nested(const Nest& nest, size_t count) {
  return program_of(repeated(nest.open, count) + nest.middle + repeated(nest.close, count));
}

TEST_P(Nesting, IsLimited) {
  const Nest& nest = GetParam();
  EXPECT_EQ(errors_of(nested(nest, nest.count)), "") << nest.what;
  const std::string error = messages_of(nested(nest, nest.count + 1));
  EXPECT_TRUE(error.ends_with("the expression nests too deeply: the limit is 128 levels of operators and brackets")) << nest.what << "\n"
                                                                                                                     << error;
  EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  // Far behind the limit: one error, no deep recursion.
  const std::string deep = messages_of(nested(nest, 2000));
  EXPECT_TRUE(deep.ends_with("the expression nests too deeply: the limit is 128 levels of operators and brackets")) << nest.what << "\n"
                                                                                                                    << deep;
  EXPECT_EQ(deep.find('\n'), std::string::npos) << deep;
}

INSTANTIATE_TEST_SUITE_P(Ways, Nesting,
                         testing::Values(Nest{"brackets", "(", "1", ")"}, Nest{"calls", "f(", "1", ")"}, Nest{"indices", "t[", "1", "]"},
                                         Nest{"minus", "-", "1", ""}, Nest{"not", "not ", "1", ""}, Nest{"powers", "2 ** ", "1", ""},
                                         Nest{"sums", "", "1", " + 1"}, Nest{"products", "", "1", " / 1"}, Nest{"or", "", "a", " or b"},
                                         Nest{"later arguments", "f(1, ", "1", ")"},
                                         Nest{"brackets and sums", "(1 + ", "1", ")", (kMaxNesting - 2) / 2}),
                         [](const testing::TestParamInfo<Nest>& info) {
                           std::string name = info.param.what;
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

TEST(Limits, NestingIsThatOfOneExpression) {
  const std::string high = repeated("(", 100) + "1" + repeated(")", 100);
  EXPECT_EQ(errors_of("attention a(x: i32 = " + high + ", t: f32[" + high + "]) {\n  let y = " + high + " + " + high +
                      "\n  let z = " + high + "\n}\n"),
            "");
}

// Time and memory in proportion to the text, whatever it is.
TEST(Limits, HostileTextsAreReportedQuickly) {
  for (const char* part : {"(",  "[",    "{",           ")",           "]",    "}",  "(]",      "f(",   "a ", "1 ", "; ",
                           "\n", "let ", "let x = (\n", "score = [\n", "\xFF", "\"", "#\xFF\n", "not ", "1.", "=",  ":"}) {
    const std::string text = repeated(part, 12000);
    EXPECT_NE(errors_of(text), "") << part;
    errors_of("attention a() {\n  let x = " + text + "\n}\n");
    errors_of("attention a(" + text + ") {\n}\n");
  }
}

}  // namespace
}  // namespace attune::dsl
