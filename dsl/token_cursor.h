// The parser's place in the tokens: looking ahead, brackets, newlines, and how it goes on behind a mistake. One mistake is one error: what
// follows from one that has been reported is silent.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsl/diagnostics.h"
#include "dsl/lexer.h"

namespace attune::dsl {

class TokenCursor {
 public:
  TokenCursor(Diagnostics& diagnostics, std::vector<Token> tokens);

  // Newlines are tokens only between statements: not in brackets, and not outside of the body. Behind the last token stands kEnd, for ever.
  const Token& peek();
  const Token& ahead(int count);  // the token `count` behind the one at hand
  bool at(std::string_view text) { return peek().text == text; }
  Token take();
  bool accept(std::string_view text);
  bool expect(std::string_view text);  // the same; an error if it is not there

  // ( and [. Each one that was opened is closed, or left by leave_brackets.
  SourceRange open_bracket();
  // Steps behind the closing bracket of the innermost open one and gives its range; else an error.
  std::optional<SourceRange> close_bracket(std::string_view expected);
  // Goes behind the brackets that were opened since there were `keep` open ones.
  void leave_brackets(size_t keep);

  // { and }
  void enter_body();
  bool next_statement();  // steps over separators; false at the end of the body
  void leave_body();

  void error(SourceRange range, std::string message, std::string note = {});
  // "expected X, found Y", unless an error that has been reported is the reason.
  void unexpected(std::string_view expected, std::string note = {});

  void skip_to_any(std::string_view first, std::string_view second);
  void skip_to_comma();  // of the bracket that was opened first, or its end
  void skip_statement();
  static bool ends_statement(const Token& token);

 private:
  bool newlines_are_blanks() const { return !in_body_ || !open_.empty(); }
  bool is_behind_unclosed_bracket();
  void skip();

  Diagnostics& diagnostics_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  std::vector<size_t> open_;  // indices of the ( and [ around the cursor
  size_t body_ = 0;           // index of the {
  bool in_body_ = false;
  bool ends_at_newline_ = false;  // the statement of the last unexpected()
};

}  // namespace attune::dsl
