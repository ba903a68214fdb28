// What tests of both passes on a GPU share: where they run, their cases, and running all of them on all cores.
//   ATTUNE_GPU_RANDOM   random programs, default 300
//   ATTUNE_GPU_SEED     the first seed, default the clock; with ATTUNE_GPU_RANDOM=1 that program alone, without the examples
//   ATTUNE_GPU_SECONDS  no new program after so many, default 40
//   ATTUNE_GPU_THREADS  default: all cores
//   ATTUNE_GPU_REPEATS  calls that have to give the same bits, default 200
//   ATTUNE_GPU_DEVICE   cpu: the same on the CPU, which tests the test
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "api/attune.h"
#include "codegen/ir.h"
#include "numeric_case.h"
#include "random_data.h"

namespace attune::numeric {

using Clock = std::chrono::steady_clock;

uint64_t number_of(const char* variable, uint64_t otherwise);
Device device_under_test();
// Why nothing can run here, "" if it can.
std::string missing_for_gpu();

ProblemShape batch_shape(int batch, int q_len, int k_len, int heads = 4, int kv_heads = 2);
ProblemShape packed_shape(std::vector<int> q_lens, std::vector<int> k_lens);

struct Task {
  std::string name;  // "example causal", "random 17"
  Case c;
  Accuracy accuracy = Accuracy::kFast;
  bool tiered = false;         // forward: both kernels
  bool deterministic = false;  // backward
};

// In bf16 and f16, contiguous and with strides. `shapes` for programs of any length.
std::vector<Task> example_tasks(uint64_t seed, const std::vector<ProblemShape>& shapes);
Task random_task(uint64_t seed);
// Those of the examples unless a single seed is asked for, then random ones; says which.
std::vector<Task> all_tasks(const std::vector<ProblemShape>& shapes);

struct Outcome {
  std::optional<std::string> failure;
  double ratio = 0;  // of the error to the rounding model's, 0: not known
};

// Runs tasks, each problem by `check`, and reports failures in a line each.
class Runner {
 public:
  struct Problem {
    const Task& task;
    const codegen::Ir& ir;
    const Variant& variant;
    const ProblemData& data;
    void* stream;             // null on the CPU
    std::string description;  // of the plan, for reports
  };
  using Check = std::function<std::vector<Outcome>(Problem& problem)>;

  Runner(std::string ratio_name, Check check) : ratio_name_(std::move(ratio_name)), check_(std::move(check)) {}

  // No new task is begun after ATTUNE_GPU_SECONDS.
  void run_all(const std::vector<Task>& tasks);
  size_t failures() const { return failures_; }

 private:
  void run(const Task& task);
  void summarise(size_t wanted, Clock::time_point start);
  std::string at_work() const;
  void report(const Task& task, size_t problem, const std::string& description, const std::string& failure);

  std::string ratio_name_;
  Check check_;
  Device device_ = device_under_test();
  std::mutex mutex_;
  std::vector<std::string> at_work_;
  std::atomic<bool> is_lost_ = false;
  Clock::time_point next_progress_;
  size_t tasks_ = 0, comparisons_ = 0, failures_ = 0;
  std::vector<double> ratios_[2];
};

// The unit of the last place of numbers from 1 to 2, halved.
double ulp(DType dtype);

}  // namespace attune::numeric
