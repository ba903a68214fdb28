#include "codegen/cuda_forward_variant.h"

#include <fmt/format.h>

#include <array>
#include <numbers>
#include <utility>

#include "codegen/eval/interpreter.h"
#include "codegen/fold_scale.h"
#include "codegen/simplify.h"

namespace attune::codegen {

ForwardVariant::ForwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
    : CudaVariant(lowered, options), config_(config), score2_(lowered.score2) {
  Graph& graph = ir_.graph;
  CudaRoots roots;
  roots.element.push_back(is_softmax() ? score2_ : ir_.weight);
  if (is_softmax() && ir_.factor != kNoValue) {
    roots.element.push_back(ir_.factor);
    factor_of_score_ = reachable(graph, std::array{ir_.factor})[graph.symbol(Symbol::kQk)];
  }
  if (is_softmax() && ir_.sink != kNoValue) {
    sink2_ = fold_scale(graph, ir_.sink, std::numbers::log2e);
    simplify(graph, std::array{&sink2_});
    roots.row.push_back(sink2_);
  }
  if (!is_searched()) {
    roots.bounds = {bounds_.kept_keys.begin, bounds_.kept_keys.end, bounds_.full_keys.begin, bounds_.full_keys.end};
  }
  if (config.stale) {
    const std::vector<bool> needed = reachable(graph, std::array{score2_});
    for (ValueId id = 0; id < graph.size(); ++id)
      is_near_ = is_near_ || (needed[id] && graph[id].op == Op::k_tanh && lowered.rate(id) == Rate::kElement);
  }
  const ValueId weight = roots.element[0];
  place_values(std::move(roots), weight);
}

std::string ForwardVariant::text() const {
  std::string text = "struct Variant {\n" + constants_text() + "\n" + uniform_text() + row_text(sink2_) + column_text() + "\n";
  if (is_softmax()) {
    text += element_text("score2", score2_, true);
    if (is_near_) text += element_text("score2_near", score2_, true, "float qk, bool exact, float& spread", true);
    if (ir_.factor != kNoValue) text += element_text("factor", ir_.factor, false);
  } else {
    text += element_text("weight", ir_.weight, true) + sigmoid_text();
  }
  if (has_mask()) text += keep_text();
  text += "\n";
  if (is_searched()) {
    text += extent_text(Rate::kRow) + extent_text(Rate::kColumn) + classify_text();
    if (config_.skeleton == GpuSkeleton::kSm90)
      text += stored_text(Rate::kColumn, "stored_extents", "p.extents", "(p.k_len + Config::kBlockN - 1) / Config::kBlockN");
  } else {
    text += range_text("kept_keys", "q", bounds_.kept_keys) + range_text("full_keys", "q", bounds_.full_keys);
  }
  return text + "};\n";
}

std::string ForwardVariant::constants_text() const {
  return kinds_text() + fmt::format("  static constexpr bool kSink = {}, kFactor = {}, kFactorOfScore = {}, kNear = {};\n",
                                    sink2_ != kNoValue, ir_.factor != kNoValue, factor_of_score_, is_near_);
}

}  // namespace attune::codegen
