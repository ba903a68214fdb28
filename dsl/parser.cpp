#include "dsl/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "dsl/lexer.h"
#include "dsl/limits.h"
#include "dsl/precedence.h"
#include "dsl/token_cursor.h"

namespace attune::dsl {
namespace {

struct NamedType {
  std::string_view name;
  ElementType type;
};
constexpr std::array<NamedType, 6> kTypes = {{{"f32", ElementType::kF32},
                                              {"f16", ElementType::kF16},
                                              {"bf16", ElementType::kBF16},
                                              {"i32", ElementType::kI32},
                                              {"u8", ElementType::kU8},
                                              {"bool", ElementType::kBool}}};

// Keywords that may stand in an expression: the score, and the functions f32 and i32. mask and weights are refused by build_ir, which
// knows more about names.
constexpr std::array<std::string_view, 5> kValueKeywords = {"score", "mask", "weights", "f32", "i32"};

SourceRange joined(SourceRange first, SourceRange last) {
  return {first.begin, last.end};
}

std::string did_you_mean(const std::string& name) {
  return name.empty() ? "" : fmt::format("did you mean '{}'?", name);
}

constexpr std::string_view kOperand = "an expression";  // as messages call it

// An expression that has been read, with the brackets around it.
struct Parsed {
  ExprId id = 0;
  SourceRange range;
  int height = 1;
};

// nullopt: there was an error, and it has been reported.
using Result = std::optional<Parsed>;

class Parser : private TokenCursor {
 public:
  using TokenCursor::TokenCursor;

  Program parse() {
    if (header()) body();
    return std::move(program_);
  }

 private:
  // ---- attention NAME(PARAMS) {

  // True if a body follows. A header is one mistake at most.
  bool header() {
    bool is_ok = attention_keyword();
    if (!is_ok) {
      skip_to_any("{", "{");
    } else if (!attention_name()) {
      is_ok = false;
      skip_to_any("(", "{");
    }
    if (at("(")) {
      is_ok = params() && is_ok;
    } else {
      if (is_ok) unexpected("'('");
      is_ok = false;
    }
    if (!is_ok) skip_to_any("{", "{");
    if (at("{")) return true;
    if (is_ok) unexpected("'{'");
    return false;
  }

  // False if there is no sense in looking for the name here.
  bool attention_keyword() {
    if (accept("attention")) return true;
    const Token& found = peek();
    if (found.kind == TokenKind::kWord && ahead(2).text == "(") {  // misspelled
      unexpected("'attention'", did_you_mean(nearest_name(found.text, {"attention"})));
      take();
      return true;
    }
    unexpected("'attention'", "a file starts with attention NAME(PARAMETERS) {");
    return found.kind == TokenKind::kWord && ahead(1).text == "(";
  }

  bool attention_name() {
    const std::optional<Token> name = this->name("the attention's name");
    if (!name) return false;
    program_.name = name->text;
    program_.name_range = name->range;
    return true;
  }

  // A name that the user gives.
  std::optional<Token> name(std::string_view what) {
    const Token token = peek();
    if (token.kind != TokenKind::kWord) {
      unexpected(what);
      return std::nullopt;
    }
    if (is_keyword(token.text)) error(token.range, fmt::format("'{}' is a keyword of the language: expected another name", token.text));
    return take();
  }

  // ---- Parameters.

  // False if the bracket is not closed.
  bool params() {
    open_bracket();
    if (!at(")")) {
      do {
        if (!param()) skip_to_comma();
      } while (accept(","));
    }
    const bool is_closed = close_bracket("',' or ')'").has_value();
    leave_brackets(0);
    return is_closed;
  }

  bool param() {
    ParamDecl decl;
    if (!param_name(decl) || !expect(":")) return false;
    const SourceRange first = peek().range;
    qualifiers(decl);
    const std::optional<SourceRange> type = this->type(decl);
    if (!type) return false;
    decl.type_range = joined(first, *type);
    if (accept("=")) {
      const Result value = expression();
      if (!value) return false;
      decl.default_value = value->id;
    }
    if (!at(",") && !at(")")) {
      unexpected(decl.default_value ? "an operator, ',' or ')'" : "'=', ',' or ')'");
      return false;
    }
    if (program_.params.size() == kMaxParameters) {
      error(decl.name_range, fmt::format("too many parameters: the limit is {}", kMaxParameters));
    }
    program_.params.push_back(std::move(decl));
    return true;
  }

