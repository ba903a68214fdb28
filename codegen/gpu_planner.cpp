#include "codegen/gpu_planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>
#include <string_view>

#include "codegen/eval/interpreter.h"

namespace attune::codegen {
namespace {

using runtime::GpuLaunch;
using runtime::GpuPatch;
using runtime::GpuTensorMap;

constexpr int kElementBytes = 2;
constexpr size_t kCounterBytes = 64;
// Small problems.
constexpr int kShortRows = 64;    // queries that a tile of 64 rows holds
constexpr int kSmallCtas = 2;     // CTAs of 4 warps that a multiprocessor has registers for
constexpr int kFewestBlocks = 2;  // of a split: less is not worth a part in the workspace

int ceil_div(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

// Writes a launch's argument by the names of its fields. What the kernel does not have is not written.
class Argument {
 public:
  Argument(const GpuKernel& kernel, GpuLaunch& launch) : kernel_(kernel), launch_(launch) { launch_.argument.resize(kernel.params_bytes); }

  template <typename T>
  void set(std::string_view name, const T& value) {
    if (const GpuField* field = find(name)) {
      assert(sizeof(T) == field->bytes);
      std::memcpy(launch_.argument.data() + field->offset, &value, sizeof(T));
    }
  }
  void set_ints(const std::string& name, const std::vector<int64_t>& values) { set_all<int64_t>(name, values); }
  void set_ints(const std::string& name, const std::vector<int32_t>& values) { set_all<int32_t>(name, values); }
  void patch(std::string_view name, GpuPatch::Kind kind, int64_t index) {
    if (const GpuField* field = find(name)) launch_.patches.push_back({kind, index, field->offset});
  }
  void map(std::string_view name, GpuTensorMap map) {
    patch(name, GpuPatch::Kind::kTensorMap, static_cast<int64_t>(launch_.tensor_maps.size()));
    launch_.tensor_maps.push_back(std::move(map));
  }

 private:
  const GpuField* find(std::string_view name) const {
    const auto found =
        std::find_if(kernel_.fields.begin(), kernel_.fields.end(), [&](const GpuField& field) { return field.name == name; });
    return found == kernel_.fields.end() ? nullptr : &*found;
  }
  template <typename T>
  void set_all(const std::string& name, const std::vector<T>& values) {
    const GpuField* field = find(name);
    if (!field) return;
    assert(values.size() * sizeof(T) == field->bytes);
    std::memcpy(launch_.argument.data() + field->offset, values.data(), field->bytes);
  }

  const GpuKernel& kernel_;
  GpuLaunch& launch_;
};

struct Side {
  const char* name;
  int tensor;
  const GpuStrides* strides;
  int64_t rows, heads, dim;
};

std::array<Side, 4> sides(const GpuProblem& problem, const GpuKernelOptions& options) {
  const int64_t rows_q = options.packed ? problem.total_q : problem.q_len, rows_k = options.packed ? problem.total_k : problem.k_len;
  return {{{"q", GpuTensorIndex::kQ, &problem.q, rows_q, problem.heads, options.head_dim},
           {"k", GpuTensorIndex::kK, &problem.k, rows_k, problem.kv_heads, options.head_dim},
           {"v", GpuTensorIndex::kV, &problem.v, rows_k, problem.kv_heads, options.v_dim},
           {"out", GpuTensorIndex::kOut, &problem.out, rows_q, problem.heads, options.v_dim}}};
}

// Rows that can be copied 16 bytes at a time.
bool has_vector_rows(const Side& side, const GpuProblem& problem) {
  const auto fits = [](int64_t stride) { return stride * kElementBytes % 16 == 0; };
  return problem.aligned && side.dim * kElementBytes % 16 == 0 && std::all_of(side.strides->begin(), side.strides->end(), fits);
}

// Tiles of `rows` rows and 64 columns, a head and a batch at a time.
GpuTensorMap map_of(const Side& side, const GpuProblem& problem, const GpuKernelOptions& options, int rows) {
  const int64_t batch = options.packed ? 1 : problem.batch;
  const auto bytes = [&](int64_t size, int64_t stride) {
    return static_cast<uint64_t>(size == 1 ? 16 : stride * kElementBytes);  // the stride of one is not looked at, but checked
  };
  GpuTensorMap map;
  map.tensor = side.tensor;
  map.type = options.dtype == dsl::ElementType::kF16 ? runtime::FloatType::kF16 : runtime::FloatType::kBF16;
  map.dims = {static_cast<uint64_t>(side.dim), static_cast<uint64_t>(side.rows), static_cast<uint64_t>(side.heads),
              static_cast<uint64_t>(batch)};
  map.strides = {bytes(side.rows, (*side.strides)[1]), bytes(side.heads, (*side.strides)[2]), bytes(batch, (*side.strides)[0])};
  map.box = {64, static_cast<uint32_t>(rows), 1, 1};
  return map;
}

// Heads whose tiles are at work together. Without a mask one is best: all its tiles read the same keys at the same time. Tiles of a causal
// mask differ, so that several heads level them out, as long as their keys stay in the second-level cache.
int section_heads(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem, int heads_of_batch) {
  if (lowered.bounds.kind == MaskBounds::Kind::kAll) return 1;
  const int64_t head_bytes = std::max<int64_t>(1, int64_t{problem.k_len} * (options.head_dim + options.v_dim) * kElementBytes);
  const int64_t heads = (problem.l2_bytes * 2 / 3 + head_bytes / 2) / head_bytes;
  return static_cast<int>(std::clamp<int64_t>(heads, 1, std::max(1, problem.batch * heads_of_batch)));
}

// Whether two heads may keep different keys for one query.
bool mask_differs_by_head(const Ir& ir) {
  const std::vector<bool> needed = reachable(ir.graph, std::array{ir.mask});
  for (ValueId id = 0; id < ir.graph.size(); ++id) {
    const Node& node = ir.graph[id];
    if (needed[id] && node.op == Op::k_symbol && static_cast<Symbol>(node.index) == Symbol::kH) return true;
  }
  return false;
}

// Tiles of a launch: a sequence's, and all.
struct TileCount {
  int heads, of_head, all;  // heads of a batch that have tiles of their own
};

TileCount count_tiles(const GpuConfig& config, const GpuProblem& problem) {
  TileCount count = {};
  count.heads = config.tile_heads > 1 ? problem.kv_heads : problem.heads;
  count.of_head = ceil_div(int64_t{problem.q_len} * config.tile_heads, config.block_m());
  count.all = count.of_head * problem.batch * count.heads;
  return count;
}

int rows_of_large_tile(const GpuKernelOptions& options) {
  return std::max(options.head_dim, options.v_dim) <= 64 ? 192 : 128;
}

// A problem for which large tiles are wrong: either they are mostly empty, or too few for the multiprocessors. By sizes alone: layouts
// share one workspace.
bool is_small(const GpuKernelOptions& options, const GpuProblem& problem) {
  if (problem.large_tiles) return false;
  const int64_t tiles = int64_t{ceil_div(problem.q_len, rows_of_large_tile(options))} * problem.batch * problem.heads;
  return problem.q_len <= kShortRows || 2 * tiles < problem.multiprocessors;
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
  if (group > 1 && problem.q_len < kShortRows && !mask_differs_by_head(lowered.ir)) config.tile_heads = group;
  config.warpgroups = 4;
  config.key_warps = int64_t{problem.q_len} * config.tile_heads <= 16 ? 4 : 1;
  config.block_n = config.key_warps == 1 && is_wide ? 32 : 64;
  config.stages = options.head_dim + options.v_dim <= 256 ? 2 : 1;
  config.splits = split_count(config, problem);
  return config;
}

void set_params(const Ir& ir, const GpuProblem& problem, Argument& argument) {
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const Param& param = ir.params[i];
    const GpuParamBinding& binding = problem.params[i];
    const int64_t tensor = GpuTensorIndex::kParams + static_cast<int64_t>(i);
    if (param.is_tensor) {
      argument.patch("t_" + param.name, GpuPatch::Kind::kTensor, tensor);
      argument.set_ints("t_" + param.name + "_stride", binding.strides);
      argument.set_ints("t_" + param.name + "_dim", binding.dims);
    } else if (param.is_grad) {
      argument.patch("p_" + param.name, GpuPatch::Kind::kTensor, tensor);
    } else if (param.element == dsl::ElementType::kF32) {
      argument.set("p_" + param.name, static_cast<float>(binding.scalar));
    } else {
      argument.set("p_" + param.name, static_cast<int32_t>(binding.scalar));
    }
    argument.set("p_" + param.name + "_given", int32_t{binding.is_given});
  }
}

}  // namespace

bool fits_sm90(const GpuProblem& problem, const GpuKernelOptions& options) {
  const int64_t batch = options.packed ? 1 : problem.batch;
  for (const Side& side : sides(problem, options)) {
    const std::array<int64_t, 3> sizes = {batch, side.rows, side.heads};
    if (!problem.aligned || side.dim % 8 != 0) return false;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const int64_t stride = (*side.strides)[i];
      if (sizes[i] < 1 || (sizes[i] > 1 && (stride <= 0 || stride * kElementBytes % 16 != 0))) return false;
    }
  }
  return true;
}

