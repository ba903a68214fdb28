#include "codegen/simplify.h"

#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/linear_sum.h"
#include "codegen/op_table.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

// One round finds nearly everything; what it makes is looked at again.
constexpr int kMaxRounds = 8;

using Operands = std::vector<ValueId>;
using Result = std::optional<ValueId>;  // nullopt: no rule applies

bool is_power_of_two(double x) {
  int exponent = 0;
  return std::abs(std::frexp(x, &exponent)) == 0.5;
}

bool is_normal_f32(double x) {
  return std::abs(x) >= std::numeric_limits<float>::min() && std::abs(x) <= std::numeric_limits<float>::max();
}

// The comparison with its operands swapped.
Op mirrored(Op op) {
  switch (op) {
    case Op::k_lt:
      return Op::k_gt;
    case Op::k_le:
      return Op::k_ge;
    case Op::k_gt:
      return Op::k_lt;
    case Op::k_ge:
      return Op::k_le;
    default:
      return op;
  }
}

// The comparison that is true where this one is false, NaN aside.
Op opposite(Op op) {
  switch (op) {
    case Op::k_eq:
      return Op::k_ne;
    case Op::k_ne:
      return Op::k_eq;
    case Op::k_lt:
      return Op::k_ge;
    case Op::k_le:
      return Op::k_gt;
    case Op::k_gt:
      return Op::k_le;
    case Op::k_ge:
      return Op::k_lt;
    default:
      return op;
  }
}

bool is_comparison(Op op) {
  return opposite(op) != op;
}

class Simplifier {
 public:
  explicit Simplifier(Graph& graph) : graph_(graph), sums_(graph, rates_) {}

  // What every node that the roots need becomes.
  std::vector<ValueId> round(std::span<const ValueId> roots) {
    const std::vector<bool> needed = reachable(graph_, roots);
    const std::vector<int> uses = count_uses(needed);
    std::vector<ValueId> result(needed.size(), kNoValue);
    for (ValueId id = 0; id < needed.size(); ++id) {
      if (!needed[id]) continue;
      Node node = graph_[id];
      for (ValueId& operand : node.operands) operand = result[operand];
      result[id] = info(node.op).type ? make(node.op, std::move(node.operands)) : graph_.add(std::move(node));
      if (uses_.size() <= result[id]) uses_.resize(result[id] + 1, 0);
      uses_[result[id]] += uses[id];
    }
    return result;
  }

 private:
  std::vector<int> count_uses(const std::vector<bool>& needed) const {
    std::vector<int> uses(needed.size(), 0);
    for (ValueId id = 0; id < needed.size(); ++id) {
      if (!needed[id]) continue;
      for (ValueId operand : graph_[id].operands) ++uses[operand];
    }
    return uses;
  }

  // The simplified op of simplified operands.
  ValueId make(Op op, Operands x) {
    if (const Result folded = fold(op, x)) return *folded;
    if (const Result better = rule(op, x)) return *better;
    return graph_.op(op, std::move(x));
  }

  Result fold(Op op, const Operands& x) {
    const OpInfo& row = info(op);
    if (!row.value) return std::nullopt;
    std::vector<double> values;
    std::vector<Type> types;
    for (ValueId id : x) {
      if (!is_constant(id)) return std::nullopt;
      values.push_back(number(id));
      types.push_back(type(id));
    }
    const std::optional<Type> result = row.type(types);
    if (!result) return std::nullopt;
    const double value = row.value(values, *result, types[0]);
    if (std::isnan(value)) return std::nullopt;
    return graph_.constant(*result, value);
  }

