// The forward pass on a GPU, through the library, against the reference in double: all examples, then random programs of fresh seeds.
//   ATTUNE_GPU_RANDOM   random programs, default 300
//   ATTUNE_GPU_SEED     the first seed, default the clock; with ATTUNE_GPU_RANDOM=1 that program alone, without the examples
//   ATTUNE_GPU_SECONDS  no new program after so many, default 40
//   ATTUNE_GPU_THREADS  default: all cores
//   ATTUNE_GPU_DEVICE   cpu: the same on the CPU, which tests the test
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <random>
#include <thread>

#include "comparison.h"
#include "example_files.h"
#include "own_cache.h"
#include "random_program.h"
#include "run_case.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"
#include "runtime/nvrtc.h"
#include "tests/gpu/cuda_graph.h"
#include "tests/gpu/embedded_examples.h"
#include "tests/gpu/forward_call.h"
#include "tests/gpu/rounding_model.h"
#include "tests/unit/runtime_temporary.h"

namespace attune::numeric {
namespace {

const testing::Environment* const kOwnCache = testing::AddGlobalTestEnvironment(new OwnCache());

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxReports = 30, kMaxReportChars = 700;
// What a result may add to the error of the rounding model: `fast` forms pass a gate of 1.5x.
constexpr double kSlackHigh = 1.15, kSlackFast = 1.5, kSlackWorst = 2;
constexpr double kF32Noise = 3e-5;
constexpr Tolerance kOfLse = {1e-4, 5e-4, 1e-4};

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

// Why nothing can run here, "" if it can.
std::string missing() {
  if (device_under_test().kind == Device::kCpu) return "";
  try {
    runtime::gpu_device(0);
    runtime::nvrtc_version();
    return "";
  } catch (const EnvironmentError& error) {
    return error.what();
  }
}

std::string one_line(std::string text) {
  for (size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, "; ");
  while (text.find("  ") != std::string::npos) text.replace(text.find("  "), 2, " ");
  if (text.size() > kMaxReportChars) text = text.substr(0, kMaxReportChars) + " ...";
  return text;
}

// ---- One comparison

struct Outcome {
  std::optional<std::string> failure;
  double ratio = 0;  // of the error to the rounding model's
};

double ulp(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
}

codegen::ReferenceResult forward_reference(const codegen::Ir& ir, const ProblemData& data, codegen::Precision precision) {
  std::vector<codegen::ReferenceProblem> problems = reference_problems(data);
  for (codegen::ReferenceProblem& problem : problems) {
    problem.wants_gradients = false;
    problem.dout.clear();
    problem.precision = precision;
  }
  return reference_result(ir, problems, data);
}

// Error that comes from f32 and from inputs that are a little different: near a kink or a cancellation no kernel does better.
Difference sensitivity(const codegen::Ir& ir, const ProblemData& data, const codegen::ReferenceResult& want, uint64_t seed, bool of_lse) {
  const auto pick = [&](const codegen::ReferenceResult& result) -> const std::vector<double>& { return of_lse ? result.lse : result.out; };
  std::vector<codegen::ReferenceResult> others = {forward_reference(ir, data, codegen::Precision::kF32)};
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> noise(-1e-6, 1e-6);
  for (int i = 0; i < 3; ++i) {
    ProblemData moved = data;
    for (double& x : moved.q) x *= 1 + noise(random);
    others.push_back(forward_reference(ir, moved, codegen::Precision::kDouble));
  }
  Difference worst;
  for (const codegen::ReferenceResult& other : others) {
    const Difference error = difference(pick(other), pick(want));
    worst.norm = std::max(worst.norm, error.norm);
    worst.worst = std::max(worst.worst, error.worst);
  }
  return worst;
}

Outcome compare(const Case& c, const ProblemData& data, const ForwardCall::Result& got, Accuracy accuracy) {
  const codegen::Ir ir = reference_ir(c, HeadDims::kConstant);
  const codegen::ReferenceResult want = forward_reference(ir, data, codegen::Precision::kDouble);
  const std::vector<int64_t> of_out = {data.q_rows(), data.sizes.heads, data.sizes.v_dim};
  const Difference found = difference(got.out, want.out);
  const Difference model = difference(out_of_rounded_p(ir, data, c.dtype), want.out);
  Outcome outcome;
  // Few elements round by luck.
  const double luck = 1 + 4 / std::sqrt(static_cast<double>(found.count) + 1);
  const double slack = accuracy == Accuracy::kHigh ? kSlackHigh : kSlackFast;
  Tolerance tolerance;
  tolerance.relative = slack * luck * model.relative() + kF32Noise + (found.count < 64 ? ulp(c.dtype) : 0);
  const double model_worst = model.greatest > 0 ? model.worst / model.greatest : 0;
  tolerance.worst = std::max(kSlackWorst * luck * model_worst, ulp(c.dtype)) + kF32Noise;
  tolerance.absolute = c.dtype == DType::kF16 ? 0x1p-24 : 1e-9;
  if (model.norm > 0 && found.count >= 1000) outcome.ratio = found.norm / model.norm;
  if (!found.within(tolerance)) {
    const Difference sensitive = sensitivity(ir, data, want, c.seed, false);
    if (found.want_norm > 0) tolerance.relative += 4 * sensitive.norm / found.want_norm;
    if (found.greatest > 0) tolerance.worst += 4 * sensitive.worst / found.greatest;
    if (!found.within(tolerance)) {
      outcome.failure = describe("out", found, tolerance, got.out, want.out, of_out) +
                        fmt::format(", worst bar {:.2e}, rounding alone {:.2e}", tolerance.worst * found.greatest, model.relative());
      return outcome;
    }
  }
  if (got.lse.empty()) return outcome;
  const Difference of_lse = difference(got.lse, want.lse);
  if (of_lse.within(kOfLse)) return outcome;
  Tolerance tolerance_lse = kOfLse;
  const Difference sensitive = sensitivity(ir, data, want, c.seed, true);
  if (of_lse.want_norm > 0) tolerance_lse.relative += 4 * sensitive.norm / of_lse.want_norm;
  if (of_lse.greatest > 0) tolerance_lse.worst += 4 * sensitive.worst / of_lse.greatest;
  if (!of_lse.within(tolerance_lse)) {
    outcome.failure = describe("lse", of_lse, tolerance_lse, got.lse, want.lse, {data.q_rows(), data.sizes.heads});
  }
  return outcome;
}

// ---- Cases

ProblemShape batch_shape(int batch, int q_len, int k_len, int heads = 4, int kv_heads = 2) {
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

struct Task {
  std::string name;  // "example causal", "random 17"
  Case c;
  Accuracy accuracy = Accuracy::kFast;
};

std::vector<Task> example_tasks(uint64_t seed) {
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
        task.c.problems = {batch_shape(2, 129, 129), batch_shape(1, 127, 300), batch_shape(1, 200, 65), batch_shape(1, 1, 257, 6, 1),
                           packed_shape({17, 0, 140, 1}, {33, 5, 140, 0})};
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

// Few queries, or few tiles: splits over keys, heads of one key head in a tile.
std::vector<Task> small_tasks(uint64_t seed) {
  std::vector<Task> tasks;
  const auto batches = [](std::initializer_list<int> k_lens, const std::vector<int>& q_lens) {
    std::vector<ProblemShape> shapes;
    for (const auto& [heads, kv_heads] : {std::pair(8, 8), std::pair(8, 2), std::pair(8, 1)}) {
      for (const int q_len : q_lens) {
        for (const int k_len : k_lens) shapes.push_back(batch_shape(q_len == 1 ? 2 : 1, q_len, k_len, heads, kv_heads));
      }
    }
    return shapes;
  };
  const auto with_heads = [](ProblemShape shape, int heads, int kv_heads) {
    shape.heads = heads;
    shape.kv_heads = kv_heads;
    return shape;
  };
  for (const Example& example : examples_of(embedded_examples())) {
    Task task;
    task.name = "small " + example.name;
    task.c.text = example.text;
    task.c.constants = example.constants;
    task.c.seed = seed + tasks.size();
    task.c.dtype = tasks.size() % 2 == 0 ? DType::kBF16 : DType::kF16;
    task.c.head_dim = task.c.v_dim = tasks.size() % 3 == 0 ? 64 : 128;
    if (example.any_lengths) {
      task.c.problems = batches({1, 700}, {1, 8, 16});
      // The first: rows that keep nothing, where queries outnumber keys. Then a long one, a grid of few tiles, and packed ones.
      for (const ProblemShape& shape : {batch_shape(1, 40, 5, 8, 2), batch_shape(1, 1, 4097, 8, 2), batch_shape(1, 512, 512, 8, 8)})
        task.c.problems.push_back(shape);
      task.c.problems.push_back(with_heads(packed_shape({1, 1, 0, 1}, {900, 5, 140, 0}), 8, 2));
      task.c.problems.push_back(with_heads(packed_shape({9, 1, 60}, {900, 64, 70}), 8, 1));
    } else {
      task.c.problems = {batch_shape(1, example.length, example.length, 8, 2)};
    }
    tasks.push_back(task);
    task.name += " strided";
    task.c.strided = true;
    task.c.head_dim = 72;
    task.c.v_dim = 40;
    task.c.problems.resize(std::min<size_t>(task.c.problems.size(), 9));
    tasks.push_back(std::move(task));
  }
  // Wide heads: other tiles.
  for (const auto& [head_dim, v_dim] : {std::pair(256, 256), std::pair(192, 128), std::pair(40, 200), std::pair(8, 8)}) {
    Task task;
    task.name = fmt::format("small causal {}/{}", head_dim, v_dim);
    task.c.text = "attention causal() {\n  score = qk * rsqrt(head_dim)\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";
    task.c.seed = seed + tasks.size();
    task.c.dtype = DType::kBF16;
    task.c.head_dim = head_dim;
    task.c.v_dim = v_dim;
    task.c.problems = batches({600}, {1, 16, 100});
    tasks.push_back(std::move(task));
  }
  // A mask by head: its heads are in tiles of their own.
  Task task;
  task.name = "small by head";
  task.c.text = "attention by_head() {\n  score = qk * rsqrt(head_dim)\n  mask = k_pos <= q_pos - 3 * h\n  weights = softmax(score)\n}\n";
  task.c.seed = seed;
  task.c.dtype = DType::kF16;
  task.c.head_dim = task.c.v_dim = 64;
  task.c.problems = batches({300}, {1, 16});
  tasks.push_back(std::move(task));
  return tasks;
}

// ---- All cases on all cores

class Runner {
 public:
  explicit Runner(const Device& device) : device_(device) {}

  void run(const Task& task) {
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
      void* const handle = stream ? stream->get() : nullptr;
      for (; problem < task.c.problems.size(); ++problem) {
        const ProblemData data = random_data(ir, task.c, problem);
        PlanOptions plan_options;
        plan_options.device = device_;
        plan_options.accuracy = task.accuracy;
        description = "no plan";
        ForwardCall call(variant, task.c, ir, data, plan_options);
        description = call.plan().describe();
        call.run(handle);
        const Outcome outcome = compare(task.c, data, call.result(handle), task.accuracy);
        const std::lock_guard lock(mutex_);
        ++comparisons_;
        if (outcome.ratio > 0) ratios_[static_cast<size_t>(task.accuracy)].push_back(outcome.ratio);
        if (outcome.failure) report(task, problem, description, *outcome.failure);
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
  }

  void run_all(const std::vector<Task>& tasks, Clock::time_point deadline) {
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
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < count; ++i) threads.emplace_back(work, i);
    work(0);
  }

  void summarise(size_t wanted, Clock::time_point start) {
    std::cout << fmt::format("{} of {} programs, {} comparisons, {} failed, {:.0f} s\n", tasks_, wanted, comparisons_, failures_,
                             std::chrono::duration<double>(Clock::now() - start).count());
    for (const auto& [name, values] : {std::pair("fast", &ratios_[0]), std::pair("high", &ratios_[1])}) {
      if (values->empty()) continue;
      std::sort(values->begin(), values->end());
      const auto at = [&](double part) { return (*values)[static_cast<size_t>(part * static_cast<double>(values->size() - 1))]; };
      std::cout << fmt::format("error / rounding of P and out, accuracy {}: median {:.3f}, 99 % {:.3f}, greatest {:.3f} of {}\n", name,
                               at(0.5), at(0.99), at(1), values->size());
    }
  }

  size_t failures() const { return failures_; }

 private:
  std::string at_work() const {
    std::string text;
    for (const std::string& name : at_work_) text += (text.empty() ? "" : ", ") + name;
    return text;
  }

  void report(const Task& task, size_t problem, const std::string& description, const std::string& failure) {
    if (++failures_ > kMaxReports) return;
    Case one = task.c;
    one.problems = {task.c.problems[problem]};
    std::cout << one_line(fmt::format("FAILED {} ({}, {}{}): {} | {}", task.name, description, describe(one),
                                      task.accuracy == Accuracy::kHigh ? ", high" : "", failure, one.text))
              << std::endl;
  }

  Device device_;
  std::mutex mutex_;
  std::vector<std::string> at_work_;
  std::atomic<bool> is_lost_ = false;
  size_t tasks_ = 0, comparisons_ = 0, failures_ = 0;
  std::vector<double> ratios_[2];
};

class GpuForward : public testing::Test {
 protected:
  void SetUp() override {
    const std::string why = missing();
    if (!why.empty()) GTEST_SKIP() << "GPU tests skipped: " << why;
  }
};

void agree(const std::vector<Task>& tasks) {
  const Clock::time_point start = Clock::now();
  Runner runner(device_under_test());
  runner.run_all(tasks, start + std::chrono::seconds(number_of("ATTUNE_GPU_SECONDS", 40)));
  runner.summarise(tasks.size(), start);
  EXPECT_EQ(runner.failures(), 0u);
}

uint64_t first_seed() {
  static const uint64_t of_clock = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) / 1000 % 1000000000;
  return number_of("ATTUNE_GPU_SEED", of_clock);
}

std::vector<Task> all_tasks() {
  const uint64_t first = first_seed(), count = number_of("ATTUNE_GPU_RANDOM", 300);
  const Device device = device_under_test();
  std::cout << fmt::format("{}, examples, then random programs ATTUNE_GPU_SEED={} ATTUNE_GPU_RANDOM={}\n",
                           device.kind == Device::kCpu ? "CPU" : runtime::gpu_device(device.ordinal).name, first, count);
  std::vector<Task> tasks;
  if (count != 1) tasks = example_tasks(first);
  for (uint64_t i = 0; i < count; ++i) tasks.push_back(random_task(first + i));
  return tasks;
}

TEST_F(GpuForward, AgreesWithTheReference) {
  agree(all_tasks());
}

// Most of these problems are small; so that they test the kernels of large ones, too. No thread is at work while the environment changes.
TEST_F(GpuForward, LargeTilesAgreeWithTheReference) {
  const test::ScopedVariable large("ATTUNE_LARGE_TILES", "1");
  agree(all_tasks());
}

TEST_F(GpuForward, SmallProblemsAgreeWithTheReference) {
  agree(small_tasks(number_of("ATTUNE_GPU_SEED", 1)));
}

constexpr char kCausal[] = "attention causal() {\n  score = qk * rsqrt(head_dim)\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";

// One problem, for what is asked of calls beside their values.
struct Fixed {
  Case c;
  codegen::Ir ir;
  ProblemData data;
  Variant variant;
  ForwardCall call;

  static Case case_of(uint64_t seed, const ProblemShape& shape) {
    Case c;
    c.text = kCausal;
    c.dtype = DType::kBF16;
    c.head_dim = c.v_dim = 128;
    c.seed = seed;
    c.problems = {shape};
    return c;
  }
  static PlanOptions options() {
    PlanOptions options;
    options.device = device_under_test();
    return options;
  }
  explicit Fixed(uint64_t seed, const ProblemShape& shape = batch_shape(2, 2000, 700, 8, 2))
      : c(case_of(seed, shape)),
        ir(reference_ir(c)),
        data(random_data(ir, c, 0)),
        variant(compile(c.text)),
        call(variant, c, ir, data, options()) {}
};

TEST_F(GpuForward, GivesTheSameBitsEveryTime) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "streams are a GPU's";
  Fixed fixed(1);
  const runtime::GpuStream stream(0);
  fixed.call.run(stream.get());
  const std::vector<uint8_t> first = fixed.call.bytes_of_out(stream.get());
  int different = 0;
  for (int i = 0; i < 1000; ++i) {
    fixed.call.run(stream.get());
    different += fixed.call.bytes_of_out(stream.get()) != first;
  }
  EXPECT_EQ(different, 0) << "of 1000 calls";
}

TEST_F(GpuForward, CanBeCapturedAndReplayed) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "graphs are a GPU's";
  Fixed fixed(2);
  const runtime::GpuStream stream(0);
  fixed.call.run(stream.get());
  const std::vector<uint8_t> want = fixed.call.bytes_of_out(stream.get());
  Fixed again(2);  // a plan that has never run
  const test::CudaGraph graph(0, stream.get(), [&] { again.call.enqueue(stream.get()); });
  for (int i = 0; i < 3; ++i) {
    graph.launch();
    EXPECT_EQ(again.call.bytes_of_out(stream.get()), want) << "replay " << i;
  }
}

// Split over keys: whoever comes last adds up, and leaves the counters zero.
TEST_F(GpuForward, SplitsGiveTheSameBitsEveryTime) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "streams are a GPU's";
  for (const ProblemShape& shape : {batch_shape(1, 1, 4097, 8, 2), batch_shape(2, 8, 900, 8, 1), batch_shape(1, 512, 512, 8, 8)}) {
    Fixed fixed(6, shape);
    SCOPED_TRACE(fixed.call.plan().describe());
    EXPECT_NE(fixed.call.plan().describe().find(" splits"), std::string::npos);
    const runtime::GpuStream stream(0);
    fixed.call.run(stream.get());
    const std::vector<uint8_t> first = fixed.call.bytes_of_out(stream.get());
    int different = 0;
    for (int i = 0; i < 200; ++i) {
      fixed.call.run(stream.get());
      different += fixed.call.bytes_of_out(stream.get()) != first;
    }
    EXPECT_EQ(different, 0) << "of 200 calls";
    const test::CudaGraph graph(0, stream.get(), [&] { fixed.call.enqueue(stream.get()); });
    for (int i = 0; i < 3; ++i) {
      graph.launch();
      EXPECT_EQ(fixed.call.bytes_of_out(stream.get()), first) << "replay " << i;
    }
  }
}

