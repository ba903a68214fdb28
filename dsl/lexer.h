// Text -> tokens, with their brackets matched. The parser's input; errors of characters, literals, brackets and of the limits on bytes,
// tokens and names are reported here.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "dsl/diagnostics.h"

namespace attune::dsl {

enum class TokenKind : uint8_t {
  kWord,  // a name or a keyword
  kInteger,
  kDecimal,
  kSymbol,   // an operator, a bracket, "," ":" ";" "="
  kNewline,  // one for any number of line ends; located behind the token before it
  kError,    // an error that has been reported; `text` is empty
  kEnd,      // the last one, always
};

// "-2147483648" is the literal of the smallest i32; its digits alone are one too many.
inline constexpr uint32_t kIntegerBelowZero = 2147483648U;

struct Token {
  TokenKind kind = TokenKind::kEnd;
  SourceRange range;
  std::string_view text;  // into the source text; empty for kNewline, kError and kEnd
  uint32_t line = 0;
  uint32_t integer = 0;  // at most kIntegerBelowZero
  double decimal = 0;

  // Of an opening bracket: the index of its closing bracket, or, if it is never closed (which has been reported), of the first token
  // that cannot lie within.
  uint32_t partner = 0;
  bool is_unclosed = false;
};

// nullopt if a limit on bytes or tokens is passed; else the tokens, whatever errors were reported.
std::optional<std::vector<Token>> lex(Diagnostics& diagnostics);

bool is_keyword(std::string_view word);
// A letter or "_", then letters, digits and "_". Keywords are such words too.
bool is_word(std::string_view text);

}  // namespace attune::dsl
