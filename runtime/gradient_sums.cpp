#include "runtime/gradient_sums.h"

#include <algorithm>

namespace attune::runtime {
namespace {

int64_t element_count(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

// Strides of a tensor for kernels: 0 along dims of size 1, which are broadcast if the declared size is another.
CpuTensor kernel_tensor(float* data, std::span<const int64_t> shape, std::span<const int64_t> strides) {
  CpuTensor tensor = {data, {}};
  for (size_t axis = 0; axis < shape.size(); ++axis) tensor.strides[axis] = shape[axis] == 1 ? 0 : strides[axis];
  return tensor;
}

std::vector<int64_t> contiguous_strides(std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t axis = shape.size(); axis-- > 0; stride *= shape[axis]) strides[axis] = stride;
  return strides;
}

// Sets each element of the gradient's place, in row-major order, to value(i) of its position i in that order.
template <typename Value>
void write_elements(const CpuParamGradient& gradient, const Value& value) {
  const int64_t count = element_count(gradient.shape);
  const size_t rank = gradient.shape.size();
  std::vector<int64_t> index(rank, 0);
  int64_t offset = 0;
  for (int64_t i = 0; i < count; ++i) {
    gradient.data[offset] = value(i);
    for (size_t axis = rank; axis-- > 0;) {
      offset += gradient.strides[axis];
      if (++index[axis] < gradient.shape[axis]) break;
      offset -= gradient.strides[axis] * gradient.shape[axis];
      index[axis] = 0;
    }
  }
}

}  // namespace

GradientSums::GradientSums(std::span<const CpuParamGradient> gradients, int param_count) : direct_(static_cast<size_t>(param_count)) {
  std::vector<const CpuParamGradient*> by_size;
  for (const CpuParamGradient& gradient : gradients) by_size.push_back(&gradient);
  std::stable_sort(by_size.begin(), by_size.end(),
                   [](const CpuParamGradient* a, const CpuParamGradient* b) { return element_count(a->shape) < element_count(b->shape); });
  for (const CpuParamGradient* gradient : by_size) {
    const int64_t size = element_count(gradient->shape);
    if ((copy_size_ + size) * static_cast<int64_t>(sizeof(float)) <= kPrivateBytes) {
      private_.push_back({gradient, copy_size_, size});
      copy_size_ += size;
      continue;
    }
    write_elements(*gradient, [](int64_t) { return 0.0f; });
    direct_[static_cast<size_t>(gradient->param)] = kernel_tensor(gradient->data, gradient->shape, gradient->strides);
    by_b_ = by_b_ && gradient->by_b;
    by_h_ = by_h_ && gradient->by_h;
    by_q_ = by_q_ && gradient->by_q;
  }
  total_.resize(static_cast<size_t>(copy_size_));
}

GradientSums::Chain GradientSums::start() const {
  Chain chain = {direct_, std::vector<float>(static_cast<size_t>(copy_size_))};
  for (const Private& part : private_) {
    const CpuParamGradient& gradient = *part.gradient;
    chain.params[static_cast<size_t>(gradient.param)] =
        kernel_tensor(chain.copy.data() + part.offset, gradient.shape, contiguous_strides(gradient.shape));
  }
  return chain;
}

void GradientSums::finish(int64_t number, Chain chain) {
  if (copy_size_ == 0) return;
  const std::lock_guard lock(mutex_);
  waiting_.emplace(number, std::move(chain.copy));
  for (auto first = waiting_.begin(); first != waiting_.end() && first->first == next_; first = waiting_.erase(first), ++next_) {
    for (size_t i = 0; i < total_.size(); ++i) total_[i] += first->second[i];
  }
}

void GradientSums::write() const {
  for (const Private& part : private_) {
    write_elements(*part.gradient, [&](int64_t i) { return static_cast<float>(total_[static_cast<size_t>(part.offset + i)]); });
  }
}

}  // namespace attune::runtime
