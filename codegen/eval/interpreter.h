// The IR interpreted in double: the value of any roots for given leaves. f32 arithmetic is done in double, i32 and bool exactly.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "codegen/ir.h"
#include "codegen/op_table.h"

namespace attune::codegen {

// The leaves of one evaluation. What an environment does not override throws std::logic_error.
class Env {
 public:
  virtual ~Env() = default;
  virtual double symbol(Symbol symbol) const;
  virtual double param(int index) const;                                  // of a scalar parameter
  virtual double read(int param, std::span<const double> indices) const;  // of a tensor parameter
  virtual double tile(Op op, ValueId operand) const;                      // tile_min or tile_max of `operand`
};

class Interpreter {
 public:
  // `graph` must outlive the interpreter; nodes added to it later are fine.
  Interpreter(const Graph& graph, std::vector<ValueId> roots);

  // The values of the roots, in their order; valid until the next call.
  std::span<const double> operator()(const Env& env);

 private:
  std::vector<Node> nodes_;             // what the roots need, operands first; operands are indices into nodes_
  std::vector<Type> operand_types_;     // of the first operand
  std::vector<size_t> roots_;
  std::vector<double> values_;
  std::vector<double> results_;
};

// The value of `id` if it depends on constants only.
std::optional<double> constant_value(const Graph& graph, ValueId id);

// Which nodes the roots need, themselves included: one flag a node.
std::vector<bool> reachable(const Graph& graph, std::span<const ValueId> roots);

}  // namespace attune::codegen
