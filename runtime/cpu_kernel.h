// The contract between generated CPU code and the executor that calls it: plain data, no LLVM types. Generated functions have C linkage and
// touch nothing but what their arguments name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace attune::runtime {

inline constexpr int kCpuMaxRank = 6;

// A tensor as the kernel sees it; strides in elements, 0 along broadcast dims.
struct CpuTensor {
  void* data;
  int64_t strides[kCpuMaxRank];
};

// One sequence's worth of attention: everything that is the same for all its tiles. Pointers are already moved to the own sequence when
// sequences are packed. Strides of q, k, v, out and their gradients are in elements: [batch, len, head]; the last dimension is contiguous.
// lse is [batch, head, len]. The members' offsets are known to generated code: reorder nothing.
struct CpuArgs {
  const void* q;
  const void* k;
  const void* v;
  void* out;   // written by forward; read by the backward pass of softmax
  float* lse;  // written by forward unless null; read by the backward pass of softmax
  const void* dout;
  void* dq;  // written by backward unless null
  int64_t q_stride[3], k_stride[3], v_stride[3], out_stride[3], dout_stride[3], dq_stride[3];
  int64_t lse_stride[3];
  int32_t batch, heads, kv_heads, q_len, k_len, head_dim, v_dim;
  int32_t reserved;
  const CpuTensor* params;    // by parameter index; of a scalar only `data`: one f32, i32 or bool (u8 0 or 1)
  const int32_t* param_dims;  // kCpuMaxRank sizes a parameter (bound sizes, broadcast dims have the declared size): data-dependent indices
                              // are clamped to them
  const CpuTensor* param_grads;  // by parameter index; f32 buffers to add into, with their own strides; data is null where not asked for
  int32_t* index_flag;           // set to 1 when a data-dependent index was clamped
};

// Queries [first_q, end_q) of one (b, h), at most CpuKernel::block_q of them: writes their rows of out and lse.
using CpuForward = void(const CpuArgs* args, int32_t b, int32_t h, int32_t first_q, int32_t end_q, void* scratch);
// The same queries backward: writes their rows of dq, and adds to dk [k_len, dk_row] and dv [k_len, dv_row] of (b, kv_h), f32, and to
// param_grads. Both buffers have kCpuPadRows more rows, to which zeros are added, and are aligned to kScratchAlignment.
using CpuBackward = void(const CpuArgs* args, int32_t b, int32_t h, int32_t first_q, int32_t end_q, float* dk, float* dv, void* scratch);

enum class CpuPass : uint8_t { kForward, kBackward };

// One compiled pass: an object file with one function.
struct CpuKernel {
  std::string object;          // ELF
  std::string symbol;          // of the function
  int block_q = 0;             // queries a call
  size_t scratch_bytes = 0;    // of one call, aligned to kScratchAlignment, contents don't matter
  int dk_row = 0, dv_row = 0;  // backward: floats a row, >= head_dim and v_dim
};
inline constexpr size_t kScratchAlignment = 64;
inline constexpr int kCpuPadRows = 16;

}  // namespace attune::runtime
