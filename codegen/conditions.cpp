#include "codegen/conditions.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace attune::codegen {
namespace {

// Coefficients, terms and constants beyond these are not affine for us: sums stay exact in double.
constexpr double kGreatestFactor = 0x1p20;
constexpr double kGreatestConstant = 0x1p40;
constexpr size_t kMostTerms = 16;
constexpr double kGreatestI32 = 2147483647.0;
// A comparison of more alternatives by abs, min, max and clamp stays opaque.
constexpr int kMostAlternatives = 16;

// a + factor * b, or nothing if it grows out of the limits.
std::optional<Affine> add_scaled(const Affine& a, const Affine& b, double factor) {
  Affine sum;
  sum.q = a.q + factor * b.q;
  sum.k = a.k + factor * b.k;
  sum.constant = a.constant + factor * b.constant;
  auto x = a.terms.begin();
  auto y = b.terms.begin();
  while (x != a.terms.end() || y != b.terms.end()) {
    Term term;
    if (y == b.terms.end() || (x != a.terms.end() && x->atom < y->atom)) {
      term = *x++;
    } else if (x == a.terms.end() || y->atom < x->atom) {
      term = {factor * y->factor, y->atom};
      ++y;
    } else {
      term = {x->factor + factor * y->factor, x->atom};
      ++x;
      ++y;
    }
    if (term.factor != 0) sum.terms.push_back(term);
  }
  const auto is_small = [](double x) { return std::abs(x) <= kGreatestFactor; };
  const bool fits = is_small(sum.q) && is_small(sum.k) && std::abs(sum.constant) <= kGreatestConstant && sum.terms.size() <= kMostTerms &&
                    std::all_of(sum.terms.begin(), sum.terms.end(), [&](const Term& term) { return is_small(term.factor); });
  return fits ? std::optional(std::move(sum)) : std::nullopt;
}

bool is_constant(const Affine& x) {
  return x.is_uniform() && x.terms.empty();
}

Affine atom(ValueId id) {
  Affine form;
  form.terms.push_back({1, id});
  return form;
}

std::optional<Affine> form_of_symbol(ValueId id, Symbol symbol) {
  Affine form;
  if (symbol == Symbol::kQIdx) {
    form.q = 1;
  } else if (symbol == Symbol::kKIdx) {
    form.k = 1;
  } else {
    form = atom(id);
  }
  return form;
}

std::optional<Affine> product(const Affine& a, const Affine& b) {
  if (is_constant(a)) return add_scaled({}, b, a.constant);
  if (is_constant(b)) return add_scaled({}, a, b.constant);
  return std::nullopt;
}

// An operand of a comparison. Only what has an affine form is negated.
struct Side {
  ValueId id = kNoValue;
  bool is_negated = false;
};

bool is_and_or(Op op) {
  return op == Op::k_and || op == Op::k_or;
}

class ConditionBuilder {
 public:
  ConditionBuilder(const Graph& graph, std::span<const Rate> rates, const AffineForms& forms)
      : graph_(graph), rates_(rates), forms_(forms), needed_(graph.size()), built_(graph.size(), {-1, -1}) {}

  std::vector<Condition> build(ValueId mask) {
    needed_[mask][false] = true;
    for (ValueId id = mask + 1; id-- > 0;) mark_operands(id);
    for (ValueId id = 0; id <= mask; ++id) {
      for (bool is_negated : {false, true}) {
        if (needed_[id][is_negated]) built_[id][is_negated] = build_node(id, is_negated);
      }
    }
    return std::move(conditions_);
  }

 private:
  using Polarities = std::array<bool, 2>;  // plain, negated

  bool is_uniform(ValueId id) const { return rates_[id] == Rate::kUniform; }

  bool is_bool_equality(const Node& node) const {
    return (node.op == Op::k_eq || node.op == Op::k_ne) && graph_[node.operands[0]].type == Type::kBool;
  }