  Result rule(Op op, const Operands& x) {
    if (type(x[0]) == Type::kI32) {
      if (const Result sum = integer_sum(op, x)) return sum;
    }
    switch (op) {
      case Op::k_add:
        return add(x[0], x[1]);
      case Op::k_sub:
        return sub(x[0], x[1]);
      case Op::k_mul:
        return mul(x[0], x[1]);
      case Op::k_div:
        return div(x[0], x[1]);
      case Op::k_neg:
        return neg(x[0]);
      case Op::k_pow:
      case Op::k_ipow:
        return power(x[0], x[1]);
      case Op::k_floor_div:
      case Op::k_mod:
        return division_by_one(op, x[0], x[1]);
      case Op::k_and:
      case Op::k_or:
        return logic(op, x[0], x[1]);
      case Op::k_not:
        return negation(x[0]);
      case Op::k_where:
        return where(x[0], x[1], x[2]);
      case Op::k_min:
      case Op::k_max:
        return x[0] == x[1] ? Result(x[0]) : std::nullopt;
      case Op::k_abs:
        return absolute(x[0]);
      case Op::k_relu:
        return is(x[0], Op::k_relu) ? Result(x[0]) : std::nullopt;
      case Op::k_floor:
        return is(x[0], Op::k_floor) || is(x[0], Op::k_to_f32) ? Result(x[0]) : std::nullopt;
      case Op::k_to_f32:
      case Op::k_to_i32:
        return conversion(op, x[0]);
      default:
        return is_comparison(op) ? compare(op, x[0], x[1]) : std::nullopt;
    }
  }

  // i32 sums. A product of two variables is left to mul().
  Result integer_sum(Op op, const Operands& x) {
    if (op != Op::k_add && op != Op::k_sub && op != Op::k_neg && op != Op::k_mul) return std::nullopt;
    return sums_.canonical(op, x);
  }

  // x + y of f32 or f64.
  Result add(ValueId x, ValueId y) {
    if (is_number(x, 0)) return y;
    if (is_number(y, 0)) return x;
    if (is(y, Op::k_neg)) return make(Op::k_sub, {x, operand(y, 0)});
    if (is(x, Op::k_neg)) return make(Op::k_sub, {y, operand(x, 0)});
    if (slower(x, y)) return make(Op::k_add, {y, x});
    if (is_constant(y) && number(y) < 0) return make(Op::k_sub, {x, constant_like(y, -number(y))});
    if (are_equal(x, y)) return make(Op::k_mul, {x, constant_like(x, 2)});
    return gathered(x, false, y, false);
  }

  // The same value, or products of the same two: the derivative of a square.
  bool are_equal(ValueId x, ValueId y) const {
    const bool is_mirrored = is(x, Op::k_mul) && is(y, Op::k_mul) && operand(x, 0) == operand(y, 1) && operand(x, 1) == operand(y, 0);
    return x == y || is_mirrored;
  }

  Result sub(ValueId x, ValueId y) {
    if (is_number(y, 0)) return x;
    if (is_number(x, 0)) return make(Op::k_neg, {y});
    if (is(y, Op::k_neg)) return make(Op::k_add, {x, operand(y, 0)});
    if (is_constant(y) && number(y) < 0) return make(Op::k_add, {x, constant_like(y, -number(y))});
    if (const Result sum = gathered(x, false, y, true)) return sum;
    return gathered(y, true, x, false);
  }

  // A sum of something with something slower; each may be subtracted.
  struct Split {
    ValueId fast, slow;
    bool fast_is_negative, slow_is_negative;
  };
  std::optional<Split> split(ValueId sum) {
    if (!is(sum, Op::k_add) && !is(sum, Op::k_sub)) return std::nullopt;
    const ValueId x = operand(sum, 0);
    const ValueId y = operand(sum, 1);
    const bool subtracts = is(sum, Op::k_sub);
    if (slower(y, x)) return Split{x, y, false, subtracts};
    if (subtracts && slower(x, y)) return Split{y, x, true, false};
    return std::nullopt;
  }

  // sum + other, where the sum ends in something slow and `other` is slow as well: (fast + slow) + other -> fast + (slow + other).
  Result gathered(ValueId sum, bool sum_is_negative, ValueId other, bool other_is_negative) {
    if (type(sum) != Type::kF32) return std::nullopt;
    const std::optional<Split> parts = split(sum);
    if (!parts || !both_slower(parts->slow, other, parts->fast)) return std::nullopt;
    const bool fast_is_negative = parts->fast_is_negative != sum_is_negative;
    const bool slow_is_negative = parts->slow_is_negative != sum_is_negative;
    if (is_constant(parts->slow) && is_constant(other)) {
      const double a = slow_is_negative ? -number(parts->slow) : number(parts->slow);
      const double b = other_is_negative ? -number(other) : number(other);
      if (a * b < 0 || !std::isfinite(a + b)) return std::nullopt;
    }
    const bool both_negative = slow_is_negative && other_is_negative;
    const ValueId slow = slow_is_negative == other_is_negative ? make(Op::k_add, {parts->slow, other})
                         : slow_is_negative                    ? make(Op::k_sub, {other, parts->slow})
                                                               : make(Op::k_sub, {parts->slow, other});
    if (fast_is_negative) return make(Op::k_sub, {slow, parts->fast});  // then one of the slow parts is added
    return make(both_negative ? Op::k_sub : Op::k_add, {parts->fast, slow});
  }

