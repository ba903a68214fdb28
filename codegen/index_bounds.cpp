#include "codegen/index_bounds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "codegen/conditions.h"
#include "codegen/eval/interpreter.h"
#include "codegen/index_region.h"
#include "codegen/interval_eval.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

constexpr double kLeastI32 = -2147483648.0;
constexpr double kGreatestI32 = 2147483647.0;
constexpr NumberRange kAllI32 = {kLeastI32, kGreatestI32};

// A mask of more alternatives is cut by fewer inequalities: less exact, but quick.
constexpr size_t kMostPolygons = 8;
constexpr size_t kMostHalfPlanes = 16;
// As in mask_bounds: to_f32 is exact up to here, and then errs by less than this part.
constexpr double kExactF32 = 0x1p24;
constexpr double kF32Error = 0x1p-22;
constexpr double kGreatestLimit = 0x1p40;

using HalfPlanes = std::vector<HalfPlane>;
using Alternatives = std::vector<HalfPlanes>;  // a union of intersections; none: no pair

NumberRange sum(const NumberRange& x, const NumberRange& y) {
  return {x.low + y.low, x.high + y.high};
}
NumberRange scaled(double factor, const NumberRange& x) {
  return factor >= 0 ? NumberRange{factor * x.low, factor * x.high} : NumberRange{factor * x.high, factor * x.low};
}
bool fits_i32(const NumberRange& x) {
  return x.low >= kLeastI32 && x.high <= kGreatestI32;
}

// Whether the interval of the operator is known, and narrow enough that a well-written index passes.
bool has_useful_interval(const Graph& graph, const Node& node) {
  switch (node.op) {
    case Op::k_symbol:
      return symbol_type(static_cast<Symbol>(node.index)) == Type::kI32;
    case Op::k_param:
      return node.type != Type::kF32;
    case Op::k_div:
    case Op::k_floor_div:
    case Op::k_mod:
      return node.type == Type::kI32 || constant_value(graph, node.operands[1]).value_or(0) != 0;
    case Op::k_constant:
    case Op::k_add:
    case Op::k_sub:
    case Op::k_mul:
    case Op::k_neg:
    case Op::k_ipow:
    case Op::k_eq:
    case Op::k_ne:
    case Op::k_lt:
    case Op::k_le:
    case Op::k_gt:
    case Op::k_ge:
    case Op::k_and:
    case Op::k_or:
    case Op::k_not:
    case Op::k_where:
    case Op::k_min:
    case Op::k_max:
    case Op::k_clamp:
    case Op::k_abs:
    case Op::k_relu:
    case Op::k_floor:
    case Op::k_to_f32:
    case Op::k_to_i32:
    case Op::k_bit:
      return true;
    default:
      return false;
  }
}

class ScalarEnv : public Env {
 public:
  ScalarEnv(const Sizes& sizes, const std::function<double(int)>& scalar) : sizes_(sizes), scalar_(scalar) {}
  double symbol(Symbol symbol) const override { return size_of(sizes_, symbol); }
  double param(int index) const override { return scalar_(index); }

 private:
  const Sizes& sizes_;
  const std::function<double(int)>& scalar_;
};

class IndexCheck {
 public:
  IndexCheck(const Ir& ir, const Sizes& sizes, const std::function<double(int)>& scalar, const Sizes& dim_sizes)
      : ir_(ir),
        sizes_(sizes),
        dim_sizes_(dim_sizes),
        env_(sizes, scalar),
        graph_(ir.graph),
        rates_(assign_rates(graph_)),
        forms_(graph_, rates_) {}

  std::vector<IndexProblem> run() {
    if (sizes_.batch <= 0 || sizes_.heads <= 0) return {};
    const std::vector<bool> in_mask = reachable(ir_.graph, std::span(&ir_.mask, 1));
    std::vector<ValueId> roots;
    for (ValueId root : {ir_.score, ir_.weight, ir_.sink, ir_.factor}) {
      if (root != kNoValue) roots.push_back(root);
    }
    const std::vector<bool> in_values = reachable(ir_.graph, roots);
    std::vector<ValueId> mask_reads, value_reads;
    for (ValueId id = 0; id < ir_.graph.size(); ++id) {
      if (ir_.graph[id].op != Op::k_read) continue;
      if (in_mask[id]) mask_reads.push_back(id);
      if (in_values[id] && !in_mask[id]) value_reads.push_back(id);  // the mask's check covers both
    }
    if (mask_reads.empty() && value_reads.empty()) return {};
    IndexRegion all(sizes_.q_len, sizes_.k_len);
    all.add({});
    check(mask_reads, all, "; the mask reads it for all pairs");
    const bool keeps_all = constant_value(ir_.graph, ir_.mask) == 1;
    check(value_reads, kept_region(), keeps_all ? "" : "; for pairs that the mask may keep");
    return std::move(problems_);
  }

