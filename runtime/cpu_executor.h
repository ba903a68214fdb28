// Runs compiled CPU kernels over all queries of one or many sequences, on a thread pool. The result has the same bits for any number of
// threads: what is a task, and the order in which tasks' sums are added, follow from shapes alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/cpu_kernel.h"
#include "runtime/half.h"
#include "runtime/thread_pool.h"

namespace attune::runtime {

inline constexpr int64_t kMaxCpuSize = int64_t{1} << 30;  // of any length or count, so that kernels can add two in i32

// dk or dv of a sequence, [batch, k_len, kv_heads, dim], overwritten. Null data: not wanted.
struct CpuGradient {
  void* data = nullptr;
  FloatType type = FloatType::kF32;
  int64_t strides[3] = {};  // in elements: batch, k_len, kv_heads; the last dimension is contiguous
};

// A batch of equally long sequences, b in [first_b, end_b), or one of packed sequences.
struct CpuSequence {
  CpuArgs args = {};
  int32_t first_b = 0, end_b = 0;
  CpuGradient dk, dv;  // backward only
};

// The gradient of a parameter that is wanted: f32, overwritten.
struct CpuParamGradient {
  int param = 0;
  float* data = nullptr;
  std::vector<int64_t> shape;    // of the bound parameter: size 1 along broadcast dims
  std::vector<int64_t> strides;  // of data, in elements
  // Whether (b, h, q_idx) pairs that differ in that index never touch the same element: some dim is indexed by just that symbol (or by
  // kv_h, for h) in every read, and not broadcast.
  bool by_b = false, by_h = false, by_q = false;
};

// One linked kernel.
template <typename Function>
struct CpuFunction {
  Function* function = nullptr;
  int block_q = 0;
  size_t scratch_bytes = 0;
  int dk_row = 0, dv_row = 0;

  CpuFunction(Function* code, const CpuKernel& kernel)
      : function(code), block_q(kernel.block_q), scratch_bytes(kernel.scratch_bytes), dk_row(kernel.dk_row), dv_row(kernel.dv_row) {}
};

// The sequences' args are complete but for param_grads, which must be null. Sequences of no queries, keys or batch are fine.
void run_forward(ThreadPool& pool, const CpuFunction<CpuForward>& kernel, std::span<const CpuSequence> sequences);
// `param_count` is the number of the program's parameters.
void run_backward(ThreadPool& pool, const CpuFunction<CpuBackward>& kernel, std::span<const CpuSequence> sequences,
                  std::span<const CpuParamGradient> param_grads, int param_count);

}  // namespace attune::runtime
