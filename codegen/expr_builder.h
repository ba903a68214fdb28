// Ex: a value of a graph with C++ operators, so that derivative and interval rules read like mathematics.
#pragma once

#include "codegen/ir.h"

namespace attune::codegen {

// An empty Ex is a structural zero: the derivative of what does not depend on the variable. 0 * x is then 0 even if x is NaN.
struct Ex {
  Graph* graph = nullptr;
  ValueId id = kNoValue;

  bool is_zero() const { return id == kNoValue; }
};

// Arithmetic on operands of one type (f32, i32 or f64); a C++ number takes the type of the other operand. Nothing is folded but structural
// zeros.
Ex operator+(Ex a, Ex b);
Ex operator-(Ex a, Ex b);
Ex operator*(Ex a, Ex b);
Ex operator/(Ex a, Ex b);
Ex operator-(Ex a);
Ex operator+(Ex a, double b);
Ex operator-(Ex a, double b);
Ex operator*(Ex a, double b);
Ex operator/(Ex a, double b);
Ex operator+(double a, Ex b);
Ex operator-(double a, Ex b);
Ex operator*(double a, Ex b);
Ex operator/(double a, Ex b);

// bool; operands as above, none a structural zero.
Ex operator<(Ex a, Ex b);
Ex operator<=(Ex a, Ex b);
Ex operator>(Ex a, Ex b);
Ex operator>=(Ex a, Ex b);
Ex operator<(Ex a, double b);
Ex operator<=(Ex a, double b);
Ex operator>(Ex a, double b);
Ex operator>=(Ex a, double b);
Ex operator&&(Ex a, Ex b);
Ex operator||(Ex a, Ex b);
Ex operator!(Ex a);

// Any operator of the table; a structural zero among the operands becomes the constant 0 of the type of the first other operand that is
// not a bool.
Ex apply(Op op, std::initializer_list<Ex> operands);
Ex where(Ex condition, Ex a, Ex b);  // structural zero if both a and b are
Ex min(Ex a, Ex b);
Ex max(Ex a, Ex b);
Ex min(Ex a, double b);
Ex max(Ex a, double b);
Ex floor(Ex a);

Ex constant(Graph& graph, Type type, double number);
Ex symbol(Graph& graph, Symbol symbol);

}  // namespace attune::codegen
