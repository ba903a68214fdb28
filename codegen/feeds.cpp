#include "codegen/feeds.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "codegen/eval/interpreter.h"
#include "codegen/index_bounds.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

constexpr size_t kMaxUniformIndices = 2;  // maps of tiles have four dims

int ceil_to(int value, int unit) {
  return (value + unit - 1) / unit * unit;
}

class PairReads {
 public:
  explicit PairReads(const Graph& graph) : graph_(graph), rates_(assign_rates(graph)) {}

  bool holds(ValueId id) const {
    const std::vector<ValueId>& indices = graph_[id].operands;
    if (graph_[id].op != Op::k_read || graph_[id].type != Type::kF32) return false;
    if (indices.size() < 2 || indices.size() > 2 + kMaxUniformIndices) return false;
    const size_t uniform = indices.size() - 2;
    for (size_t i = 0; i < indices.size(); ++i) {
      if (is_data_dependent(graph_, indices[i])) return false;
      if (i < uniform && rates_[indices[i]] != Rate::kUniform) return false;
    }
    return is_shifted(indices[uniform], Symbol::kQIdx) && is_shifted(indices[uniform + 1], Symbol::kKIdx);
  }
  std::optional<TableRead> table(const Ir& ir, ValueId id) const {
    const std::vector<ValueId>& indices = graph_[id].operands;
    if (graph_[id].op != Op::k_read || graph_[id].type == Type::kBool) return std::nullopt;
    TableRead found = {.read = id};
    for (size_t axis = 0; axis < indices.size(); ++axis) {
      const Rate rate = rates_[indices[axis]];
      if (rate == Rate::kUniform && !is_data_dependent(graph_, indices[axis])) continue;
      if (rate != Rate::kElement || found.words > 0) return std::nullopt;
      const Node& dim = graph_[ir.params[static_cast<size_t>(graph_[id].index)].dims[axis]];
      if (dim.op != Op::k_constant || dim.number < 1 || dim.number > kMaxTableWords) return std::nullopt;
      found.axis = axis;
      found.words = static_cast<int>(dim.number);
      found.is_long = is_data_dependent(graph_, indices[axis]);
    }
    return found.words > 0 ? std::optional(found) : std::nullopt;
  }
  bool by_column(ValueId id) const { return graph_[id].op == Op::k_read && rates_[id] == Rate::kColumn; }

 private:
  // The symbol, plus or minus what is uniform.
  bool is_shifted(ValueId id, Symbol symbol) const {
    for (;;) {
      const Node& node = graph_[id];
      if (node.op == Op::k_symbol) return static_cast<Symbol>(node.index) == symbol;
      if (node.op != Op::k_add && node.op != Op::k_sub) return false;
      const bool is_first = rates_[node.operands[1]] == Rate::kUniform;
      if (!is_first && (node.op == Op::k_sub || rates_[node.operands[0]] != Rate::kUniform)) return false;
      id = node.operands[is_first ? 0 : 1];
    }
  }

  const Graph& graph_;
  const std::vector<Rate> rates_;
};

}  // namespace

std::vector<ValueId> pair_roots(const Lowered& lowered) {
  const bool is_softmax = lowered.ir.weight_kind == WeightKind::kSoftmax;
  std::vector<ValueId> roots = {is_softmax ? lowered.score2 : lowered.ir.weight};
  if (is_softmax && lowered.ir.factor != kNoValue) roots.push_back(lowered.ir.factor);
  return roots;
}

std::vector<ValueId> pair_reads(const Graph& graph, const std::vector<ValueId>& roots) {
  const PairReads reads(graph);
  const std::vector<bool> needed = reachable(graph, roots);
  std::vector<ValueId> found;
  for (ValueId id = 0; id < graph.size(); ++id) {
    if (needed[id] && reads.holds(id)) found.push_back(id);
  }
  return found;
}

