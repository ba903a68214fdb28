// Attention by plain loops in double, forward and backward, for a score function given in C++.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "tests/unit/api_util.h"

namespace attune::test {

struct Pair {
  int64_t b, h, i, j;
};

struct Naive {
  // The program.
  std::function<double(double qk, const Pair&)> score = [](double qk, const Pair&) { return qk; };
  std::function<double(double qk, const Pair&)> slope = [](double, const Pair&) { return 1.0; };  // d score / d qk
  std::function<bool(const Pair&)> keep = [](const Pair&) { return true; };
  bool softmax = true;
  std::function<double(int64_t h)> sink;                     // softmax; none if empty
  std::function<double(double score)> weight, weight_slope;  // pointwise
  // Receives dL / d score of every kept pair, and dL / d sink of every row.
  std::function<void(const Pair&, double qk, double dscore)> on_dscore = [](const Pair&, double, double) {};
  std::function<void(int64_t h, double dsink)> on_dsink = [](int64_t, double) {};

  std::vector<double> out, lse, dq, dk, dv;

  // Rows of q, k, v begin at first_q and first_k: 0 unless the sequences are packed. The b of pairs counts from first_b.
  void run(const Shape& s, const Problem& p, int64_t first_q = 0, int64_t first_k = 0, int64_t first_b = 0) {
    shape_ = s;
    if (out.empty()) {
      out.assign(p.out.values().size(), 0);
      lse.assign(p.lse.values().size(), 0);
      dq.assign(p.q.values().size(), 0);
      dk.assign(p.k.values().size(), 0);
      dv.assign(p.v.values().size(), 0);
    }
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < s.heads; ++h) {
        for (int64_t i = 0; i < s.q_len; ++i) row(p, {b + first_b, h, i, 0}, b * s.q_len + first_q + i, b * s.k_len + first_k);
      }
    }
  }

 private:
  static double dot(const std::vector<float>& x, int64_t at_x, const std::vector<float>& y, int64_t at_y, int64_t dim) {
    double sum = 0;
    for (int64_t d = 0; d < dim; ++d) sum += static_cast<double>(x[static_cast<size_t>(at_x + d)]) * y[static_cast<size_t>(at_y + d)];
    return sum;
  }

  // `query` and `key` are positions along all of the tensor's rows; the lse of row i stands at [b, h, i], packed at [h, query].
  void row(const Problem& p, Pair pair, int64_t query, int64_t key) {
    const Shape& s = shape_;
    const int64_t kv_h = pair.h / (s.heads / s.kv_heads);
    const int64_t q_at = (query * s.heads + pair.h) * s.head_dim, out_at = (query * s.heads + pair.h) * s.v_dim;
    const auto k_at = [&](int64_t j) { return ((key + j) * s.kv_heads + kv_h) * s.head_dim; };
    const auto v_at = [&](int64_t j) { return ((key + j) * s.kv_heads + kv_h) * s.v_dim; };
    std::vector<double> qk(static_cast<size_t>(s.k_len)), scores(qk.size()), weights(qk.size()), dp(qk.size());
    std::vector<bool> kept(qk.size());
    double greatest = sink ? sink(pair.h) : -INFINITY;
    for (pair.j = 0; pair.j < s.k_len; ++pair.j) {
      const auto j = static_cast<size_t>(pair.j);
      kept[j] = keep(pair);
      if (!kept[j]) continue;
      qk[j] = dot(p.q.values(), q_at, p.k.values(), k_at(pair.j), s.head_dim);
      scores[j] = score(qk[j], pair);
      greatest = std::max(greatest, scores[j]);
    }
    double sum = sink ? std::exp(sink(pair.h) - greatest) : 0;
    for (size_t j = 0; j < qk.size(); ++j) {
      if (!kept[j]) continue;
      weights[j] = softmax ? std::exp(scores[j] - greatest) : weight(scores[j]);
      sum += weights[j];
    }
    double delta = 0;
    for (size_t j = 0; j < qk.size(); ++j) {
      if (!kept[j]) continue;
      if (softmax) weights[j] /= sum;
      dp[j] = dot(p.dout.values(), out_at, p.v.values(), v_at(static_cast<int64_t>(j)), s.v_dim);
      delta += weights[j] * dp[j];
    }
    if (softmax) {
      const bool is_packed = p.lse.shape().size() == 2;
      const int64_t lse_at = is_packed ? pair.h * p.lse.shape()[1] + query : (pair.b * s.heads + pair.h) * s.q_len + pair.i;
      lse[static_cast<size_t>(lse_at)] = sum == 0 ? -INFINITY : greatest + std::log(sum);
      if (sink) on_dsink(pair.h, -std::exp(sink(pair.h) - greatest) / sum * delta);
    }
    for (pair.j = 0; pair.j < s.k_len; ++pair.j) {
      const auto j = static_cast<size_t>(pair.j);
      if (!kept[j]) continue;
      const double dscore = softmax ? weights[j] * (dp[j] - delta) : dp[j] * weight_slope(scores[j]);
      const double dqk = dscore * slope(qk[j], pair);
      on_dscore(pair, qk[j], dscore);
      for (int64_t d = 0; d < s.v_dim; ++d) {
        out[static_cast<size_t>(out_at + d)] += weights[j] * p.v.values()[static_cast<size_t>(v_at(pair.j) + d)];
        dv[static_cast<size_t>(v_at(pair.j) + d)] += weights[j] * p.dout.values()[static_cast<size_t>(out_at + d)];
      }
      for (int64_t d = 0; d < s.head_dim; ++d) {
        dq[static_cast<size_t>(q_at + d)] += dqk * p.k.values()[static_cast<size_t>(k_at(pair.j) + d)];
        dk[static_cast<size_t>(k_at(pair.j) + d)] += dqk * p.q.values()[static_cast<size_t>(q_at + d)];
      }
    }
  }

  Shape shape_;
};

// Every element within `tolerance` times the greatest finite magnitude wanted (at least 1); infinities exactly.
inline void expect_near(const std::vector<float>& got, const std::vector<double>& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  double scale = 1;
  for (double value : want) scale = std::isfinite(value) ? std::max(scale, std::abs(value)) : scale;
  size_t worst = 0;
  double worst_error = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const bool same = static_cast<double>(got[i]) == want[i];
    const double error = same ? 0 : std::isfinite(want[i]) && std::isfinite(got[i]) ? std::abs(got[i] - want[i]) : INFINITY;
    if (error > worst_error) {
      worst = i;
      worst_error = error;
    }
  }
  EXPECT_LE(worst_error, tolerance * scale) << what << " differs most at " << worst << ": got " << got[worst] << ", want " << want[worst];
}

inline void expect_pass(Problem& p, const Naive& naive, double tolerance, const std::string& what) {
  expect_near(p.out.values(), naive.out, tolerance, what + ": out");
  if (naive.softmax) expect_near(p.lse.values(), naive.lse, tolerance, what + ": lse");
  expect_near(p.dq.values(), naive.dq, tolerance, what + ": dq");
  expect_near(p.dk.values(), naive.dk, tolerance, what + ": dk");
  expect_near(p.dv.values(), naive.dv, tolerance, what + ": dv");
}

}  // namespace attune::test
