// Syntax tree -> canonical text: fixed spacing, minimal brackets, shortest literals that read back to the same value, no comments.
#pragma once

#include <string>

#include "dsl/ast.h"

namespace attune::dsl {

// print(parse(print(p))) == print(p), and both build the same IR. Hashes of programs are taken of this text.
std::string print(const Program& program);
std::string print(const Program& program, ExprId expr);

// Shortest decimal form of an f32 literal that the lexer reads back to the same double.
std::string print_decimal(double value);

}  // namespace attune::dsl
