// What the plans of the forward and the backward pass share: arguments by the names of their fields, tensors as maps of tiles.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "codegen/gpu_kernel.h"
#include "codegen/gpu_planner.h"
#include "codegen/ir.h"
#include "runtime/kernel_plan.h"

namespace attune::codegen {

constexpr int kGpuElementBytes = 2;
constexpr size_t kCounterBytes = 64;
constexpr int kMostSharedBytes = 227 << 10;  // of a CTA of sm90
constexpr size_t kMaxFedTensors = 4;         // maps are a large part of a kernel's argument

inline int ceil_div(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

// Writes a launch's argument by the names of its fields. What the kernel does not have is not written.
class GpuArgument {
 public:
  GpuArgument(const GpuKernel& kernel, runtime::GpuLaunch& launch) : kernel_(kernel), launch_(launch) {
    launch_.argument.resize(kernel.params_bytes);
  }

  template <typename T>
  void set(std::string_view name, const T& value) {
    write(name, &value, sizeof(T));
  }
  template <typename T>
  void set_all(std::string_view name, const std::vector<T>& values) {
    write(name, values.data(), values.size() * sizeof(T));
  }
  void patch(std::string_view name, runtime::GpuPatch::Kind kind, int64_t index);
  void map(std::string_view name, runtime::GpuTensorMap map);

 private:
  const GpuField* find(std::string_view name) const;
  void write(std::string_view name, const void* value, size_t bytes);

  const GpuKernel& kernel_;
  runtime::GpuLaunch& launch_;
};

// A tensor of rows [batch, row, head, dim].
struct GpuSide {
  const char* name;
  int tensor;
  const GpuStrides* strides;
  int64_t rows, heads, dim;
};

// q, k, v, out.
std::array<GpuSide, 4> forward_sides(const GpuProblem& problem, const GpuKernelOptions& options);

// Whether the copy engine can read and write the tensor.
bool fits_maps(const GpuSide& side, const GpuProblem& problem, const GpuKernelOptions& options);

// Rows that can be copied 16 bytes at a time.
bool has_vector_rows(const GpuSide& side, const GpuProblem& problem);

// Tiles of `rows` rows and 64 columns, a head and a batch at a time.
runtime::GpuTensorMap map_of(const GpuSide& side, const GpuProblem& problem, const GpuKernelOptions& options, int rows);

// Tiles of 64 rows of a tensor parameter's last two dims; whether the copy engine can read them. With no parameter bound: a contiguous one,
// whose last dim is k_len.
bool fits_map_of_pairs(const Ir& ir, int param, const GpuProblem& problem);
runtime::GpuTensorMap map_of_pairs(const Ir& ir, int param, const GpuProblem& problem);

// Of `heads` heads, those whose tiles are at work together; each streams `head_bytes`. Without a mask one is best: all its tiles read the
// same rows at the same time. Tiles of a causal mask differ, so that several heads level them out, as long as what they stream stays in the
// second-level cache.
int section_heads(const Lowered& lowered, const GpuProblem& problem, int64_t head_bytes, int heads);

// Sizes of the problem, its sequences and its parameters.
void set_problem(const Ir& ir, const GpuProblem& problem, GpuArgument& argument);

}  // namespace attune::codegen
