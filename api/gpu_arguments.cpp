#include "api/gpu_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "api/settings.h"
#include "codegen/float_distances.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"

namespace attune {
namespace {

using codegen::GpuStrides;
using codegen::GpuTensorIndex;

constexpr int kMaxHeadDim = 256;
constexpr int kFewestRows = 16;   // of a tile
constexpr size_t kSection = 256;  // alignment of the parts of the plan's memory
constexpr uintptr_t kVectorBytes = 16;

// What does not change while the process lives, asked once.
const runtime::GpuDevice& known_device(int ordinal) {
  static std::mutex mutex;
  static std::map<int, runtime::GpuDevice> devices;
  const std::lock_guard lock(mutex);
  const auto known = devices.find(ordinal);
  return known != devices.end() ? known->second : devices.emplace(ordinal, runtime::gpu_device(ordinal)).first->second;
}

std::string arch_of(const runtime::GpuDevice& device) {
  if (device.major < 8) {
    throw EnvironmentError(fmt::format("GPU {} ({}) is {}, expected sm_80 or later", device.ordinal, device.name, device.sm()));
  }
  return device.major == 9 ? device.sm() + "a" : device.sm();
}

GpuStrides contiguous_rows(const Problem& problem, int64_t len, int64_t heads, int64_t dim) {
  return {problem.packed ? 0 : len * heads * dim, heads * dim, dim};
}

GpuStrides strides_where(const RowTensor& tensor, std::array<int64_t, 3> sizes, const GpuStrides& contiguous) {
  GpuStrides strides = contiguous;
  for (size_t axis = 0; axis < strides.size(); ++axis) {
    if (sizes[axis] > 1) strides[axis] = tensor.strides[axis];
  }
  return strides;
}

}  // namespace

void check_gpu_options(const Shape& shape, const PlanOptions& options) {
  if (options.dtype == DType::kF32) {
    throw ArgumentError("dtype is f32, expected f16 or bf16 on cuda: the matrix units of a GPU have no f32");
  }
  for (const auto& [name, dim] : {std::pair("head_dim", shape.head_dim), std::pair("v_dim", shape.v_dim)}) {
    if (dim > kMaxHeadDim) throw ArgumentError(fmt::format("shape: {} is {}, expected 1..{} on cuda", name, dim, kMaxHeadDim));
  }
  const int64_t tiles = (shape.q_len + kFewestRows - 1) / kFewestRows;
  int64_t all = 0;
  if (__builtin_mul_overflow(shape.batch * shape.heads, tiles, &all) || all > std::numeric_limits<int32_t>::max()) {
    throw ArgumentError(fmt::format("shape: batch {} * heads {} * q_len {} is too large for one launch on cuda, expected below 2^35",
                                    shape.batch, shape.heads, shape.q_len));
  }
  known_device(options.device.ordinal);
}

codegen::GpuKernelOptions gpu_kernel_options(const BoundProgram& bound, const PlanOptions& options) {
  const Shape& shape = bound.problem->shape;
  codegen::GpuKernelOptions kernel;
  kernel.arch = arch_of(known_device(options.device.ordinal));
  kernel.dtype = element_of(options.dtype);
  kernel.head_dim = static_cast<int>(shape.head_dim);
  kernel.v_dim = static_cast<int>(shape.v_dim);
  kernel.packed = bound.problem->packed;
  kernel.accuracy = options.accuracy == Accuracy::kHigh ? codegen::Accuracy::kHigh : codegen::Accuracy::kFast;
  kernel.deterministic = options.deterministic;
  kernel.far_positions = std::max(shape.q_len, shape.k_len) >= codegen::kFirstInexactLength;
  return kernel;
}

codegen::GpuProblem gpu_problem(const Problem& problem, int device) {
  const Shape& shape = problem.shape;
  const runtime::GpuDevice& known = known_device(device);
  codegen::GpuProblem gpu;
  gpu.batch = static_cast<int32_t>(shape.batch);
  gpu.heads = static_cast<int32_t>(shape.heads);
  gpu.kv_heads = static_cast<int32_t>(shape.kv_heads);
  gpu.q_len = static_cast<int32_t>(shape.q_len);
  gpu.k_len = static_cast<int32_t>(shape.k_len);
  gpu.total_q = problem.total_q;
  gpu.total_k = problem.total_k;
  gpu.q = contiguous_rows(problem, shape.q_len, shape.heads, shape.head_dim);
  gpu.k = contiguous_rows(problem, shape.k_len, shape.kv_heads, shape.head_dim);
  gpu.v = contiguous_rows(problem, shape.k_len, shape.kv_heads, shape.v_dim);
  gpu.out = contiguous_rows(problem, shape.q_len, shape.heads, shape.v_dim);
  gpu.dout = gpu.out;
  gpu.dq = gpu.q;
  gpu.dk = gpu.k;
  gpu.dv = gpu.v;
  gpu.lse = problem.packed ? GpuStrides{0, problem.total_q, 1} : GpuStrides{shape.heads * shape.q_len, shape.q_len, 1};
  gpu.large_tiles = has_large_tiles();
  gpu.multiprocessors = known.multiprocessors;
  gpu.l2_bytes = static_cast<int64_t>(known.l2_bytes);
  return gpu;
}

bool has_rows(const Problem& problem) {
  const Shape& shape = problem.shape;
  return shape.batch > 0 && shape.heads > 0 && shape.q_len > 0 && (!problem.packed || problem.total_q > 0);
}

bool is_vector_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0;
}