 private:
  // Intervals as numbers. The leaves are those of `leaf`, then sizes, scalars and whole ranges of the indices.
  std::vector<NumberRange> evaluate(const std::vector<ValueId>& ids, const IntervalLeaf& leaf) {
    const std::vector<Interval> intervals = evaluate_intervals(graph_, ids, [&](ValueId id) {
      const std::optional<Interval> own = leaf(id);
      return own ? own : leaf_interval(id);
    });
    std::vector<ValueId> ends;
    for (const Interval& interval : intervals) {
      ends.push_back(interval.low.id);
      ends.push_back(interval.high.id);
    }
    Interpreter interpreter(graph_, ends);
    const std::span<const double> values = interpreter(env_);
    std::vector<NumberRange> results;
    for (size_t i = 0; i < ids.size(); ++i) results.push_back({values[2 * i], values[2 * i + 1]});
    return results;
  }

  Interval interval(const NumberRange& x) { return {constant(graph_, Type::kF64, x.low), constant(graph_, Type::kF64, x.high)}; }
  Interval below(int size) { return interval({0, std::max(size - 1.0, 0.0)}); }

  bool is_known(int param) const { return !ir_.params[param].is_grad && !std::isnan(env_.param(param)); }

  std::optional<Interval> leaf_interval(ValueId id) {
    const Node node = graph_[id];
    switch (node.op) {
      case Op::k_constant:
        return point_interval(graph_, id);
      case Op::k_param:
        return is_known(node.index) ? point_interval(graph_, id) : unknown_interval(graph_, node.type);
      case Op::k_symbol:
        break;
      default:
        return std::nullopt;
    }
    switch (static_cast<Symbol>(node.index)) {
      case Symbol::kB:
        return below(sizes_.batch);
      case Symbol::kH:
        return below(sizes_.heads);
      case Symbol::kKvH:
        return below(sizes_.kv_heads);
      case Symbol::kQIdx:
        return below(sizes_.q_len);
      case Symbol::kKIdx:
        return below(sizes_.k_len);
      case Symbol::kQk:
        return unknown_interval(graph_, Type::kF32);
      default:
        return point_interval(graph_, id);
    }
  }

  // Ranges of uniform values, for later.
  void learn(const std::set<ValueId>& ids) {
    const std::vector<ValueId> list(ids.begin(), ids.end());
    const std::vector<NumberRange> ranges = evaluate(list, [](ValueId) { return std::nullopt; });
    for (size_t i = 0; i < list.size(); ++i) known_[list[i]] = ranges[i];
  }

  static void add_atoms(const Affine& form, std::set<ValueId>& atoms) {
    for (const Term& term : form.terms) atoms.insert(term.atom);
  }

  NumberRange uniform_part(const Affine& form) const {
    NumberRange total = {form.constant, form.constant};
    for (const Term& term : form.terms) total = sum(total, scaled(term.factor, known_.at(term.atom)));
    return total;
  }

  // The pairs that the mask may keep.
  IndexRegion kept_region() {
    const std::vector<Condition> conditions = conditions_of(graph_, rates_, forms_, ir_.mask);
    std::set<ValueId> uniform;
    for (const Condition& condition : conditions) {
      if (condition.kind == Condition::Kind::kUniform) uniform.insert(condition.value);
      add_atoms(condition.inequality.form, uniform);
      for (const Affine& form : condition.inequality.must_fit) add_atoms(form, uniform);
      if (condition.inequality.limit != kNoValue) uniform.insert(condition.inequality.limit);
    }
    learn(uniform);
    std::vector<Alternatives> done;
    for (const Condition& condition : conditions) done.push_back(alternatives(condition, done));
    IndexRegion region(sizes_.q_len, sizes_.k_len);
    for (const HalfPlanes& half_planes : done.back()) region.add(half_planes);
    return region;
  }

  Alternatives alternatives(const Condition& condition, const std::vector<Alternatives>& done) const {
    switch (condition.kind) {
      case Condition::Kind::kAnd:
        return both(done[condition.left], done[condition.right]);
      case Condition::Kind::kOr:
        return either(done[condition.left], done[condition.right]);
      case Condition::Kind::kInequality:
        return inequality_alternatives(condition.inequality);
      case Condition::Kind::kUniform: {
        const NumberRange& truth = known_.at(condition.value);
        return (condition.is_negated ? truth.low == 1 : truth.high == 0) ? Alternatives{} : Alternatives{{}};
      }
      default:
        return {{}};
    }
  }

  static Alternatives both(const Alternatives& x, const Alternatives& y) {
    if (x.size() * y.size() > kMostPolygons) return x.size() < y.size() ? x : y;
    Alternatives result;
    for (const HalfPlanes& left : x) {
      for (const HalfPlanes& right : y) {
        HalfPlanes joined = left;
        joined.insert(joined.end(), right.begin(), right.end());
        if (joined.size() > kMostHalfPlanes) joined.resize(kMostHalfPlanes);
        result.push_back(std::move(joined));
      }
    }
    return result;
  }

  static Alternatives either(const Alternatives& x, const Alternatives& y) {
    if (x.size() + y.size() > kMostPolygons) return {{}};
    Alternatives result = x;
    result.insert(result.end(), y.begin(), y.end());
    return result;
  }

