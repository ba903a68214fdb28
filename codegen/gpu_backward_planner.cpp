// The backward pass: its sides, default tiles and launches.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include "codegen/feeds.h"
#include "codegen/gpu_argument.h"
#include "codegen/pair_sums.h"
#include "runtime/error.h"

namespace attune::codegen {
namespace {

using runtime::GpuLaunch;
using runtime::GpuPatch;

// A tensor that the pass reads or writes.
struct BackwardSide : GpuSide {
  bool is_there = true;
  int map_rows = 0;  // sm90: of the tiles in which it is copied, 0: it is not
};

std::array<BackwardSide, 8> backward_sides(const Ir* ir, const GpuProblem& problem, const GpuKernelOptions& options,
                                           const GpuConfig& config) {
  const std::array<GpuSide, 4> forward = forward_sides(problem, options);
  const GpuSide &q = forward[0], &k = forward[1], &v = forward[2], &out = forward[3];
  using Index = GpuTensorIndex;
  const auto index = [&](Index::Backward tensor) { return ir ? Index::backward(*ir, tensor) : 0; };
  constexpr int kRowsOfWarp = 16;  // each warp copies out its own
  const int m = config.block_m, n = config.block_n;
  return {{{q, true, m},
           {k, true, n},
           {v, true, n},
           {out, true, 0},
           {{"dout", index(Index::kDOut), &problem.dout, out.rows, out.heads, out.dim}, true, m},
           {{"dq", index(Index::kDQ), &problem.dq, q.rows, q.heads, q.dim}, problem.wants_dq, 0},
           {{"dk", index(Index::kDK), &problem.dk, k.rows, k.heads, k.dim}, problem.wants_dk, kRowsOfWarp},
           {{"dv", index(Index::kDV), &problem.dv, v.rows, v.heads, v.dim}, problem.wants_dv, kRowsOfWarp}}};
}

constexpr size_t kFirstWritten = 5;  // dq

bool all_vectors(const std::array<BackwardSide, 8>& sides, const GpuProblem& problem, size_t begin, size_t end) {
  return std::all_of(sides.begin() + begin, sides.begin() + end,
                     [&](const BackwardSide& side) { return !side.is_there || has_vector_rows(side, problem); });
}

int64_t element_count(const std::vector<int32_t>& sizes) {
  int64_t count = 1;
  for (const int32_t size : sizes) count *= size;
  return count;
}

void set_gradients(const Ir& ir, const GpuProblem& problem, bool has_short_addresses, GpuArgument& argument) {
  const int first = GpuTensorIndex::backward(ir, GpuTensorIndex::kGrads);
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const Param& param = ir.params[i];
    const GpuParamBinding& binding = problem.params[i];
    if (!param.is_grad) continue;
    const std::string name = "g_" + param.name;
    const size_t rank = binding.grad_strides.size();
    constexpr int64_t kFarthest = int64_t{1} << 29;  // place_of_pair() in gradients.cuh
    if (has_short_addresses && rank >= 2 && std::abs(binding.grad_strides[rank - 2]) >= kFarthest) {
      throw ArgumentError(fmt::format("the gradient of '{}' has a stride of {} elements in dim {}, expected less than {} on a GPU",
                                      param.name, binding.grad_strides[rank - 2], rank - 2, kFarthest));
    }
    argument.patch(name, GpuPatch::Kind::kTensor, first + static_cast<int64_t>(i));
    if (!param.is_tensor) continue;
    argument.set_all(name + "_stride", binding.grad_strides);
    argument.set_all(name + "_size", binding.grad_sizes);
    argument.set(name + "_count", element_count(binding.grad_sizes));
  }
}

// Places in the workspace, each a multiple of 16 bytes.
class Workspace {
 public:
  int64_t place(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 15) / 16 * 16;
    return at;
  }
  size_t bytes() const { return static_cast<size_t>(bytes_); }

 private:
  int64_t bytes_ = 0;
};