GpuArguments::GpuArguments(const BoundProgram& bound, const PlanOptions& options)
    : bound_(bound),
      device_(options.device.ordinal),
      options_(gpu_kernel_options(bound, options)),
      problem_(gpu_problem(*bound.problem, device_)) {
  bind_params(options);
  upload(options);
}

// Fills problem_.params, and those of addresses_ that the caller gave.
void GpuArguments::bind_params(const PlanOptions& options) {
  const codegen::Ir& ir = bound_.typed->ir();
  const Parameters& parameters = *bound_.parameters;
  problem_.params.resize(ir.params.size());
  addresses_.resize(GpuTensorIndex::kParams + ir.params.size());
  if (bound_.problem->lengths.empty()) {  // no sequence: nobody reads them
    for (size_t i = 0; i < ir.params.size(); ++i) {
      problem_.params[i].strides.resize(ir.params[i].dims.size());
      problem_.params[i].dims.resize(ir.params[i].dims.size(), 1);
    }
    return;
  }
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const codegen::Param& param = ir.params[i];
    codegen::GpuParamBinding& binding = problem_.params[i];
    void*& address = addresses_[GpuTensorIndex::kParams + i];
    const runtime::CpuTensor& bound = parameters.tensors(0)[i];
    const int index = static_cast<int>(i);
    if (param.is_const) continue;
    if (parameters.is_in_memory(index)) address = const_cast<void*>(bound.data);
    if (param.is_tensor) {
      binding.is_aligned = is_vector_aligned(address);
      const int32_t* dims = parameters.dims() + i * runtime::kCpuMaxRank;
      binding.strides.assign(bound.strides, bound.strides + param.dims.size());
      binding.dims.assign(dims, dims + param.dims.size());
      if (std::count(binding.dims.begin(), binding.dims.end(), 0) > 0) {
        // Rows may read it although no pair does: they get a zero of the plan.
        address = nullptr;
        for (int64_t& stride : binding.strides) stride = 0;
        for (int32_t& dim : binding.dims) dim = std::max(dim, 1);
      }
      continue;
    }
    binding.is_given = parameters.is_in_memory(index) || options.scalars.contains(param.name);
    if (!param.is_grad) {
      binding.scalar = parameters.scalar(0, index);
      continue;
    }
    if (parameters.is_in_memory(index)) continue;
    const double value = parameters.scalar(0, index);
    for (size_t set = 1; set < bound_.problem->lengths.size(); ++set) {
      if (parameters.scalar(set, index) == value) continue;
      throw ArgumentError(fmt::format(
          "parameter '{}': is grad, and its default depends on the lengths of a sequence, expected one value on cuda", param.name));
    }
    own_scalars_.push_back(static_cast<float>(value));
    own_scalar_params_.push_back(i);
  }
}

