#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "dsl/lexer.h"

namespace attune::dsl {
namespace {

constexpr std::string_view kKindNames[] = {"word", "integer", "decimal", "symbol", "newline", "error", "end"};

// "kind text" of each token, without the end.
std::string tokens_of(const std::string& text) {
  Diagnostics diagnostics("t.attn", text);
  const auto tokens = lex(diagnostics);
  if (!tokens) return "none";
  EXPECT_EQ(tokens->back().kind, TokenKind::kEnd);
  std::string result;
  for (const Token& token : *tokens) {
    if (token.kind == TokenKind::kEnd) continue;
    if (!result.empty()) result += ' ';
    result += kKindNames[static_cast<int>(token.kind)];
    if (!token.text.empty()) result += fmt::format(":{}", token.text);
  }
  return result;
}

std::string first_error(const std::string& text) {
  Diagnostics diagnostics("t.attn", text);
  lex(diagnostics);
  return diagnostics.ok() ? "" : diagnostics.errors()[0].message;
}

Token first_token(const std::string& text) {
  static Diagnostics diagnostics("", "");  // owns the text of the token
  diagnostics = Diagnostics("t.attn", text);
  const auto tokens = lex(diagnostics);
  EXPECT_TRUE(diagnostics.ok()) << diagnostics.render();
  return tokens->front();
}

TEST(Lexer, SplitsWordsNumbersAndSymbols) {
  EXPECT_EQ(tokens_of("let x1=_a*2"), "word:let word:x1 symbol:= word:_a symbol:* integer:2");
  EXPECT_EQ(tokens_of("a**b*c//d/e==f=g<=h<i>=j>k!=l%m"),
            "word:a symbol:** word:b symbol:* word:c symbol:// word:d symbol:/ word:e symbol:== word:f symbol:= word:g symbol:<= word:h "
            "symbol:< word:i symbol:>= word:j symbol:> word:k symbol:!= word:l symbol:% word:m");
  EXPECT_EQ(tokens_of("( ) [ ] { } , : ; + -"),
            "symbol:( symbol:) symbol:[ symbol:] symbol:{ symbol:} symbol:, symbol:: symbol:; symbol:+ symbol:-");
  EXPECT_EQ(tokens_of(""), "");
}

TEST(Lexer, LongestSymbolsComeFirst) {
  EXPECT_EQ(tokens_of("a***b"), "word:a symbol:** symbol:* word:b");
  EXPECT_EQ(tokens_of("a///b"), "word:a symbol:// symbol:/ word:b");
  EXPECT_EQ(tokens_of("a<==b"), "word:a symbol:<= symbol:= word:b");
}

TEST(Lexer, NewlinesAreOneToken) {
  EXPECT_EQ(tokens_of("\n\n a \n\n # comment\n b # comment\n"), "word:a newline word:b newline");
  EXPECT_EQ(tokens_of("a\r\n\r\nb"), "word:a newline word:b");
}

TEST(Lexer, ANewlineStandsBehindTheTokenBeforeIt) {
  Diagnostics diagnostics("t.attn", "ab  # comment\n\ncd  ");
  const auto tokens = lex(diagnostics);
  ASSERT_EQ(tokens->size(), 4U);
  EXPECT_EQ((*tokens)[1].range.begin, 2U);
  EXPECT_EQ((*tokens)[1].range.end, 2U);
  EXPECT_EQ((*tokens)[2].line, 3U);
  EXPECT_EQ((*tokens)[2].range.begin, 15U);
  EXPECT_EQ((*tokens)[2].range.end, 17U);
  EXPECT_EQ((*tokens)[3].range.begin, 17U);  // the end
}

TEST(Lexer, CommentsMayHoldAnyUtf8) {
  EXPECT_EQ(tokens_of("a # \xC3\xA9 \xE2\x88\x9E \xF0\x9F\x8D\x8E ( [ { \" $ \x01\nb"), "word:a newline word:b");
  EXPECT_EQ(tokens_of("# at the end"), "");
}

TEST(Lexer, AByteOrderMarkIsSkipped) {
  EXPECT_EQ(tokens_of("\xEF\xBB\xBF"
                      "a"),
            "word:a");
}

TEST(Lexer, ReadsIntegers) {
  EXPECT_EQ(first_token("0").integer, 0U);
  EXPECT_EQ(first_token("007").integer, 7U);
  EXPECT_EQ(first_token("2147483647").integer, 2147483647U);
  EXPECT_EQ(first_token("2147483648").integer, kIntegerBelowZero);
  EXPECT_EQ(first_error("2147483649"), "integer 2147483649 does not fit i32: expected at most 2147483647");
  EXPECT_EQ(first_error("4294967297"), "integer 4294967297 does not fit i32: expected at most 2147483647");
  EXPECT_EQ(first_error("100000000000000000000"), "integer 100000000000000000000 does not fit i32: expected at most 2147483647");
}

TEST(Lexer, ReadsDecimals) {
  EXPECT_EQ(first_token("0.1").decimal, 0.1);
  EXPECT_EQ(first_token("1e-3").decimal, 1e-3);
  EXPECT_EQ(first_token("1E+3").decimal, 1000.0);
  EXPECT_EQ(first_token("12.50e2").decimal, 1250.0);
  EXPECT_EQ(first_token("0.0").decimal, 0.0);
  EXPECT_EQ(first_token("0e999").decimal, 0.0);
  EXPECT_EQ(first_token("1.5").kind, TokenKind::kDecimal);
  EXPECT_EQ(first_token("1e0").kind, TokenKind::kDecimal);
}

TEST(Lexer, DecimalsFitF32) {
  EXPECT_EQ(first_token("3.4028235e38").decimal, 0x1.fffffep127);  // rounds to the largest f32, though it is larger
  EXPECT_EQ(first_token("1.4e-45").decimal, 1.4e-45);
  EXPECT_EQ(first_error("3.4028236e38"), "decimal 3.4028236e38 does not fit f32: expected 0 or 1.4e-45 to 3.4028235e38");
  EXPECT_EQ(first_error("7e-46"), "decimal 7e-46 does not fit f32: expected 0 or 1.4e-45 to 3.4028235e38");
  EXPECT_EQ(first_error("1e400"), "decimal 1e400 does not fit f32: expected 0 or 1.4e-45 to 3.4028235e38");
  EXPECT_EQ(first_error("1e-400"), "decimal 1e-400 does not fit f32: expected 0 or 1.4e-45 to 3.4028235e38");
}

TEST(Lexer, RefusesWhatIsNoNumber) {
  for (const char* text : {"1.", ".5", "1.5.2", "1e", "1e+", "1e5e5", "1e5.5", "12ab", "0x10", "1_000", "1.0f", "1..2"}) {
    EXPECT_EQ(first_error(text), fmt::format("'{}' is not a number", text));
  }
  EXPECT_EQ(first_error("1" + std::string(50, 'x')), "'1" + std::string(39, 'x') + "...' is not a number");
}

TEST(Lexer, ANumberEndsWhereItCan) {
  EXPECT_EQ(tokens_of("1-2"), "integer:1 symbol:- integer:2");
  EXPECT_EQ(tokens_of("1e3-2"), "decimal:1e3 symbol:- integer:2");
  EXPECT_EQ(tokens_of("2*x"), "integer:2 symbol:* word:x");
}

TEST(Lexer, KnowsItsWords) {
  EXPECT_TRUE(is_keyword("attention") && is_keyword("inf") && is_keyword("weights") && is_keyword("u8"));
  EXPECT_FALSE(is_keyword("softmax") || is_keyword("sink") || is_keyword("qk") || is_keyword(""));
  EXPECT_TRUE(is_word("a") && is_word("_") && is_word("Q_9"));
  EXPECT_FALSE(is_word("") || is_word("9a") || is_word("a b") || is_word("\xC3\xA9") || is_word("a-b"));
}

TEST(Lexer, MatchesBrackets) {
  Diagnostics diagnostics("t.attn", "{ ( [ ] ) ( ) }");
  const auto tokens = lex(diagnostics);
  EXPECT_TRUE(diagnostics.ok());
  const uint32_t partners[] = {7, 4, 3, 0, 0, 6, 0, 0, 0};
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ((*tokens)[i].partner, partners[i]) << i;
    EXPECT_FALSE((*tokens)[i].is_unclosed) << i;
  }
}

TEST(Lexer, AnUnclosedBracketEndsWhereItMust) {
  // At the closing bracket of an outer one, at a brace, at a statement, at the end.
  const auto partner_of = [](const std::string& text, size_t bracket) {
    Diagnostics diagnostics("t.attn", text);
    const auto tokens = lex(diagnostics);
    EXPECT_TRUE((*tokens)[bracket].is_unclosed) << text;
    return (*tokens)[bracket].partner;
  };
  EXPECT_EQ(partner_of("( [ )", 1), 2U);
  EXPECT_EQ(partner_of("( [ {", 1), 2U);
  EXPECT_EQ(partner_of("{ ( a }", 1), 3U);
  EXPECT_EQ(partner_of("( a\nlet", 0), 3U);
  EXPECT_EQ(partner_of("( a\nscore =", 0), 3U);
  EXPECT_EQ(partner_of("( a\nscore\nb", 0), 6U);
  EXPECT_EQ(partner_of("( a", 0), 2U);
}

}  // namespace
}  // namespace attune::dsl
