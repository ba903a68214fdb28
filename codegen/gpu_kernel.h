// A generated GPU kernel and what it was generated for: plain data between the CUDA emitter, the planner and the tuner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "dsl/ast.h"

namespace attune::codegen {

enum class GpuSkeleton : uint8_t {
  kSm90,  // TMA, wgmma, warp-specialised: sm_90a; tensors with 16-byte strides
  kSm80,  // cp.async, mma.sync: sm_80 and later; any strides
};

// `fast` may use every form whose error passes the gate; `high` stays within 1.1x of the exact maths in the same dtype.
enum class Accuracy : uint8_t { kFast, kHigh };

// The tile configuration of a kernel. Each member is a named constant of the generated `Config`.
struct GpuConfig {
  GpuSkeleton skeleton = GpuSkeleton::kSm90;
  int warpgroups = 2;       // sm90: consumer warpgroups of 64 rows each; sm80: warps of 16 rows each
  int block_m = 64;         // backward: query rows of a step
  int block_n = 128;        // key columns of a tile; backward: key rows of a CTA
  int stages = 2;           // depth of the K and V rings; backward: of Q and dO
  int buffers_q = 2;        // sm90: tiles of Q in shared memory
  bool stale = false;       // softmax: stale reference instead of exact online maxima
  bool sums = false;        // sm90 backward: dK has columns for the sums of dqk over pairs (pair_sums.h)
  bool persistent = false;  // sm90 backward: a CTA for each multiprocessor, which takes one block of keys after the other
  int key_warps = 1;        // sm80 forward: warps with the same rows, which share the keys of a tile
  int tile_heads = 1;       // sm80 forward: query heads of a tile; 1, or all of a key head
  int splits = 0;           // sm80 forward: CTAs that share the keys of a tile of queries, which a launch says; 0: a kernel that cannot
  bool quick = false;       // sm80 forward: less code, compiled in half the time
  // sm90: what is brought into shared memory ahead of its use (feeds.h), forward by warps of their own; backward only tensors, in one
  // place.
  int feed_stages = 0;           // forward: depth of the rings; 0: nothing
  std::vector<int> fed_tensors;  // tensor parameters whose tiles the copy engine loads
  bool feeds_columns = false;    // values by key that come of tensors
  bool feeds_tables = false;     // small tables
  bool operator==(const GpuConfig&) const = default;

  // Query rows of a CTA of the forward pass.
  int forward_rows() const { return skeleton == GpuSkeleton::kSm90 ? warpgroups * 64 : warpgroups / key_warps * 16; }
};

// What a kernel is specialised by, beside the program and its config.
struct GpuKernelOptions {
  std::string arch = "sm_90a";                       // NVRTC's --gpu-architecture
  dsl::ElementType dtype = dsl::ElementType::kBF16;  // of q, k, v and out: f16 or bf16
  int head_dim = 64, v_dim = 64;                     // 1..256
  bool packed = false;                               // sequences by cu_q and cu_k
  Accuracy accuracy = Accuracy::kFast;
  bool far_positions = false;  // lengths from kFirstInexactLength on (float_distances.h)
  bool deterministic = false;  // backward: the same bits from call to call
};

// One member of the kernel's `Params` struct: what the planner writes at `offset`.
struct GpuField {
  std::string name;
  std::string type;  // CUDA: "int", "float", "TensorMap", "const float*", "i64[3]"
  size_t offset = 0, bytes = 0;
};

struct GpuKernel {
  std::string source;  // self-contained CUDA C++
  std::string name;    // of the extern "C" kernel
  std::vector<GpuField> fields;
  size_t params_bytes = 0;
  int threads = 0;
  uint32_t shared_bytes = 0;
  // A kernel of the same source and arguments that runs before it, if the tiles of the mask have to be classified (sm90): a warp for each
  // block of keys and each tile of queries (backward: for each block of queries) of each head and batch, of which it writes
  // `column_extent_bytes` and `row_extent_bytes` at most into the workspace.
  std::string extents_name;
  size_t row_extent_bytes = 0;
  size_t column_extent_bytes = 0;  // backward: where deterministic, by `prepare`
  size_t part_bytes = 0;           // sm80 forward: what one of several splits of a tile leaves in the workspace
  // Backward: kernels of the same source and arguments around `name`, in this order; one whose name is empty has nothing to do. `prepare`
  // and `finish` run CTAs of `side_threads` threads, one for each block of block_m queries of each head and batch, and at least one.
  std::string prepare_name;  // lse2 and delta, zeros in the gradients of parameters and in sums of dq
  std::string queries_name;  // sm80: dq, with the threads and shared memory of `name`, which has dk and dv; a CTA has 16 queries a warp
  std::string finish_name;   // sm90: dq from its sums; the gradients of rows
  std::string sums_name;     // deterministic: gradients of parameters from their sums; threads take turns at the elements
  int side_threads = 0;
};

}  // namespace attune::codegen
