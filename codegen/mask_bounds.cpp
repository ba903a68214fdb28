#include "codegen/mask_bounds.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "codegen/conditions.h"
#include "codegen/fold_bounds.h"
#include "codegen/interval_eval.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

// Beyond this a limit of type f32 is as good as infinite: an i32 lies below it.
constexpr double kGreatestLimit = 0x1p40;
// to_f32 is exact up to here, and then errs by less than this part of the limit.
constexpr double kExactF32 = 0x1p24;
constexpr double kF32Error = 0x1p-22;

// Whether an operator's interval over a tile is as good as looking at every row or column of it.
bool has_exact_rule(Op op) {
  switch (op) {
    case Op::k_add:
    case Op::k_sub:
    case Op::k_mul:
    case Op::k_div:
    case Op::k_floor_div:
    case Op::k_mod:
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
    case Op::k_symbol:
      return true;
    default:
      return false;
  }
}

// Keys for a tile of rows, or rows for a tile of keys, as f64: [begin, end), clamped only where Ranges says so.
struct Range {
  Ex begin, end;
};

struct Ranges {
  Range kept, full;
};

// What a tile or range of tiles says of one condition.
struct Verdict {
  Ex may_keep, all_kept;
};

class Analysis {
 public:
  explicit Analysis(Ir& ir) : ir_(ir), graph_(ir.graph), fold_(ir.graph), rates_(assign_rates(ir.graph)), forms_(ir.graph, rates_) {}

  MaskBounds run() {
    conditions_ = conditions_of(graph_, rates_, forms_, ir_.mask);
    evaluate_opaque();
    const Box tile = {index_interval(Symbol::kFirstQ, Symbol::kLastQ), index_interval(Symbol::kFirstK, Symbol::kLastK)};
    for (const Condition& condition : conditions_) verdicts_.push_back(folded(verdict(condition, tile)));
    MaskBounds bounds;
    bounds.may_keep = verdicts_.back().may_keep.id;
    bounds.all_kept = verdicts_.back().all_kept.id;
    const bool is_closed = std::none_of(conditions_.begin(), conditions_.end(),
                                        [](const Condition& condition) { return condition.kind == Condition::Kind::kOpaque; });
    bounds.kind = is_closed ? MaskBounds::Kind::kRange : MaskBounds::Kind::kTileMap;
    if (is_true(bounds.all_kept)) {
      bounds.kind = MaskBounds::Kind::kAll;
      bounds.may_keep = bounds.all_kept;
      bounds.kept_keys = bounds.full_keys = everything(Symbol::kKLen);
      bounds.kept_queries = bounds.full_queries = everything(Symbol::kQLen);
    } else if (is_closed) {
      std::tie(bounds.kept_keys, bounds.full_keys) = key_ranges();
      std::tie(bounds.kept_queries, bounds.full_queries) = query_ranges();
    }
    return bounds;
  }

 private:
  // Where q_idx and k_idx lie.
  struct Box {
    Interval q, k;
  };

  Ex number(double value) { return codegen::constant(graph_, Type::kF64, value); }
  Ex truth(bool value) { return codegen::constant(graph_, Type::kBool, value); }
  Ex as_f64(ValueId id) { return apply(Op::k_to_f64, {Ex{&graph_, id}}); }
  Ex as_f64(Symbol symbol) { return apply(Op::k_to_f64, {codegen::symbol(graph_, symbol)}); }
  Interval index_interval(Symbol first, Symbol last) { return {as_f64(first), as_f64(last)}; }
  Interval all_indices(Symbol length) { return {number(0), as_f64(length) - 1.0}; }
  bool is_true(ValueId id) const { return graph_[id].op == Op::k_constant && graph_[id].number == 1; }
  Verdict folded(const Verdict& x) { return {fold_(x.may_keep), fold_(x.all_kept)}; }

