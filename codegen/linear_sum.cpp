#include "codegen/linear_sum.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "codegen/rates.h"

namespace attune::codegen {
namespace {

// A longer sum stays a term of its own, so that programs of many lets take linear time.
constexpr size_t kMaxTerms = 16;
constexpr uint32_t kMinusOne = ~uint32_t{0};

bool is_negative(uint32_t x) {
  return static_cast<int32_t>(x) < 0;
}

LinearSum single(ValueId id) {
  return {.terms = {{id, 1}}, .constant = 0};
}

}  // namespace

std::optional<ValueId> LinearSums::canonical(Op op, const std::vector<ValueId>& operands) {
  const std::optional<LinearSum> sum = combination(op, operands);
  if (!sum) return std::nullopt;
  if (sum->terms.size() > kMaxTerms) return graph_.op(op, operands);
  return build(*sum);
}

std::optional<LinearSum> LinearSums::combination(Op op, const std::vector<ValueId>& operands) {
  switch (op) {
    case Op::k_add:
      return merged(sum_of(operands[0]), sum_of(operands[1]), 1);
    case Op::k_sub:
      return merged(sum_of(operands[0]), sum_of(operands[1]), kMinusOne);
    case Op::k_neg:
      return merged({}, sum_of(operands[0]), kMinusOne);
    case Op::k_mul:
      break;
    default:
      return std::nullopt;
  }
  ValueId value = operands[0];
  ValueId other = operands[1];
  if (graph_[value].op == Op::k_constant) std::swap(value, other);
  if (graph_[other].op != Op::k_constant) return std::nullopt;
  const auto factor = static_cast<uint32_t>(static_cast<int32_t>(graph_[other].number));
  const LinearSum& sum = sum_of(value);
  // Distributing over several elements would multiply each of them in the inner loop.
  const auto elements =
      std::count_if(sum.terms.begin(), sum.terms.end(), [this](const LinearSum::Term& term) { return rate(term.value) == Rate::kElement; });
  const bool is_sign = factor == 1 || factor == kMinusOne;
  return merged({}, elements > 1 && !is_sign ? single(value) : sum, factor);
}

const LinearSum& LinearSums::sum_of(ValueId id) {
  if (const auto known = sums_.find(id); known != sums_.end()) return known->second;
  const Node node = graph_[id];
  LinearSum sum;
  if (node.op == Op::k_constant) {
    sum.constant = static_cast<uint32_t>(static_cast<int32_t>(node.number));
  } else {
    std::optional<LinearSum> combined = combination(node.op, node.operands);
    sum = combined && combined->terms.size() <= kMaxTerms ? std::move(*combined) : single(id);
  }
  return sums_.emplace(id, std::move(sum)).first->second;
}

// a + factor * b.
LinearSum LinearSums::merged(LinearSum a, const LinearSum& b, uint32_t factor) const {
  a.constant += factor * b.constant;
  for (const LinearSum::Term& term : b.terms) {
    const auto same = std::find_if(a.terms.begin(), a.terms.end(), [&term](const LinearSum::Term& t) { return t.value == term.value; });
    if (same == a.terms.end()) {
      a.terms.push_back({term.value, factor * term.coefficient});
    } else {
      same->coefficient += factor * term.coefficient;
    }
  }
  std::erase_if(a.terms, [](const LinearSum::Term& term) { return term.coefficient == 0; });
  std::sort(a.terms.begin(), a.terms.end(),
            [this](const LinearSum::Term& x, const LinearSum::Term& y) { return precedes(x.value, y.value); });
  return a;
}

bool LinearSums::precedes(ValueId a, ValueId b) const {
  const auto key = [this](ValueId id) {
    const Node& node = graph_[id];
    const int kind = node.op == Op::k_symbol ? 0 : node.op == Op::k_param ? 1 : 2;
    return std::tuple(kind, kind < 2 ? node.index : 0, id);
  };
  return key(a) < key(b);
}

Rate LinearSums::rate(ValueId id) {
  extend_rates(graph_, rates_);
  return rates_[id];
}

ValueId LinearSums::build(const LinearSum& sum) {
  const std::optional<Signed> row = build_group(sum, Rate::kRow);
  const std::optional<Signed> column = build_group(sum, Rate::kColumn);
  const std::optional<Signed> element = build_group(sum, Rate::kElement);
  // k_idx - (q_idx + uniform), so that it shares the bracket with (q_idx + uniform) - k_idx.
  const bool subtracts_row = row && row->is_negative && ((column && !column->is_negative) || (element && !element->is_negative));
  std::optional<Signed> uniform = build_group(subtracts_row ? merged({}, sum, kMinusOne) : sum, Rate::kUniform);
  if (uniform && subtracts_row) uniform->is_negative = !uniform->is_negative;
  std::optional<Signed> total;
  if (row) {
    total = plus(plus(plus(row, uniform), column), element);
  } else if (column) {
    total = plus(plus(column, uniform), element);
  } else {
    total = plus(element, uniform);
  }
  if (!total) return constant(0);
  return total->is_negative ? graph_.op(Op::k_neg, {total->value}) : total->value;
}

// The part of the sum that has this rate; the constant belongs to the uniform part.
std::optional<LinearSums::Signed> LinearSums::build_group(const LinearSum& sum, Rate rate) {
  std::optional<Signed> total;
  for (const bool negatives : {false, true}) {
    for (const LinearSum::Term& term : sum.terms) {
      if (this->rate(term.value) != rate || is_negative(term.coefficient) != negatives) continue;
      total = plus(total, Signed{product(term.value, negatives ? 0 - term.coefficient : term.coefficient), negatives});
    }
  }
  if (rate != Rate::kUniform || sum.constant == 0) return total;
  return plus(total, Signed{constant(sum.constant), false});
}

std::optional<LinearSums::Signed> LinearSums::plus(std::optional<Signed> a, std::optional<Signed> b) {
  if (!a) return b;
  if (!b) return a;
  // x - 1 rather than x + -1.
  const Node& last = graph_[b->value];
  if (!a->is_negative && !b->is_negative && last.op == Op::k_constant && last.number < 0) {
    b = Signed{constant(0 - static_cast<uint32_t>(static_cast<int32_t>(last.number))), true};
  }
  if (a->is_negative == b->is_negative) return Signed{graph_.op(Op::k_add, {a->value, b->value}), a->is_negative};
  if (a->is_negative) std::swap(a, b);
  return Signed{graph_.op(Op::k_sub, {a->value, b->value}), false};
}

ValueId LinearSums::product(ValueId value, uint32_t coefficient) {
  return coefficient == 1 ? value : graph_.op(Op::k_mul, {value, constant(coefficient)});
}

ValueId LinearSums::constant(uint32_t value) {
  return graph_.constant(Type::kI32, static_cast<int32_t>(value));
}

}  // namespace attune::codegen
