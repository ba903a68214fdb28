#include "codegen/cuda_backward_variant.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "codegen/cuda_function.h"
#include "codegen/eval/interpreter.h"
#include "codegen/feeds.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

constexpr std::string_view kOfSums = "Gradients& gradients, KeyGradients& key_gradients";

}  // namespace

BackwardVariant::BackwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
    : CudaVariant(lowered, options), config_(config), deterministic_(options.deterministic), backward_(lowered.backward) {
  const ScaledDerivative scaled = split_scale(ir_.graph, backward_.dqk);
  backward_.dqk = scaled.rest;
  scale_ = scaled.scale;
  find_sums();
  from_weight_ = !reaches(backward_.dqk, Symbol::kQk) && !reaches(backward_.dqk, Symbol::kLse2);
  for (const ParamGradient& gradient : backward_.params) {
    from_weight_ = from_weight_ && (gradient.per_element == kNoValue || !reaches(gradient.per_element, Symbol::kQk));
  }

  CudaRoots roots;
  roots.element = {backward_.weight, backward_.dqk};
  if (scale_ != kNoValue) roots.element.push_back(scale_);
  for (const ParamGradient& gradient : backward_.params) {
    for (ValueId id : {gradient.per_element, gradient.per_row}) {
      if (id != kNoValue) roots.element.push_back(id);
    }
  }
  for (const bool of_pairs : {true, false}) {
    for (ValueId id : gradient_indices(of_pairs)) roots.element.push_back(id);
  }
  const std::vector<ValueId> of_sums = roots_of(sums_);
  roots.element.insert(roots.element.end(), of_sums.begin(), of_sums.end());
  if (!is_searched()) {
    for (const IndexRange& range : {bounds_.kept_keys, bounds_.full_keys, bounds_.kept_queries, bounds_.full_queries}) {
      roots.bounds.insert(roots.bounds.end(), {range.begin, range.end});
    }
  }
  place_values(std::move(roots), backward_.weight);
  for (const ValueId read : weight_reads(ir_.graph, lowered.backward)) {
    if (std::count(config.fed_tensors.begin(), config.fed_tensors.end(), ir_.graph[read].index) > 0) of_pairs_.push_back(read);
  }
}

bool BackwardVariant::has_place(PairSumOf of) const {
  return of == PairSumOf::kEachPair ? !deterministic_ : of == PairSumOf::kQk || config_.sums;
}

// Gradients that the skeleton of sm90 makes of dqk: those of qk behind the main kernel, sums over pairs as columns of dK.
void BackwardVariant::find_sums() {
  if (config_.skeleton != GpuSkeleton::kSm90) return;
  for (ParamGradient& gradient : backward_.params) {
    const std::optional<PairSum> sum = split_pair_sum(ir_.graph, backward_.dqk, gradient);
    if (!sum || !has_place(sum->of)) continue;
    sums_.push_back({gradient, *sum});
    gradient.per_element = kNoValue;
  }
  std::erase_if(backward_.params,
                [](const ParamGradient& gradient) { return gradient.per_element == kNoValue && gradient.per_row == kNoValue; });
}

// Whether `root` depends on the symbol by a way that does not lead through the weight.
bool BackwardVariant::reaches(ValueId root, Symbol symbol) const {
  return has_symbol(ir_.graph, reachable(ir_.graph, std::array{root}, backward_.weight), {symbol});
}

BackwardVariant::Place BackwardVariant::place_of(ValueId read) const {
  const std::vector<ValueId>& indices = ir_.graph[read].operands;
  if (values_->rate(read) == Rate::kUniform) return Place::kHead;
  if (values_->rate(read) == Rate::kColumn) return Place::kKey;
  const bool is_run = std::any_of(indices.begin(), indices.end(), [&](ValueId index) { return values_->rate(index) == Rate::kElement; });
  return is_run ? Place::kRun : Place::kMemory;
}

bool BackwardVariant::has_pair_gradients() const {
  return std::any_of(backward_.params.begin(), backward_.params.end(), [](const auto& one) { return one.per_element != kNoValue; });
}

bool BackwardVariant::has_sums(std::initializer_list<PairSumOf> kinds) const {
  return !sums_of(kinds).empty();
}

bool BackwardVariant::has_row_gradients() const {
  return std::any_of(backward_.params.begin(), backward_.params.end(), [](const auto& one) { return one.per_row != kNoValue; });
}

