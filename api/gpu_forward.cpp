#include "api/gpu_forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "api/settings.h"
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

codegen::GpuKernelOptions kernel_options(const BoundProgram& bound, const PlanOptions& options) {
  const Shape& shape = bound.problem->shape;
  codegen::GpuKernelOptions kernel;
  kernel.arch = arch_of(known_device(options.device.ordinal));
  kernel.dtype = element_of(options.dtype);
  kernel.head_dim = static_cast<int>(shape.head_dim);
  kernel.v_dim = static_cast<int>(shape.v_dim);
  kernel.packed = bound.problem->packed;
  kernel.accuracy = options.accuracy == Accuracy::kHigh ? codegen::Accuracy::kHigh : codegen::Accuracy::kFast;
  return kernel;
}

GpuStrides contiguous_rows(const Problem& problem, int64_t len, int64_t heads, int64_t dim) {
  return {problem.packed ? 0 : len * heads * dim, heads * dim, dim};
}

// Of contiguous tensors, without parameters.
codegen::GpuProblem gpu_problem(const Problem& problem, const runtime::GpuDevice& device) {
  const Shape& shape = problem.shape;
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
  gpu.lse = problem.packed ? GpuStrides{0, problem.total_q, 1} : GpuStrides{shape.heads * shape.q_len, shape.q_len, 1};
  gpu.large_tiles = has_large_tiles();
  gpu.multiprocessors = device.multiprocessors;
  gpu.l2_bytes = static_cast<int64_t>(device.l2_bytes);
  return gpu;
}

bool has_rows(const Problem& problem) {
  const Shape& shape = problem.shape;
  return shape.batch > 0 && shape.heads > 0 && shape.q_len > 0 && (!problem.packed || problem.total_q > 0);
}

// The tensor's strides; those of dims of one element do not matter, and are the contiguous tensor's so that they make no difference.
GpuStrides strides_where(const RowTensor& tensor, std::array<int64_t, 3> sizes, const GpuStrides& contiguous) {
  GpuStrides strides = contiguous;
  for (size_t axis = 0; axis < strides.size(); ++axis) {
    if (sizes[axis] > 1) strides[axis] = tensor.strides[axis];
  }
  return strides;
}

bool is_vector_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0;
}

