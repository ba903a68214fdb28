#include "dsl/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

#include "dsl/limits.h"
#include "dsl/utf8.h"

namespace attune::dsl {
namespace {

constexpr std::array<std::string_view, 19> kKeywords = {"attention", "let", "score", "mask",  "weights", "const", "grad",
                                                        "f32",       "f16", "bf16",  "i32",   "u8",      "bool",  "and",
                                                        "or",        "not", "true",  "false", "inf"};
// The longer one of two that start alike stands first.
constexpr std::array<std::string_view, 23> kSymbols = {"**", "//", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}",
                                                       ",",  ":",  ";",  "=",  "<",  ">",  "+", "-", "*", "/", "%"};

struct Hint {
  std::string_view written, meant;
};
constexpr std::array<Hint, 14> kHints = {{{"&&", "and"},
                                          {"&", "and"},
                                          {"||", "or"},
                                          {"|", "or"},
                                          {"!", "not"},
                                          {"^", "**"},
                                          {"\xE2\x89\xA4", "<="},     // less-than or equal to
                                          {"\xE2\x89\xA5", ">="},     // greater-than or equal to
                                          {"\xE2\x89\xA0", "!="},     // not equal to
                                          {"\xE2\x88\x92", "-"},      // minus sign
                                          {"\xE2\x80\x93", "-"},      // en dash
                                          {"\xC3\x97", "*"},          // multiplication sign
                                          {"\xC3\xB7", "/"},          // division sign
                                          {"\xE2\x88\x9E", "inf"}}};  // infinity

constexpr size_t kMaxQuoted = 40;  // bytes of a literal that a message repeats

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_word_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_word_part(char c) {
  return is_word_start(c) || is_digit(c);
}

bool is_quote(char c) {
  return c == '"' || c == '\'';
}

std::string_view symbol_at(std::string_view rest) {
  for (std::string_view symbol : kSymbols) {
    if (rest.starts_with(symbol)) return symbol;
  }
  return {};
}

// DIGITS [. DIGITS] [e [+-] DIGITS]
bool is_number(std::string_view text, bool& is_decimal) {
  size_t at = 0;
  const auto digits = [&] {
    const size_t begin = at;
    while (at < text.size() && is_digit(text[at])) ++at;
    return at > begin;
  };
  is_decimal = false;
  if (!digits()) return false;
  if (at < text.size() && text[at] == '.') {
    is_decimal = true;
    ++at;
    if (!digits()) return false;
  }
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    is_decimal = true;
    ++at;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    if (!digits()) return false;
  }
  return at == text.size();
}

class Lexer {
 public:
  explicit Lexer(Diagnostics& diagnostics) : diagnostics_(diagnostics), text_(diagnostics.text()) {}

  std::optional<std::vector<Token>> lex() {
    if (text_.size() > kMaxSourceBytes) {
      error(0, 0, fmt::format("the text has {} bytes: the limit is {}", text_.size(), kMaxSourceBytes));
      return std::nullopt;
    }
    if (text_.starts_with(kByteOrderMark)) at_ = kByteOrderMark.size();
    while (at_ < text_.size()) {
      const size_t begin = at_;
      next();
      if (tokens_.size() > kMaxTokens) {
        error(begin, at_, fmt::format("too many tokens: the limit is {}", kMaxTokens));
        return std::nullopt;
      }
    }
    push(TokenKind::kEnd, tokens_.empty() ? at_ : tokens_.back().range.end, 0);
    return std::move(tokens_);
  }

 private:
  void next() {
    const char c = text_[at_];
    if (c == ' ' || c == '\t') {
      ++at_;
    } else if (c == '\n' || text_.substr(at_).starts_with("\r\n")) {
      newline(c == '\n' ? 1 : 2);
    } else if (c == '#') {
      comment();
    } else if (is_word_start(c)) {
      word();
    } else if (is_digit(c) || (c == '.' && at_ + 1 < text_.size() && is_digit(text_[at_ + 1]))) {
      number();
    } else if (const std::string_view symbol = symbol_at(text_.substr(at_)); !symbol.empty()) {
      push(TokenKind::kSymbol, at_, symbol.size());
      at_ += symbol.size();
    } else {
      stray();
    }
  }

  void newline(size_t bytes) {
    if (!tokens_.empty() && tokens_.back().kind != TokenKind::kNewline) push(TokenKind::kNewline, tokens_.back().range.end, 0);
    at_ += bytes;
    ++line_;
  }

  void comment() {
    while (at_ < text_.size() && text_[at_] != '\n') {
      const CodePoint point = decode_utf8(text_, at_);
      if (!point.is_valid) {
        invalid_byte(point);
        at_ = std::min(text_.find('\n', at_), text_.size());
        return;
      }
      at_ += point.bytes;
    }
  }

  void word() {
    const size_t begin = at_;
    while (at_ < text_.size() && is_word_part(text_[at_])) ++at_;
    if (at_ - begin > kMaxNameBytes) {
      error(begin, at_, fmt::format("a name of {} bytes: the limit is {}", at_ - begin, kMaxNameBytes));
      push(TokenKind::kError, begin, at_ - begin);
      return;
    }
    push(TokenKind::kWord, begin, at_ - begin);
  }

