// What is known of an operator, once: the columns of op_table.def.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "codegen/expr_builder.h"
#include "codegen/ir.h"
#include "codegen/math_forms.h"

namespace attune::codegen {

// How the language writes an operator: not at all (leaves, and what only the compiler makes), as an operator, or as a call.
enum class Spelled : uint8_t { kNot, kOperator, kCall };

// End points of a value over a set of points. Numbers: f64 (i32 values are exact in it, a value that might wrap is widened to all of i32;
// f32 results are widened outward by their rounding error). NaN end points, always both, mean that nothing is known; else the value lies
// within and is not NaN. bool: low is "always true", high is "may be true".
struct Interval {
  Ex low, high;
};

// `types` are those of the operands, after i32 has been converted to f32 where another operand is f32. Returns the result's type, or
// nullopt if the operands do not fit.
using TypeRule = std::optional<Type> (*)(std::span<const Type> types);
// In double; i32 and bool values are exact doubles. `type` is that of the result, `operand` that of the first operand.
using ValueRule = double (*)(std::span<const double> x, Type type, Type operand);
// Forward-mode derivative of y = op(x): given the operands' derivatives dx (structural zeros where there is none). f32 results only.
using TangentRule = Ex (*)(std::span<const Ex> x, std::span<const Ex> dx, Ex y);
// Interval of the result from those of the operands; `type` is the result's.
using IntervalRule = Interval (*)(Graph& graph, std::span<const Interval> x, Type type);
// The same value by instructions: vectors or scalars, whatever the builder's handles are. `exponent` is the value of the last operand where
// that is a constant (always so for pow and ipow), else 0.
using LlvmForm = MathBuilder::Value (*)(MathBuilder& builder, std::span<const MathBuilder::Value> x, Type type, Type operand,
                                        double exponent);

// Issue slots of one element on a GPU: on the FMA/ALU pipes and on the special-function unit.
struct Cost {
  int alu = 0;
  int special = 0;
};

// With $0, $1, ... for the operands; what CUDA lacks is an overloaded device function of the vocabulary. `fast`, within a few ulp of
// `exact`, is for what is computed for every pair.
struct CudaForms {
  std::string_view exact, fast;
};

struct OpInfo {
  std::string_view name;
  std::string_view spelling;  // "" if only the compiler makes it
  Spelled spelled = Spelled::kNot;
  int arity = 0;                    // -1: any (reads)
  TypeRule type = nullptr;          // null for leaves
  ValueRule value = nullptr;        // null for leaves and tile_min, tile_max
  TangentRule tangent = nullptr;    // null: the derivative is 0 (integers, bools, floor)
  IntervalRule interval = nullptr;  // null: nothing is known
  Cost cost;
  CudaForms cuda;
  LlvmForm llvm = nullptr;  // null for leaves and tile_min, tile_max
};

const OpInfo& info(Op op);
// The function that the language spells so; nullopt if there is none. The operator `random` takes (seed, b, h, q_idx, k_idx), its call
// only the seed.
std::optional<Op> find_function(std::string_view spelling);
// The operator that the language spells so, with one or two operands. "**" is pow; ipow is chosen by the types.
std::optional<Op> find_operator(std::string_view spelling, int arity);
std::vector<std::string> function_names();

}  // namespace attune::codegen