// Deterministic: sums of gradients side by side, in the order of their tensors' elements. Returns how many the largest tensor has.
int64_t place_sums(const Ir& ir, const GpuProblem& problem, Workspace& workspace, GpuArgument& argument) {
  constexpr int64_t kBytesOfSum = 104;  // ExactSum in gradients.cuh
  int64_t most = 0;
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const Param& param = ir.params[i];
    if (!param.is_grad) continue;
    const std::vector<int32_t>& sizes = problem.params[i].grad_sizes;
    std::vector<int64_t> strides(sizes.size(), 0);
    int64_t count = 1;
    for (size_t axis = sizes.size(); axis-- > 0; count *= sizes[axis]) {
      if (sizes[axis] > 1) strides[axis] = count;
    }
    const std::string name = "sum_" + param.name;
    argument.patch(name, GpuPatch::Kind::kWorkspace, workspace.place(count * kBytesOfSum));
    argument.set_all(name + "_stride", strides);
    most = std::max(most, count);
  }
  return most;
}

// Heads of keys at work together: fewer than in the forward pass, since sums of dQ want room in the second-level cache too (causal, 2k: 4
// to 17 % faster). Deterministic, and the mask is of pairs, most likely a diagonal: as many as fill the multiprocessors with their tiles,
// all of a head at the same time. Else CTAs of a head that start together wait for each other, one step after the other: not more than a
// few.
int backward_section_heads(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config, const GpuProblem& problem) {
  const int64_t streamed = int64_t{problem.q_len} * (options.head_dim + options.v_dim) * kGpuElementBytes;
  const int64_t group = std::max(1, problem.heads / std::max(1, problem.kv_heads));
  constexpr int kMostHeads = 8;
  const int heads = problem.batch * problem.kv_heads;
  const int section = std::min(kMostHeads, section_heads(lowered, problem, streamed * group, heads));
  if (!options.deterministic || config.skeleton != GpuSkeleton::kSm90) return section;
  constexpr int kTilesTogether = 8;
  const bool is_of_pairs = lowered.ir.mask != kNoValue && lowered.rate(lowered.ir.mask) == Rate::kElement;
  const int tiles = is_of_pairs ? std::max(1, ceil_div(problem.k_len, config.block_n)) : kTilesTogether;
  return std::clamp(ceil_div(problem.multiprocessors, tiles), 1, std::max(1, heads));
}

// Tiles of all tensors of which nothing but weights are computed, if they can be had.
void choose_feeds(const Ir& ir, const std::vector<ValueId>& reads, const GpuKernelOptions& options, const GpuProblem& problem,
                  GpuConfig& config) {
  if (config.block_m % 64 != 0) return;
  std::vector<int> tensors;
  int bytes = 0;
  for (const ValueId read : reads) {
    const int param = ir.graph[read].index;
    if (!fits_map_of_pairs(ir, param, problem)) return;
    if (std::count(tensors.begin(), tensors.end(), param) == 0) tensors.push_back(param);
    bytes += config.block_m / 64 * pair_tile_bytes(ir.params[static_cast<size_t>(param)].element, config.block_n);
  }
  if (tensors.size() > kMaxFedTensors || sm90_backward_bytes(options, config, bytes) > kMostSharedBytes) return;
  config.fed_tensors = std::move(tensors);
}

GpuConfig tiles(const PairGradients& gradients, const GpuKernelOptions& options) {
  const int dim = std::max(options.head_dim, options.v_dim);
  GpuConfig config;
  config.warpgroups = 2;
  // Sums over pairs are columns of dK behind whole chunks. Gradients of tensors that are not among them take registers for each pair, and
  // code: half as many pairs at once.
  const bool has_place = dim <= 128 && options.head_dim % 64 == 0;
  config.sums = has_place && gradients.has_sums;
  config.block_m = dim <= 64 && !gradients.has_tensors && (has_place || !gradients.has_sums) ? 128 : 64;
  config.block_n = 128;
  if (dim <= 128) return config;
  // A warpgroup's registers hold dK and dV of 64 keys, and S and dP of so many queries. Wider still: both warpgroups hold the same keys,
  // and half of the columns of dK and dV each.
  const int columns = (options.head_dim + 15) / 16 * 16 + (options.v_dim + 15) / 16 * 16;
  if (columns > 256 || gradients.has_sums || gradients.has_others) config.block_m = 32;
  if (columns > 320) config.block_m = config.block_n = 64;
  return config;
}

}  // namespace