  void number() {
    const size_t begin = at_;
    while (at_ < text_.size() && (is_word_part(text_[at_]) || text_[at_] == '.')) {
      const bool is_exponent = text_[at_] == 'e' || text_[at_] == 'E';
      ++at_;
      // The sign of an exponent belongs to the number, though not in "3e - 1".
      if (is_exponent && at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
    }
    const std::string_view text = text_.substr(begin, at_ - begin);
    bool is_decimal = false;
    const bool is_valid = is_number(text, is_decimal);
    if (!is_valid) {
      std::string note = "numbers look like 12, 0.5 or 1e-3";
      if (text.starts_with('.')) note = fmt::format("write 0{}", quoted(text));
      if (text.find('.') == text.size() - 1) note = fmt::format("write {}0", quoted(text));
      error(begin, at_, fmt::format("'{}' is not a number", quoted(text)), std::move(note));
    }
    push(is_decimal || !is_valid ? TokenKind::kDecimal : TokenKind::kInteger, begin, text.size());
    if (!is_valid) return;
    if (is_decimal) {
      decimal(tokens_.back());
    } else {
      integer(tokens_.back());
    }
  }

  void integer(Token& token) {
    const auto [end, code] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), token.integer);
    if (code == std::errc() && token.integer <= kIntegerBelowZero) return;
    diagnostics_.error(token.range, fmt::format("integer {} does not fit i32: expected at most 2147483647", quoted(token.text)));
    token.integer = 0;
  }

  void decimal(Token& token) {
    // Up to half a unit behind the largest f32, decimals round to it.
    constexpr double kLargest = std::numeric_limits<float>::max();
    constexpr double kTooLarge = 0x1.ffffffp127;
    constexpr double kTooSmall = 0x1p-150;
    double value = 0;
    const auto [end, code] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    const bool is_zero = value == 0 && code == std::errc();
    if (code != std::errc() || value >= kTooLarge || (value <= kTooSmall && !is_zero)) {
      diagnostics_.error(token.range,
                         fmt::format("decimal {} does not fit f32: expected 0 or 1.4e-45 to 3.4028235e38", quoted(token.text)));
      return;
    }
    token.decimal = std::min(value, kLargest);
  }

  // A run of characters that start no token is one error, and so is a string.
  void stray() {
    const size_t begin = at_;
    const CodePoint first = decode_utf8(text_, begin);
    push(TokenKind::kError, begin, 0);
    if (!first.is_valid) {
      invalid_byte(first);
      while (at_ < text_.size() && !decode_utf8(text_, at_).is_valid) ++at_;
    } else {
      while (at_ < text_.size() && starts_no_token(at_)) at_ += decode_utf8(text_, at_).bytes;
      if (is_quote(text_[begin])) at_ = std::max(at_, end_of_string(begin));
      std::string shown = fmt::format("'{}'", text_.substr(begin, first.bytes));
      if (first.value >= 0x80) shown += fmt::format(" (U+{:04X})", first.value);
      if (first.value < 0x20 || (first.value >= 0x7F && first.value < 0xA0)) shown = fmt::format("U+{:04X}", first.value);
      error(begin, at_, fmt::format("unexpected character {}", shown), hint(begin));
    }
    tokens_.back().range.end = static_cast<uint32_t>(at_);
  }

  bool starts_no_token(size_t at) const {
    const char c = text_[at];
    const bool is_blank = c == ' ' || c == '\t' || c == '\n' || c == '#' || text_.substr(at).starts_with("\r\n");
    return !is_blank && !is_word_part(c) && symbol_at(text_.substr(at)).empty() && decode_utf8(text_, at).is_valid;
  }

  // Behind the closing quote, if it is on the same line; else 0.
  size_t end_of_string(size_t begin) const {
    const size_t end = text_.find_first_of(text_[begin] == '"' ? "\"\n" : "'\n", begin + 1);
    return end != std::string_view::npos && text_[end] != '\n' ? end + 1 : 0;
  }

  std::string hint(size_t begin) const {
    const std::string_view run = text_.substr(begin, at_ - begin);
    for (const Hint& hint : kHints) {
      if (run == hint.written) return fmt::format("did you mean '{}'?", hint.meant);
    }
    if (is_quote(run.front())) return "the language has no strings";
    const bool touches_word = (begin > 0 && is_word_part(text_[begin - 1])) || (at_ < text_.size() && is_word_part(text_[at_]));
    const bool is_ascii = static_cast<unsigned char>(run.front()) < 0x80;
    return touches_word && !is_ascii ? "names consist of ASCII letters, digits and '_'" : "";
  }

  void invalid_byte(const CodePoint& point) { error(at_, at_ + 1, fmt::format("byte 0x{:02X} is not UTF-8", point.value)); }

  void push(TokenKind kind, size_t begin, size_t bytes) {
    Token token;
    token.kind = kind;
    token.range = {static_cast<uint32_t>(begin), static_cast<uint32_t>(begin + bytes)};
    if (kind != TokenKind::kError) token.text = text_.substr(begin, bytes);
    token.line = line_;
    tokens_.push_back(token);
  }

  void error(size_t begin, size_t end, std::string message, std::string note = {}) {
    diagnostics_.error({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, std::move(message), std::move(note));
  }

  static std::string quoted(std::string_view text) {
    return text.size() <= kMaxQuoted ? std::string(text) : fmt::format("{}...", text.substr(0, kMaxQuoted));
  }

  Diagnostics& diagnostics_;
  std::string_view text_;
  size_t at_ = 0;
  uint32_t line_ = 1;
  std::vector<Token> tokens_;
};