  Result mul(ValueId x, ValueId y) {
    if (is_number(x, 1)) return y;
    if (is_number(y, 1)) return x;
    if (type(x) == Type::kI32) return std::nullopt;
    if (is_number(y, -1)) return make(Op::k_neg, {x});
    if (slower(x, y)) return make(Op::k_mul, {y, x});
    if (const Result product = product_of_negatives(x, y)) return product;
    return type(x) == Type::kF32 ? product_of_slow_factors(x, y) : std::nullopt;
  }

  Result product_of_negatives(ValueId x, ValueId y) {
    if (is(x, Op::k_neg) && is(y, Op::k_neg)) return make(Op::k_mul, {operand(x, 0), operand(y, 0)});
    if (is(x, Op::k_neg)) {
      if (slower(y, x)) return make(Op::k_mul, {operand(x, 0), make(Op::k_neg, {y})});
      return make(Op::k_neg, {make(Op::k_mul, {operand(x, 0), y})});
    }
    if (is(y, Op::k_neg) && !slower(y, x)) return make(Op::k_neg, {make(Op::k_mul, {x, operand(y, 0)})});
    return std::nullopt;
  }

  // relu(s) * where(s > 0, u, 0) -> relu(s) * u: the derivative of a squared relu.
  Result relu_times_step(ValueId x, ValueId y) {
    if (!is(x, Op::k_relu) || !is(y, Op::k_where)) return std::nullopt;
    const ValueId condition = operand(y, 0);
    const bool is_step = is(condition, Op::k_gt) && operand(condition, 0) == operand(x, 0) && is_number(operand(condition, 1), 0);
    // u is uniform, and so taken to be finite.
    if (!is_step || !is_number(operand(y, 2), 0) || rate(operand(y, 1)) != Rate::kUniform) return std::nullopt;
    return make(Op::k_mul, {x, operand(y, 1)});
  }

  Result product_of_slow_factors(ValueId x, ValueId y) {
    if (const Result product = relu_times_step(x, y)) return product;
    if (const Result product = relu_times_step(y, x)) return product;
    if (is(x, Op::k_mul)) {
      const ValueId fast = operand(x, 0);
      const ValueId slow = operand(x, 1);
      if (both_slower(slow, y, fast) && product_is_normal(slow, y)) return make(Op::k_mul, {fast, make(Op::k_mul, {slow, y})});
    }
    // a * (1 / b) where that division is not hoisted further than the product.
    if (is(y, Op::k_div) && is_number(operand(y, 0), 1) && !slower(y, x) && rate(y) != Rate::kElement) {
      return make(Op::k_div, {x, operand(y, 1)});
    }
    // Uniform factors go outward, where they meet others and can be left to the end of a loop.
    if (const auto parts = uniform_part(x, y)) return make(Op::k_mul, {make(Op::k_mul, {parts->fast, y}), parts->uniform});
    if (const auto parts = uniform_part(y, x)) return make(Op::k_mul, {make(Op::k_mul, {x, parts->fast}), parts->uniform});
    return std::nullopt;
  }

  struct Product {
    ValueId fast, uniform;
  };
  // `product` as fast * uniform, if the product with `other` may take the uniform factor over: `product` has no other users, and fast *
  // other is no faster than fast.
  std::optional<Product> uniform_part(ValueId product, ValueId other) {
    if (!is(product, Op::k_mul) || product == other || uses(product) > 1) return std::nullopt;
    const Product parts = {operand(product, 0), operand(product, 1)};
    const bool is_free = rate(parts.fast) == join(rate(product), rate(other));
    if (rate(parts.uniform) != Rate::kUniform || rate(other) == Rate::kUniform || !is_free) return std::nullopt;
    return parts;
  }