  // Users come after their operands, so that going down the ids every node is marked before its operands are.
  void mark_operands(ValueId id) {
    const Polarities needed = needed_[id];
    if ((!needed[0] && !needed[1]) || is_uniform(id)) return;
    const Node& node = graph_[id];
    const auto mark = [&](ValueId operand, Polarities polarities) {
      for (int i = 0; i < 2; ++i) needed_[operand][i] = needed_[operand][i] || polarities[i];
    };
    if (is_and_or(node.op)) {
      for (ValueId operand : node.operands) mark(operand, needed);
    } else if (node.op == Op::k_not) {
      mark(node.operands[0], {needed[1], needed[0]});
    } else if (node.op == Op::k_where) {
      mark(node.operands[0], {true, true});
      mark(node.operands[1], needed);
      mark(node.operands[2], needed);
    } else if (is_bool_equality(node)) {
      for (ValueId operand : node.operands) mark(operand, {true, true});
    }
  }

  int build_node(ValueId id, bool is_negated) {
    if (is_uniform(id)) return leaf(Condition::Kind::kUniform, id, is_negated);
    const Node& node = graph_[id];
    const auto operand = [&](int i, bool negate) { return built_[node.operands[i]][negate]; };
    switch (node.op) {
      case Op::k_and:
        return combine(!is_negated, operand(0, is_negated), operand(1, is_negated));
      case Op::k_or:
        return combine(is_negated, operand(0, is_negated), operand(1, is_negated));
      case Op::k_not:
        return operand(0, !is_negated);
      case Op::k_where:
        return combine(false, combine(true, operand(0, false), operand(1, is_negated)),
                       combine(true, operand(0, true), operand(2, is_negated)));
      case Op::k_eq:
      case Op::k_ne: {
        const bool is_different = (node.op == Op::k_ne) != is_negated;
        if (!is_bool_equality(node)) return equality(id, is_negated, is_different);
        return combine(false, combine(true, operand(0, false), operand(1, is_different)),
                       combine(true, operand(0, true), operand(1, !is_different)));
      }
      case Op::k_lt:
      case Op::k_le:
        return comparison(id, is_negated, node.operands[0], node.operands[1], node.op == Op::k_lt);
      case Op::k_gt:
      case Op::k_ge:
        return comparison(id, is_negated, node.operands[1], node.operands[0], node.op == Op::k_gt);
      default:
        return leaf(Condition::Kind::kOpaque, id, is_negated);
    }
  }

  int add(Condition condition) {
    conditions_.push_back(std::move(condition));
    return static_cast<int>(conditions_.size()) - 1;
  }

  int leaf(Condition::Kind kind, ValueId id, bool is_negated) {
    Condition condition;
    condition.kind = kind;
    condition.value = id;
    condition.is_negated = is_negated;
    return add(std::move(condition));
  }

  int combine(bool is_and, int left, int right) {
    Condition condition;
    condition.kind = is_and ? Condition::Kind::kAnd : Condition::Kind::kOr;
    condition.left = left;
    condition.right = right;
    return add(std::move(condition));
  }

  // Runs `build`, which returns -1 where a part is not affine; then the node is opaque, and the parts are dropped.
  template <typename Build>
  int or_opaque(ValueId id, bool is_negated, Build build) {
    const size_t size = conditions_.size();
    alternatives_left_ = kMostAlternatives;
    if (const int built = build(); built >= 0) return built;
    conditions_.resize(size);
    return leaf(Condition::Kind::kOpaque, id, is_negated);
  }

  // x <= y or x < y. not (x <= y) is y < x, but true where one of them is NaN.
  int comparison(ValueId id, bool is_negated, ValueId x, ValueId y, bool is_strict) {
    return or_opaque(id, is_negated, [&] {
      if (is_negated) return less({y}, {x}, !is_strict, true);
      return less({x}, {y}, is_strict, false);
    });
  }

