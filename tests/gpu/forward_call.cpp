#include "tests/gpu/forward_call.h"

#include <algorithm>
#include <stdexcept>

#include "run_case.h"

namespace attune::numeric {
namespace {

constexpr size_t kVectorBytes = 16;

size_t offset_of_data(const GuardedTensor& host) {
  return static_cast<size_t>(static_cast<uint8_t*>(host.tensor().data) - host.memory().data());
}

std::vector<uint8_t> copy_of(const GuardedTensor& tensor) {
  const std::span<uint8_t> memory = tensor.memory();
  return {memory.begin(), memory.end()};
}

void fill(const GuardedTensor& tensor, const std::vector<uint8_t>& bytes) {
  std::copy(bytes.begin(), bytes.end(), tensor.memory().begin());
}

}  // namespace

DeviceTensor::DeviceTensor(const Device& device, DType dtype, std::vector<int64_t> shape, const Layout& layout, bool aligned)
    : host_(dtype, std::move(shape), layout) {
  if (device.kind == Device::kCpu) return;
  const size_t wanted = aligned ? 0 : dtype_size(dtype), at = offset_of_data(host_) % kVectorBytes;
  shift_ = (wanted + kVectorBytes - at) % kVectorBytes;
  buffer_ = runtime::GpuBuffer(device.ordinal, host_.memory().size() + kVectorBytes);
}

Tensor DeviceTensor::tensor() const {
  Tensor tensor = host_.tensor();
  if (buffer_.data()) tensor.data = static_cast<uint8_t*>(buffer_.data()) + shift_ + offset_of_data(host_);
  return tensor;
}

void DeviceTensor::upload(void* stream) const {
  if (buffer_.data()) buffer_.copy_from_host(host_.memory().data(), host_.memory().size(), shift_, stream);
}

void DeviceTensor::download(void* stream) const {
  if (buffer_.data()) buffer_.copy_to_host(host_.memory().data(), host_.memory().size(), shift_, stream);
}

ForwardCall::ForwardCall(const Variant& variant, const Case& c, const codegen::Ir& ir, const ProblemData& data, const PlanOptions& options)
    : case_(c), data_(data), device_(options.device) {
  const codegen::Sizes& sizes = data.sizes;
  PlanOptions bound = options;
  bound.dtype = c.dtype;
  const std::vector<int32_t> cu_q = offsets_of(data.shape.q_lens), cu_k = offsets_of(data.shape.k_lens);
  if (data.shape.packed) {
    bound.cu_q = cu_q.data();
    bound.cu_k = cu_k.data();
  }
  bind_parameters(
      ir, data,
      [&](const std::string&, DType dtype, const std::vector<int64_t>& shape, const std::vector<bool>& is_repeated,
          const std::vector<double>& values) {
        DeviceTensor& tensor = add(dtype, shape, false, is_repeated);
        tensor.host().write(values);
        return tensor.tensor();
      },
      bound);
  q_ = &rows(true, sizes.head_dim);
  k_ = &rows(false, sizes.head_dim);
  v_ = &rows(false, sizes.v_dim);
  out_ = &rows(true, sizes.v_dim);
  q_->host().write(data.q);
  k_->host().write(data.k);
  v_->host().write(data.v);
  poison_out_ = copy_of(out_->host());
  if (variant.is_softmax()) {
    lse_ = &add(
        DType::kF32,
        data.shape.packed ? std::vector<int64_t>{sizes.heads, data.q_rows()} : std::vector<int64_t>{sizes.batch, sizes.heads, sizes.q_len},
        false);
    poison_lse_ = copy_of(lse_->host());
  }
  for (const DeviceTensor& tensor : tensors_) tensor.upload(nullptr);
  wait(nullptr);
  plan_ = std::make_unique<Plan>(
      variant.plan({sizes.batch, sizes.heads, sizes.kv_heads, sizes.q_len, sizes.k_len, sizes.head_dim, sizes.v_dim}, bound));
}

DeviceTensor& ForwardCall::add(DType dtype, std::vector<int64_t> shape, bool keeps_last_dim, std::vector<bool> is_repeated) {
  const bool any = case_.strided && case_.seed % 2 == 1;
  Layout layout;
  layout.gaps_seed = case_.strided ? case_.seed * 64 + tensors_.size() + 1 : 0;
  layout.gap_unit = (case_.strided && !any) || case_.padded ? 8 : 1;
  layout.keeps_last_dim = keeps_last_dim;
  layout.is_repeated = std::move(is_repeated);
  return tensors_.emplace_back(device_, dtype, std::move(shape), layout, !any);
}

DeviceTensor& ForwardCall::rows(bool of_queries, int dim) {
  const int64_t heads = of_queries ? data_.sizes.heads : data_.sizes.kv_heads;
  const int64_t length = of_queries ? data_.sizes.q_len : data_.sizes.k_len;
  std::vector<int64_t> shape = {data_.sizes.batch, length, heads, dim};
  if (data_.shape.packed) shape = {of_queries ? data_.q_rows() : data_.k_rows(), heads, dim};
  return add(case_.dtype, std::move(shape), true);
}

void ForwardCall::enqueue(void* stream, void* workspace) const {
  plan_->forward({q_->tensor(), k_->tensor(), v_->tensor(), out_->tensor(), lse_ ? lse_->tensor() : Tensor{}, stream, workspace});
}

void ForwardCall::run(void* stream) {
  fill(out_->host(), poison_out_);
  out_->upload(stream);
  if (lse_) {
    fill(lse_->host(), poison_lse_);
    lse_->upload(stream);
  }
  enqueue(stream);
}

void ForwardCall::wait(void* stream) const {
  if (device_.kind == Device::kCuda) runtime::synchronize(device_.ordinal, stream);
}

ForwardCall::Result ForwardCall::result(void* stream) {
  out_->download(stream);
  if (lse_) lse_->download(stream);
  wait(stream);
  if (!out_->host().is_intact()) throw std::runtime_error("out: memory beside the elements was written");
  if (lse_ && !lse_->host().is_intact()) throw std::runtime_error("lse: memory beside the elements was written");
  Result result;
  result.out = out_->host().read();
  if (lse_) result.lse = lse_by_row(data_, lse_->host().read());
  return result;
}

std::vector<uint8_t> ForwardCall::bytes_of_out(void* stream) {
  out_->download(stream);
  wait(stream);
  return copy_of(out_->host());
}

}  // namespace attune::numeric
