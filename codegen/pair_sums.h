// Gradients of parameters that follow from sums over dL / d qk alone, which the matrix units and the sums of dQ have already: what a pair
// contributes is a number of its head, times dqk, times 1, the distance, or qk.
#pragma once

#include <optional>

#include "codegen/ir.h"
#include "codegen/lower.h"

namespace attune::codegen {

// contribution = factor * dqk * (one of these)
enum class PairSumOf : uint8_t {
  kPairs,      // 1: a bias of the head
  kDistances,  // q_idx - k_idx + offset: a slope (ALiBi)
  kQk,         // qk: a factor of the scores. Summed over the keys, dqk qk is q dQ
  kEachPair,   // 1, of a tensor by query and key (feeds.h): nothing to be summed up before
};
struct PairSum {
  PairSumOf of = PairSumOf::kPairs;
  ValueId factor = kNoValue;  // f32, uniform
  ValueId offset = kNoValue;  // f32, uniform; kNoValue: 0
};

// Nothing if what `gradient` has of pairs is none of these. The graph grows.
std::optional<PairSum> split_pair_sum(Graph& graph, ValueId dqk, const ParamGradient& gradient);

// dqk = scale * rest, with a scale that neither a pair nor a head changes: what is summed need not have it.
struct ScaledDerivative {
  ValueId rest = kNoValue;
  ValueId scale = kNoValue;  // kNoValue: 1
};
ScaledDerivative split_scale(const Graph& graph, ValueId dqk);

// What the pairs of a program contribute to gradients of parameters, with the scale split off. Deterministic gradients are sums of another
// kind, so that those of each pair are among the others.
struct PairGradients {
  bool has_sums = false;       // kPairs or kDistances
  bool has_distances = false;  // kDistances
  bool has_others = false;     // none of the above, or kEachPair where deterministic
  bool has_tensors = false;    // of those, one of a tensor
};
PairGradients pair_gradients(const Lowered& lowered, bool deterministic);

}  // namespace attune::codegen