  NumberRange over_box(const Affine& form) const {
    const NumberRange q = scaled(form.q, {0, sizes_.q_len - 1.0});
    const NumberRange k = scaled(form.k, {0, sizes_.k_len - 1.0});
    return sum(sum(q, k), uniform_part(form));
  }

  // The greatest value of the limit, or nothing if it is not known.
  std::optional<double> greatest_limit(const Inequality& inequality) const {
    const NumberRange& range = known_.at(inequality.limit);
    if (std::isnan(range.low)) return std::nullopt;
    const double limit = std::clamp(inequality.limit_is_negated ? range.low : range.high, -kGreatestLimit, kGreatestLimit);
    const double whole = inequality.limit_rounds_down ? std::floor(limit) : std::ceil(limit);
    const double error = std::abs(limit) < kExactF32 ? 0 : std::floor(std::abs(limit) * kF32Error) + 1;
    return (inequality.limit_is_negated ? -whole : whole) + error;
  }

  Alternatives inequality_alternatives(const Inequality& inequality) const {
    const auto fits = [this](const Affine& form) { return fits_i32(over_box(form)); };
    if (!std::all_of(inequality.must_fit.begin(), inequality.must_fit.end(), fits)) return {{}};
    double offset = uniform_part(inequality.form).high;
    if (inequality.limit != kNoValue) {
      const std::optional<double> limit = greatest_limit(inequality);
      if (!limit) return {{}};
      offset += *limit;
    }
    if (!inequality.form.is_uniform()) return {{{inequality.form.q, inequality.form.k, offset}}};
    return offset >= 0 ? Alternatives{{}} : Alternatives{};
  }

  // One index of one read.
  struct Index {
    ValueId read = kNoValue;
    int axis = 0;
  };

  void check(const std::vector<ValueId>& reads, const IndexRegion& region, std::string_view pairs) {
    std::vector<Index> indices;
    std::vector<ValueId> values;
    for (ValueId read : reads) {
      const std::vector<ValueId>& operands = ir_.graph[read].operands;
      for (size_t axis = 0; axis < operands.size(); ++axis) {
        const bool is_read = rates_[operands[axis]] == Rate::kUniform || !region.is_empty();
        if (!is_read || is_data_dependent(ir_.graph, operands[axis])) continue;
        indices.push_back({read, static_cast<int>(axis)});
        values.push_back(operands[axis]);
      }
    }
    std::set<ValueId> atoms;
    const std::vector<bool> needed = reachable(ir_.graph, values);
    for (ValueId id = 0; id < ir_.graph.size(); ++id) {
      if (needed[id] && forms_[id]) add_atoms(*forms_[id], atoms);
    }
    learn(atoms);
    const std::vector<NumberRange> ranges = evaluate(values, [&](ValueId id) { return affine_interval(id, region); });
    for (size_t i = 0; i < indices.size(); ++i) compare(indices[i], ranges[i], rates_[values[i]] == Rate::kUniform ? "" : pairs);
  }

  // Exact over the region; the rules know only the ranges of q_idx and k_idx on their own.
  std::optional<Interval> affine_interval(ValueId id, const IndexRegion& region) {
    const Affine* form = forms_[id];
    if (!form || form->is_uniform()) return std::nullopt;
    const NumberRange range = sum(region.range(form->q, form->k), uniform_part(*form));
    return interval(fits_i32(range) ? range : kAllI32);
  }

  void compare(const Index& index, const NumberRange& range, std::string_view pairs) {
    const int param = ir_.graph[index.read].index;
    const int64_t size = tensor_dims(ir_, ir_.params[param], dim_sizes_)[index.axis];
    if (range.low >= 0 && range.high < static_cast<double>(size)) return;
    std::string message = fmt::format("'{}': index {} can be {}..{}, its dim has size {}{}", ir_.params[param].name, index.axis,
                                      static_cast<int64_t>(range.low), static_cast<int64_t>(range.high), size, pairs);
    if (messages_.insert(message).second) problems_.push_back({param, index.axis, std::move(message)});
  }

  const Ir& ir_;
  const Sizes& sizes_;
  const Sizes& dim_sizes_;
  ScalarEnv env_;
  Graph graph_;              // a copy: intervals add nodes
  std::vector<Rate> rates_;  // of the program's nodes
  AffineForms forms_;
  std::map<ValueId, NumberRange> known_;  // ranges of uniform values
  std::vector<IndexProblem> problems_;
  std::set<std::string> messages_;
};

}  // namespace

std::vector<IndexProblem> check_indices(const Ir& ir, const Sizes& sizes, const std::function<double(int param)>& scalar,
                                        const Sizes* longest) {
  return IndexCheck(ir, sizes, scalar, longest ? *longest : sizes).run();
}

bool is_data_dependent(const Graph& graph, ValueId index) {
  const std::vector<bool> needed = reachable(graph, std::span(&index, 1));
  for (ValueId id = 0; id <= index; ++id) {
    if (needed[id] && !has_useful_interval(graph, graph[id])) return true;
  }
  return false;
}

}  // namespace attune::codegen
