#include "codegen/pair_sums.h"

#include <algorithm>
#include <array>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/feeds.h"
#include "codegen/rates.h"
#include "codegen/simplify.h"
#include "codegen/whole_numbers.h"

namespace attune::codegen {
namespace {

// A product as its factors.
struct Product {
  std::vector<ValueId> factors;
  bool is_negative = false;
};

// q * q_idx + k * k_idx + rest
struct Line {
  int q = 0, k = 0;
  ValueId rest = kNoValue;  // f32; kNoValue: 0
};

class Splitter {
 public:
  explicit Splitter(Graph& graph) : graph_(graph), rates_(assign_rates(graph)), whole_(whole_ranges(graph)) {}

  std::optional<PairSum> split(ValueId dqk, const ParamGradient& gradient) {
    if (gradient.per_element == kNoValue) return std::nullopt;
    const bool is_of_head = is_uniform(gradient.read);
    if (!is_of_head && pair_reads(graph_, {gradient.read}).empty()) return std::nullopt;
    Product of_dqk, rest;
    add_factors(dqk, of_dqk);
    add_factors(gradient.per_element, rest);
    for (const ValueId factor : of_dqk.factors) {
      const auto found = std::find(rest.factors.begin(), rest.factors.end(), factor);
      if (found == rest.factors.end()) return std::nullopt;
      rest.factors.erase(found);
    }
    rest.is_negative = rest.is_negative != of_dqk.is_negative;

    PairSum sum;
    ValueId factor = graph_.constant(Type::kF32, rest.is_negative ? -1 : 1);
    bool has_other = false;
    for (const ValueId id : rest.factors) {
      if (is_uniform(id)) {
        factor = graph_.op(Op::k_mul, {factor, id});
        continue;
      }
      if (has_other) return std::nullopt;
      has_other = true;
      if (graph_[id].op == Op::k_symbol && static_cast<Symbol>(graph_[id].index) == Symbol::kQk) {
        sum.of = PairSumOf::kQk;
        continue;
      }
      const std::optional<Line> line = line_of(id);
      if (!line || line->q * line->k != -1) return std::nullopt;
      sum.of = PairSumOf::kDistances;
      sum.offset = line->rest;
      if (line->q > 0) continue;
      factor = graph_.op(Op::k_neg, {factor});
      if (sum.offset != kNoValue) sum.offset = graph_.op(Op::k_neg, {sum.offset});
    }
    if (!is_of_head) {
      if (has_other) return std::nullopt;
      sum.of = PairSumOf::kEachPair;
    }
    sum.factor = factor;
    simplify(graph_, std::array{&sum.factor});
    if (sum.offset != kNoValue) simplify(graph_, std::array{&sum.offset});
    return sum;
  }

 private:
  bool is_uniform(ValueId id) {
    extend_rates(graph_, rates_);
    return rates_[id] == Rate::kUniform;
  }

  void add_factors(ValueId id, Product& product) {
    const Node node = graph_[id];
    if (node.op == Op::k_mul) {
      for (const ValueId operand : node.operands) add_factors(operand, product);
    } else if (node.op == Op::k_neg) {
      product.is_negative = !product.is_negative;
      add_factors(node.operands[0], product);
    } else if (node.op == Op::k_div && is_uniform(node.operands[1])) {
      add_factors(node.operands[0], product);
      product.factors.push_back(graph_.op(Op::k_div, {graph_.constant(Type::kF32, 1), node.operands[1]}));
    } else {
      product.factors.push_back(id);
    }
  }

  // Of a value that is affine in both indices. Indices are exact in f32 as long as they are below 2^24, as float_distances.h says.
  std::optional<Line> line_of(ValueId id) {
    const Node node = graph_[id];
    if (id < whole_.size() && whole_[id] && whole_[id]->wraps) return std::nullopt;
    if (is_uniform(id)) return Line{.rest = node.type == Type::kI32 ? graph_.op(Op::k_to_f32, {id}) : id};
    switch (node.op) {
      case Op::k_symbol:
        if (node.index == static_cast<int32_t>(Symbol::kQIdx)) return Line{.q = 1};
        if (node.index == static_cast<int32_t>(Symbol::kKIdx)) return Line{.k = 1};
        return std::nullopt;
      case Op::k_to_f32:
        return line_of(node.operands[0]);
      case Op::k_neg: {
        const std::optional<Line> of = line_of(node.operands[0]);
        return of ? std::optional(sum({}, *of, true)) : std::nullopt;
      }
      case Op::k_add:
      case Op::k_sub: {
        const std::optional<Line> a = line_of(node.operands[0]), b = line_of(node.operands[1]);
        return a && b ? std::optional(sum(*a, *b, node.op == Op::k_sub)) : std::nullopt;
      }
      default:
        return std::nullopt;
    }
  }
  Line sum(const Line& a, const Line& b, bool subtracts) {
    const int sign = subtracts ? -1 : 1;
    Line line = {.q = a.q + sign * b.q, .k = a.k + sign * b.k, .rest = a.rest};
    if (b.rest == kNoValue) return line;
    if (a.rest == kNoValue) {
      line.rest = subtracts ? graph_.op(Op::k_neg, {b.rest}) : b.rest;
    } else {
      line.rest = graph_.op(subtracts ? Op::k_sub : Op::k_add, {a.rest, b.rest});
    }
    return line;
  }

  Graph& graph_;
  std::vector<Rate> rates_;
  const std::vector<std::optional<WholeRange>> whole_;
};

}  // namespace

std::optional<PairSum> split_pair_sum(Graph& graph, ValueId dqk, const ParamGradient& gradient) {
  return Splitter(graph).split(dqk, gradient);
}

ScaledDerivative split_scale(const Graph& graph, ValueId dqk) {
  const Node& product = graph[dqk];
  if (product.op != Op::k_mul) return {.rest = dqk};
  const std::vector<Rate> rates = assign_rates(graph);
  const auto depends_on_head = [&](ValueId factor) {
    return has_symbol(graph, reachable(graph, std::array{factor}), {Symbol::kH, Symbol::kKvH});
  };
  for (size_t i = 0; i < 2; ++i) {
    const ValueId factor = product.operands[i];
    if (rates[factor] == Rate::kUniform && !depends_on_head(factor)) return {.rest = product.operands[1 - i], .scale = factor};
  }
  return {.rest = dqk};
}

PairGradients pair_gradients(const Lowered& lowered, bool deterministic) {
  Graph graph = lowered.ir.graph;
  const ValueId dqk = split_scale(graph, lowered.backward.dqk).rest;
  PairGradients found;
  for (const ParamGradient& gradient : lowered.backward.params) {
    if (gradient.per_element == kNoValue) continue;
    const std::optional<PairSum> sum = split_pair_sum(graph, dqk, gradient);
    if (sum && (sum->of == PairSumOf::kPairs || sum->of == PairSumOf::kDistances)) {
      found.has_sums = true;
      found.has_distances = found.has_distances || sum->of == PairSumOf::kDistances;
    } else if (!sum || (sum->of == PairSumOf::kEachPair && deterministic)) {
      found.has_others = true;
      found.has_tensors = found.has_tensors || lowered.ir.params[static_cast<size_t>(gradient.param)].is_tensor;
    }
  }
  return found;
}

}  // namespace attune::codegen
