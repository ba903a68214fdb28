#include "tests/gpu/rounding_model.h"

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

}  // namespace attune::numeric