  bool param_name(ParamDecl& decl) {
    const Token first = peek();
    if ((first.text == "const" || first.text == "grad") && ahead(1).kind == TokenKind::kWord) {
      error(first.range, fmt::format("expected a parameter's name, found '{}'", first.text),
            fmt::format("'{}' stands before the type: {}: {} TYPE", first.text, ahead(1).text, first.text));
      take();
    }
    const std::optional<Token> name = this->name("a parameter's name");
    if (!name) return false;
    decl.name = name->text;
    decl.name_range = name->range;
    return true;
  }

  void qualifiers(ParamDecl& decl) {
    while (at("const") || at("grad")) {
      const Token token = take();
      bool& flag = token.text == "const" ? decl.is_const : decl.is_grad;
      if (std::exchange(flag, true)) error(token.range, fmt::format("'{}' is written twice", token.text));
    }
  }

  // The range of the type without its qualifiers.
  std::optional<SourceRange> type(ParamDecl& decl) {
    const Token token = peek();
    const auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const NamedType& type) { return type.name == token.text; });
    if (found == kTypes.end()) {
      const std::string nearest = nearest_name(token.text, {"f32", "f16", "bf16", "i32", "u8", "bool"});
      unexpected("a type",
                 nearest.empty() ? "types are f32, i32, bool, and tensors f32|f16|bf16|i32|u8 [DIM, ...]" : did_you_mean(nearest));
      return std::nullopt;
    }
    take();
    decl.type = found->type;
    if (!at("[")) return token.range;
    decl.is_tensor = true;
    if (decl.type == ElementType::kBool) {
      error(token.range, "expected f32, f16, bf16, i32 or u8 as the type of a tensor, found bool", "bool tensors bind as u8");
    }
    return dims(decl, token.range);
  }

  std::optional<SourceRange> dims(ParamDecl& decl, SourceRange type) {
    open_bracket();
    do {
      const Result dim = expression("a dim");
      if (!dim) return std::nullopt;
      if (decl.dims.size() == kMaxRank) error(dim->range, fmt::format("too many dims: the limit is {}", kMaxRank));
      decl.dims.push_back(dim->id);
    } while (accept(","));
    const auto close = close_bracket("an operator, ',' or ']'");
    if (!close) return std::nullopt;
    return joined(type, *close);
  }

  // ---- Statements.

  void body() {
    enter_body();
    while (next_statement()) {
      if (!statement()) skip_statement();
    }
    leave_body();
    if (peek().kind != TokenKind::kEnd) unexpected("the end of the file", at("attention") ? "a file holds one attention" : "");
  }

  bool statement() {
    Statement statement;
    if (accept("let")) {
      const std::optional<Token> name = let_name();
      if (!name) return false;
      set_target(statement, StatementKind::kLet, *name);
    } else if (!assigned_target(statement)) {
      return false;
    }
    if (!expect("=")) return false;
    const Result value = expression();
    if (!value) return false;
    if (!ends_statement(peek())) {
      unexpected("an operator or the end of the statement");
      return false;
    }
    statement.value = value->id;
    program_.statements.push_back(std::move(statement));
    return true;
  }

  static void set_target(Statement& statement, StatementKind kind, const Token& name) {
    statement.kind = kind;
    statement.name = name.text;
    statement.name_range = name.range;
  }

  std::optional<Token> let_name() {
    const Token& token = peek();
    if (token.text != "score" && token.text != "mask" && token.text != "weights") return name("a name");
    error(token.range, fmt::format("'{}' is a keyword of the language: expected another name", token.text),
          fmt::format("without let: {} = ...", token.text));
    return take();
  }

  bool assigned_target(Statement& statement) {
    const Token token = peek();
    const auto kind = statement_kind(token.text);
    const bool is_assigned = ahead(1).text == "=";
    if (!kind && (token.kind != TokenKind::kWord || is_keyword(token.text) || !is_assigned)) {
      unexpected("a statement (let, score, mask or weights)", statement_note(token));
      return false;
    }
    if (!kind) {
      const std::string nearest = nearest_name(token.text, {"score", "mask", "weights"});
      error(token.range, fmt::format("expected let, score, mask or weights, found '{}'", token.text),
            nearest.empty() ? fmt::format("to name a value: let {} = ...", token.text) : did_you_mean(nearest));
    }
    set_target(statement, kind.value_or(StatementKind::kLet), take());
    return true;
  }

  static std::optional<StatementKind> statement_kind(std::string_view name) {
    if (name == "score") return StatementKind::kScore;
    if (name == "mask") return StatementKind::kMask;
    if (name == "weights") return StatementKind::kWeights;
    return std::nullopt;
  }

