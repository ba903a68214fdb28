// How tightly the language's expressions bind. The parser, the printer and the builder share this table.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace attune::dsl {

// Loosest first. Binary operators of one level associate to the left, except that comparisons do not chain and "**" binds to the right.
enum class Level : uint8_t { kOr, kAnd, kNot, kCompare, kAdd, kMultiply, kMinus, kPower, kPrimary };

constexpr Level tighter(Level level) {
  return static_cast<Level>(static_cast<uint8_t>(level) + 1);
}

constexpr std::optional<Level> binary_level(std::string_view op) {
  if (op == "or") return Level::kOr;
  if (op == "and") return Level::kAnd;
  if (op == "==" || op == "!=" || op == "<" || op == "<=" || op == ">" || op == ">=") return Level::kCompare;
  if (op == "+" || op == "-") return Level::kAdd;
  if (op == "*" || op == "/" || op == "//" || op == "%") return Level::kMultiply;
  if (op == "**") return Level::kPower;
  return std::nullopt;
}

// The loosest level that an operand of a binary operator may have without brackets.
constexpr Level left_operand_level(Level level) {
  return level == Level::kCompare || level == Level::kPower ? tighter(level) : level;
}
constexpr Level right_operand_level(Level level) {
  return level == Level::kPower ? Level::kMinus : tighter(level);
}

constexpr Level unary_level(std::string_view op) {
  return op == "not" ? Level::kNot : Level::kMinus;
}

}  // namespace attune::dsl
