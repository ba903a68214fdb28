#include "codegen/gpu_planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "codegen/eval/interpreter.h"
#include "codegen/feeds.h"
#include "codegen/gpu_argument.h"

namespace attune::codegen {

using runtime::GpuLaunch;
using runtime::GpuPatch;

namespace {

// Small problems.
constexpr int kFewRows = 64;      // queries that a tile of 64 rows holds
constexpr int kSmallCtas = 2;     // CTAs of 4 warps that a multiprocessor has registers for
constexpr int kFewestBlocks = 2;  // of a split: less is not worth a part in the workspace

constexpr int kShortSequence = 1024;  // tiles are padded much, and memory limits as much as arithmetic

// Whether two heads may keep different keys for one query.
bool mask_differs_by_head(const Ir& ir) {
  return has_symbol(ir.graph, reachable(ir.graph, std::array{ir.mask}), {Symbol::kH});
}

// Tiles of a launch: a sequence's, and all.
struct TileCount {
  int heads, of_head, all;  // heads of a batch that have tiles of their own
};

TileCount count_tiles(const GpuConfig& config, const GpuProblem& problem) {
  TileCount count = {};
  count.heads = config.tile_heads > 1 ? problem.kv_heads : problem.heads;
  count.of_head = ceil_div(int64_t{problem.q_len} * config.tile_heads, config.forward_rows());
  count.all = count.of_head * problem.batch * count.heads;
  return count;
}

// Whether a pair or a key reads a tensor: addresses of 64 bits and what is on its way need registers.
bool reads_by_key(const Lowered& lowered) {
  std::vector<ValueId> roots = {lowered.score2, lowered.ir.weight, lowered.ir.factor};
  std::erase(roots, kNoValue);
  const std::vector<bool> needed = reachable(lowered.ir.graph, roots);
  for (ValueId id = 0; id < lowered.ir.graph.size(); ++id) {
    const bool is_read = needed[id] && lowered.ir.graph[id].op == Op::k_read;
    if (is_read && (lowered.rate(id) == Rate::kColumn || lowered.rate(id) == Rate::kElement)) return true;
  }
  return false;
}

// How many registers a program wants beside its accumulators, by what its pairs compute.
struct Appetite {
  bool is_small = false;  // a few values for a pair, none kept for keys
  bool is_heavy = false;  // random numbers, or a polynomial for tanh
  bool reads_by_key = false;
  bool is_large = false;  // tensors are read by key, or the mask is searched, or random numbers: two warpgroups
};
Appetite appetite_of(const Lowered& lowered) {
  std::vector<ValueId> roots = {lowered.score2, lowered.ir.weight, lowered.ir.factor, lowered.ir.mask};
  std::erase(roots, kNoValue);
  const std::vector<bool> needed = reachable(lowered.ir.graph, roots);
  int of_pairs = 0, of_keys = 0;
  bool is_random = false, has_tanh = false;
  for (ValueId id = 0; id < lowered.ir.graph.size(); ++id) {
    if (!needed[id]) continue;
    const bool is_of_pair = lowered.rate(id) == Rate::kElement;
    of_pairs += is_of_pair;
    of_keys += lowered.rate(id) == Rate::kColumn;
    is_random = is_random || lowered.ir.graph[id].op == Op::k_random;
    has_tanh = has_tanh || (is_of_pair && lowered.ir.graph[id].op == Op::k_tanh);
  }
  // A mask of pairs keeps what it has of keys; their position is always there.
  const bool keeps_keys = lowered.ir.mask != kNoValue && lowered.rate(lowered.ir.mask) == Rate::kElement && of_keys > 1;
  constexpr int kMostOfSmall = 8;
  Appetite appetite;
  appetite.is_heavy = is_random || has_tanh;
  appetite.reads_by_key = reads_by_key(lowered);
  appetite.is_large = is_random || lowered.bounds.kind == MaskBounds::Kind::kTileMap || appetite.reads_by_key;
  appetite.is_small = !appetite.is_heavy && !appetite.is_large && !keeps_keys && of_pairs <= kMostOfSmall;
  return appetite;
}

// sm90: warpgroups of 64 rows. Three have the registers of short programs at small head dims; documents, whose mask is searched, tend to
// be multiples of 128 long.
int warpgroups_of_large_tile(const Appetite& appetite, const GpuKernelOptions& options) {
  return std::max(options.head_dim, options.v_dim) <= 64 && !appetite.is_large ? 3 : 2;
}

// sm90: a large tile, by what was measured (docs/notes.md) and what spills nothing. Short sequences at small head dims want tiles of 256
// rows: 192 of them are padded more, and 64 keys leave less of a diagonal masked. Without a mask, d128 is limited by power, of which 192
// rows use less: they read K and V less often; one multiprocessor must then have several tiles, or the last ones take too long.
void set_large_tile(const Lowered& lowered, const Appetite& appetite, const GpuKernelOptions& options, const GpuProblem& problem,
                    GpuConfig& config) {
  constexpr int kFewestTiles = 2;  // of a multiprocessor
  const int dim = std::max(options.head_dim, options.v_dim);
  const bool is_short = problem.q_len <= kShortSequence;
  const auto has_tiles = [&](int rows) {
    return int64_t{ceil_div(problem.q_len, rows)} * problem.batch * problem.heads >= int64_t{kFewestTiles} * problem.multiprocessors;
  };
  config.warpgroups = warpgroups_of_large_tile(appetite, options);
  config.buffers_q = dim <= 128 ? 2 : 1;
  if (dim <= 64) {
    if (appetite.is_heavy) {
      config.block_n = appetite.is_large ? 96 : 80;
    } else {
      config.block_n = appetite.is_small || appetite.is_large ? 128 : 96;
    }
    if (appetite.is_small && lowered.ir.sink == kNoValue && is_short && has_tiles(256)) {  // 112 registers
      config.warpgroups = 4;
      config.block_n = 64;
      config.stages = 4;
    }
  } else if (dim <= 128) {
    config.block_n = !appetite.is_heavy ? 128 : appetite.is_large ? 80 : 96;
    if (dim > 96 && appetite.is_small && lowered.bounds.kind == MaskBounds::Kind::kAll && !is_short && has_tiles(192)) {
      config.warpgroups = 3;
      config.block_n = 80;
    }
  } else if (dim <= 192) {
    config.block_n = appetite.is_heavy ? 80 : 96;
  } else {
    config.block_n = appetite.is_heavy ? 48 : 64;
  }
}

// ---- What feeder warps bring (feeds.h)

// Takes tiles of all tensors that can be had, or of the first ones, in as many stages as fit: the more, the shorter a step is. Blocks of 64
// keys where those of `config` would leave no room, or too little for a short step.
void choose_feeds(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem, GpuConfig& config) {
  const Ir& ir = lowered.ir;
  std::vector<ValueId> reads;
  for (const ValueId read : pair_reads(ir.graph, pair_roots(lowered))) {
    if (fits_map_of_pairs(ir, ir.graph[read].index, problem)) reads.push_back(read);
  }
  const std::vector<TableRead> tables = table_reads(ir, pair_roots(lowered));
  const bool by_column = reads_by_column(lowered), has_tables = !tables.empty();
  struct Tile {
    int block_n, stages;
  };
  const bool has_long = std::any_of(tables.begin(), tables.end(), [](const TableRead& table) { return table.is_long; });
  const int n = has_long ? 64 : config.block_n;  // where weights take longer than products, registers are what is short
  const bool is_short = std::max(options.head_dim, options.v_dim) <= 64;
  const std::vector<Tile> choices = is_short ? std::vector<Tile>{{n, 3}, {n, 2}, {64, 3}, {64, 2}, {n, 1}, {64, 1}}
                                             : std::vector<Tile>{{n, 3}, {n, 2}, {n, 1}, {64, 3}, {64, 2}, {64, 1}};
  for (; !reads.empty() || by_column || has_tables; reads.pop_back()) {
    std::vector<int> tensors;
    for (const ValueId read : reads) tensors.push_back(ir.graph[read].index);
    std::sort(tensors.begin(), tensors.end());
    tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
    for (const auto& [block_n, stages] : choices) {
      for (const bool with_columns : {true, false}) {
        if ((with_columns && !by_column) || (!with_columns && reads.empty() && !has_tables) || tensors.size() > kMaxFedTensors) continue;
        int bytes = (with_columns ? kMaxColumnWords * 4 * block_n : 0) + (has_tables ? 4 * kMaxTableWords : 0);
        for (const ValueId read : reads) bytes += pair_tile_bytes(ir.params[static_cast<size_t>(ir.graph[read].index)].element, block_n);
        GpuConfig fed = config;
        fed.block_n = block_n;
        fed.feed_stages = stages;
        fed.fed_tensors = tensors;
        fed.feeds_columns = with_columns;
        fed.feeds_tables = has_tables;
        if (sm90_forward_bytes(options, fed, true, (bytes + kFeedUnit - 1) / kFeedUnit * kFeedUnit) > kMostSharedBytes) continue;
        config = std::move(fed);
        return;
      }
    }
    if (reads.empty()) return;
  }
}

// A problem for which large tiles are wrong: either they are mostly empty, or too few for the multiprocessors. By sizes alone: layouts
// share one workspace.
bool is_small(const Appetite& appetite, const GpuKernelOptions& options, const GpuProblem& problem) {
  if (problem.large_tiles) return false;
  const int64_t tiles = int64_t{ceil_div(problem.q_len, 64 * warpgroups_of_large_tile(appetite, options))} * problem.batch * problem.heads;
  return problem.q_len <= kFewRows || 2 * tiles < problem.multiprocessors;
}

// Splits so that a launch has at most as many CTAs as run at the same time, with blocks shared out as evenly as they can be.
int split_count(const GpuConfig& config, const GpuProblem& problem) {
  const int tiles = std::max(1, count_tiles(config, problem).all), blocks = ceil_div(problem.k_len, config.block_n);
  const int wanted = std::max(1, kSmallCtas * problem.multiprocessors / tiles);
  const int each = std::max(kFewestBlocks, ceil_div(blocks, wanted));
  return std::max(1, ceil_div(blocks, each));
}

GpuConfig small_config(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem) {
  const int group = problem.kv_heads > 0 ? problem.heads / problem.kv_heads : 1;
  const bool is_wide = std::max(options.head_dim, options.v_dim) > 192 || options.v_dim > 128;
  GpuConfig config;
  config.skeleton = GpuSkeleton::kSm80;
  if (group > 1 && problem.q_len < kFewRows && !mask_differs_by_head(lowered.ir)) config.tile_heads = group;
  config.warpgroups = 4;
  config.key_warps = int64_t{problem.q_len} * config.tile_heads <= 16 ? 4 : 1;
  config.block_n = config.key_warps == 1 && is_wide ? 32 : 64;
  config.stages = options.head_dim + options.v_dim <= 256 ? 2 : 1;
  config.splits = split_count(config, problem);
  return config;
}

}  // namespace

bool fits_sm90(const GpuProblem& problem, const GpuKernelOptions& options) {
  const std::array<GpuSide, 4> all = forward_sides(problem, options);
  return std::all_of(all.begin(), all.end(), [&](const GpuSide& side) { return fits_maps(side, problem, options); });
}

GpuConfig default_config(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem) {
  const int dim = std::max(options.head_dim, options.v_dim);
  const Appetite appetite = appetite_of(lowered);
  if (is_small(appetite, options, problem)) return small_config(lowered, options, problem);
  GpuConfig config;
  if (options.arch != "sm_90a" || !fits_sm90(problem, options)) {
    // The table in sm80_forward.cuh.
    config.skeleton = GpuSkeleton::kSm80;
    const bool is_wide = dim > 192 || options.v_dim > 128;
    config.warpgroups = is_wide ? 8 : 4;
    config.block_n = is_wide ? 32 : 64;
    config.stages = dim <= 96 ? 2 : 1;
    return config;
  }
  set_large_tile(lowered, appetite, options, problem, config);
  config.stale = lowered.ir.weight_kind == WeightKind::kSoftmax && options.accuracy == Accuracy::kFast;
  if (config.warpgroups == 2) choose_feeds(lowered, options, problem, config);
  // What each thread reads of tensors itself takes registers.
  if (config.feed_stages == 0 && appetite.reads_by_key) config.block_n = std::min(config.block_n, dim <= 128 ? 80 : 48);
  // A third tile of Q: short tiles wait for the results of the tile before last to leave shared memory otherwise.
  if (config.buffers_q == 2 && config.feed_stages == 0) config.buffers_q = 3;
  return config;
}

GpuConfig quick_config() {
  GpuConfig config;
  config.skeleton = GpuSkeleton::kSm80;
  config.warpgroups = 4;
  config.block_n = 16;
  config.stages = 1;
  config.quick = true;
  return config;
}

runtime::GpuPlan plan_gpu_forward(const Lowered& lowered, const GpuKernel& kernel, const GpuKernelOptions& options, const GpuConfig& config,
                                  const GpuProblem& problem) {
  const std::array<GpuSide, 4> all = forward_sides(problem, options);
  const auto [tile_heads, tiles_m, tiles] = count_tiles(config, problem);
  runtime::GpuPlan plan;
  plan.workspace_bytes = kCounterBytes;
  if (tiles == 0) return plan;
  plan.sources.push_back({kernel.source, options.arch});

  GpuLaunch launch;
  launch.kernel = kernel.name;
  launch.block = {static_cast<uint32_t>(kernel.threads), 1, 1};
  launch.grid = {static_cast<uint32_t>(config.skeleton == GpuSkeleton::kSm90 ? std::min(tiles, problem.multiprocessors) : tiles),
                 static_cast<uint32_t>(std::max(config.splits, 1)), 1};
  launch.shared_bytes = kernel.shared_bytes;

  GpuArgument argument(kernel, launch);
  for (const GpuSide& side : all) {
    if (config.skeleton == GpuSkeleton::kSm90) {
      const bool of_keys = side.tensor == GpuTensorIndex::kK || side.tensor == GpuTensorIndex::kV;
      argument.map(fmt::format("{}_map", side.name), map_of(side, problem, options, of_keys ? config.block_n : 64));
    }
    argument.patch(side.name, GpuPatch::Kind::kTensor, side.tensor);
    argument.set(fmt::format("{}_stride", side.name), *side.strides);
  }
  for (const int param : config.fed_tensors) {
    argument.map("t_" + lowered.ir.params[static_cast<size_t>(param)].name + "_map", map_of_pairs(lowered.ir, param, problem));
  }
  argument.set("vector_loads",
               int32_t{has_vector_rows(all[0], problem) && has_vector_rows(all[1], problem) && has_vector_rows(all[2], problem)});
  argument.set("vector_stores", int32_t{has_vector_rows(all[3], problem)});
  argument.patch("lse", GpuPatch::Kind::kTensor, GpuTensorIndex::kLse);
  argument.set("lse_stride", problem.lse);
  argument.patch("counter", GpuPatch::Kind::kWorkspace, 0);
  const int heads = problem.batch * problem.heads, blocks = ceil_div(problem.k_len, config.block_n);
  const int64_t column_extents = ceil_div(int64_t{blocks} * heads * static_cast<int64_t>(kernel.column_extent_bytes), 16) * 16;
  argument.patch("extents", GpuPatch::Kind::kWorkspace, kCounterBytes);
  argument.patch("row_extents", GpuPatch::Kind::kWorkspace, kCounterBytes + column_extents);
  if (config.splits > 1) {
    // A counter for each tile, then the parts.
    const size_t counters = static_cast<size_t>(ceil_div(int64_t{tiles} * 4, kCounterBytes)) * kCounterBytes;
    argument.patch("parts", GpuPatch::Kind::kWorkspace, static_cast<int64_t>(counters));
    plan.workspace_bytes = counters + static_cast<size_t>(tiles) * static_cast<size_t>(config.splits) * kernel.part_bytes;
  }
  argument.set("splits", int32_t{std::max(config.splits, 1)});
  argument.set("tiles_m", int32_t{tiles_m});
  argument.set("tiles", int32_t{tiles});
  const int64_t head_bytes = int64_t{problem.k_len} * (options.head_dim + options.v_dim) * kGpuElementBytes;
  int section = section_heads(lowered, problem, head_bytes, problem.batch * tile_heads);
  // Short sequences are limited by memory: with small tiles, all of a head at the same time (d128 at 512: 8 to 11 % faster).
  constexpr int kSmallTile = 128;
  if (problem.q_len <= kShortSequence && config.forward_rows() <= kSmallTile) {
    section = std::min(section, ceil_div(problem.multiprocessors, tiles_m));
  }
  argument.set("section_heads", int32_t{section});
  set_problem(lowered.ir, problem, argument);
  if (!kernel.extents_name.empty()) {
    GpuLaunch before = launch;
    before.kernel = kernel.extents_name;
    before.block = {128, 1, 1};
    before.grid = {static_cast<uint32_t>(ceil_div((int64_t{blocks} + tiles_m) * heads, 128 / 32)), 1, 1};
    before.shared_bytes = 0;
    plan.launches.push_back(std::move(before));
    plan.workspace_bytes += static_cast<size_t>(column_extents) + static_cast<size_t>(int64_t{tiles_m} * heads) * kernel.row_extent_bytes;
  }
  plan.launches.push_back(std::move(launch));
  return plan;
}

}  // namespace attune::codegen
