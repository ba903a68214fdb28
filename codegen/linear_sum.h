// Canonical i32 sums. i32 wraps, so that sums, differences, negations and products by constants may be regrouped at will: the value of
// every operand combination stays the same, bit for bit.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "codegen/ir.h"

namespace attune::codegen {

// sum of coefficient * value + constant, modulo 2^32.
struct LinearSum {
  struct Term {
    ValueId value = kNoValue;
    uint32_t coefficient = 0;
  };
  std::vector<Term> terms;  // of different values, none with coefficient 0, in canonical order: symbols, parameters, the rest
  uint32_t constant = 0;
};

// Turns i32 values into sums and sums into values. Equal sums become the same value: what is slow is added first, ((row + uniform) -
// column)
// + elements, so that hoisting leaves one operation a pair.
class LinearSums {
 public:
  // Keeps `rates` up to date with the graph.
  LinearSums(Graph& graph, std::vector<Rate>& rates) : graph_(graph), rates_(rates) {}

  // add, sub, neg or mul of i32 operands as a canonical value; nullopt for a product without a constant.
  std::optional<ValueId> canonical(Op op, const std::vector<ValueId>& operands);

 private:
  // A value, or its negation that has not been built.
  struct Signed {
    ValueId value = kNoValue;
    bool is_negative = false;
  };

  std::optional<LinearSum> combination(Op op, const std::vector<ValueId>& operands);
  const LinearSum& sum_of(ValueId id);
  LinearSum merged(LinearSum a, const LinearSum& b, uint32_t factor) const;
  bool precedes(ValueId a, ValueId b) const;
  Rate rate(ValueId id);

  ValueId build(const LinearSum& sum);
  std::optional<Signed> build_group(const LinearSum& sum, Rate rate);
  std::optional<Signed> plus(std::optional<Signed> a, std::optional<Signed> b);
  ValueId product(ValueId value, uint32_t coefficient);
  ValueId constant(uint32_t value);

  Graph& graph_;
  std::vector<Rate>& rates_;
  std::unordered_map<ValueId, LinearSum> sums_;
};

}  // namespace attune::codegen
