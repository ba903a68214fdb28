#include "codegen/lower.h"

#include <numbers>
#include <utility>

#include "codegen/autodiff.h"
#include "codegen/finiteness.h"
#include "codegen/fold_scale.h"
#include "codegen/mask_bounds.h"
#include "codegen/rates.h"
#include "codegen/simplify.h"
#include "codegen/verify.h"

namespace attune::codegen {
namespace {

// The roots beside those of the Ir; each may be kNoValue.
std::vector<ValueId*> derived_roots(Lowered& lowered) {
  std::vector<ValueId*> roots = {&lowered.score2, &lowered.backward.weight, &lowered.backward.dqk};
  for (ParamGradient& gradient : lowered.backward.params) {
    for (ValueId* root : {&gradient.read, &gradient.per_element, &gradient.per_row}) roots.push_back(root);
  }
  MaskBounds& bounds = lowered.bounds;
  for (ValueId* root : {&bounds.may_keep, &bounds.all_kept}) roots.push_back(root);
  for (IndexRange* range : {&bounds.kept_keys, &bounds.full_keys, &bounds.kept_queries, &bounds.full_queries}) {
    for (ValueId* root : {&range->begin, &range->end}) roots.push_back(root);
  }
  return roots;
}

void simplify_derived(Lowered& lowered) {
  simplify(lowered.ir.graph, derived_roots(lowered));
}

void verify_all(Lowered& lowered) {
  std::vector<ValueId> roots;
  for (const ValueId* root : derived_roots(lowered)) {
    if (*root != kNoValue) roots.push_back(*root);
  }
  verify(lowered.ir, roots);
}

}  // namespace

Lowered lower(Ir ir) {
  Lowered lowered;
  lowered.ir = std::move(ir);
  verify(lowered.ir);

  // First: every later pass may assume folded constants and canonical sums.
  simplify(lowered.ir);
  verify(lowered.ir);

  // Before anything uses the factor.
  guard_factor(lowered.ir);
  verify(lowered.ir);

  // Before differentiation: the backward pass recomputes the weights from the same score2 as the forward pass.
  if (lowered.ir.weight_kind == WeightKind::kSoftmax) {
    lowered.score2 = fold_scale(lowered.ir.graph, lowered.ir.score, std::numbers::log2e);
    simplify_derived(lowered);
    verify_all(lowered);
  }

  // Before rates, so that derivatives are hoisted like values.
  lowered.backward = differentiate(lowered.ir, lowered.score2);
  simplify_derived(lowered);
  verify_all(lowered);

  // After simplification: sums of indices have one form, whatever the program wrote.
  lowered.bounds = mask_bounds(lowered.ir);
  simplify_derived(lowered);
  verify_all(lowered);

  // Last: every node that an emitter may meet is there.
  lowered.rates = assign_rates(lowered.ir.graph);
  return lowered;
}

}  // namespace attune::codegen