  // Intervals of everything that is not affine, over the tile at hand.
  void evaluate_opaque() {
    is_exact_.assign(graph_.size(), false);
    for (ValueId id = 0; id < is_exact_.size(); ++id) {
      const Node& node = graph_[id];
      is_exact_[id] = rates_[id] == Rate::kUniform ||
                      (has_exact_rule(node.op) &&
                       std::all_of(node.operands.begin(), node.operands.end(), [&](ValueId operand) { return is_exact_[operand]; }));
    }
    std::vector<ValueId> roots;
    for (const Condition& condition : conditions_) {
      if (condition.kind == Condition::Kind::kOpaque) roots.push_back(condition.value);
    }
    const std::vector<Interval> intervals = evaluate_intervals(graph_, roots, [this](ValueId id) { return leaf(id); });
    opaque_.resize(roots.empty() ? 0 : *std::max_element(roots.begin(), roots.end()) + 1);
    for (size_t i = 0; i < roots.size(); ++i) opaque_[roots[i]] = intervals[i];
  }

  std::optional<Interval> leaf(ValueId id) {
    const Rate rate = rates_[id];
    if (rate == Rate::kUniform) return point_interval(graph_, id);
    if (const Affine* form = forms_[id]) {
      const Interval value =
          affine_interval(*form, {index_interval(Symbol::kFirstQ, Symbol::kLastQ), index_interval(Symbol::kFirstK, Symbol::kLastK)});
      return fit_i32_interval(value.low, value.high);
    }
    if (rate == Rate::kElement || is_exact_[id]) return std::nullopt;
    if (graph_[id].type != Type::kBool) return tile_interval({&graph_, id});
    const Interval as_number = tile_interval(apply(Op::k_to_i32, {Ex{&graph_, id}}));
    return Interval{as_number.low > 0, as_number.high > 0};
  }

  static Interval tile_interval(Ex x) { return {apply(Op::k_tile_min, {x}), apply(Op::k_tile_max, {x})}; }

  // Affine forms.
  Ex uniform_part(const Affine& form) {
    Ex sum;
    for (const Term& term : form.terms) {
      const Ex value = as_f64(term.atom);
      if (term.factor == -1 && !sum.is_zero()) {
        sum = sum - value;
      } else {
        sum = sum + (term.factor == 1 ? value : term.factor == -1 ? -value : value * term.factor);
      }
    }
    if (sum.is_zero()) return number(form.constant);
    return form.constant < 0 ? sum - -form.constant : sum + form.constant;
  }

  static Ex scaled(double factor, Ex x) { return factor == 1 ? x : factor == -1 ? -x : x * factor; }

  // Of factor * x.
  Interval scaled(double factor, const Interval& x) {
    if (factor == 0) return {number(0), number(0)};
    return factor > 0 ? Interval{scaled(factor, x.low), scaled(factor, x.high)} : Interval{scaled(factor, x.high), scaled(factor, x.low)};
  }

  Interval affine_interval(const Affine& form, const Box& box) {
    const Interval q = scaled(form.q, box.q);
    const Interval k = scaled(form.k, box.k);
    const Ex rest = uniform_part(form);
    return {fold_(q.low + k.low + rest), fold_(q.high + k.high + rest)};
  }

  Ex must_fit(const Inequality& inequality, const Box& box) {
    Ex fits = truth(true);
    for (const Affine& form : inequality.must_fit) {
      const Interval value = affine_interval(form, box);
      fits = fits && (value.low >= -2147483648.0 && value.high <= 2147483647.0);
    }
    return fold_(fits);
  }