  // != is true where one of them is NaN, == is false.
  int equality(ValueId id, bool is_negated, bool is_different) {
    const ValueId x = graph_[id].operands[0];
    const ValueId y = graph_[id].operands[1];
    return or_opaque(id, is_negated, [&] {
      const int below = less({x}, {y}, is_different, is_different);
      const int above = below < 0 ? -1 : less({y}, {x}, is_different, is_different);
      return above < 0 ? -1 : combine(!is_different, below, above);
    });
  }

  int combine_if_built(bool is_and, int left, int right) { return left < 0 || right < 0 ? -1 : combine(is_and, left, right); }

  // x <= y, or x < y if is_strict. -1 if it is not affine.
  int less(Side x, Side y, bool is_strict, bool if_nan) {
    if (--alternatives_left_ < 0) return -1;
    const auto by_x = [&](Side part) { return less(part, y, is_strict, if_nan); };
    const auto by_y = [&](Side part) { return less(x, part, is_strict, if_nan); };
    if (const int split = split_side(x, true, by_x); split != kNotSplit) return split;
    if (const int split = split_side(y, false, by_y); split != kNotSplit) return split;
    const bool is_i32 = graph_[x.id].type == Type::kI32 && graph_[y.id].type == Type::kI32;
    return is_i32 ? less_i32(x, y, is_strict) : less_f32(x, y, is_strict, if_nan);
  }

  // Of a side that is an extremum: on the lesser side max means that both parts must hold, on the greater one min does. An f32 is split
  // only where to_f32 stands above: that keeps the order and is never NaN.
  template <typename Less>
  int split_side(Side side, bool is_lesser, Less less_part) {
    if (is_uniform(side.id)) return kNotSplit;
    const Node* node = &graph_[side.id];
    if (node->op == Op::k_abs && graph_[node->operands[0]].op == Op::k_to_f32) {
      return split_abs(graph_[node->operands[0]].operands[0], is_lesser, less_part);
    }
    if (node->op == Op::k_to_f32) node = &graph_[node->operands[0]];
    if (node->type != Type::kI32) return kNotSplit;
    const auto part = [&](int i) { return less_part({node->operands[i]}); };
    switch (node->op) {
      case Op::k_max:
      case Op::k_min: {
        const int left = part(0);
        return left < 0 ? -1 : combine_if_built(is_lesser == (node->op == Op::k_max), left, part(1));
      }
      case Op::k_clamp: {  // min(max(x, low), high)
        const int left = part(0);
        const int low = left < 0 ? -1 : combine_if_built(is_lesser, left, part(1));
        return low < 0 ? -1 : combine_if_built(!is_lesser, low, part(2));
      }
      case Op::k_abs:
        return split_abs(node->operands[0], is_lesser, less_part);
      default:
        return kNotSplit;
    }
  }

  // abs(x) = max(x, -x).
  template <typename Less>
  int split_abs(ValueId x, bool is_lesser, Less less_part) {
    if (!forms_[x]) return -1;
    const int left = less_part({x, false});
    return left < 0 ? -1 : combine_if_built(is_lesser, left, less_part({x, true}));
  }

  // Of an i32, or of the i32 below to_f32; notes what must fit.
  std::optional<Affine> form(Side side, Inequality& inequality) const {
    const Node& node = graph_[side.id];
    const ValueId id = node.op == Op::k_to_f32 ? node.operands[0] : side.id;
    if (!forms_[id]) return std::nullopt;
    Affine form = *forms_[id];
    // A uniform side is taken as it is, wrapped already, unless it is negated here.
    const bool is_value = is_uniform(id) && !side.is_negated;
    const bool is_number = is_constant(form) && std::abs(form.constant) < kGreatestI32;
    if (is_value && !is_number) form = atom(id);
    if (side.is_negated) form = form.negated();
    if (!is_value) inequality.must_fit.push_back(form);
    return form;
  }