bool BackwardVariant::is_prepared() const {
  const bool clears = !deterministic_ && has_gradients(), has_sums = config_.skeleton == GpuSkeleton::kSm90;
  return is_softmax() || clears || has_sums;
}

bool BackwardVariant::has_gradients() const {
  return std::any_of(ir_.params.begin(), ir_.params.end(), [](const Param& param) { return param.is_grad; });
}

// What the addresses of gradients are made of.
std::vector<ValueId> BackwardVariant::gradient_indices(bool of_pairs) const {
  std::vector<ValueId> indices;
  for (const ParamGradient& gradient : backward_.params) {
    if ((of_pairs ? gradient.per_element : gradient.per_row) == kNoValue) continue;
    const std::vector<ValueId>& operands = ir_.graph[gradient.read].operands;
    indices.insert(indices.end(), operands.begin(), operands.end());
  }
  return indices;
}

std::string BackwardVariant::text() const {
  std::string text = "struct Variant {\n" + constants_text() + "\n" + uniform_text() + row_text(kNoValue) + column_text() +
                     gradients_struct_text() + feeds_text() + "\n";
  text += element_text("weight", backward_.weight, true, "float qk, float lse2") + sigmoid_text();
  if (from_weight_) text += dqk_text();
  text += pair_text();
  if (from_weight_ && has_pair_gradients()) text += gradients_text();
  if (has_row_gradients()) text += row_gradients_text();
  if (has_sums({PairSumOf::kPairs, PairSumOf::kDistances}))
    text += sums_text("void flush_sums(float of_pairs, float of_distances, {})", {PairSumOf::kPairs, PairSumOf::kDistances});
  if (has_sums({PairSumOf::kQk})) text += sums_text("void flush_qk(float of_qk, {})", {PairSumOf::kQk});
  if (has_sums({PairSumOf::kEachPair})) text += each_pair_text();
  text += flush_text() + flush_keys_text() + clear_text() + take_text() + scale_text();
  if (has_mask()) text += keep_text();
  text += "\n";
  if (is_searched()) {
    text += extent_text(Rate::kRow) + extent_text(Rate::kColumn) + classify_text();
    if (config_.skeleton == GpuSkeleton::kSm90) {
      text += stored_text(Rate::kRow, "stored_row_extents", "p.extents", "p.blocks_m");
      if (deterministic_) text += stored_text(Rate::kColumn, "stored_column_extents", "p.column_extents", "p.blocks_n");
    }
  } else {
    text += range_text("kept_queries", "k", bounds_.kept_queries) + range_text("full_queries", "k", bounds_.full_queries);
    text += range_text("kept_keys", "q", bounds_.kept_keys) + range_text("full_keys", "q", bounds_.full_keys);
  }
  return text + "};\n";
}

std::string BackwardVariant::constants_text() const {
  std::string text =
      kinds_text() + fmt::format("  static constexpr bool kUsesDelta = {}, kFromWeight = {}, kGradients = {}, kRowGradients = {};\n",
                                 uses_delta(), from_weight_, has_pair_gradients(), has_row_gradients());
  if (config_.skeleton == GpuSkeleton::kSm90)
    text += fmt::format("  static constexpr bool kSums = {}, kDistanceSums = {}, kQkSums = {}, kEachPair = {};\n",
                        has_sums({PairSumOf::kPairs, PairSumOf::kDistances}), has_sums({PairSumOf::kDistances}), has_sums({PairSumOf::kQk}),
                        has_sums({PairSumOf::kEachPair}));
  return text;
}

std::string BackwardVariant::gradients_struct_text() const {
  std::string of_head, of_key;
  for (const ParamGradient& gradient : backward_.params) {
    const std::string& name = values_->name(gradient.read);
    switch (place_of(gradient.read)) {
      case Place::kHead:
        of_head += fmt::format("    float {} = 0.0f;\n", name);
        break;
      case Place::kRun:
        of_head += fmt::format("    {} {};\n", deterministic_ ? "RunningExactSum" : "RunningSum", name);
        break;
      case Place::kKey:
        of_key += fmt::format("    float {} = 0.0f;\n", name);
        break;
      case Place::kMemory:
        break;
    }
  }
  return cuda_struct("Gradients", of_head) + cuda_struct("KeyGradients", of_key);
}