std::vector<TableRead> table_reads(const Ir& ir, const std::vector<ValueId>& roots) {
  const PairReads reads(ir.graph);
  const std::vector<bool> needed = reachable(ir.graph, roots);
  std::vector<TableRead> found;
  int words = 0;
  for (ValueId id = 0; id < ir.graph.size(); ++id) {
    const std::optional<TableRead> table = needed[id] ? reads.table(ir, id) : std::nullopt;
    if (!table || words + table->words > kMaxTableWords) continue;
    words += table->words;
    found.push_back(*table);
  }
  return found;
}

bool reads_by_column(const Lowered& lowered) {
  const Graph& graph = lowered.ir.graph;
  const PairReads reads(graph);
  std::vector<ValueId> roots = pair_roots(lowered);
  if (lowered.bounds.kind != MaskBounds::Kind::kAll) roots.push_back(lowered.ir.mask);
  const std::vector<bool> needed = reachable(graph, roots);
  for (ValueId id = 0; id < graph.size(); ++id) {
    if (needed[id] && reads.by_column(id)) return true;
  }
  return false;
}

int pair_tile_bytes(dsl::ElementType element, int block_n) {
  const int columns = element == dsl::ElementType::kF32 ? 32 : 64;
  return (block_n + columns - 1) / columns * 64 * 128;
}

std::vector<ValueId> weight_reads(const Graph& graph, const Backward& backward) {
  const std::vector<ValueId> reads = pair_reads(graph, {backward.weight});
  std::vector<ValueId> others = {backward.dqk};
  for (const ParamGradient& gradient : backward.params) {
    for (const ValueId root : {gradient.per_element, gradient.per_row}) {
      if (root != kNoValue) others.push_back(root);
    }
  }
  const std::vector<bool> beside = reachable(graph, others, backward.weight);
  if (has_symbol(graph, beside, {Symbol::kQk, Symbol::kLse2})) return {};
  std::vector<ValueId> found;
  std::copy_if(reads.begin(), reads.end(), std::back_inserter(found), [&](ValueId read) { return !beside[read]; });
  return found;
}

int sm90_backward_bytes(const GpuKernelOptions& options, const GpuConfig& config, int feed_bytes) {
  const int chunks = (options.head_dim + 63) / 64 + (options.v_dim + 63) / 64, of_queries = config.stages * config.block_m;
  const int of_keys = (config.persistent ? 2 : 1) * config.block_n;
  const int rows = (of_keys + of_queries) * chunks * 128,
            of_sums = config.sums ? (options.head_dim <= 64 ? config.block_m : of_queries) * 128 : 0;
  const int ds = 2 * config.block_m * config.block_n * 2, row_values = of_queries * 2 * 4;
  constexpr int kAlignment = 1024, kSmall = 1024;
  return ceil_to(rows + of_sums + ds + feed_bytes + row_values + kAlignment + kSmall, 128);
}

int sm90_forward_bytes(const GpuKernelOptions& options, const GpuConfig& config, bool redoes, int feed_bytes) {
  const int chunks_q = (options.head_dim + 63) / 64, chunks_v = (options.v_dim + 63) / 64;
  const int q = config.buffers_q * config.warpgroups * 64 * std::max(chunks_q, chunks_v) * 128;
  const int kv = config.stages * config.block_n * (chunks_q + chunks_v) * 128;
  // Exactly, since tiles of a bias or a third tile of Q leave little: the ring of tiles, blocks and barriers.
  const int feeds = config.feed_stages * config.warpgroups;
  // The ring has the place of three warpgroups at least, so that choices do not hang on 64 bytes.
  const int ring = 4 * 4 * ceil_to(6 + 3 * std::max(config.warpgroups, 3), 4),
            barriers = 3 * config.buffers_q + 5 * config.stages + 9 + 2 * feeds;
  const int small = ceil_to(ring + ceil_to(4 * config.stages, 8) + 8 * barriers + 4, 16);
  constexpr int kAlignment = 1024, kRedo = 16 * 96;
  return ceil_to(q + kv + feeds * feed_bytes + kAlignment + small + (redoes ? kRedo : 0), 128);
}

}  // namespace attune::codegen