  int add_inequality(Inequality inequality) {
    Condition condition;
    condition.kind = Condition::Kind::kInequality;
    condition.inequality = std::move(inequality);
    return add(std::move(condition));
  }

  int less_i32(Side x, Side y, bool is_strict) {
    Inequality inequality;
    const std::optional<Affine> lesser = form(x, inequality);
    const std::optional<Affine> greater = lesser ? form(y, inequality) : std::nullopt;
    if (!greater) return -1;
    std::optional<Affine> difference = add_scaled(*greater, *lesser, -1);
    if (!difference) return -1;
    inequality.form = std::move(*difference);
    if (is_strict) inequality.form.constant -= 1;
    return add_inequality(std::move(inequality));
  }

  // to_f32(i32) against a uniform f32. Sides below an extremum are i32 on one side only.
  int less_f32(Side x, Side y, bool is_strict, bool if_nan) {
    if (is_uniform(x.id) == is_uniform(y.id)) return -1;
    const bool is_upper = is_uniform(y.id);
    const Side side = is_upper ? x : y;
    const Side limit = is_upper ? y : x;
    const Node& node = graph_[side.id];
    if ((node.type == Type::kF32 && node.op != Op::k_to_f32) || graph_[limit.id].type != Type::kF32) return -1;
    Inequality inequality;
    const std::optional<Affine> value = form(side, inequality);
    if (!value) return -1;
    // x <= U: x <= floor(U); x < U: x <= ceil(U) - 1; x >= U: x >= ceil(U); x > U: x >= floor(U) + 1.
    inequality.form = is_upper ? value->negated() : *value;
    if (is_strict) inequality.form.constant -= 1;
    inequality.limit = limit.id;
    inequality.limit_is_negated = !is_upper;
    inequality.limit_rounds_down = is_upper != is_strict;
    inequality.if_nan = if_nan;
    return add_inequality(std::move(inequality));
  }

  static constexpr int kNotSplit = -2;

  const Graph& graph_;
  std::span<const Rate> rates_;
  const AffineForms& forms_;
  std::vector<Polarities> needed_;
  std::vector<std::array<int, 2>> built_;
  std::vector<Condition> conditions_;
  int alternatives_left_ = 0;
};

}  // namespace

Affine Affine::negated() const {
  return *add_scaled({}, *this, -1);
}

AffineForms::AffineForms(const Graph& graph, std::span<const Rate> rates) : forms_(graph.size()) {
  for (ValueId id = 0; id < graph.size(); ++id) {
    const Node& node = graph[id];
    if (node.type != Type::kI32) continue;
    const auto operand = [&](int i) -> const std::optional<Affine>& { return forms_[node.operands[i]]; };
    const bool is_binary = node.op == Op::k_add || node.op == Op::k_sub || node.op == Op::k_mul;
    std::optional<Affine>& form = forms_[id];
    if (node.op == Op::k_constant) {
      form.emplace();
      form->constant = node.number;
    } else if (node.op == Op::k_symbol) {
      form = form_of_symbol(id, static_cast<Symbol>(node.index));
    } else if (is_binary && operand(0) && operand(1)) {
      form = node.op == Op::k_mul ? product(*operand(0), *operand(1)) : add_scaled(*operand(0), *operand(1), node.op == Op::k_add ? 1 : -1);
    } else if (node.op == Op::k_neg && operand(0)) {
      form = operand(0)->negated();
    }
    if (!form && rates[id] == Rate::kUniform) form = atom(id);
  }
}

const Affine* AffineForms::operator[](ValueId id) const {
  return id < forms_.size() && forms_[id] ? &*forms_[id] : nullptr;
}

std::vector<Condition> conditions_of(const Graph& graph, std::span<const Rate> rates, const AffineForms& forms, ValueId mask) {
  return ConditionBuilder(graph, rates, forms).build(mask);
}

}  // namespace attune::codegen
