// What a kernel of sm90 can have brought into shared memory ahead of its use (codegen/device/sm90_feed.cuh, sm90_feed_queries.cuh): tensors
// that are read at (q_idx, k_idx), in tiles by the copy engine, and forward values by key that come of tensors, and small tables, by warps
// that do nothing else.
#pragma once

#include <vector>

#include "codegen/gpu_kernel.h"
#include "codegen/ir.h"
#include "codegen/lower.h"

namespace attune::codegen {

// What every pair is computed of but for the mask: softmax's score and factor, or the weight.
std::vector<ValueId> pair_roots(const Lowered& lowered);

// Reads of float tensors whose last two indices are q_idx and k_idx, each but for something uniform, and whose others, at most two, are
// uniform: those that `roots` need, in the order of the graph.
std::vector<ValueId> pair_reads(const Graph& graph, const std::vector<ValueId>& roots);

// Reads at one index that differs from pair to pair, in a dim of at most kMaxTableWords that the program fixes; the other indices are
// uniform: small tables, such as those of relative positions. As many as kMaxTableWords hold, with the size of each.
struct TableRead {
  ValueId read = kNoValue;
  size_t axis = 0;
  int words = 0;
  bool is_long = false;  // the index comes of exp, log and the like
};
constexpr int kMaxTableWords = 256;
std::vector<TableRead> table_reads(const Ir& ir, const std::vector<ValueId>& roots);

// Whether a value by key, of a pair's weight or of the mask, comes of a tensor.
bool reads_by_column(const Lowered& lowered);

// Bytes of the tile of such a tensor for a warpgroup: 64 rows in boxes of 128 bytes.
int pair_tile_bytes(dsl::ElementType element, int block_n);

// More are computed by each thread.
constexpr int kMaxColumnWords = 4;

// Backward: reads of tensors that the weight of a pair is computed of, and nothing else is, in the order of the graph; none if the
// derivatives need more than the weight.
std::vector<ValueId> weight_reads(const Graph& graph, const Backward& backward);

// What Layout in sm90_backward_copies.cuh adds up to at most. `feed_bytes`: of a step.
int sm90_backward_bytes(const GpuKernelOptions& options, const GpuConfig& config, int feed_bytes);

// What Layout in sm90_forward_copies.cuh adds up to at most. `feed_bytes`: of a stage of a warpgroup.
int sm90_forward_bytes(const GpuKernelOptions& options, const GpuConfig& config, bool redoes, int feed_bytes);
// A stage is a multiple of that.
constexpr int kFeedUnit = 1024;

}  // namespace attune::codegen