// What the copy engine brings of pairs, for tiles of 64 queries, and how a thread finds its own of the eight queries `group`.
std::string BackwardVariant::feeds_text() const {
  if (of_pairs_.empty()) return "";
  std::string read;
  int offset = 0;
  for (const ValueId id : of_pairs_) {
    const std::string& name = values_->name(id);
    read += cuda_line(4, fmt::format("const float4 {} = read_queries<{}>(from, {}, group);", name, pair_element(id), offset));
    for (const char* place : {"0][0].{0} = {0}.x", "1][0].{0} = {0}.y", "0][1].{0} = {0}.z", "1][1].{0} = {0}.w"})
      read += fmt::format("    pairs[{};\n", fmt::format(fmt::runtime(place), name));
    offset += tile_bytes(id, config_.block_n);
  }
  return "\n" +
         cuda_line(2,
                   fmt::format("static constexpr int kPairBytes = {};  // of what is brought of 64 queries", pair_bytes(config_.block_n))) +
         cuda_struct("Pair : Column", pair_members_text()) + load_pairs_text(config_.block_n) + "  // pairs[query][key]\n" +
         cuda_function("void read_pairs(const FedQueries& from, int group, Pair (&pairs)[2][2])", read);
}

// What a pair, or a row, adds to gradients.
std::string BackwardVariant::added_text(CudaWriter& writer, bool of_pairs) const {
  std::string text;
  for (const ParamGradient& gradient : backward_.params) {
    const ValueId contribution = of_pairs ? gradient.per_element : gradient.per_row;
    if (contribution == kNoValue) continue;
    const std::string value = writer.value(contribution), &name = values_->name(gradient.read);
    const std::string wanted = fmt::format("if (p.g_{}) ", ir_.params[gradient.param].name);
    switch (place_of(gradient.read)) {
      case Place::kHead:
        text += cuda_line(4, fmt::format("gradients.{} += {};", name, value));
        break;
      case Place::kKey:
        text += cuda_line(4, fmt::format("key_gradients.{} += {};", name, value));
        break;
      case Place::kMemory:
        text += cuda_line(4, fmt::format("{}add_global({}, {});", wanted, writer.gradient_address(gradient.read, sums()), value));
        break;
      case Place::kRun:
        text +=
            cuda_line(4, fmt::format("{}gradients.{}.add({}, {});", wanted, name, writer.gradient_address(gradient.read, sums()), value));
        break;
    }
  }
  return text;
}

std::string BackwardVariant::pair_text() const {
  std::vector<ValueId> roots = {backward_.weight, backward_.dqk};
  for (const ParamGradient& gradient : backward_.params) {
    if (gradient.per_element != kNoValue) roots.push_back(gradient.per_element);
  }
  const std::vector<ValueId> indices = gradient_indices(true);
  roots.insert(roots.end(), indices.begin(), indices.end());
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kByTemplate, roots);
  const std::string weight = writer.value(backward_.weight), dqk = writer.value(backward_.dqk), added = added_text(writer, true);
  const std::string raised = raise_text(outside_text(writer, true));
  std::string body = statements_text(writer);
  body += cuda_line(4, fmt::format("weight = keeps ? {} : 0.0f;", weight)) + cuda_line(4, fmt::format("dqk = keeps ? {} : 0.0f;", dqk));
  body += raised;
  if (!added.empty()) body += "    if (!kAdds || !keeps) return;\n" + added;
  return "  template <bool kGuarded, bool kAdds = true>\n" +
         cuda_function(
             fmt::format("void pair(float qk, float dp, float lse2, float delta, {}, float& weight, float& dqk, {})", kOfPair, kOfSums),
             body);
}

std::string BackwardVariant::dqk_text() const {
  const std::map<ValueId, std::string> given = {{backward_.weight, "weight"}};
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kByTemplate, std::array{backward_.dqk}, given);
  const std::string value = writer.value(backward_.dqk);
  return cuda_function(fmt::format("float dqk(float weight, float dp, float delta, {})", kOfPair),
                       statements_text(writer) + cuda_return(value), true);
}