bool has_field(const codegen::GpuKernel& kernel, std::string_view name) {
  return std::any_of(kernel.fields.begin(), kernel.fields.end(), [&](const codegen::GpuField& field) { return field.name == name; });
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

void warm_up_gpu(const BoundProgram& bound, const PlanOptions& options) {
  if (!has_rows(*bound.problem)) return;
  const codegen::GpuKernelOptions kernel = kernel_options(bound, options);
  const codegen::GpuProblem problem = gpu_problem(*bound.problem, known_device(options.device.ordinal));
  bound.variant->gpu_kernel(*bound.typed, kernel, codegen::default_config(bound.typed->lowered(), kernel, problem));
}

GpuForward::GpuForward(const BoundProgram& bound, const PlanOptions& options)
    : bound_(bound),
      device_(options.device.ordinal),
      kernel_options_(kernel_options(bound, options)),
      problem_(gpu_problem(*bound.problem, known_device(device_))),
      is_empty_(!has_rows(*bound.problem)),
      contiguous_{problem_.q, problem_.k, problem_.v, problem_.out, problem_.lse} {
  if (is_empty_) return;
  bind_params(options);
  launchers_.push_back(std::make_unique<const Launcher>(make(contiguous_)));
  workspace_bytes_ = launchers_.front()->executor->workspace_bytes();
  has_index_flag_ = has_field(launchers_.front()->code->kernel, "index_flag");
  upload(options);
}

// Fills problem_.params, and the addresses of tensors_ that the caller gave.
void GpuForward::bind_params(const PlanOptions& options) {
  const codegen::Ir& ir = bound_.typed->ir();
  const Parameters& parameters = *bound_.parameters;
  problem_.params.resize(ir.params.size());
  tensors_.resize(GpuTensorIndex::kParams + ir.params.size());
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const codegen::Param& param = ir.params[i];
    codegen::GpuParamBinding& binding = problem_.params[i];
    void*& address = tensors_[GpuTensorIndex::kParams + i];
    const runtime::CpuTensor& bound = parameters.tensors(0)[i];
    const int index = static_cast<int>(i);
    if (param.is_const) continue;
    if (parameters.is_in_memory(index)) address = const_cast<void*>(bound.data);
    if (param.is_tensor) {
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

void GpuForward::upload(const PlanOptions& options) {
  const auto sections = [](size_t bytes) { return (bytes + kSection - 1) / kSection * kSection; };
  const size_t offsets_bytes = bound_.problem->packed ? (static_cast<size_t>(problem_.batch) + 1) * sizeof(int32_t) : 0;
  const size_t flag = sections(workspace_bytes_), zero = flag + kSection, scalars = zero + kSection;
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
    if (ir.params[i].is_tensor && !tensors_[GpuTensorIndex::kParams + i]) tensors_[GpuTensorIndex::kParams + i] = base + zero;
  }
  for (size_t i = 0; i < own_scalars_.size(); ++i) {
    tensors_[GpuTensorIndex::kParams + own_scalar_params_[i]] = base + scalars + i * sizeof(float);
  }
  if (has_index_flag_) tensors_[GpuTensorIndex::kIndexFlag] = base + flag;
  if (offsets_bytes > 0) {
    tensors_[GpuTensorIndex::kCuQ] = base + cu_q;
    tensors_[GpuTensorIndex::kCuK] = base + cu_k;
  }
}

GpuForward::Launcher GpuForward::make(const Layout& layout) const {
  codegen::GpuProblem problem = problem_;
  problem.q = layout.q;
  problem.k = layout.k;
  problem.v = layout.v;
  problem.out = layout.out;
  problem.lse = layout.lse;
  problem.aligned = layout.aligned;
  const codegen::Lowered& lowered = bound_.typed->lowered();
  Launcher launcher;
  launcher.layout = layout;
  launcher.config = codegen::default_config(lowered, kernel_options_, problem);
  launcher.code = bound_.variant->gpu_kernel(*bound_.typed, kernel_options_, launcher.config);
  launcher.executor = std::make_unique<runtime::GpuExecutor>(
      codegen::plan_gpu_forward(lowered, launcher.code->kernel, kernel_options_, launcher.config, problem),
      std::span(&launcher.code->binary, 1), device_);
  return launcher;
}

GpuForward::Layout GpuForward::layout_of(const Tensors& tensors) const {
  const Problem& problem = *bound_.problem;
  const int64_t batch = problem.packed ? 1 : problem_.batch;
  const int64_t rows_q = problem.packed ? problem_.total_q : problem_.q_len, rows_k = problem.packed ? problem_.total_k : problem_.k_len;
  Layout layout;
  layout.q = strides_where(tensors.q, {batch, rows_q, problem_.heads}, contiguous_.q);
  layout.k = strides_where(tensors.k, {batch, rows_k, problem_.kv_heads}, contiguous_.k);
  layout.v = strides_where(tensors.v, {batch, rows_k, problem_.kv_heads}, contiguous_.v);
  layout.out = strides_where(tensors.out, {batch, rows_q, problem_.heads}, contiguous_.out);
  layout.lse = contiguous_.lse;
  if (tensors.lse.data) {
    const RowTensor& lse = tensors.lse;
    const RowTensor by_head = {lse.data, {lse.strides[0], lse.strides[2], lse.strides[1]}, lse.element_bytes};
    layout.lse = strides_where(by_head, {batch, problem_.heads, rows_q}, contiguous_.lse);
  }
  layout.aligned = is_vector_aligned(tensors.q.data) && is_vector_aligned(tensors.k.data) && is_vector_aligned(tensors.v.data) &&
                   is_vector_aligned(tensors.out.data);
  return layout;
}

const GpuForward::Launcher& GpuForward::launcher(const Layout& layout) const {
  const std::lock_guard lock(mutex_);
  for (const auto& known : launchers_) {
    if (known->layout == layout) return *known;
  }
  return *launchers_.emplace_back(std::make_unique<const Launcher>(make(layout)));
}

void GpuForward::run(const Tensors& tensors, void* stream, void* workspace) const {
  if (is_empty_) return;
  const Launcher& chosen = launcher(layout_of(tensors));
  std::vector<void*> addresses = tensors_;
  addresses[GpuTensorIndex::kQ] = tensors.q.data;
  addresses[GpuTensorIndex::kK] = tensors.k.data;
  addresses[GpuTensorIndex::kV] = tensors.v.data;
  addresses[GpuTensorIndex::kOut] = tensors.out.data;
  addresses[GpuTensorIndex::kLse] = tensors.lse.data;
  chosen.executor->run(stream, addresses, workspace ? workspace : memory_.data());
}

std::string GpuForward::describe() const {
  if (is_empty_) return fmt::format("cuda:{}, no rows", device_);
  return fmt::format("cuda:{}, {}", device_, gpu_config_text(launchers_.front()->config));
}

bool GpuForward::take_index_flag() const {
  if (!has_index_flag_) return false;
  runtime::synchronize(device_);
  const size_t offset =
      static_cast<size_t>(static_cast<std::byte*>(tensors_[GpuTensorIndex::kIndexFlag]) - static_cast<std::byte*>(memory_.data()));
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