  std::string statement_note(const Token& token) const {
    if (token.kind == TokenKind::kWord && !is_keyword(token.text)) {
      return did_you_mean(nearest_name(token.text, {"let", "score", "mask", "weights"}));
    }
    if (token.text == "//") return "a comment starts with '#'";
    const bool continues = binary_level(token.text).has_value() && !program_.statements.empty();
    return continues ? "a newline ends a statement, except in ( ) and [ ]" : "";
  }

  // ---- Expressions.

  Result expression(std::string_view what = kOperand) {
    expected_ = what;
    return binary(Level::kOr);
  }

  // One level deeper while it lives.
  class Nesting {
   public:
    explicit Nesting(int& depth) : depth_(++depth) {}
    ~Nesting() { --depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    int& depth_;
  };

  bool is_too_high(int height, SourceRange range) {
    if (height <= kMaxNesting) return false;
    error(range, fmt::format("the expression nests too deeply: the limit is {} levels of operators and brackets", kMaxNesting));
    return true;
  }

  Result binary(Level level) {
    if (level == Level::kNot) return negation();
    if (level == Level::kMinus) return minus();
    Result left = binary(tighter(level));
    for (int count = 1; left && binary_level(peek().text) == level; ++count) {
      const Token op = take();
      if (level == Level::kCompare && count == 2) error(op.range, "comparisons do not chain: expected 'and' or 'or' between two of them");
      const Result right = binary(tighter(level));
      left = right ? add(ExprKind::kBinary, op, {*left, *right}) : std::nullopt;
    }
    return left;
  }

  Result negation() {
    if (!at("not")) return binary(tighter(Level::kNot));
    return prefix([this] { return negation(); });
  }

  Result minus() {
    if (!at("-")) return power();
    const bool is_lowest = ahead(1).integer == kIntegerBelowZero && ahead(2).text != "**";
    if (is_lowest) return lowest_integer();
    return prefix([this] { return minus(); });
  }

  // "-2147483648"
  Result lowest_integer() {
    const Token op = take();
    const Token digits = take();
    Expr literal;
    literal.integer = std::numeric_limits<int32_t>::min();
    return add_leaf(std::move(literal), joined(op.range, digits.range));
  }

  template <typename Operand>
  Result prefix(Operand operand) {
    const Token op = take();
    expected_ = kOperand;
    const Nesting nesting(depth_);
    if (is_too_high(depth_, op.range)) return std::nullopt;
    const Result value = operand();
    return value ? add(ExprKind::kUnary, op, {*value}) : std::nullopt;
  }

  Result power() {
    const Result base = primary();
    if (!base || !at("**")) return base;
    const Token op = take();
    const Nesting nesting(depth_);
    if (is_too_high(depth_, op.range)) return std::nullopt;
    const Result exponent = minus();
    return exponent ? add(ExprKind::kBinary, op, {*base, *exponent}) : std::nullopt;
  }

  Result primary() {
    const std::string_view expected = std::exchange(expected_, kOperand);
    const Token token = peek();
    if (token.text == "(") return bracketed();
    if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kDecimal) return number();
    if (token.text == "true" || token.text == "false" || token.text == "inf") return constant();
    const bool is_value =
        !is_keyword(token.text) || std::find(kValueKeywords.begin(), kValueKeywords.end(), token.text) != kValueKeywords.end();
    if (token.kind == TokenKind::kWord && is_value) return named();
    unexpected(expected, operand_note(token));
    return std::nullopt;
  }

  static std::string operand_note(const Token& token) {
    if (token.kind == TokenKind::kNewline) return "in ( ) an expression goes on in the next line";
    if (token.text == "not") return "write (not ...)";
    return "";
  }

  Result bracketed() {
    const SourceRange open = open_bracket();
    const Nesting nesting(depth_);
    if (is_too_high(depth_, open)) return std::nullopt;
    Result inner = expression();
    const auto close = inner ? close_bracket("an operator or ')'") : std::nullopt;
    if (!close) return std::nullopt;
    inner->range = joined(open, *close);
    if (is_too_high(++inner->height, open)) return std::nullopt;
    return not_indexed(inner);
  }

  // Only names are indexed.
  Result not_indexed(Result value) {
    if (!at("[")) return value;
    error(peek().range, "only a tensor's name takes an index: expected an operator, found '['");
    return std::nullopt;
  }

  void integer_too_large(const Token& token) {
    error(token.range, fmt::format("integer {} does not fit i32: expected at most 2147483647", token.text));
  }