  Result div(ValueId x, ValueId y) {
    if (is_number(y, 1)) return x;
    if (is_number(y, -1)) return make(Op::k_neg, {x});
    if (is_constant(y)) {
      const double reciprocal = 1 / number(y);
      const bool is_exact = is_power_of_two(number(y));
      if (!is_normal_f32(reciprocal) || !(is_exact || (type(x) == Type::kF32 && rate(x) != Rate::kUniform))) return std::nullopt;
      return make(Op::k_mul, {x, constant_like(y, reciprocal)});
    }
    if (type(x) != Type::kF32 || !slower(y, x)) return std::nullopt;
    return make(Op::k_mul, {x, make(Op::k_div, {constant_like(y, 1), y})});
  }

  Result neg(ValueId x) {
    if (is(x, Op::k_neg)) return operand(x, 0);
    if (is(x, Op::k_sub) && uses(x) <= 1) return make(Op::k_sub, {operand(x, 1), operand(x, 0)});
    if (is(x, Op::k_mul) && slower(operand(x, 1), operand(x, 0))) {
      return make(Op::k_mul, {operand(x, 0), make(Op::k_neg, {operand(x, 1)})});
    }
    return std::nullopt;
  }

  // Small whole exponents, by the least number of products.
  Result power(ValueId x, ValueId exponent) {
    const double e = number(exponent);
    if (e == 0) return constant_like(x, 1);
    if (e == 1) return x;
    if (e == -1) return make(Op::k_div, {constant_like(x, 1), x});
    if (e != 2 && e != 3 && e != 4) return std::nullopt;
    const ValueId square = make(Op::k_mul, {x, x});
    if (e == 2) return square;
    return make(Op::k_mul, {square, e == 3 ? x : square});
  }

  // i32; the remainder by 1, -1 and 0 is 0, and so is the quotient by 0.
  Result division_by_one(Op op, ValueId x, ValueId y) {
    if (type(x) != Type::kI32 || !is_constant(y)) return std::nullopt;
    const bool is_unit = number(y) == 1 || number(y) == -1;
    if (number(y) == 0 || (is_unit && op == Op::k_mod)) return graph_.constant(Type::kI32, 0);
    if (!is_unit) return std::nullopt;
    return number(y) == 1 ? x : make(Op::k_neg, {x});
  }

  Result logic(Op op, ValueId x, ValueId y) {
    if (is_constant(x)) std::swap(x, y);
    const bool is_and = op == Op::k_and;
    if (is_constant(y)) return is_true(y) == is_and ? x : y;
    if (x == y) return x;
    if (are_opposite(x, y)) return graph_.constant(Type::kBool, !is_and);
    return std::nullopt;
  }

  bool are_opposite(ValueId x, ValueId y) const {
    return (is(x, Op::k_not) && operand(x, 0) == y) || (is(y, Op::k_not) && operand(y, 0) == x);
  }

  Result negation(ValueId x) {
    if (is(x, Op::k_not)) return operand(x, 0);
    const Op op = graph_[x].op;
    if (!is_comparison(op)) return std::nullopt;
    // A comparison with NaN is false, and so is its opposite; != is the opposite of == all the same.
    const bool is_exact = op == Op::k_eq || op == Op::k_ne || type(operand(x, 0)) == Type::kI32;
    return is_exact ? Result(make(opposite(op), graph_[x].operands)) : std::nullopt;
  }

  Result compare(Op op, ValueId x, ValueId y) {
    const bool is_equality = op == Op::k_eq || op == Op::k_ne;
    const bool is_strict = op == Op::k_lt || op == Op::k_gt || op == Op::k_ne;
    const bool has_nan = type(x) == Type::kF32 || type(x) == Type::kF64;
    if (x == y && !(has_nan && (is_equality || !is_strict))) return graph_.constant(Type::kBool, !is_strict);
    if (is_constant(x)) return make(mirrored(op), {y, x});
    if (is_equality && type(x) == Type::kBool && is_constant(y)) {
      return is_true(y) == (op == Op::k_eq) ? x : make(Op::k_not, {x});
    }
    return std::nullopt;
  }

