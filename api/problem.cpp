#include "api/problem.h"

#include <fmt/format.h>

#include <map>

#include "runtime/cpu_executor.h"
#include "runtime/error.h"

namespace attune {
namespace {

constexpr int64_t kMaxHeadDim = 512;

void check_size(std::string_view name, int64_t size, int64_t least) {
  if (size < least) throw ArgumentError(fmt::format("shape: {} is {}, expected at least {}", name, size, least));
  if (size > runtime::kMaxCpuSize)
    throw ArgumentError(fmt::format("shape: {} is {}, expected at most {}", name, size, runtime::kMaxCpuSize));
}

void check_head_dim(std::string_view name, int64_t size) {
  if (size >= 1 && size <= kMaxHeadDim) return;
  throw ArgumentError(
      fmt::format("shape: {} is {}, expected 1..{}: a kernel keeps whole rows of q and out near the registers", name, size, kMaxHeadDim));
}

void check_shape(const Shape& shape) {
  check_size("batch", shape.batch, 1);
  check_size("heads", shape.heads, 1);
  check_size("kv_heads", shape.kv_heads, 1);
  check_size("q_len", shape.q_len, 0);
  check_size("k_len", shape.k_len, 0);
  check_head_dim("head_dim", shape.head_dim);
  check_head_dim("v_dim", shape.v_dim);
  if (shape.heads % shape.kv_heads != 0) {
    throw ArgumentError(fmt::format("shape: heads is {}, expected a multiple of kv_heads, {}", shape.heads, shape.kv_heads));
  }
}

void check_offsets(std::string_view name, const int32_t* offsets, int64_t batch, std::string_view length_name, int64_t longest) {
  if (offsets[0] != 0) throw ArgumentError(fmt::format("{}[0] is {}, expected 0", name, offsets[0]));
  for (int64_t i = 0; i < batch; ++i) {
    if (offsets[i + 1] < offsets[i]) {
      throw ArgumentError(fmt::format("{}[{}] is {}, expected at least {}[{}], {}", name, i + 1, offsets[i + 1], name, i, offsets[i]));
    }
    const int64_t length = static_cast<int64_t>(offsets[i + 1]) - offsets[i];
    if (length > longest) {
      throw ArgumentError(
          fmt::format("{}: sequence {} has length {}, expected at most shape's {}, {}", name, i, length, length_name, longest));
    }
  }
}

}  // namespace

codegen::Sizes Problem::sizes(Lengths own) const {
  codegen::Sizes sizes;
  sizes.batch = static_cast<int>(shape.batch);
  sizes.heads = static_cast<int>(shape.heads);
  sizes.kv_heads = static_cast<int>(shape.kv_heads);
  sizes.q_len = own.q_len;
  sizes.k_len = own.k_len;
  sizes.head_dim = static_cast<int>(shape.head_dim);
  sizes.v_dim = static_cast<int>(shape.v_dim);
  return sizes;
}

codegen::Sizes Problem::longest() const {
  return sizes({static_cast<int32_t>(shape.q_len), static_cast<int32_t>(shape.k_len)});
}

Problem check_problem(const Shape& shape, const int32_t* cu_q, const int32_t* cu_k) {
  check_shape(shape);
  Problem problem;
  problem.shape = shape;
  if (!cu_q && !cu_k) {
    problem.lengths.push_back({static_cast<int32_t>(shape.q_len), static_cast<int32_t>(shape.k_len)});
    problem.sequences.push_back({});
    return problem;
  }
  if (!cu_q || !cu_k)
    throw ArgumentError(fmt::format("{} is given without {}, expected both or neither", cu_q ? "cu_q" : "cu_k", cu_q ? "cu_k" : "cu_q"));
  check_offsets("cu_q", cu_q, shape.batch, "q_len", shape.q_len);
  check_offsets("cu_k", cu_k, shape.batch, "k_len", shape.k_len);
  problem.packed = true;
  problem.total_q = cu_q[shape.batch];
  problem.total_k = cu_k[shape.batch];
  std::map<Lengths, size_t> known;
  for (int64_t i = 0; i < shape.batch; ++i) {
    const Lengths own = {cu_q[i + 1] - cu_q[i], cu_k[i + 1] - cu_k[i]};
    const auto [place, is_new] = known.try_emplace(own, problem.lengths.size());
    if (is_new) problem.lengths.push_back(own);
    problem.sequences.push_back({cu_q[i], cu_k[i], place->second});
  }
  return problem;
}

}  // namespace attune
