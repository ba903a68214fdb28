#include "tests/gpu/gpu_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>
#include <thread>

#include "example_files.h"
#include "random_program.h"
#include "run_case.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"
#include "runtime/gpu_memory.h"
#include "runtime/nvrtc.h"
#include "tests/gpu/embedded_examples.h"

namespace attune::numeric {
namespace {

constexpr size_t kMaxReports = 30, kMaxReportChars = 700;
constexpr std::chrono::seconds kProgressPeriod{30};

std::string one_line(std::string text) {
  for (size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, "; ");
  while (text.find("  ") != std::string::npos) text.replace(text.find("  "), 2, " ");
  if (text.size() > kMaxReportChars) text = text.substr(0, kMaxReportChars) + " ...";
  return text;
}

}  // namespace

uint64_t number_of(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

Device device_under_test() {
  const char* text = std::getenv("ATTUNE_GPU_DEVICE");
  Device device;
  device.kind = text && std::string_view(text) == "cpu" ? Device::kCpu : Device::kCuda;
  return device;
}

std::string missing_for_gpu() {
  if (device_under_test().kind == Device::kCpu) return "";
  try {
    runtime::gpu_device(0);
    runtime::nvrtc_version();
    return "";
  } catch (const EnvironmentError& error) {
    return error.what();
  }
}

double ulp(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

ProblemShape batch_shape(int batch, int q_len, int k_len, int heads, int kv_heads) {
  ProblemShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.q_lens.assign(static_cast<size_t>(batch), q_len);
  shape.k_lens.assign(static_cast<size_t>(batch), k_len);
  return shape;
}

ProblemShape packed_shape(std::vector<int> q_lens, std::vector<int> k_lens) {
  ProblemShape shape = batch_shape(1, 0, 0);
  shape.packed = true;
  shape.q_lens = std::move(q_lens);
  shape.k_lens = std::move(k_lens);
  return shape;
}

std::vector<Task> example_tasks(uint64_t seed, const std::vector<ProblemShape>& shapes) {
  std::vector<Task> tasks;
  for (const Example& example : examples_of(embedded_examples())) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      Task task;
      task.name = "example " + example.name;
      task.c.text = example.text;
      task.c.constants = example.constants;
      task.c.dtype = dtype;
      task.c.head_dim = task.c.v_dim = dtype == DType::kBF16 ? 64 : 128;
      task.c.seed = seed;
      if (example.any_lengths) {
        task.c.problems = shapes;
      } else {
        task.c.problems = {batch_shape(2, example.length, example.length)};
      }
      tasks.push_back(task);
      task.name += " strided";
      task.c.strided = true;
      task.c.seed = seed + 1 + tasks.size() / 2;  // both kinds of strides
      task.c.problems.resize(1);
      tasks.push_back(task);
    }
  }
  return tasks;
}

Task random_task(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto pick = [&](std::initializer_list<int> values) {
    return values.begin()[std::uniform_int_distribution<size_t>(0, values.size() - 1)(random)];
  };
  Task task;
  task.name = fmt::format("random {}", seed);
  task.c = random_case(seed).whole();
  Case& c = task.c;
  c.dtype = pick({0, 1}) ? DType::kBF16 : DType::kF16;
  c.head_dim = pick({8, 16, 24, 32, 40, 64, 64, 64, 80, 96, 128, 128, 128, 160, 192, 256, 1, 7, 33, 50, 100, 250});
  c.v_dim = pick({0, 0, 0, 1}) ? pick({8, 16, 64, 72, 128, 256, 5, 63}) : c.head_dim;
  c.strided = pick({0, 0, 1});
  task.accuracy = pick({0, 1}) ? Accuracy::kFast : Accuracy::kHigh;
  const bool has_packed = c.problems[0].packed;
  c.problems.resize(std::min<size_t>(c.problems.size(), 2));
  if (!has_packed && pick({0, 1})) {
    const int q_len = pick({1, 2, 63, 64, 65, 127, 128, 129, 200}),
              k_len = pick({0, 0, 1}) ? q_len : pick({1, 63, 64, 65, 127, 128, 129, 257});
    ProblemShape& shape = c.problems[0];
    shape.q_lens.assign(shape.q_lens.size(), q_len);
    shape.k_lens.assign(shape.k_lens.size(), k_len);
  }
  return task;
}

std::vector<Task> all_tasks(const std::vector<ProblemShape>& shapes) {
  const auto clock_seed = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) / 1000 % 1000000000;
  const uint64_t first = number_of("ATTUNE_GPU_SEED", clock_seed), count = number_of("ATTUNE_GPU_RANDOM", 300);
  const Device device = device_under_test();
  std::cout << fmt::format("{}, examples, then random programs ATTUNE_GPU_SEED={} ATTUNE_GPU_RANDOM={}\n",
                           device.kind == Device::kCpu ? "CPU" : runtime::gpu_device(device.ordinal).name, first, count)
            << std::flush;
  std::vector<Task> tasks;
  if (count != 1) tasks = example_tasks(first, shapes);
  for (uint64_t i = 0; i < count; ++i) tasks.push_back(random_task(first + i));
  return tasks;
}