std::string BackwardVariant::gradients_text() const {
  const std::map<ValueId, std::string> given = {{backward_.weight, "weight"}};
  std::vector<ValueId> roots = gradient_indices(true);
  for (const ParamGradient& gradient : backward_.params) {
    if (gradient.per_element != kNoValue) roots.push_back(gradient.per_element);
  }
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kByTemplate, roots, given);
  const std::string added = added_text(writer, true);
  return cuda_function(fmt::format("void gradients(float weight, float dp, float lse2, float delta, {}, {})", kOfPair, kOfSums),
                       "    if (!keeps) return;\n" + statements_text(writer) + added, true);
}

std::string BackwardVariant::row_gradients_text() const {
  std::vector<ValueId> roots = gradient_indices(false);
  for (const ParamGradient& gradient : backward_.params) {
    if (gradient.per_row != kNoValue) roots.push_back(gradient.per_row);
  }
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kNever, roots);
  const std::string added = added_text(writer, false);
  std::string body = statements_text(writer) + added;
  if (writer.clamps()) body += "    raise(outside, p.index_flag);\n";
  return cuda_function(
      fmt::format("void row_gradients(int q_idx, float lse2, float delta, {}, const Row& row, Gradients& gradients)", kOfCall), body);
}

std::string BackwardVariant::scale_text() const {
  std::string value = "1.0f", statements;
  if (scale_ != kNoValue) {
    CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{scale_});
    value = writer.value(scale_);
    statements = statements_text(writer);
    // 1 / k_len is infinite where there is no key, and 0 times that is NaN.
    if (reaches(scale_, Symbol::kQLen) || reaches(scale_, Symbol::kKLen)) {
      statements += "    if (u.q_len == 0 || u.k_len == 0) return 0.0f;\n";
    }
  }
  return "  // A factor of the derivatives by qk that dqk() and pair() leave out.\n" +
         cuda_function(fmt::format("float dqk_scale({})", kOfCall), statements + cuda_return(value));
}

std::vector<BackwardVariant::SumGradient> BackwardVariant::sums_of(std::initializer_list<PairSumOf> kinds) const {
  std::vector<SumGradient> found;
  std::copy_if(sums_.begin(), sums_.end(), std::back_inserter(found),
               [&](const SumGradient& one) { return std::count(kinds.begin(), kinds.end(), one.sum.of) > 0; });
  return found;
}

std::vector<ValueId> BackwardVariant::roots_of(const std::vector<SumGradient>& sums) const {
  std::vector<ValueId> roots;
  for (const auto& [gradient, sum] : sums) {
    const std::vector<ValueId>& indices = ir_.graph[gradient.read].operands;
    roots.insert(roots.end(), indices.begin(), indices.end());
    roots.push_back(sum.factor);
    if (sum.offset != kNoValue) roots.push_back(sum.offset);
  }
  return roots;
}

// By all lanes of a warp: what they have summed up over pairs of a head goes to memory. Within the loop over steps, each lane for itself.
std::string BackwardVariant::sums_text(std::string_view declared, std::initializer_list<PairSumOf> kinds) const {
  const std::vector<SumGradient> all = sums_of(kinds);
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, roots_of(all));
  std::string text;
  for (const auto& [gradient, sum] : all) {
    std::string value = sum.of == PairSumOf::kQk ? "of_qk" : sum.of == PairSumOf::kPairs ? "of_pairs" : "of_distances";
    if (sum.offset != kNoValue) value = fmt::format("fmaf({}, of_pairs, of_distances)", writer.value(sum.offset));
    const std::string& name = ir_.params[static_cast<size_t>(gradient.param)].name;
    const std::string added =
        sum.of == PairSumOf::kQk ? fmt::format("if (p.g_{}) add_of_warp(", name) : fmt::format("add_of_lane(p.g_{} != nullptr, ", name);
    text += cuda_line(4, fmt::format("{}{}, times_sum({}, {}));", added, writer.gradient_address(gradient.read, sums()),
                                     writer.value(sum.factor), value));
  }
  return cuda_function(fmt::format(fmt::runtime(declared), kOfCall), statements_text(writer) + text);
}