  Result number() {
    const Token token = take();
    if (token.integer == kIntegerBelowZero) integer_too_large(token);
    Expr literal;
    literal.kind = token.kind == TokenKind::kInteger ? ExprKind::kInteger : ExprKind::kDecimal;
    literal.integer = token.integer < kIntegerBelowZero ? static_cast<int32_t>(token.integer) : 0;
    literal.decimal = token.decimal;
    return not_indexed(add_leaf(std::move(literal), token.range));
  }

  Result constant() {
    const Token token = take();
    Expr literal;
    literal.kind = token.text == "inf" ? ExprKind::kInf : ExprKind::kBool;
    literal.integer = token.text == "true" ? 1 : 0;
    return not_indexed(add_leaf(std::move(literal), token.range));
  }

  Result named() {
    const Token name = take();
    if (at("(")) return call(name);
    if (at("[")) return index(name);
    Expr leaf;
    leaf.kind = ExprKind::kName;
    leaf.text = name.text;
    return add_leaf(std::move(leaf), name.range);
  }

  Result call(const Token& name) {
    const SourceRange open = open_bracket();
    const Nesting nesting(depth_);
    if (is_too_high(depth_, open)) return std::nullopt;
    std::vector<Parsed> args;
    bool has_sink = false;
    if (!at(")")) {
      do {
        if (ahead(1).text == "=" && peek().kind == TokenKind::kWord) has_sink = argument_name(name, args.size());
        const Result arg = expression();
        if (!arg) return std::nullopt;
        args.push_back(*arg);
      } while (accept(","));
    }
    const auto close = close_bracket("an operator, ',' or ')'");
    if (!close) return std::nullopt;
    const Result result = add(ExprKind::kCall, name, args, *close);
    if (result) program_.exprs[result->id].named_sink = has_sink;
    return not_indexed(result);
  }

  // "sink =" before the second argument of softmax.
  bool argument_name(const Token& function, size_t position) {
    const Token name = take();
    take();
    if (function.text != "softmax") {
      error(name.range, fmt::format("'{}' takes no argument by name", function.text), "'==' compares");
    } else if (name.text != "sink") {
      error(name.range, fmt::format("softmax has no argument '{}': expected 'sink'", name.text));
    } else if (position != 1) {
      error(name.range, "'sink' is the second argument of softmax", "softmax(score, sink = EXPR)");
    }
    return true;
  }

  Result index(const Token& name) {
    const SourceRange open = open_bracket();
    const Nesting nesting(depth_);
    if (is_too_high(depth_, open)) return std::nullopt;
    std::vector<Parsed> indices;
    do {
      const Result index = expression("an index");
      if (!index) return std::nullopt;
      indices.push_back(*index);
    } while (accept(","));
    const auto close = close_bracket("an operator, ',' or ']'");
    if (!close) return std::nullopt;
    if (at("[")) {
      error(peek().range, "a tensor takes all its indices in one bracket: expected an operator, found '['",
            fmt::format("{}[i, j]", name.text));
      return std::nullopt;
    }
    return add(ExprKind::kIndex, name, indices, *close);
  }

  // ---- Making expressions.

  Result add_leaf(Expr leaf, SourceRange range) {
    leaf.range = range;
    leaf.name_range = range;
    program_.exprs.push_back(std::move(leaf));
    return Parsed{static_cast<ExprId>(program_.exprs.size() - 1), range, 1};
  }

  // Its range is that of its name, its operands and `last`.
  Result add(ExprKind kind, const Token& name, const std::vector<Parsed>& args, SourceRange last = {}) {
    Expr expr;
    expr.kind = kind;
    expr.text = name.text;
    expr.name_range = name.range;
    expr.range = {name.range.begin, std::max(name.range.end, last.end)};
    int height = 0;
    for (const Parsed& arg : args) {
      expr.args.push_back(arg.id);
      expr.range.begin = std::min(expr.range.begin, arg.range.begin);
      expr.range.end = std::max(expr.range.end, arg.range.end);
      height = std::max(height, arg.height);
    }
    if (is_too_high(height + 1, name.range)) return std::nullopt;
    program_.exprs.push_back(std::move(expr));
    return Parsed{static_cast<ExprId>(program_.exprs.size() - 1), program_.exprs.back().range, height + 1};
  }

  Program program_;
  int depth_ = 1;              // of the expression at hand
  std::string_view expected_;  // of the first operand of the expression at hand
};

}  // namespace

std::optional<Program> parse(Diagnostics& diagnostics) {
  std::optional<std::vector<Token>> tokens = lex(diagnostics);
  if (!tokens) return std::nullopt;
  Program program = Parser(diagnostics, std::move(*tokens)).parse();
  if (!diagnostics.ok()) return std::nullopt;
  return program;
}

}  // namespace attune::dsl