void Runner::run(const Task& task) {
  std::string description = "no plan";
  size_t problem = 0;
  try {
    const codegen::Ir ir = reference_ir(task.c);
    CompileOptions options;
    options.file_name = "case.attn";
    options.constants = task.c.constants;
    options.threads = 1;
    const Variant variant = compile(task.c.text, options);
    std::optional<runtime::GpuStream> stream;
    if (device_.kind == Device::kCuda) stream.emplace(device_.ordinal);
    for (; problem < task.c.problems.size(); ++problem) {
      const ProblemData data = random_data(ir, task.c, problem);
      Problem one = {task, ir, variant, data, stream ? stream->get() : nullptr, "no plan"};
      std::vector<Outcome> outcomes;
      try {
        outcomes = check_(one);
      } catch (...) {
        description = one.description;
        throw;
      }
      const std::lock_guard lock(mutex_);
      ++comparisons_;
      for (const Outcome& outcome : outcomes) {
        if (outcome.ratio > 0) ratios_[static_cast<size_t>(task.accuracy)].push_back(outcome.ratio);
        if (outcome.failure) report(task, problem, one.description, *outcome.failure);
      }
    }
  } catch (const std::exception& error) {
    const std::lock_guard lock(mutex_);
    report(task, std::min(problem, task.c.problems.size() - 1), description, fmt::format("exception: {}", error.what()));
    // After such an error the driver refuses everything.
    const std::string_view what = error.what();
    for (const char* sign : {"ILLEGAL", "MISALIGNED", "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "HARDWARE_STACK"}) {
      if (what.find(sign) != std::string_view::npos && !is_lost_.exchange(true)) {
        std::cout << "the context is lost, nothing more is run; at work were one of these: " << at_work() << "; rerun one by one with "
                  << "ATTUNE_GPU_THREADS=1\n";
      }
    }
  }
  const std::lock_guard lock(mutex_);
  ++tasks_;
  if (Clock::now() < next_progress_) return;
  next_progress_ = Clock::now() + kProgressPeriod;
  std::cout << fmt::format("  {} programs, {} comparisons, {} failed so far; at work: {}", tasks_, comparisons_, failures_, at_work())
            << std::endl;
}

void Runner::run_all(const std::vector<Task>& tasks) {
  const Clock::time_point start = Clock::now(), deadline = start + std::chrono::seconds(number_of("ATTUNE_GPU_SECONDS", 40));
  std::atomic<size_t> next = 0;
  const auto work = [&](size_t thread) {
    for (size_t i; !is_lost_ && Clock::now() < deadline && (i = next++) < tasks.size();) {
      {
        const std::lock_guard lock(mutex_);
        at_work_[thread] = tasks[i].name;
      }
      run(tasks[i]);
    }
  };
  const size_t count = std::max<size_t>(1, number_of("ATTUNE_GPU_THREADS", std::thread::hardware_concurrency()));
  at_work_.assign(count, "");
  next_progress_ = start + kProgressPeriod;
  {
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < count; ++i) threads.emplace_back(work, i);
    work(0);
  }
  summarise(tasks.size(), start);
}

void Runner::summarise(size_t wanted, Clock::time_point start) {
  std::cout << fmt::format("{} of {} programs, {} comparisons, {} failed, {:.0f} s\n", tasks_, wanted, comparisons_, failures_,
                           std::chrono::duration<double>(Clock::now() - start).count());
  for (const auto& [name, values] : {std::pair("fast", &ratios_[0]), std::pair("high", &ratios_[1])}) {
    if (values->empty()) continue;
    std::sort(values->begin(), values->end());
    const auto at = [&](double part) { return (*values)[static_cast<size_t>(part * static_cast<double>(values->size() - 1))]; };
    std::cout << fmt::format("error / {}, accuracy {}: median {:.3f}, 99 % {:.3f}, greatest {:.3f} of {}\n", ratio_name_, name, at(0.5),
                             at(0.99), at(1), values->size());
  }
}

std::string Runner::at_work() const {
  std::string text;
  for (const std::string& name : at_work_) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void Runner::report(const Task& task, size_t problem, const std::string& description, const std::string& failure) {
  if (++failures_ > kMaxReports) return;
  Case one = task.c;
  one.problems = {task.c.problems[problem]};
  std::cout << one_line(fmt::format("FAILED {} ({}, {}{}): {} | {}", task.name, description, describe(one),
                                    task.accuracy == Accuracy::kHigh ? ", high" : "", failure, one.text))
            << std::endl;
}

}  // namespace attune::numeric
