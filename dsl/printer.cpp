#include "dsl/printer.h"

#include <array>
#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

#include "dsl/precedence.h"

namespace attune::dsl {
namespace {

std::string_view type_name(ElementType type) {
  switch (type) {
    case ElementType::kF32:
      return "f32";
    case ElementType::kF16:
      return "f16";
    case ElementType::kBF16:
      return "bf16";
    case ElementType::kI32:
      return "i32";
    case ElementType::kU8:
      return "u8";
    case ElementType::kBool:
      return "bool";
  }
  return "?";
}

// Aligns the assignments of score, mask and weights.
std::string_view padding(StatementKind kind) {
  switch (kind) {
    case StatementKind::kScore:
      return "  ";
    case StatementKind::kMask:
      return "   ";
    default:
      return "";
  }
}

Level level_of(const Expr& e) {
  switch (e.kind) {
    case ExprKind::kBinary:
      return *binary_level(e.text);
    case ExprKind::kUnary:
      return unary_level(e.text);
    case ExprKind::kInteger:
      return e.integer < 0 ? Level::kMinus : Level::kPrimary;
    case ExprKind::kDecimal:
      return std::signbit(e.decimal) ? Level::kMinus : Level::kPrimary;
    default:
      return Level::kPrimary;
  }
}

class Printer {
 public:
  explicit Printer(const Program& program) : program_(program) {}

  void program() {
    out_ += "attention " + program_.name + "(";
    for (size_t i = 0; i < program_.params.size(); ++i) {
      if (i > 0) out_ += ", ";
      param(program_.params[i]);
    }
    out_ += ") {\n";
    for (const Statement& statement : program_.statements) {
      out_ += "  ";
      if (statement.kind == StatementKind::kLet) out_ += "let ";
      out_ += statement.name;
      out_ += padding(statement.kind);
      out_ += " = ";
      expr(statement.value);
      out_ += '\n';
    }
    out_ += "}\n";
  }

  void expr(ExprId id) {
    const Expr& e = program_.expr(id);
    switch (e.kind) {
      case ExprKind::kInteger:
        out_ += std::to_string(e.integer);
        return;
      case ExprKind::kDecimal:
        out_ += print_decimal(e.decimal);
        return;
      case ExprKind::kBool:
        out_ += e.integer != 0 ? "true" : "false";
        return;
      case ExprKind::kInf:
        out_ += "inf";
        return;
      case ExprKind::kName:
        out_ += e.text;
        return;
      case ExprKind::kUnary:
        unary(e);
        return;
      case ExprKind::kBinary:
        binary(e);
        return;
      case ExprKind::kCall:
        list(e.text + "(", e.args, ")", e.named_sink);
        return;
      case ExprKind::kIndex:
        list(e.text + "[", e.args, "]");
        return;
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void param(const ParamDecl& decl) {
    out_ += decl.name;
    out_ += ": ";
    if (decl.is_const) out_ += "const ";
    if (decl.is_grad) out_ += "grad ";
    out_ += type_name(decl.type);
    if (decl.is_tensor) list("[", decl.dims, "]");
    if (!decl.default_value) return;
    out_ += " = ";
    expr(*decl.default_value);
  }

  void list(std::string_view open, const std::vector<ExprId>& items, std::string_view close, bool has_sink = false) {
    out_ += open;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += ", ";
      if (has_sink && i == 1) out_ += "sink = ";
      expr(items[i]);
    }
    out_ += close;
  }

  void unary(const Expr& e) {
    out_ += e.text;
    if (e.text == "not") out_ += ' ';
    operand(e.args[0], unary_level(e.text));
  }

  void binary(const Expr& e) {
    const Level level = *binary_level(e.text);
    operand(e.args[0], left_operand_level(level));
    out_ += ' ';
    out_ += e.text;
    out_ += ' ';
    operand(e.args[1], right_operand_level(level));
  }

  // In brackets if it binds looser than `loosest`.
  void operand(ExprId id, Level loosest) {
    const bool has_brackets = level_of(program_.expr(id)) < loosest;
    if (has_brackets) out_ += '(';
    expr(id);
    if (has_brackets) out_ += ')';
  }

  const Program& program_;
  std::string out_;
};

}  // namespace

std::string print(const Program& program) {
  Printer printer(program);
  printer.program();
  return printer.take();
}

std::string print(const Program& program, ExprId expr) {
  Printer printer(program);
  printer.expr(expr);
  return printer.take();
}

std::string print_decimal(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 32> digits;  // the shortest form of a double has at most 24 characters
  const auto [end, code] = std::to_chars(digits.begin(), digits.end(), value);
  std::string text(digits.begin(), end);
  const size_t exponent = text.find('e');
  if (exponent == std::string::npos) return text.find('.') == std::string::npos ? text + ".0" : text;
  // "1e+05" -> "1e5", "1e-05" -> "1e-5"
  size_t at = exponent + 1;
  if (text[at] == '+') text.erase(at, 1);
  if (text[at] == '-') ++at;
  while (text[at] == '0') text.erase(at, 1);
  return text;
}

}  // namespace attune::dsl
