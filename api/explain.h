// What the compiler makes of a program: text of each stage, and the classes of the mask's tiles.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/attune.h"

namespace attune {

enum class Stage : uint8_t { kAst, kIr, kGrad, kRates, kBounds, kLlvm, kCuda, kPtx };

struct ExplainOptions {
  CompileOptions compile;
  Shape shape = {
      .batch = 1,
      .heads = 16,
      .kv_heads = 16,
      .q_len = 4096,
      .k_len = 4096,
      .head_dim = 64,
      .v_dim = 64};  // head_dim and v_dim matter to kLlvm, all to kCuda, kPtx and gpu_resources: small problems have kernels of their own
  DType dtype = DType::kF32;
  std::string arch = "sm_90a";  // a GPU's: kCuda, kPtx, gpu_resources
  Accuracy accuracy = Accuracy::kFast;
  bool backward = false;       // a GPU's backward pass instead of the forward pass: kCuda, kPtx, gpu_resources
  bool deterministic = false;  // of a GPU's backward pass
};

// Throws ProgramError for a wrong program. kPtx needs NVRTC, and no GPU.
std::string explain(std::string_view text, Stage stage, const ExplainOptions& options = {});

// What a kernel of contiguous tensors takes of a multiprocessor. Counts are a thread's, shared memory a block's.
struct KernelResources {
  std::string kernel;
  int threads = 0;  // of a block
  int registers = 0, stack_bytes = 0, spill_store_bytes = 0, spill_load_bytes = 0;
  int64_t shared_bytes = 0;  // static and dynamic
};
struct GpuResourceReport {
  std::string config;  // "sm_90a, bf16, head_dim 64, v_dim 64, sm90 192x128x2, stale softmax"
  double compile_seconds = 0;
  std::vector<KernelResources> kernels;
  std::vector<std::string> warnings;  // ptxas's
};
// Compiles. Needs NVRTC, and no GPU.
GpuResourceReport gpu_resources(std::string_view text, const ExplainOptions& options = {});

enum class TileClass : uint8_t { kSkipped, kPartial, kFull };

// The mask of one (b, h) as the compiler sees it: a class for each tile of block_q x block_k pairs, and the pairs themselves.
struct MaskTiles {
  int64_t q_len = 0, k_len = 0, block_q = 0, block_k = 0;
  std::vector<TileClass> classes;  // [ceil(q_len / block_q), ceil(k_len / block_k)]
  std::vector<uint8_t> kept;       // [q_len, k_len], 0 or 1
};

// Blocks are chosen so that the picture has at most 64 tiles a side, and q_len * k_len is limited to 2^24. Throws ArgumentError.
MaskTiles mask_tiles(const Variant& variant, const Shape& shape, const PlanOptions& options = {}, int64_t b = 0, int64_t h = 0);

}  // namespace attune
