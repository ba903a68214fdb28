#include "codegen/expr_builder.h"

#include <stdexcept>
#include <vector>

namespace attune::codegen {
namespace {

Ex like(Ex operand, double number) {
  if (operand.is_zero()) throw std::logic_error("a number beside a structural zero has no type");
  return constant(*operand.graph, (*operand.graph)[operand.id].type, number);
}

}  // namespace

Ex operator+(Ex a, Ex b) {
  if (a.is_zero()) return b;
  if (b.is_zero()) return a;
  return apply(Op::k_add, {a, b});
}

Ex operator-(Ex a, Ex b) {
  if (b.is_zero()) return a;
  if (a.is_zero()) return -b;
  return apply(Op::k_sub, {a, b});
}

Ex operator*(Ex a, Ex b) {
  return a.is_zero() || b.is_zero() ? Ex{} : apply(Op::k_mul, {a, b});
}

Ex operator/(Ex a, Ex b) {
  if (b.is_zero()) throw std::logic_error("division by a structural zero");
  return a.is_zero() ? Ex{} : apply(Op::k_div, {a, b});
}

Ex operator-(Ex a) {
  return a.is_zero() ? Ex{} : apply(Op::k_neg, {a});
}

Ex operator+(Ex a, double b) {
  return a + like(a, b);
}
Ex operator-(Ex a, double b) {
  return a - like(a, b);
}
Ex operator*(Ex a, double b) {
  return a.is_zero() ? Ex{} : a * like(a, b);
}
Ex operator/(Ex a, double b) {
  return a.is_zero() ? Ex{} : a / like(a, b);
}
Ex operator+(double a, Ex b) {
  return like(b, a) + b;
}
Ex operator-(double a, Ex b) {
  return like(b, a) - b;
}
Ex operator*(double a, Ex b) {
  return b.is_zero() ? Ex{} : like(b, a) * b;
}
Ex operator/(double a, Ex b) {
  return like(b, a) / b;
}

Ex operator<(Ex a, Ex b) {
  return apply(Op::k_lt, {a, b});
}
Ex operator<=(Ex a, Ex b) {
  return apply(Op::k_le, {a, b});
}
Ex operator>(Ex a, Ex b) {
  return apply(Op::k_gt, {a, b});
}
Ex operator>=(Ex a, Ex b) {
  return apply(Op::k_ge, {a, b});
}
Ex operator<(Ex a, double b) {
  return a < like(a, b);
}
Ex operator<=(Ex a, double b) {
  return a <= like(a, b);
}
Ex operator>(Ex a, double b) {
  return a > like(a, b);
}
Ex operator>=(Ex a, double b) {
  return a >= like(a, b);
}
Ex operator&&(Ex a, Ex b) {
  return apply(Op::k_and, {a, b});
}
Ex operator||(Ex a, Ex b) {
  return apply(Op::k_or, {a, b});
}
Ex operator!(Ex a) {
  return apply(Op::k_not, {a});
}

Ex apply(Op op, std::initializer_list<Ex> operands) {
  const Ex* typed = nullptr;
  for (const Ex& operand : operands) {
    if (!operand.is_zero()) {
      const bool is_bool = (*operand.graph)[operand.id].type == Type::kBool;
      if (!typed || !is_bool) typed = &operand;
      if (!is_bool) break;
    }
  }
  if (!typed) throw std::logic_error("all operands are structural zeros");
  std::vector<ValueId> ids;
  for (const Ex& operand : operands) ids.push_back(operand.is_zero() ? like(*typed, 0).id : operand.id);
  return {typed->graph, typed->graph->op(op, std::move(ids))};
}

Ex where(Ex condition, Ex a, Ex b) {
  if (a.is_zero() && b.is_zero()) return {};
  return apply(Op::k_where, {condition, a, b});
}

Ex min(Ex a, Ex b) {
  return apply(Op::k_min, {a, b});
}
Ex max(Ex a, Ex b) {
  return apply(Op::k_max, {a, b});
}
Ex min(Ex a, double b) {
  return min(a, like(a, b));
}
Ex max(Ex a, double b) {
  return max(a, like(a, b));
}
Ex floor(Ex a) {
  return apply(Op::k_floor, {a});
}

Ex constant(Graph& graph, Type type, double number) {
  return {&graph, graph.constant(type, number)};
}
Ex symbol(Graph& graph, Symbol symbol) {
  return {&graph, graph.symbol(symbol)};
}

}  // namespace attune::codegen
