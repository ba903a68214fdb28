#include "codegen/score_line.h"

#include <array>
#include <utility>
#include <vector>

#include "codegen/rates.h"
#include "codegen/simplify.h"
#include "codegen/whole_numbers.h"

namespace attune::codegen {
namespace {

bool depends_on_column(Rate rate) {
  return rate == Rate::kColumn || rate == Rate::kElement;
}

class Splitter {
 public:
  explicit Splitter(Graph& graph) : graph_(graph), rates_(assign_rates(graph)), whole_(whole_ranges(graph)) {}

  std::optional<ScoreLine> split(ValueId score) {
    add(score, false);
    if (slope_ == kNoValue || rest_ == kNoValue) return std::nullopt;
    ScoreLine found = {line_, slope_, rest_};
    simplify(graph_, std::array{&found.slope, &found.rest});
    return found;
  }

 private:
  void add(ValueId id, bool is_negative) {
    const Node node = graph_[id];
    if (node.op == Op::k_add || node.op == Op::k_sub) {
      add(node.operands[0], is_negative);
      add(node.operands[1], is_negative != (node.op == Op::k_sub));
    } else if (node.op == Op::k_neg) {
      add(node.operands[0], !is_negative);
    } else if (!depends_on_column(rates_[id])) {
      add_to(line_, id, is_negative);
    } else if (const std::optional<ValueId> slope = slope_of(id)) {
      add_to(line_, id, is_negative);
      add_to(slope_, *slope, is_negative);
    } else {
      add_to(rest_, id, is_negative);
    }
  }
  void add_to(ValueId& sum, ValueId id, bool is_negative) {
    if (sum == kNoValue) {
      sum = is_negative ? graph_.op(Op::k_neg, {id}) : id;
    } else {
      sum = graph_.op(is_negative ? Op::k_sub : Op::k_add, {sum, id});
    }
  }

  // Of a value that depends on the key, if it is affine in k_idx. f32.
  std::optional<ValueId> slope_of(ValueId id) {
    const Node node = graph_[id];
    if (node.type == Type::kI32 && whole_[id] && whole_[id]->wraps) return std::nullopt;
    switch (node.op) {
      case Op::k_symbol:
        if (node.index != static_cast<int32_t>(Symbol::kKIdx)) return std::nullopt;
        return graph_.constant(Type::kF32, 1);
      case Op::k_to_f32:
        return slope_of(node.operands[0]);
      case Op::k_neg: {
        const std::optional<ValueId> slope = slope_of(node.operands[0]);
        return slope ? std::optional(graph_.op(Op::k_neg, {*slope})) : std::nullopt;
      }
      case Op::k_add:
      case Op::k_sub: {
        ValueId sum = kNoValue;
        for (size_t i = 0; i < node.operands.size(); ++i) {
          if (!depends_on_column(rates_[node.operands[i]])) continue;
          const std::optional<ValueId> slope = slope_of(node.operands[i]);
          if (!slope) return std::nullopt;
          add_to(sum, *slope, node.op == Op::k_sub && i == 1);
        }
        return sum;
      }
      case Op::k_mul:
        for (const int factor : {0, 1}) {
          const ValueId other = node.operands[static_cast<size_t>(factor)];
          if (node.type != Type::kF32 || rates_[other] != Rate::kUniform) continue;
          const std::optional<ValueId> slope = slope_of(node.operands[static_cast<size_t>(1 - factor)]);
          return slope ? std::optional(graph_.op(Op::k_mul, {*slope, other})) : std::nullopt;
        }
        return std::nullopt;
      default:
        return std::nullopt;
    }
  }

  Graph& graph_;
  const std::vector<Rate> rates_;
  const std::vector<std::optional<WholeRange>> whole_;
  ValueId line_ = kNoValue, slope_ = kNoValue, rest_ = kNoValue;
};

}  // namespace

std::optional<ScoreLine> split_line(Graph& graph, ValueId score) {
  return Splitter(graph).split(score);
}

}  // namespace attune::codegen