  Result where(ValueId condition, ValueId x, ValueId y) {
    if (is_constant(condition)) return is_true(condition) ? x : y;
    if (x == y) return x;
    if (is(condition, Op::k_not)) return make(Op::k_where, {operand(condition, 0), y, x});
    if (is(x, Op::k_where) && operand(x, 0) == condition) return make(Op::k_where, {condition, operand(x, 1), y});
    if (is(y, Op::k_where) && operand(y, 0) == condition) return make(Op::k_where, {condition, x, operand(y, 2)});
    if (type(x) != Type::kBool) return std::nullopt;
    if (is_constant(x)) return is_true(x) ? make(Op::k_or, {condition, y}) : make(Op::k_and, {make(Op::k_not, {condition}), y});
    if (is_constant(y)) return is_true(y) ? make(Op::k_or, {make(Op::k_not, {condition}), x}) : make(Op::k_and, {condition, x});
    return std::nullopt;
  }

  Result absolute(ValueId x) {
    if (is(x, Op::k_abs) || is(x, Op::k_relu)) return x;
    return is(x, Op::k_neg) ? Result(make(Op::k_abs, {operand(x, 0)})) : std::nullopt;
  }

  // f32(i32(bool)) and i32(f32(bool)).
  Result conversion(Op op, ValueId x) {
    const bool is_twice = is(x, op == Op::k_to_f32 ? Op::k_to_i32 : Op::k_to_f32) && type(operand(x, 0)) == Type::kBool;
    return is_twice ? Result(make(op, {operand(x, 0)})) : std::nullopt;
  }

  // Constants are slower than anything else. In products and sums the slower operand stands on the right.
  bool slower(ValueId x, ValueId y) {
    if (is_constant(x) || is_constant(y)) return is_constant(x) && !is_constant(y);
    return is_slower(rate(x), rate(y));
  }

  // Whether an operation on `x` and `y` is slower than `fast`.
  bool both_slower(ValueId x, ValueId y, ValueId fast) {
    if (!slower(x, fast) || !slower(y, fast)) return false;
    return (is_constant(x) && is_constant(y)) || is_slower(join(rate(x), rate(y)), rate(fast));
  }

  bool product_is_normal(ValueId x, ValueId y) const { return !is_constant(x) || !is_constant(y) || is_normal_f32(number(x) * number(y)); }

  Rate rate(ValueId id) {
    extend_rates(graph_, rates_);
    return rates_[id];
  }

  int uses(ValueId id) const { return id < uses_.size() ? uses_[id] : 0; }
  bool is(ValueId id, Op op) const { return graph_[id].op == op; }
  bool is_constant(ValueId id) const { return is(id, Op::k_constant); }
  bool is_number(ValueId id, double value) const { return is_constant(id) && number(id) == value; }
  bool is_true(ValueId id) const { return number(id) != 0; }
  double number(ValueId id) const { return graph_[id].number; }
  Type type(ValueId id) const { return graph_[id].type; }
  ValueId operand(ValueId id, size_t i) const { return graph_[id].operands[i]; }
  ValueId constant_like(ValueId id, double number) { return graph_.constant(type(id), number); }

  Graph& graph_;
  std::vector<Rate> rates_;
  LinearSums sums_;
  std::vector<int> uses_;  // by new id: users of what became it
};

}  // namespace

void simplify(Graph& graph, std::span<ValueId* const> roots) {
  std::vector<ValueId*> present;
  std::vector<ValueId> ids;
  for (ValueId* root : roots) {
    if (*root == kNoValue) continue;
    present.push_back(root);
    ids.push_back(*root);
  }
  for (int round = 0; round < kMaxRounds; ++round) {
    const std::vector<ValueId> result = Simplifier(graph).round(ids);
    bool is_changed = false;
    for (ValueId& id : ids) is_changed = std::exchange(id, result[id]) != id || is_changed;
    if (!is_changed) break;
  }
  for (size_t i = 0; i < ids.size(); ++i) *present[i] = ids[i];
}

void simplify(Ir& ir) {
  std::vector<ValueId*> roots = {&ir.score, &ir.mask, &ir.weight, &ir.sink, &ir.factor};
  for (Param& param : ir.params) {
    roots.push_back(&param.default_value);
    for (ValueId& dim : param.dims) roots.push_back(&dim);
  }
  simplify(ir.graph, roots);
}

}  // namespace attune::codegen
