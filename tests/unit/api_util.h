// Tensors and error texts for tests of the library's interface.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "api/attune.h"
#include "runtime/error.h"

namespace attune::test {

inline int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

// A contiguous tensor with its memory.
template <typename Element, DType kType>
class Owned {
 public:
  Owned() = default;
  explicit Owned(std::vector<int64_t> shape, Element value = {})
      : shape_(std::move(shape)), values_(static_cast<size_t>(count_of(shape_)), value) {}

  std::vector<Element>& values() { return values_; }
  const std::vector<Element>& values() const { return values_; }
  Element& operator[](size_t i) { return values_[i]; }
  const std::vector<int64_t>& shape() const { return shape_; }

  Tensor tensor() { return {values_.data(), kType, shape_, {}}; }
  operator Tensor() { return tensor(); }

 private:
  std::vector<int64_t> shape_;
  std::vector<Element> values_;
};

using Floats = Owned<float, DType::kF32>;
using Halves = Owned<uint16_t, DType::kF16>;
using Ints = Owned<int32_t, DType::kI32>;
using Bytes = Owned<uint8_t, DType::kU8>;

inline Floats random_floats(std::vector<int64_t> shape, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Floats tensor(std::move(shape));
  for (float& value : tensor.values()) value = normal(random);
  return tensor;
}

// The text of the error that a call throws, "" if it throws none.
template <typename Error, typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// The tensors of a plan: [batch, len, heads, dim], or packed [total, heads, dim].
struct Problem {
  Floats q, k, v, out, lse, dout, dq, dk, dv;

  Problem(const Shape& s, uint32_t seed) : Problem(seed, {s.batch, s.q_len}, {s.batch, s.k_len}, {s.batch, s.heads, s.q_len}, s) {}
  static Problem packed(const Shape& s, int64_t total_q, int64_t total_k, uint32_t seed) {
    return Problem(seed, {total_q}, {total_k}, {s.heads, total_q}, s);
  }

  ForwardTensors forward(bool with_lse) { return {q, k, v, out, with_lse ? lse.tensor() : Tensor{}}; }
  BackwardTensors backward(bool softmax) {
    return {q, k, v, softmax ? out.tensor() : Tensor{}, softmax ? lse.tensor() : Tensor{}, dout, dq, dk, dv, {}};
  }

 private:
  Problem(uint32_t seed, const std::vector<int64_t>& queries, const std::vector<int64_t>& keys, std::vector<int64_t> rows, const Shape& s) {
    std::mt19937 random(seed);
    const auto shape = [](std::vector<int64_t> first, int64_t heads, int64_t dim) {
      first.push_back(heads);
      first.push_back(dim);
      return first;
    };
    q = random_floats(shape(queries, s.heads, s.head_dim), random);
    k = random_floats(shape(keys, s.kv_heads, s.head_dim), random);
    v = random_floats(shape(keys, s.kv_heads, s.v_dim), random);
    dout = random_floats(shape(queries, s.heads, s.v_dim), random);
    out = Floats(dout.shape(), -7.0f);
    lse = Floats(std::move(rows), -7.0f);
    dq = Floats(q.shape(), -7.0f);
    dk = Floats(k.shape(), -7.0f);
    dv = Floats(v.shape(), -7.0f);
  }
};

}  // namespace attune::test
