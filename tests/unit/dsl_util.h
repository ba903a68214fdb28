// Shared by the tests of dsl/.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "dsl/diagnostics.h"
#include "dsl/parser.h"
#include "dsl/printer.h"

namespace attune::dsl {

// The rendered errors of a text; "" if it has none.
inline std::string errors_of(const std::string& text) {
  Diagnostics diagnostics("t.attn", text);
  const bool is_parsed = parse(diagnostics).has_value();
  EXPECT_EQ(is_parsed, diagnostics.ok()) << text;
  return diagnostics.render();
}

// Only the messages, a line each, with line and column: "2:3: message".
inline std::string messages_of(const std::string& text) {
  const std::string rendered = errors_of(text);
  std::string result;
  for (size_t begin = 0; begin < rendered.size();) {
    const size_t end = rendered.find('\n', begin);
    const std::string line = rendered.substr(begin, end - begin);
    const size_t mark = line.find(" error: ");
    if (line.starts_with("t.attn:") && mark != std::string::npos) {
      result += (result.empty() ? "" : "\n") + line.substr(7, mark - 7) + " " + line.substr(mark + 8);
    }
    begin = end + 1;
  }
  return result;
}

inline Program parsed(const std::string& text) {
  Diagnostics diagnostics("t.attn", text);
  std::optional<Program> program = parse(diagnostics);
  EXPECT_TRUE(program.has_value()) << diagnostics.render();
  return program.value_or(Program{});
}

// A program whose only let has this value.
inline std::string program_of(const std::string& expression) {
  return "attention t() {\n  let x = " + expression + "\n}\n";
}

inline Program parsed_expression(const std::string& expression) {
  return parsed(program_of(expression));
}

// As it is printed.
inline std::string printed_expression(const std::string& expression) {
  const Program program = parsed_expression(expression);
  return program.statements.empty() ? "" : print(program, program.statements[0].value);
}

// The tree with all brackets: "(+ a (* b c))"; calls "f(a, b)" and indices "t[i]" as they are.
inline std::string tree(const Program& program, ExprId id) {
  const Expr& e = program.expr(id);
  std::string args;
  for (ExprId arg : e.args) args += (args.empty() ? "" : " ") + tree(program, arg);
  switch (e.kind) {
    case ExprKind::kUnary:
    case ExprKind::kBinary:
      return "(" + e.text + " " + args + ")";
    case ExprKind::kCall:
      return e.text + "(" + args + ")";
    case ExprKind::kIndex:
      return e.text + "[" + args + "]";
    default:
      return print(program, id);
  }
}

inline std::string tree_of(const std::string& expression) {
  const Program program = parsed_expression(expression);
  return program.statements.empty() ? "" : tree(program, program.statements[0].value);
}

}  // namespace attune::dsl
