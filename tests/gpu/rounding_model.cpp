#include "tests/gpu/rounding_model.h"

#include <algorithm>

namespace attune::numeric {
namespace {

using codegen::ReferenceProblem;

// The weights themselves, [batch, q_len, heads, k_len]: what the reference gives for unit vectors as v.
std::vector<double> weights_of(const codegen::Ir& ir, ReferenceProblem problem, int64_t batch) {
  const int64_t k_len = problem.sizes.k_len, kv_heads = problem.sizes.kv_heads;
  problem.sizes.v_dim = static_cast<int>(k_len);
  problem.v.assign(static_cast<size_t>(batch * k_len * kv_heads * k_len), 0);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t j = 0; j < k_len; ++j) {
      for (int64_t h = 0; h < kv_heads; ++h) problem.v[static_cast<size_t>(((b * k_len + j) * kv_heads + h) * k_len + j)] = 1;
    }
  }
  return codegen::evaluate_reference(ir, problem).out;
}

// dL/d qk of every pair, [batch, q_len, heads, k_len], and the gradients of parameters: what the reference gives for q and k with k_len
// more columns, zeros in q and unit vectors in k, which leave qk as it is.
codegen::ReferenceResult pair_gradients(const codegen::Ir& ir, ReferenceProblem problem, int64_t batch) {
  const codegen::Sizes sizes = problem.sizes;
  const int64_t dim = sizes.head_dim, wide = dim + sizes.k_len;
  const auto widened = [&](const std::vector<double>& values) {
    const int64_t rows = static_cast<int64_t>(values.size()) / dim;
    std::vector<double> result(static_cast<size_t>(rows * wide), 0);
    for (int64_t row = 0; row < rows; ++row) std::copy_n(values.begin() + row * dim, dim, result.begin() + row * wide);
    return result;
  };
  problem.q = widened(problem.q);
  problem.k = widened(problem.k);
  for (int64_t row = 0; row < batch * sizes.k_len * sizes.kv_heads; ++row) {
    problem.k[static_cast<size_t>(row * wide + dim + row / sizes.kv_heads % sizes.k_len)] = 1;
  }
  problem.sizes.head_dim = static_cast<int>(wide);
  return codegen::evaluate_reference(ir, problem);
}

}  // namespace

std::vector<double> out_of_rounded_p(const codegen::Ir& ir, const ProblemData& data, DType dtype) {
  std::vector<double> all;
  for (ReferenceProblem& problem : reference_problems(data)) {
    problem.wants_gradients = false;
    problem.dout.clear();
    const codegen::Sizes& sizes = problem.sizes;
    const int64_t batch = problem.sequence ? 1 : sizes.batch, group = sizes.heads / sizes.kv_heads;
    const int64_t k_len = sizes.k_len, v_dim = sizes.v_dim;
    std::vector<double> out(static_cast<size_t>(batch * sizes.q_len * sizes.heads * v_dim), 0);
    if (k_len > 0 && !out.empty()) {
      std::vector<double> p = weights_of(ir, problem, batch);
      for (double& weight : p) weight = rounded(dtype, weight);
      for (int64_t row = 0; row < batch * sizes.q_len * sizes.heads; ++row) {
        const int64_t b = row / sizes.heads / sizes.q_len, kv_h = row % sizes.heads / group;
        for (int64_t j = 0; j < k_len; ++j) {
          const double weight = p[static_cast<size_t>(row * k_len + j)];
          if (weight == 0) continue;
          const double* v = &problem.v[static_cast<size_t>(((b * k_len + j) * sizes.kv_heads + kv_h) * v_dim)];
          for (int64_t d = 0; d < v_dim; ++d) out[static_cast<size_t>(row * v_dim + d)] += weight * v[d];
        }
      }
    }
    for (double value : out) all.push_back(rounded(dtype, value));
  }
  return all;
}

RoundedGradients gradients_of_rounded_ds(const codegen::Ir& ir, const ProblemData& data, DType dtype,
                                         const std::vector<double>& stored_out) {
  RoundedGradients all;
  all.param_grads.resize(ir.params.size());
  auto next_out = stored_out.begin();
  for (ReferenceProblem& problem : reference_problems(data)) {
    const codegen::Sizes& sizes = problem.sizes;
    const int64_t batch = problem.sequence ? 1 : sizes.batch, group = sizes.heads / sizes.kv_heads;
    const int64_t k_len = sizes.k_len, head_dim = sizes.head_dim, v_dim = sizes.v_dim, rows = batch * sizes.q_len * sizes.heads;
    problem.wants_gradients = true;
    problem.stored_out.assign(next_out, next_out + rows * v_dim);
    next_out += rows * v_dim;
    std::vector<double> dq(static_cast<size_t>(rows * head_dim), 0), dk(problem.k.size(), 0), dv(problem.v.size(), 0);
    const codegen::ReferenceResult exact = pair_gradients(ir, problem, batch);
    ReferenceProblem forward = problem;
    forward.wants_gradients = false;
    forward.dout.clear();
    forward.stored_out.clear();
    const std::vector<double> p = k_len > 0 && rows > 0 ? weights_of(ir, forward, batch) : std::vector<double>();
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t b = row / sizes.heads / sizes.q_len, kv_h = row % sizes.heads / group;
      for (int64_t j = 0; j < k_len; ++j) {
        const double weight = rounded(dtype, p[static_cast<size_t>(row * k_len + j)]);
        const double ds = rounded(dtype, exact.dq[static_cast<size_t>(row * (head_dim + k_len) + head_dim + j)]);
        const int64_t key = (b * k_len + j) * sizes.kv_heads + kv_h;
        if (weight != 0) {
          for (int64_t d = 0; d < v_dim; ++d)
            dv[static_cast<size_t>(key * v_dim + d)] += weight * problem.dout[static_cast<size_t>(row * v_dim + d)];
        }
        if (ds == 0) continue;
        for (int64_t d = 0; d < head_dim; ++d) {
          dq[static_cast<size_t>(row * head_dim + d)] += ds * problem.k[static_cast<size_t>(key * head_dim + d)];
          dk[static_cast<size_t>(key * head_dim + d)] += ds * problem.q[static_cast<size_t>(row * head_dim + d)];
        }
      }
    }
    const auto append = [&](const std::vector<double>& values, std::vector<double>& to) {
      for (double value : values) to.push_back(rounded(dtype, value));
    };
    append(dq, all.dq);
    append(dk, all.dk);
    append(dv, all.dv);
    for (size_t i = 0; i < ir.params.size(); ++i) {
      const std::vector<double>& own = exact.param_grads[i];
      all.param_grads[i].resize(own.size(), 0);
      for (size_t e = 0; e < own.size(); ++e) all.param_grads[i][e] += own[e];
    }
  }
  return all;
}

}  // namespace attune::numeric
