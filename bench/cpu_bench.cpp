// Times one problem on the CPU through the C++ API. Driven by bench/cpu_attention.py: for every line on standard input it runs forward and
// backward once more and prints {"forward_ms": ..., "backward_ms": ...}, so that the two contenders can take turns.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "api/attune.h"

namespace {

struct Setting {
  std::string weights = "softmax";
  int64_t batch = 1, heads = 8, seq = 1024, dim = 64;
  bool causal = false;
  int threads = 1;
};

std::string program(const Setting& setting) {
  const bool is_softmax = setting.weights == "softmax";
  return fmt::format("attention bench(bias: f32 = -log(k_len)) {{\n  score = qk * rsqrt(head_dim){}\n{}  weights = {}(score)\n}}\n",
                     is_softmax ? "" : " + bias", setting.causal ? "  mask = k_pos <= q_pos\n" : "", setting.weights);
}

class Problem {
 public:
  explicit Problem(const Setting& s)
      : shape_{s.batch, s.seq, s.heads, s.dim},
        variant_(attune::compile(program(s), {.file_name = "bench", .constants = {}, .threads = s.threads})),
        plan_(variant_.plan({s.batch, s.heads, s.heads, s.seq, s.seq, s.dim, s.dim})) {
    std::mt19937 random(std::random_device{}());
    std::normal_distribution<float> normal;
    for (auto* values : {&q_, &k_, &v_, &out_, &dout_, &dq_, &dk_, &dv_}) {
      values->resize(static_cast<size_t>(s.batch * s.seq * s.heads * s.dim));
      for (float& value : *values) value = normal(random);
    }
    lse_.resize(static_cast<size_t>(s.batch * s.heads * s.seq));
    if (variant_.is_softmax()) lse_tensor_ = {lse_.data(), attune::DType::kF32, {s.batch, s.heads, s.seq}, {}};
  }

  double forward_ms() {
    return timed([&] { plan_.forward({tensor(q_), tensor(k_), tensor(v_), tensor(out_), lse_tensor_}); });
  }
  double backward_ms() {
    const attune::BackwardTensors tensors{tensor(q_),    tensor(k_),  tensor(v_),  tensor(out_), lse_tensor_,
                                          tensor(dout_), tensor(dq_), tensor(dk_), tensor(dv_),  {}};
    return timed([&] { plan_.backward(tensors); });
  }

 private:
  attune::Tensor tensor(std::vector<float>& values) const { return {values.data(), attune::DType::kF32, shape_, {}}; }

  template <typename Call>
  static double timed(const Call& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }

  std::vector<int64_t> shape_;
  attune::Variant variant_;
  attune::Plan plan_;
  std::vector<float> q_, k_, v_, out_, dout_, dq_, dk_, dv_, lse_;
  attune::Tensor lse_tensor_;
};

}  // namespace

int main(int argc, char** argv) {
  Setting setting;
  CLI::App app("Times attention on the CPU; one run for every line on standard input");
  app.add_option("--weights", setting.weights)->check(CLI::IsMember({"softmax", "sigmoid"}));
  app.add_option("--batch", setting.batch);
  app.add_option("--heads", setting.heads);
  app.add_option("--seq", setting.seq);
  app.add_option("--dim", setting.dim);
  app.add_flag("--causal", setting.causal);
  app.add_option("--threads", setting.threads, "0: all cores");
  CLI11_PARSE(app, argc, argv);
  try {
    Problem problem(setting);
    problem.forward_ms();
    problem.backward_ms();
    std::string line;
    while (std::getline(std::cin, line)) {
      const double forward = problem.forward_ms();
      const double backward = problem.backward_ms();
      fmt::print("{{\"forward_ms\": {}, \"backward_ms\": {}}}\n", forward, backward);
      std::fflush(stdout);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "attune_cpu_bench: {}\n", error.what());
    return 2;
  }
  return 0;
}