  // What is added to q * q_idx + k * k_idx: at least and at most, by what is known of rounding.
  Interval offset(const Inequality& inequality) {
    const Ex rest = uniform_part(inequality.form);
    if (inequality.limit == kNoValue) return {rest, rest};
    const Ex limit = min(max(as_f64(inequality.limit), -kGreatestLimit), kGreatestLimit);  // NaN stays NaN
    const Ex whole = inequality.limit_rounds_down ? floor(limit) : -floor(-limit);
    const Ex value = inequality.limit_is_negated ? -whole : whole;
    const Ex size = apply(Op::k_abs, {limit});
    const Ex error = where(size < kExactF32, number(0), floor(size * kF32Error) + 1.0);
    const Ex is_number = apply(Op::k_eq, {limit, limit});
    const Ex if_nan = number(inequality.if_nan ? kGreatestLimit : -kGreatestLimit);
    return {fold_(rest + where(is_number, value - error, if_nan)), fold_(rest + where(is_number, value + error, if_nan))};
  }

  // Tiles.
  Verdict verdict(const Condition& condition, const Box& tile) {
    switch (condition.kind) {
      case Condition::Kind::kAnd: {
        const auto& [x, y] = std::pair(verdicts_[condition.left], verdicts_[condition.right]);
        return {x.may_keep && y.may_keep, x.all_kept && y.all_kept};
      }
      case Condition::Kind::kOr: {
        const auto& [x, y] = std::pair(verdicts_[condition.left], verdicts_[condition.right]);
        return {x.may_keep || y.may_keep, x.all_kept || y.all_kept};
      }
      case Condition::Kind::kInequality: {
        const Inequality& inequality = condition.inequality;
        const Interval q = scaled(inequality.form.q, tile.q);
        const Interval k = scaled(inequality.form.k, tile.k);
        const Interval rest = offset(inequality);
        const Ex fits = must_fit(inequality, tile);
        return {!fits || q.high + k.high + rest.high >= 0, fits && q.low + k.low + rest.low >= 0};
      }
      case Condition::Kind::kUniform: {
        const Ex value = uniform_truth(condition);
        return {value, value};
      }
      case Condition::Kind::kOpaque: {
        const Interval& value = opaque_[condition.value];
        return condition.is_negated ? Verdict{!value.low, !value.high} : Verdict{value.high, value.low};
      }
    }
    return {truth(true), truth(false)};
  }

  Ex uniform_truth(const Condition& condition) {
    const Ex value = {&graph_, condition.value};
    return condition.is_negated ? !value : value;
  }

  // Ranges. `box` holds the tile of the one index, and all of the other, whose range is sought.
  struct Sought {
    Box box;
    bool is_key = false;
    Ex length;
  };

  Range all_if(Ex condition, const Sought& sought) { return {number(0), where(condition, sought.length, number(0))}; }
  Range folded(const Range& x) { return {fold_(x.begin), fold_(x.end)}; }

  // The indices x with factor * x + rest >= 0.
  Range solve(double factor, Ex rest, const Sought& sought) {
    if (factor == 0) return all_if(rest >= 0, sought);
    if (factor > 0) return {-floor(divided(rest, factor)), sought.length};
    return {number(0), floor(divided(rest, -factor)) + 1.0};
  }

  static Ex divided(Ex x, double divisor) { return divisor == 1 ? x : x / divisor; }

  Ranges inequality_ranges(const Inequality& inequality, const Sought& sought) {
    const Affine& form = inequality.form;
    const Interval other = sought.is_key ? scaled(form.q, sought.box.q) : scaled(form.k, sought.box.k);
    const double factor = sought.is_key ? form.k : form.q;
    const Interval rest = offset(inequality);
    const Range kept = folded(solve(factor, fold_(other.high + rest.high), sought));
    const Range full = folded(solve(factor, fold_(other.low + rest.low), sought));
    const Ex fits = must_fit(inequality, sought.box);
    return {{where(fits, kept.begin, number(0)), where(fits, kept.end, sought.length)}, {full.begin, where(fits, full.end, number(0))}};
  }

  Range both(const Range& x, const Range& y) { return {max(x.begin, y.begin), min(x.end, y.end)}; }