// Sets the partners of all brackets. An error for each that has none.
class BracketMatcher {
 public:
  BracketMatcher(Diagnostics& diagnostics, std::vector<Token>& tokens) : diagnostics_(diagnostics), tokens_(tokens) {}

  void match() {
    for (uint32_t i = 0; i < tokens_.size(); ++i) {
      const std::string_view text = tokens_[i].text;
      if (text == "{" || text == "}" || starts_statement(i)) leave_unclosed(i, [](std::string_view open) { return open == "{"; });
      if (text == "(" || text == "[" || text == "{") open_.push_back(i);
      if (text == ")" || text == "]" || text == "}") close(i);
    }
    leave_unclosed(static_cast<uint32_t>(tokens_.size() - 1), [](std::string_view) { return false; });
  }

 private:
  static std::string_view closer_of(std::string_view open) {
    if (open == "(") return ")";
    if (open == "[") return "]";
    return open == "{" ? "}" : "";
  }

  // Whether a line starts here with what cannot stand in ( ) or [ ].
  bool starts_statement(uint32_t i) const {
    if (i == 0 || tokens_[i - 1].kind != TokenKind::kNewline) return false;
    const std::string_view text = tokens_[i].text;
    if (text == "let") return true;
    return (text == "score" || text == "mask" || text == "weights") && tokens_[i + 1].text == "=";
  }

  // All that are open, from the innermost to the first that `stays`, cannot be closed by token `i` or behind it.
  template <typename Stays>
  void leave_unclosed(uint32_t i, Stays stays) {
    while (!open_.empty() && !stays(tokens_[open_.back()].text)) {
      Token& open = tokens_[open_.back()];
      open.partner = i;
      open.is_unclosed = true;
      diagnostics_.error(open.range, fmt::format("'{}' is never closed: expected '{}'", open.text, closer_of(open.text)));
      open_.pop_back();
    }
  }

  void close(uint32_t i) {
    Token& token = tokens_[i];
    if (open_.empty() && token.text == "}") return;  // the parser has an error here
    const auto opens_it = [&](std::string_view open) { return closer_of(open) == token.text; };
    if (!open_.empty() && opens_it(tokens_[open_.back()].text)) return pair(i);
    // Those outside of the braces are out of reach.
    const auto brace = std::find_if(open_.rbegin(), open_.rend(), [&](uint32_t open) { return tokens_[open].text == "{"; });
    const auto fitting = std::count_if(open_.rbegin(), brace, [&](uint32_t open) { return opens_it(tokens_[open].text); });
    if (brace == open_.rbegin()) {
      diagnostics_.error(token.range, fmt::format("'{}' closes no bracket", token.text));
      token.kind = TokenKind::kError;
      token.text = {};
    } else if (fitting == 0 || surplus_on_line(i) > fitting) {
      const std::string_view expected = closer_of(tokens_[open_.back()].text);
      diagnostics_.error(token.range, fmt::format("expected '{}', found '{}'", expected, token.text));
      token.text = expected;
      pair(i);
    } else {
      leave_unclosed(i, opens_it);
      pair(i);
    }
  }

  void pair(uint32_t i) {
    tokens_[open_.back()].partner = i;
    open_.pop_back();
  }

  // How many closing brackets of this kind, from this one to the end of its line, have no opening one there.
  std::ptrdiff_t surplus_on_line(uint32_t i) const {
    const std::string_view closer = tokens_[i].text;
    std::ptrdiff_t surplus = 0;
    std::ptrdiff_t depth = 0;
    for (; tokens_[i].kind != TokenKind::kNewline && tokens_[i].kind != TokenKind::kEnd; ++i) {
      if (closer_of(tokens_[i].text) == closer) ++depth;
      if (tokens_[i].text == closer && --depth < 0) {
        depth = 0;
        ++surplus;
      }
    }
    return surplus;
  }

  Diagnostics& diagnostics_;
  std::vector<Token>& tokens_;
  std::vector<uint32_t> open_;
};

}  // namespace

bool is_keyword(std::string_view word) {
  return std::find(kKeywords.begin(), kKeywords.end(), word) != kKeywords.end();
}

bool is_word(std::string_view text) {
  return !text.empty() && is_word_start(text[0]) && std::all_of(text.begin(), text.end(), is_word_part);
}

std::optional<std::vector<Token>> lex(Diagnostics& diagnostics) {
  std::optional<std::vector<Token>> tokens = Lexer(diagnostics).lex();
  if (tokens) BracketMatcher(diagnostics, *tokens).match();
  return tokens;
}

}  // namespace attune::dsl