// A pair that is kept adds where it has an element of its own. With one such gradient there is nothing to ask for each pair.
std::string BackwardVariant::each_pair_text() const {
  const std::vector<SumGradient> all = sums_of({PairSumOf::kEachPair});
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kNever, roots_of(all));
  std::string wanted, text;
  for (const auto& [gradient, sum] : all) {
    const std::string name = "p.g_" + ir_.params[static_cast<size_t>(gradient.param)].name;
    wanted += (wanted.empty() ? "" : " || ") + name + " != nullptr";
    const std::string value = fmt::format("{} * ds", writer.value(sum.factor)), place = writer.pair_address(gradient.read, sums());
    text += cuda_line(4, all.size() == 1 ? fmt::format("add_global({}, {});", place, value)
                                         : fmt::format("add_global_if({} != nullptr, {}, {});", name, place, value));
  }
  return cuda_function("bool wants_pairs(const Params& p)", cuda_return(wanted)) +
         cuda_function(fmt::format("void add_pair(float ds, int q_idx, int k_idx, {}, const Row& row, const Column& column)", kOfCall),
                       statements_text(writer) + text);
}

// Sums at the addresses of one place go to memory.
std::string BackwardVariant::summed_text(Place place, CudaWriter& writer) const {
  std::string text;
  for (const ParamGradient& gradient : backward_.params) {
    if (place_of(gradient.read) != place) continue;
    const std::string &name = values_->name(gradient.read), &param = ir_.params[gradient.param].name;
    if (place == Place::kRun) {
      text += fmt::format("    gradients.{}.flush();\n", name);
      continue;
    }
    const char* owner = place == Place::kHead ? "gradients" : "key_gradients";
    const char* function = place == Place::kHead ? "add_of_warp" : "add_global";
    const char* counts = place == Place::kHead ? "" : "counts && ";
    text += cuda_line(4, fmt::format("if ({}p.g_{}) {}({}, {}.{});", counts, param, function,
                                     writer.gradient_address(gradient.read, sums()), owner, name));
    text += fmt::format("    {}.{} = 0.0f;\n", owner, name);
  }
  return text;
}

std::string BackwardVariant::flush_text() const {
  std::vector<ValueId> roots;
  for (const ParamGradient& gradient : backward_.params) {
    if (place_of(gradient.read) != Place::kHead) continue;
    const std::vector<ValueId>& operands = ir_.graph[gradient.read].operands;
    roots.insert(roots.end(), operands.begin(), operands.end());
  }
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, roots);
  const std::string summed = summed_text(Place::kHead, writer) + summed_text(Place::kRun, writer);
  return cuda_function(fmt::format("void flush(Gradients& gradients, {})", kOfCall), statements_text(writer) + summed);
}

std::string BackwardVariant::flush_keys_text() const {
  std::vector<ValueId> roots;
  for (const ParamGradient& gradient : backward_.params) {
    if (place_of(gradient.read) != Place::kKey) continue;
    const std::vector<ValueId>& operands = ir_.graph[gradient.read].operands;
    roots.insert(roots.end(), operands.begin(), operands.end());
  }
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kAlways, roots);
  const std::string summed = summed_text(Place::kKey, writer);
  return cuda_function(fmt::format("void flush(KeyGradients& key_gradients, int k_idx, bool counts, {})", kOfCall),
                       statements_text(writer) + summed);
}

std::string BackwardVariant::clear_text() const {
  std::string body;
  for (const Param& param : ir_.params) {
    if (!param.is_grad || deterministic_) continue;
    body +=
        param.is_tensor
            ? cuda_line(4, fmt::format("if (p.g_{0}) clear_strided(p.g_{0}, p.g_{0}_stride, p.g_{0}_size, p.g_{0}_count, thread, threads);",
                                       param.name))
            : fmt::format("    if (p.g_{0} && thread == 0) *p.g_{0} = 0.0f;\n", param.name);
  }
  return cuda_function("void clear_gradients(const Params& p, i64 thread, i64 threads)", body);
}

std::string BackwardVariant::take_text() const {
  if (!deterministic_ || !has_gradients()) return "";
  std::string body;
  for (const Param& param : ir_.params) {
    if (!param.is_grad) continue;
    body += cuda_line(
        4, param.is_tensor
               ? fmt::format("if (p.g_{0}) take_strided(p.sum_{0}, p.g_{0}, p.g_{0}_stride, p.g_{0}_size, p.g_{0}_count, thread, threads);",
                             param.name)
               : fmt::format("if (p.g_{0} && thread == 0) *p.g_{0} = p.sum_{0}->take();", param.name));
  }
  return cuda_function("void take_gradients(const Params& p, i64 thread, i64 threads)", body);
}

}  // namespace attune::codegen