  // The convex hull. An empty range is left out, unless it shares an end with the other one: then the plain hull does that.
  Range hull(const Range& x, const Range& y) {
    if (x.begin.id == y.begin.id || x.end.id == y.end.id) return {min(x.begin, y.begin), max(x.end, y.end)};
    const Ex has_x = x.begin < x.end;
    const Ex has_y = y.begin < y.end;
    return {where(has_x, where(has_y, min(x.begin, y.begin), x.begin), y.begin),
            where(has_x, where(has_y, max(x.end, y.end), x.end), y.end)};
  }

  // The union if it has no gap, else the longer one.
  Range greater(const Range& x, const Range& y) {
    if (x.begin.id == y.begin.id) return {x.begin, max(x.end, y.end)};
    if (x.end.id == y.end.id) return {min(x.begin, y.begin), x.end};
    const Ex touches = max(x.begin, y.begin) <= min(x.end, y.end);
    const Ex x_is_longer = x.end - x.begin >= y.end - y.begin;
    return {where(touches, min(x.begin, y.begin), where(x_is_longer, x.begin, y.begin)),
            where(touches, max(x.end, y.end), where(x_is_longer, x.end, y.end))};
  }

  // For lengths to be compared.
  Range clamped(const Range& x, const Sought& sought) {
    const Ex begin = fold_(min(max(x.begin, 0.0), sought.length));
    return {begin, fold_(max(min(x.end, sought.length), begin))};
  }

  Ranges condition_ranges(const Condition& condition, const std::vector<Ranges>& done, const Sought& sought) {
    switch (condition.kind) {
      case Condition::Kind::kAnd: {
        const Ranges& x = done[condition.left];
        const Ranges& y = done[condition.right];
        return {both(x.kept, y.kept), both(x.full, y.full)};
      }
      case Condition::Kind::kOr: {
        const Ranges& x = done[condition.left];
        const Ranges& y = done[condition.right];
        return {hull(clamped(x.kept, sought), clamped(y.kept, sought)), greater(clamped(x.full, sought), clamped(y.full, sought))};
      }
      case Condition::Kind::kInequality:
        return inequality_ranges(condition.inequality, sought);
      default: {
        const Range range = all_if(uniform_truth(condition), sought);
        return {range, range};
      }
    }
  }

  IndexRange finished(const Range& x, const Sought& sought) {
    const Range range = clamped(x, sought);
    return {fold_(apply(Op::k_f64_to_i32, {range.begin})).id, fold_(apply(Op::k_f64_to_i32, {range.end})).id};
  }

  std::pair<IndexRange, IndexRange> ranges(const Sought& sought) {
    std::vector<Ranges> done;
    for (const Condition& condition : conditions_) {
      const Ranges result = condition_ranges(condition, done, sought);
      done.push_back({folded(result.kept), folded(result.full)});
    }
    return {finished(done.back().kept, sought), finished(done.back().full, sought)};
  }

  std::pair<IndexRange, IndexRange> key_ranges() {
    return ranges({{index_interval(Symbol::kFirstQ, Symbol::kLastQ), all_indices(Symbol::kKLen)}, true, as_f64(Symbol::kKLen)});
  }
  std::pair<IndexRange, IndexRange> query_ranges() {
    return ranges({{all_indices(Symbol::kQLen), index_interval(Symbol::kFirstK, Symbol::kLastK)}, false, as_f64(Symbol::kQLen)});
  }
  IndexRange everything(Symbol length) { return {graph_.constant(Type::kI32, 0), graph_.symbol(length)}; }

  Ir& ir_;
  Graph& graph_;
  BoundFolder fold_;
  std::vector<Rate> rates_;  // of the nodes of the program; what is added here has none
  AffineForms forms_;
  std::vector<Condition> conditions_;
  std::vector<bool> is_exact_;    // by id: interval rules are as good as tile_min and tile_max
  std::vector<Interval> opaque_;  // by id
  std::vector<Verdict> verdicts_;
};

}  // namespace

MaskBounds mask_bounds(Ir& ir) {
  return Analysis(ir).run();
}

}  // namespace attune::codegen
