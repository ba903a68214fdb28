#include "dsl/builder.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "dsl/lexer.h"
#include "dsl/limits.h"
#include "dsl/parser.h"
#include "dsl/printer.h"

namespace attune::dsl::build {
namespace {

std::string decimal(double number) {
  if (std::isnan(number)) throw std::invalid_argument("Value: expected a number, found NaN");
  return print_decimal(number);
}

// The double whose shortest form is that of the float.
double shortest(float number) {
  if (!std::isfinite(number)) return number;
  std::array<char, 32> digits;
  const auto written = std::to_chars(digits.begin(), digits.end(), number);
  double result = 0;
  std::from_chars(digits.begin(), written.ptr, result);
  return result;
}

void check_name(std::string_view place, const std::string& name) {
  if (!is_word(name)) throw std::invalid_argument(fmt::format("{}: expected a name of letters, digits and '_', found '{}'", place, name));
}

std::string joined(const std::vector<Value>& values) {
  std::string text;
  for (const Value& value : values) text += (text.empty() ? "" : ", ") + value.text();
  return text;
}

}  // namespace

Value::Value(double number) : Value(decimal(number), level_of(std::signbit(number))) {}

Value::Value(float number) : Value(shortest(number)) {}

Value::Value(std::string text, Level level) : text_(std::move(text)), level_(level) {
  if (text_.size() > kMaxSourceBytes) text_.resize(kMaxSourceBytes + 1);
}

std::string Value::operand(Level loosest) const {
  return level_ < loosest ? "(" + text_ + ")" : text_;
}

Value binary(std::string_view op, const Value& left, const Value& right) {
  const Level level = binary_level(op).value();
  return {fmt::format("{} {} {}", left.operand(left_operand_level(level)), op, right.operand(right_operand_level(level))), level};
}

Value unary(std::string_view op, const Value& operand) {
  const Level level = unary_level(op);
  return {fmt::format("{}{}{}", op, op == "not" ? " " : "", operand.operand(level)), level};
}

Value call(std::string_view function, const std::vector<Value>& args) {
  return {fmt::format("{}({})", function, joined(args)), Level::kPrimary};
}

Value softmax(const Value& x, const Value& sink) {
  return {fmt::format("softmax({}, sink = {})", x.text(), sink.text()), Level::kPrimary};
}

Value Tensor::read(const std::vector<Value>& indices) const {
  return {fmt::format("{}[{}]", name_, joined(indices)), Level::kPrimary};
}

Attention::Attention(std::string name) : name_(std::move(name)) {
  check_name("Attention", name_);
}

void Attention::declare(const std::string& name, const std::string& declaration) {
  params_ += fmt::format("{}{}: {}", params_.empty() ? "" : ", ", name, declaration);
}

Value Attention::param(const std::string& name, const TypeName& type, const std::optional<Value>& default_value) {
  check_name("param", name);
  declare(name, default_value ? fmt::format("{} = {}", type.text(), default_value->text()) : type.text());
  return symbol(name);
}

Tensor Attention::tensor(const std::string& name, const TypeName& type, const std::vector<Value>& dims) {
  check_name("tensor", name);
  declare(name, fmt::format("{}[{}]", type.text(), joined(dims)));
  return Tensor(name);
}

Value Attention::let(const std::string& name, const Value& value) {
  check_name("let", name);
  statement("let " + name, value);
  return symbol(name);
}

void Attention::statement(const std::string& target, const Value& value) {
  statements_ += fmt::format("  {} = {}\n", target, value.text());
}

std::string Attention::raw_text() const {
  return fmt::format("attention {}({}) {{\n{}}}\n", name_, params_, statements_);
}

std::string Attention::text() const {
  Diagnostics diagnostics(name_, raw_text());
  const std::optional<Program> program = parse(diagnostics);
  return program ? print(*program) : raw_text();
}

Built Attention::build() const {
  Built built{Diagnostics(name_, text()), std::nullopt};
  built.program = parse(built.diagnostics);
  return built;
}

}  // namespace attune::dsl::build