TEST_F(GpuForward, StreamsDoNotDisturbEachOther) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "streams are a GPU's";
  Fixed one(3), two(4);
  const runtime::GpuStream first(0), second(0);
  one.call.run(first.get());
  const std::vector<uint8_t> want_one = one.call.bytes_of_out(first.get());
  two.call.run(second.get());
  const std::vector<uint8_t> want_two = two.call.bytes_of_out(second.get());
  int different = 0;
  for (int i = 0; i < 50; ++i) {
    for (int call = 0; call < 10; ++call) {
      one.call.enqueue(first.get());
      two.call.enqueue(second.get());
    }
    different += one.call.bytes_of_out(first.get()) != want_one;
    different += two.call.bytes_of_out(second.get()) != want_two;
  }
  EXPECT_EQ(different, 0) << "of 100 results";
}

// Host time of a call on a plan that has run before.
TEST_F(GpuForward, CallsCostLittleHostTime) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "calls of the CPU do the work themselves";
  Fixed fixed(5);
  const runtime::GpuStream stream(0);
  std::vector<double> microseconds;
  for (int round = 0; round < 50; ++round) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < 20; ++i) fixed.call.enqueue(stream.get());
    microseconds.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() / 20);
    stream.synchronize();
  }
  std::sort(microseconds.begin(), microseconds.end());
  std::cout << fmt::format("host time of a call: median {:.1f} us\n", microseconds[microseconds.size() / 2]);
  EXPECT_LE(microseconds[microseconds.size() / 2], 10);
}

}  // namespace
}  // namespace attune::numeric
