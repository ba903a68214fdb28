// The mask as a tree of conditions, most of them inequalities affine in q_idx and k_idx: what bounds of loops, of tiles and of indices
// follow from. `not` is pushed down to the leaves; comparisons of abs, min, max and clamp of affine values become `and`s and `or`s.
//
// Static limits: sizes and indices are in [0, kIndexLimit). Everything else, scalar parameters too, may be any value of its type.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "codegen/ir.h"

namespace attune::codegen {

inline constexpr double kIndexLimit = 0x1p30;

struct Term {
  double factor = 0;
  ValueId atom = kNoValue;  // i32, uniform

  bool operator==(const Term&) const = default;
};

// q * q_idx + k * k_idx + constant + the terms, all whole numbers: the value of an i32 expression if that fits i32 (i32 arithmetic wraps,
// so that what happens on the way does not matter). Every atom stands once, in the order of ids. Exact in double.
struct Affine {
  double q = 0, k = 0, constant = 0;
  std::vector<Term> terms;

  bool is_uniform() const { return q == 0 && k == 0; }
  Affine negated() const;
};

// For every node: its affine form if it is an i32 that has one.
class AffineForms {
 public:
  AffineForms(const Graph& graph, std::span<const Rate> rates);
  // Null if there is none.
  const Affine* operator[](ValueId id) const;

 private:
  std::vector<std::optional<Affine>> forms_;
};

// form + limit >= 0. Without `limit` that is all; with it, a comparison of to_f32(i32) with a uniform f32 U, the limit is +U or -U rounded
// to a whole number. |U| >= 2^24 leaves it open by the rounding of to_f32. If U is NaN the inequality is `if_nan`.
struct Inequality {
  Affine form;
  // It holds only while these fit i32; else nothing is known of the comparison.
  std::vector<Affine> must_fit;
  ValueId limit = kNoValue;  // U
  bool limit_is_negated = false;
  bool limit_rounds_down = false;  // U, before it is negated: floor(U), else ceil(U)
  bool if_nan = false;
};

struct Condition {
  enum class Kind : uint8_t {
    kAnd,         // left and right
    kOr,          // left or right
    kInequality,  // `inequality`
    kUniform,     // `value` (or not `value`, if is_negated), which is uniform
    kOpaque,      // the same of any other bool
  };
  Kind kind = Kind::kOpaque;
  int left = -1, right = -1;  // smaller than the condition's own index
  Inequality inequality;
  ValueId value = kNoValue;
  bool is_negated = false;
};

// The last one is the root. All are needed by it or by each other.
std::vector<Condition> conditions_of(const Graph& graph, std::span<const Rate> rates, const AffineForms& forms, ValueId mask);

}  // namespace attune::codegen
