// The IR interpreted: the value of any roots for given leaves. i32 and bool are exact; f32 arithmetic is done in double, or rounded to f32
// after every operation, which shows the error that the same mathematics has in f32.
#pragma once

#include <initializer_list>
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

enum class Precision : uint8_t { kDouble, kF32 };

class Interpreter {
 public:
  // `graph` is not used after construction.
  Interpreter(const Graph& graph, const std::vector<ValueId>& roots, Precision precision = Precision::kDouble);

  // The values of the roots, in their order; valid until the next call.
  std::span<const double> operator()(const Env& env);

 private:
  // One node that the roots need, after its operands.
  struct Step {
    Op op;
    Type type;
    Type operand_type;  // of the first operand
    bool is_rounded;
    int32_t index;
    ValueRule value;
    uint32_t first_operand, operand_count;  // in operands_
    double number;
  };

  double evaluate(const Step& step, const Env& env);

  std::vector<Step> steps_;
  std::vector<ValueId> operands_;  // indices into steps_; of a tile_min or tile_max the graph's id
  std::vector<size_t> roots_;
  std::vector<double> values_;
  std::vector<double> results_;
  std::vector<double> arguments_;  // of the step at hand
};

// The value of `id` if it depends on constants only.
std::optional<double> constant_value(const Graph& graph, ValueId id);

// Which nodes the roots need, themselves included: one flag a node. By ways that do not lead through `barrier`, if one is given.
std::vector<bool> reachable(const Graph& graph, std::span<const ValueId> roots, ValueId barrier = kNoValue);
// Whether one of these symbols is among the nodes.
bool has_symbol(const Graph& graph, const std::vector<bool>& nodes, std::initializer_list<Symbol> symbols);

}  // namespace attune::codegen
