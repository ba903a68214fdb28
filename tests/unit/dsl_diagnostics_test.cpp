#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "dsl/diagnostics.h"

namespace attune::dsl {
namespace {

// The errors of `text`, one for each mark "^" of `marks`, a line of blanks and marks for the text's only line.
std::string rendered(const std::string& text, SourceRange range, const std::string& note = {}) {
  Diagnostics diagnostics("a.attn", text);
  diagnostics.error(range, "message", note);
  return diagnostics.render();
}

TEST(Diagnostics, IsRenderedWithItsLineAndCaret) {
  const std::string text = "attention a() {\n  score   = qk\n  mask    = q_idx >= k_idxx\n}\n";
  Diagnostics diagnostics("flash.attn", text);
  const auto begin = static_cast<uint32_t>(text.find("k_idxx"));
  diagnostics.error({begin, begin + 6}, "unknown name 'k_idxx'", "did you mean 'k_idx'?");
  EXPECT_FALSE(diagnostics.ok());
  EXPECT_EQ(diagnostics.render(),
            "flash.attn:3:22: error: unknown name 'k_idxx'\n"
            "  mask    = q_idx >= k_idxx\n"
            "                     ^~~~~~ did you mean 'k_idx'?\n");
}

TEST(Diagnostics, NothingIsRenderedAsNothing) {
  Diagnostics diagnostics("a.attn", "abc");
  EXPECT_TRUE(diagnostics.ok());
  EXPECT_EQ(diagnostics.render(), "");
  EXPECT_EQ(diagnostics.render_json(), "[]");
}

TEST(Diagnostics, ColumnsCountCodePoints) {
  // Two, three and four bytes.
  EXPECT_EQ(rendered("\xC3\xA4\xE2\x89\xA4\xF0\x9F\x8D\x8E x", {10, 11}),
            "a.attn:1:5: error: message\n\xC3\xA4\xE2\x89\xA4\xF0\x9F\x8D\x8E x\n    ^\n");
  EXPECT_EQ(rendered("a \xE2\x89\xA4\xE2\x89\xA4 b", {2, 8}), "a.attn:1:3: error: message\na \xE2\x89\xA4\xE2\x89\xA4 b\n  ^~\n");
}

TEST(Diagnostics, AByteOrderMarkHasNoColumn) {
  EXPECT_EQ(rendered("\xEF\xBB\xBFx y", {5, 6}), "a.attn:1:3: error: message\nx y\n  ^\n");
  EXPECT_EQ(rendered("\xEF\xBB\xBFx\ny", {5, 6}), "a.attn:2:1: error: message\ny\n^\n");
}

TEST(Diagnostics, ATabIsOneBlank) {
  EXPECT_EQ(rendered("\tx\ty", {3, 4}), "a.attn:1:4: error: message\n x y\n   ^\n");
}

TEST(Diagnostics, WhatIsNoTextIsReplaced) {
  EXPECT_EQ(rendered(std::string("a\0b\x1B[31m\xFF", 9), {2, 3}),
            "a.attn:1:3: error: message\na\xEF\xBF\xBD"
            "b\xEF\xBF\xBD[31m\xEF\xBF\xBD\n  ^\n");
  EXPECT_EQ(rendered("a\xC2\x9B"
                     "b",
                     {0, 1}),
            "a.attn:1:1: error: message\na\xEF\xBF\xBD"
            "b\n^\n");  // a C1 control character
}

TEST(Diagnostics, LineEndsAreNotShown) {
  EXPECT_EQ(rendered("ab\r\ncd\r\n", {4, 6}), "a.attn:2:1: error: message\ncd\n^~\n");
  EXPECT_EQ(rendered("ab\ncd", {2, 2}), "a.attn:1:3: error: message\nab\n  ^\n");
  EXPECT_EQ(rendered("ab\n", {3, 3}), "a.attn:2:1: error: message\n\n^\n");
  EXPECT_EQ(rendered("", {0, 0}), "a.attn:1:1: error: message\n\n^\n");
}

TEST(Diagnostics, OfSeveralLinesTheFirstIsUnderlined) {
  EXPECT_EQ(rendered("max(a,\n  b)", {0, 11}), "a.attn:1:1: error: message\nmax(a,\n^~~~~~\n");
}

TEST(Diagnostics, ARangeBehindTheTextIsItsEnd) {
  EXPECT_EQ(rendered("ab", {7, 9}), "a.attn:1:3: error: message\nab\n  ^\n");
}

TEST(Diagnostics, ALongLineIsCutAroundTheCaret) {
  const std::string text = std::string(150, 'a') + "XY" + std::string(150, 'b');
  EXPECT_EQ(rendered(text, {150, 152}, "note"), "a.attn:1:151: error: message\n..." + std::string(60, 'a') + "XY" + std::string(38, 'b') +
                                                    "...\n" + std::string(63, ' ') + "^~ note\n");
  EXPECT_EQ(rendered(text, {0, 2}), "a.attn:1:1: error: message\n" + std::string(100, 'a') + "...\n^~\n");
  EXPECT_EQ(rendered(text, {301, 302}), "a.attn:1:302: error: message\n..." + std::string(100, 'b') + "\n" + std::string(102, ' ') + "^\n");
  // The underline ends with what is shown.
  EXPECT_EQ(rendered(text, {150, 302}), "a.attn:1:151: error: message\n..." + std::string(60, 'a') + "XY" + std::string(38, 'b') + "...\n" +
                                            std::string(63, ' ') + "^" + std::string(39, '~') + "\n");
  // 100 columns are not long; code points count, not bytes.
  std::string wide;
  for (int i = 0; i < 100; ++i) wide += "\xC3\xA4";
  EXPECT_EQ(rendered(wide, {198, 200}), "a.attn:1:100: error: message\n" + wide + "\n" + std::string(99, ' ') + "^\n");
  EXPECT_EQ(rendered(wide + "\xC3\xA4", {0, 2}), "a.attn:1:1: error: message\n" + wide + "...\n^\n");
}

TEST(Diagnostics, AreInTheOrderOfTheTextAndPrintedOnce) {
  Diagnostics diagnostics("a.attn", "one two");
  diagnostics.error({4, 7}, "second");
  diagnostics.error({0, 3}, "first");
  diagnostics.error({4, 7}, "second");
  diagnostics.error({4, 7}, "another");
  diagnostics.error({4, 7}, "second", "with a note");
  diagnostics.error({4, 5}, "second");
  EXPECT_EQ(diagnostics.errors().size(), 6U);
  EXPECT_EQ(diagnostics.render(),
            "a.attn:1:1: error: first\none two\n^~~\n"
            "a.attn:1:5: error: second\none two\n    ^\n"
            "a.attn:1:5: error: second\none two\n    ^~~\n"
            "a.attn:1:5: error: another\none two\n    ^~~\n"
            "a.attn:1:5: error: second\none two\n    ^~~ with a note\n");
}

TEST(Diagnostics, BehindFiftyTheyAreCounted) {
  Diagnostics diagnostics("a.attn", std::string(100, 'x'));
  for (uint32_t i = 0; i < 50; ++i) diagnostics.error({i, i + 1}, "wrong");
  EXPECT_EQ(diagnostics.render().find("more"), std::string::npos);
  diagnostics.error({50, 51}, "wrong");
  const std::string one_more = diagnostics.render();
  EXPECT_TRUE(one_more.ends_with("^\na.attn: 1 more error\n")) << one_more;
  diagnostics.error({51, 52}, "wrong");
  diagnostics.error({51, 52}, "wrong");  // the same: not counted
  const std::string two_more = diagnostics.render();
  EXPECT_TRUE(two_more.ends_with("^\na.attn: 2 more errors\n")) << two_more;
  EXPECT_EQ(nlohmann::json::parse(diagnostics.render_json()).size(), 52U);
}

TEST(Diagnostics, RenderAsJson) {
  Diagnostics diagnostics("a \xFF.attn", "\xC3\xA4 \"b\"\n\tcd");
  diagnostics.error({8, 10}, "second", "a \"note\"");
  diagnostics.error({3, 6}, "first");
  EXPECT_EQ(nlohmann::json::parse(diagnostics.render_json()), nlohmann::json::parse(R"([
    {"file": "a �.attn", "line": 1, "column": 3, "end_column": 6, "message": "first", "note": ""},
    {"file": "a �.attn", "line": 2, "column": 2, "end_column": 4, "message": "second", "note": "a \"note\""}
  ])"));
}

TEST(NearestName, IsTheOneWithTheFewestEdits) {
  EXPECT_EQ(nearest_name("k_idxx", {"q_idx", "k_idx", "k_len"}), "k_idx");  // delete
  EXPECT_EQ(nearest_name("hed_dim", {"head_dim", "v_dim"}), "head_dim");    // insert
  EXPECT_EQ(nearest_name("haed_dim", {"head_dim"}), "head_dim");            // swap: one edit, not two
  EXPECT_EQ(nearest_name("soft_max", {"softmax"}), "softmax");
  EXPECT_EQ(nearest_name("sigmoit", {"softmax", "sigmoid"}), "sigmoid");  // replace
  EXPECT_EQ(nearest_name("same", {"sane", "same"}), "same");
}

TEST(NearestName, IsWithinAThirdOfTheLength) {
  EXPECT_EQ(nearest_name("abc", {"abd"}), "abd");
  EXPECT_EQ(nearest_name("abc", {"add"}), "");
  EXPECT_EQ(nearest_name("ab", {"ac"}), "");
  EXPECT_EQ(nearest_name("abcdef", {"abcdxy"}), "abcdxy");
  EXPECT_EQ(nearest_name("abcdef", {"abcxyz"}), "");
  EXPECT_EQ(nearest_name("abc", {"abcde"}), "");
  EXPECT_EQ(nearest_name("abc", {}), "");
  EXPECT_EQ(nearest_name("", {"a"}), "");
}

TEST(NearestName, TiesGoToTheFirst) {
  EXPECT_EQ(nearest_name("cat", {"bat", "hat"}), "bat");
  EXPECT_EQ(nearest_name("cat", {"hat", "bat"}), "hat");
}

}  // namespace
}  // namespace attune::dsl
