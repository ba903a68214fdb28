#include "guarded_tensor.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>

#include "runtime/half.h"

namespace attune::numeric {
namespace {

constexpr uint8_t kPoison = 0xff;  // NaN in all float types
constexpr size_t kPoisonBefore = 64;

runtime::FloatType float_type(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return runtime::FloatType::kF16;
    case DType::kBF16:
      return runtime::FloatType::kBF16;
    default:
      return runtime::FloatType::kF32;
  }
}

std::vector<int64_t> random_strides(const std::vector<int64_t>& shape, const Layout& layout) {
  std::mt19937_64 random(layout.gaps_seed);
  std::vector<size_t> order(shape.size());  // outermost first
  std::iota(order.begin(), order.end(), size_t{0});
  if (layout.gaps_seed != 0) std::shuffle(order.begin(), order.end() - (layout.keeps_last_dim && !order.empty() ? 1 : 0), random);
  std::vector<int64_t> strides(shape.size());
  int64_t extent = 1;
  for (size_t i = order.size(); i-- > 0;) {
    const size_t axis = order[i];
    if (!layout.is_repeated.empty() && layout.is_repeated[axis]) continue;
    strides[axis] = extent;
    extent *= std::max<int64_t>(shape[axis], 1);
    if (layout.gaps_seed != 0) extent += layout.gap_unit * std::uniform_int_distribution<int64_t>(0, 5)(random);
    extent = (extent + layout.gap_unit - 1) / layout.gap_unit * layout.gap_unit;
    const bool may_have_stride = !(layout.keeps_last_dim && axis + 1 == shape.size());
    if (layout.gaps_seed != 0 && may_have_stride && i + 1 == order.size()) strides[axis] = 2, extent *= 2;
  }
  return strides;
}

}  // namespace

GuardedTensor::GuardedTensor(DType dtype, std::vector<int64_t> shape, const Layout& layout) {
  tensor_.dtype = dtype;
  strides_ = random_strides(shape, layout);
  tensor_.shape = std::move(shape);
  int64_t last = 0;
  for (size_t axis = 0; axis < tensor_.shape.size(); ++axis) {
    count_ *= tensor_.shape[axis];
    last += std::max<int64_t>(tensor_.shape[axis] - 1, 0) * strides_[axis];
  }
  const size_t bytes = (static_cast<size_t>(last) + 1) * dtype_size(dtype);
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t usable = (bytes + kPoisonBefore + page - 1) / page * page;
  void* pages = mmap(nullptr, usable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  pages_ = std::shared_ptr<uint8_t>(static_cast<uint8_t*>(pages), [usable, page](uint8_t* p) { munmap(p, usable + page); });
  begin_ = pages_.get();
  end_ = begin_ + usable;
  if (mprotect(end_, page, PROT_NONE) != 0) throw std::runtime_error("mprotect failed");
  std::memset(begin_, kPoison, usable);
  tensor_.data = end_ - bytes;
  if (layout.gaps_seed != 0 || layout.gap_unit != 1 || !layout.is_repeated.empty())
    tensor_.strides = strides_;  // else contiguous, which needs no strides
}

void* GuardedTensor::element(int64_t dense) const {
  int64_t offset = 0;
  for (size_t axis = strides_.size(); axis-- > 0; dense /= tensor_.shape[axis]) offset += dense % tensor_.shape[axis] * strides_[axis];
  return static_cast<uint8_t*>(tensor_.data) + offset * static_cast<int64_t>(dtype_size(tensor_.dtype));
}

void GuardedTensor::write(const std::vector<double>& values) {
  if (values.size() != static_cast<size_t>(count_)) throw std::logic_error("not as many values as the tensor has elements");
  for (int64_t i = 0; i < count_; ++i) {
    void* place = element(i);
    const double value = values[static_cast<size_t>(i)];
    switch (tensor_.dtype) {
      case DType::kI32:
        *static_cast<int32_t*>(place) = static_cast<int32_t>(value);
        break;
      case DType::kU8:
        *static_cast<uint8_t*>(place) = static_cast<uint8_t>(value);
        break;
      default:
        runtime::store_float(float_type(tensor_.dtype), place, 0, static_cast<float>(value));
    }
  }
}

std::vector<double> GuardedTensor::read() const {
  std::vector<double> values;
  for (int64_t i = 0; i < count_; ++i) values.push_back(runtime::load_float(float_type(tensor_.dtype), element(i), 0));
  return values;
}

bool GuardedTensor::is_intact() const {
  std::vector<bool> is_element(static_cast<size_t>(end_ - begin_));
  const auto size = static_cast<int64_t>(dtype_size(tensor_.dtype));
  for (int64_t i = 0; i < count_; ++i) {
    const auto* place = static_cast<const uint8_t*>(element(i));
    for (int64_t byte = 0; byte < size; ++byte) is_element[static_cast<size_t>(place - begin_ + byte)] = true;
  }
  for (size_t i = 0; i < is_element.size(); ++i) {
    if (!is_element[i] && begin_[i] != kPoison) return false;
  }
  return true;
}

}  // namespace attune::numeric