void GpuArguments::upload(const PlanOptions& options) {
  const auto sections = [](size_t bytes) { return (bytes + kSection - 1) / kSection * kSection; };
  const size_t offsets_bytes = bound_.problem->packed ? (static_cast<size_t>(problem_.batch) + 1) * sizeof(int32_t) : 0;
  const size_t flag = 0, zero = kSection, scalars = zero + kSection;
  const size_t cu_q = scalars + sections(own_scalars_.size() * sizeof(float)), cu_k = cu_q + sections(offsets_bytes);
  std::vector<std::byte> image(cu_k + sections(offsets_bytes));
  if (!own_scalars_.empty()) std::memcpy(image.data() + scalars, own_scalars_.data(), own_scalars_.size() * sizeof(float));
  if (offsets_bytes > 0) {
    std::memcpy(image.data() + cu_q, options.cu_q, offsets_bytes);
    std::memcpy(image.data() + cu_k, options.cu_k, offsets_bytes);
  }
  memory_ = runtime::GpuBuffer(device_, image.size());
  memory_.copy_from_host(image.data(), image.size());
  runtime::synchronize(device_, nullptr);

  std::byte* const base = static_cast<std::byte*>(memory_.data());
  const codegen::Ir& ir = bound_.typed->ir();
  for (size_t i = 0; i < ir.params.size(); ++i) {
    if (ir.params[i].is_tensor && !addresses_[GpuTensorIndex::kParams + i]) addresses_[GpuTensorIndex::kParams + i] = base + zero;
  }
  for (size_t i = 0; i < own_scalars_.size(); ++i) {
    addresses_[GpuTensorIndex::kParams + own_scalar_params_[i]] = base + scalars + i * sizeof(float);
  }
  addresses_[GpuTensorIndex::kIndexFlag] = base + flag;
  if (offsets_bytes > 0) {
    addresses_[GpuTensorIndex::kCuQ] = base + cu_q;
    addresses_[GpuTensorIndex::kCuK] = base + cu_k;
  }
}

GpuStrides GpuArguments::query_strides(const RowTensor& tensor, const GpuStrides& contiguous) const {
  const bool packed = bound_.problem->packed;
  return strides_where(tensor, {packed ? 1 : problem_.batch, packed ? problem_.total_q : problem_.q_len, problem_.heads}, contiguous);
}

GpuStrides GpuArguments::key_strides(const RowTensor& tensor, const GpuStrides& contiguous) const {
  const bool packed = bound_.problem->packed;
  return strides_where(tensor, {packed ? 1 : problem_.batch, packed ? problem_.total_k : problem_.k_len, problem_.kv_heads}, contiguous);
}

std::array<int64_t, 3> GpuArguments::lse_strides(const RowTensor& lse) const {
  if (!lse.data) return problem_.lse;
  const bool packed = bound_.problem->packed;
  const RowTensor by_head = {lse.data, {lse.strides[0], lse.strides[2], lse.strides[1]}, lse.element_bytes};
  return strides_where(by_head, {packed ? 1 : problem_.batch, problem_.heads, packed ? problem_.total_q : problem_.q_len}, problem_.lse);
}

bool GpuArguments::take_index_flag() const {
  runtime::synchronize(device_);
  const size_t offset =
      static_cast<size_t>(static_cast<std::byte*>(addresses_[GpuTensorIndex::kIndexFlag]) - static_cast<std::byte*>(memory_.data()));
  int32_t flag = 0;
  memory_.copy_to_host(&flag, sizeof(flag), offset);
  runtime::synchronize(device_, nullptr);
  if (flag == 0) return false;
  const int32_t cleared = 0;
  memory_.copy_from_host(&cleared, sizeof(cleared), offset);
  runtime::synchronize(device_, nullptr);
  return true;
}

}  // namespace attune