bool fits_sm90_backward(const GpuProblem& problem, const GpuKernelOptions& options) {
  const auto sides = backward_sides(nullptr, problem, options, {});
  return std::all_of(sides.begin(), sides.end(),
                     [&](const BackwardSide& side) { return !side.is_there || fits_maps(side, problem, options); });
}

bool can_persist(const GpuKernelOptions& options, GpuConfig config) {
  constexpr int kGreatestDim = 128;
  if (config.skeleton != GpuSkeleton::kSm90 || options.deterministic || options.packed || !config.fed_tensors.empty()) return false;
  config.persistent = true;
  return std::max(options.head_dim, options.v_dim) <= kGreatestDim && sm90_backward_bytes(options, config, 0) <= kMostSharedBytes;
}

GpuConfig default_backward_config(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem) {
  const int dim = std::max(options.head_dim, options.v_dim);
  GpuConfig config;
  if (options.arch != "sm_90a" || !fits_sm90_backward(problem, options)) {
    // The table in sm80_backward.cuh.
    config.skeleton = GpuSkeleton::kSm80;
    config.warpgroups = 4;
    config.block_n = 64;
    config.block_m = dim <= 96 ? 64 : dim <= 128 ? 32 : 16;
    return config;
  }
  const PairGradients gradients = pair_gradients(lowered, options.deterministic);
  config = tiles(gradients, options);
  const std::vector<ValueId> reads = weight_reads(lowered.ir.graph, lowered.backward);
  choose_feeds(lowered.ir, reads, options, problem, config);
  if (!reads.empty() && config.fed_tensors.empty() && config.block_m > 64) {
    config.block_m = 64;  // what is brought of fewer queries may fit; what is not takes registers for each pair
    choose_feeds(lowered.ir, reads, options, problem, config);
  }
  // Measured: 5 to 11 % at d64, a loss at d128, whose steps are longer. Searched masks and sums over distances spill registers there.
  const bool is_searched = lowered.bounds.kind == MaskBounds::Kind::kTileMap;
  config.persistent = dim <= 64 && !is_searched && !gradients.has_distances && can_persist(options, config);
  return config;
}

