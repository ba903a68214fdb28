// Which values are certain to be finite: where a score of -inf must weigh 0, infinities beside it need a guard.
//
// Taken to be finite are qk, dP, lse2 and delta, everything uniform (an infinite scale leaves no score to speak of), and what + - * where
// min max tanh sigmoid and the like make of finite values, overflow aside. Not so reads of tensors at rows or columns, divisions by what is
// not uniform, exp, log, rsqrt, negative powers, constants that are infinite.
#pragma once

#include <vector>

#include "codegen/ir.h"

namespace attune::codegen {

class Finiteness {
 public:
  explicit Finiteness(const Graph& graph) : graph_(graph) {}

  // The graph may have grown since the last call. kNoValue, a structural zero or a factor that is not there, is finite.
  bool operator()(ValueId id);

 private:
  bool is_finite(ValueId id) const;
  bool has_finite_operands(const Node& node) const;

  const Graph& graph_;
  std::vector<Rate> rates_;
  std::vector<bool> finite_;
};

// "A score of -inf weighs 0", also if the factor of softmax is infinite or NaN there: factor -> where(score == -inf, 0, factor), unless one
// of them is certain to be finite.
void guard_factor(Ir& ir);

}  // namespace attune::codegen
