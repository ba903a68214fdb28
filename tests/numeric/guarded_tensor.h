// A tensor of a call, in memory that notices mistakes: all bytes are NaN until they are written, strides can have gaps, which must stay as
// they are, and right behind the last element begins a page that cannot be touched.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "api/attune.h"

namespace attune::numeric {

struct Layout {
  uint64_t gaps_seed = 0;         // 0: contiguous; else gaps and the order of dims
  int64_t gap_unit = 1;           // elements that gaps and strides are multiples of
  bool keeps_last_dim = true;     // the last dim stays contiguous
  std::vector<bool> is_repeated;  // by dim: stride 0; empty: none
};

class GuardedTensor {
 public:
  GuardedTensor(DType dtype, std::vector<int64_t> shape, const Layout& layout = {});

  Tensor tensor() const { return tensor_; }
  // Dense, the last dim fastest.
  void write(const std::vector<double>& values);
  std::vector<double> read() const;
  // All of the memory, poison included: to be copied to another device and back.
  std::span<uint8_t> memory() const { return {begin_, end_}; }
  // Nothing outside the elements has been written.
  bool is_intact() const;

 private:
  void* element(int64_t dense) const;

  std::shared_ptr<uint8_t> pages_;
  uint8_t* begin_ = nullptr;  // of what may be touched
  uint8_t* end_ = nullptr;
  Tensor tensor_;
  std::vector<int64_t> strides_;
  int64_t count_ = 1;
};

}  // namespace attune::numeric