runtime::GpuPlan plan_gpu_backward(const Lowered& lowered, const GpuKernel& kernel, const GpuKernelOptions& options,
                                   const GpuConfig& config, const GpuProblem& problem) {
  const Ir& ir = lowered.ir;
  const bool is_sm90 = config.skeleton == GpuSkeleton::kSm90;
  const int blocks_m = std::max(1, ceil_div(problem.q_len, config.block_m)), blocks_n = ceil_div(problem.k_len, config.block_n);
  const int heads = problem.batch * problem.heads, kv_heads = problem.batch * problem.kv_heads;
  const int blocks_q = blocks_m * heads, tiles = blocks_n * kv_heads;

  runtime::GpuPlan plan;
  Workspace workspace;
  const int64_t rows = int64_t{blocks_q} * config.block_m;
  const int64_t counter = workspace.place(kCounterBytes);
  const bool is_softmax = ir.weight_kind == WeightKind::kSoftmax;
  const int64_t row_bytes = is_softmax ? rows * static_cast<int64_t>(sizeof(float)) : 0;
  const int64_t lse2 = workspace.place(row_bytes), delta = workspace.place(row_bytes);
  const int columns = (options.head_dim + 63) / 64 * 64;
  const int64_t dq_sum = workspace.place(is_sm90 ? rows * columns * static_cast<int64_t>(sizeof(float)) : 0);
  const int64_t extents = workspace.place(int64_t{blocks_q} * static_cast<int64_t>(kernel.row_extent_bytes));
  const int side_grid = std::max(1, blocks_q);
  plan.sources.push_back({kernel.source, options.arch});

  GpuLaunch launch;
  GpuArgument argument(kernel, launch);
  int64_t most_sums = 0;
  if (options.deterministic) {
    const bool has_turns = is_sm90, has_meetings = has_turns && lowered.bounds.kind != MaskBounds::Kind::kAll;
    const int64_t blocks_k = int64_t{heads} * blocks_n, words = has_meetings ? ceil_div(blocks_n, 32) : 0;
    argument.patch("turns", GpuPatch::Kind::kWorkspace, workspace.place(has_turns ? int64_t{side_grid} * 4 : 0));
    argument.patch("spans", GpuPatch::Kind::kWorkspace, workspace.place(has_meetings ? blocks_k * 8 : 0));
    argument.patch("meetings", GpuPatch::Kind::kWorkspace, workspace.place(int64_t{blocks_q} * words * 8));
    argument.patch("column_extents", GpuPatch::Kind::kWorkspace,
                   workspace.place(blocks_k * static_cast<int64_t>(kernel.column_extent_bytes)));
    most_sums = place_sums(ir, problem, workspace, argument);
  }
  plan.workspace_bytes = workspace.bytes();
  const auto sides = backward_sides(&ir, problem, options, config);
  for (const BackwardSide& side : sides) {
    if (!side.is_there) continue;
    const std::string name = side.name;
    if (is_sm90 && side.map_rows > 0) argument.map(name + "_map", map_of(side, problem, options, side.map_rows));
    argument.patch(name, GpuPatch::Kind::kTensor, side.tensor);
    argument.set(name + "_stride", *side.strides);
  }
  for (const int param : config.fed_tensors) {
    argument.map("t_" + ir.params[static_cast<size_t>(param)].name + "_map", map_of_pairs(ir, param, problem));
  }
  argument.set("vector_loads", int32_t{all_vectors(sides, problem, 0, kFirstWritten)});
  argument.set("vector_stores", int32_t{all_vectors(sides, problem, kFirstWritten, sides.size())});
  argument.patch("lse", GpuPatch::Kind::kTensor, GpuTensorIndex::kLse);
  argument.set("lse_stride", problem.lse);
  argument.patch("counter", GpuPatch::Kind::kWorkspace, counter);
  argument.patch("lse2", GpuPatch::Kind::kWorkspace, lse2);
  argument.patch("delta", GpuPatch::Kind::kWorkspace, delta);
  argument.patch("dq_sum", GpuPatch::Kind::kWorkspace, dq_sum);
  argument.patch("extents", GpuPatch::Kind::kWorkspace, extents);
  argument.set("blocks_m", int32_t{blocks_m});
  argument.set("blocks_n", int32_t{blocks_n});
  argument.set("tiles", int32_t{tiles});
  argument.set("section_heads", int32_t{backward_section_heads(lowered, options, config, problem)});
  set_problem(ir, problem, argument);
  set_gradients(ir, problem, is_sm90 && !options.deterministic, argument);

  const auto add = [&](const std::string& name, int grid, int threads, uint32_t shared_bytes) {
    if (name.empty() || grid == 0) return;
    launch.kernel = name;
    launch.grid = {static_cast<uint32_t>(grid), 1, 1};
    launch.block = {static_cast<uint32_t>(threads), 1, 1};
    launch.shared_bytes = shared_bytes;
    plan.launches.push_back(launch);
  };
  add(kernel.prepare_name, side_grid, kernel.side_threads, 0);
  add(kernel.extents_name, ceil_div(blocks_q, kernel.side_threads / 32), kernel.side_threads, 0);
  add(kernel.name, config.persistent ? std::min(tiles, problem.multiprocessors) : tiles, kernel.threads, kernel.shared_bytes);
  add(kernel.queries_name, ceil_div(problem.q_len, config.block_n) * heads, kernel.threads, kernel.shared_bytes);  // as many rows as keys
  add(kernel.finish_name, side_grid, kernel.side_threads, 0);
  constexpr int64_t kMostCtas = 4096;
  add(kernel.sums_name, static_cast<int>(std::min(kMostCtas, most_sums / kernel.side_threads + 1)), kernel.side_threads, 0);
  return plan;
}

}  // namespace attune::codegen