GpuConfig default_config(const Lowered& lowered, const GpuKernelOptions& options, const GpuProblem& problem) {
  const int dim = std::max(options.head_dim, options.v_dim);
  if (is_small(options, problem)) return small_config(lowered, options, problem);
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
  // A searched mask needs registers, and documents tend to be multiples of 128 long.
  config.warpgroups = dim <= 64 && lowered.bounds.kind != MaskBounds::Kind::kTileMap ? 3 : 2;
  config.block_n = dim <= 128 ? 128 : dim <= 192 ? 96 : 64;
  config.buffers_q = dim <= 128 ? 2 : 1;
  config.stale = lowered.ir.weight_kind == WeightKind::kSoftmax && options.accuracy == Accuracy::kFast;
  return config;
}

runtime::GpuPlan plan_gpu_forward(const Lowered& lowered, const GpuKernel& kernel, const GpuKernelOptions& options, const GpuConfig& config,
                                  const GpuProblem& problem) {
  const std::array<Side, 4> all = sides(problem, options);
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

  Argument argument(kernel, launch);
  for (const Side& side : all) {
    if (config.skeleton == GpuSkeleton::kSm90) {
      const bool of_keys = side.tensor == GpuTensorIndex::kK || side.tensor == GpuTensorIndex::kV;
      argument.map(fmt::format("{}_map", side.name), map_of(side, problem, options, of_keys ? config.block_n : 64));
    }
    argument.patch(side.name, GpuPatch::Kind::kTensor, side.tensor);
    argument.set(fmt::format("{}_stride", side.name), *side.strides);
  }
  argument.set("vector_loads",
               int32_t{has_vector_rows(all[0], problem) && has_vector_rows(all[1], problem) && has_vector_rows(all[2], problem)});
  argument.set("vector_stores", int32_t{has_vector_rows(all[3], problem)});
  argument.patch("lse", GpuPatch::Kind::kTensor, GpuTensorIndex::kLse);
  argument.set("lse_stride", problem.lse);
  argument.set("batch", problem.batch);
  argument.set("heads", problem.heads);
  argument.set("kv_heads", problem.kv_heads);
  argument.set("q_len", problem.q_len);
  argument.set("k_len", problem.k_len);
  argument.patch("cu_q", GpuPatch::Kind::kTensor, GpuTensorIndex::kCuQ);
  argument.patch("cu_k", GpuPatch::Kind::kTensor, GpuTensorIndex::kCuK);
  argument.patch("counter", GpuPatch::Kind::kWorkspace, 0);
  argument.patch("extents", GpuPatch::Kind::kWorkspace, kCounterBytes);
  if (config.splits > 1) {
    // A counter for each tile, then the parts.
    const size_t counters = static_cast<size_t>(ceil_div(int64_t{tiles} * 4, kCounterBytes)) * kCounterBytes;
    argument.patch("parts", GpuPatch::Kind::kWorkspace, static_cast<int64_t>(counters));
    plan.workspace_bytes = counters + static_cast<size_t>(tiles) * static_cast<size_t>(config.splits) * kernel.part_bytes;
  }
  argument.set("splits", int32_t{std::max(config.splits, 1)});
  argument.set("tiles_m", int32_t{tiles_m});
  argument.set("tiles", int32_t{tiles});
  argument.set("section_heads", int32_t{section_heads(lowered, options, problem, tile_heads)});
  argument.patch("index_flag", GpuPatch::Kind::kTensor, GpuTensorIndex::kIndexFlag);
  set_params(lowered.ir, problem, argument);
  if (!kernel.extents_name.empty()) {
    const int64_t extents = int64_t{ceil_div(problem.k_len, config.block_n)} * problem.batch * problem.heads;
    GpuLaunch before = launch;
    before.kernel = kernel.extents_name;
    before.block = {128, 1, 1};
    before.grid = {static_cast<uint32_t>(ceil_div(extents, 128 / 32)), 1, 1};
    before.shared_bytes = 0;
    plan.launches.push_back(std::move(before));
    plan.workspace_bytes += static_cast<size_t>(extents) * kernel.extent_bytes;
  }
  plan.launches.push_back(std::move(launch));
  return plan;
}

}  // namespace attune::codegen
