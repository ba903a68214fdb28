#include "dsl/token_cursor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace attune::dsl {
namespace {

std::string describe(const Token& token) {
  if (token.kind == TokenKind::kNewline) return "the end of the line";
  if (token.kind == TokenKind::kEnd) return "the end of the file";
  constexpr size_t kMaxShown = 40;
  if (token.text.size() > kMaxShown) return fmt::format("'{}...'", token.text.substr(0, kMaxShown));
  return fmt::format("'{}'", token.text);
}

}  // namespace

TokenCursor::TokenCursor(Diagnostics& diagnostics, std::vector<Token> tokens) : diagnostics_(diagnostics), tokens_(std::move(tokens)) {}

const Token& TokenCursor::peek() {
  while (newlines_are_blanks() && tokens_[at_].kind == TokenKind::kNewline) ++at_;
  return tokens_[at_];
}

const Token& TokenCursor::ahead(int count) {
  peek();
  size_t i = at_;
  while (count-- > 0 && tokens_[i].kind != TokenKind::kEnd) {
    ++i;
    while (newlines_are_blanks() && tokens_[i].kind == TokenKind::kNewline) ++i;
  }
  return tokens_[i];
}

Token TokenCursor::take() {
  const Token token = peek();
  if (token.kind != TokenKind::kEnd) ++at_;
  return token;
}

bool TokenCursor::accept(std::string_view text) {
  if (!at(text)) return false;
  take();
  return true;
}

bool TokenCursor::expect(std::string_view text) {
  if (accept(text)) return true;
  unexpected(fmt::format("'{}'", text));
  return false;
}

SourceRange TokenCursor::open_bracket() {
  peek();
  open_.push_back(at_);
  return take().range;
}

std::optional<SourceRange> TokenCursor::close_bracket(std::string_view expected) {
  const Token& open = tokens_[open_.back()];
  if (open.is_unclosed) return std::nullopt;  // the lexer has reported it
  const Token& token = peek();
  if (open.partner != at_) {
    unexpected(expected);
    return std::nullopt;
  }
  take();
  open_.pop_back();
  return token.range;
}

void TokenCursor::leave_brackets(size_t keep) {
  if (open_.size() <= keep) return;
  at_ = open_[keep];
  open_.resize(keep);
  skip();
}

void TokenCursor::enter_body() {
  peek();
  body_ = at_;
  take();
  in_body_ = true;
}

bool TokenCursor::next_statement() {
  while (at_ < tokens_[body_].partner) {
    if (tokens_[at_].kind != TokenKind::kNewline && tokens_[at_].text != ";") return true;
    ++at_;
  }
  return false;
}

void TokenCursor::leave_body() {
  in_body_ = false;
  at_ = body_;
  skip();
}

void TokenCursor::error(SourceRange range, std::string message, std::string note) {
  diagnostics_.error(range, std::move(message), std::move(note));
}

void TokenCursor::unexpected(std::string_view expected, std::string note) {
  const Token& found = peek();
  if (found.kind == TokenKind::kError || found.is_unclosed || is_behind_unclosed_bracket()) return;
  ends_at_newline_ = found.kind == TokenKind::kNewline;
  if (found.text == "=" && expected.starts_with("an operator")) note = "'==' compares";
  error(found.range, fmt::format("expected {}, found {}", expected, describe(found)), std::move(note));
}

// Whether a bracket is open here only because its closing one is missing.
bool TokenCursor::is_behind_unclosed_bracket() {
  const uint32_t line = peek().line;
  return std::any_of(open_.begin(), open_.end(), [&](size_t i) {
    const Token& open = tokens_[i];
    return open.is_unclosed && (at_ >= open.partner || line > open.line);
  });
}

// Over one token, or over all that a bracket holds.
void TokenCursor::skip() {
  const Token& token = tokens_[at_];
  if (token.kind == TokenKind::kEnd) return;
  if (!token.is_unclosed) {
    at_ = std::max<size_t>(at_, token.partner) + 1;
    return;
  }
  at_ = token.partner;
  // Where a statement at the start of a line has shown the bracket to be unclosed, the newline in front of it counts.
  if (tokens_[at_ - 1].kind == TokenKind::kNewline) --at_;
}

void TokenCursor::skip_to_any(std::string_view first, std::string_view second) {
  while (peek().kind != TokenKind::kEnd && !at(first) && !at(second)) ++at_;
}

void TokenCursor::skip_to_comma() {
  leave_brackets(1);
  const size_t end = tokens_[open_[0]].partner;
  while (at_ < end && !at(",")) skip();
}

void TokenCursor::skip_statement() {
  leave_brackets(0);
  while (!ends_statement(tokens_[at_])) skip();
  if (!std::exchange(ends_at_newline_, false) || tokens_[at_].kind != TokenKind::kNewline) return;
  // What the statement lacks may stand in the next line.
  ++at_;
  const bool starts_statement = at("let") || ahead(1).text == "=";
  while (!starts_statement && !ends_statement(tokens_[at_])) skip();
}

bool TokenCursor::ends_statement(const Token& token) {
  return token.kind == TokenKind::kNewline || token.kind == TokenKind::kEnd || token.text == ";" || token.text == "}";
}

}  // namespace attune::dsl
