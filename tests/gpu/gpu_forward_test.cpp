// The forward pass on a GPU, through the library, against the reference in double: all examples, then random programs of fresh seeds.
// Settings: gpu_cases.h.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <random>

#include "comparison.h"
#include "example_files.h"
#include "own_cache.h"
#include "run_case.h"
#include "tests/gpu/cuda_graph.h"
#include "tests/gpu/embedded_examples.h"
#include "tests/gpu/forward_call.h"
#include "tests/gpu/gpu_cases.h"
#include "tests/gpu/rounding_model.h"
#include "tests/unit/runtime_temporary.h"

namespace attune::numeric {
namespace {

const testing::Environment* const kOwnCache = testing::AddGlobalTestEnvironment(new OwnCache());

// What a result may add to the error of the rounding model: `fast` forms pass a gate of 1.5x.
constexpr double kSlackHigh = 1.15, kSlackFast = 1.5, kSlackWorst = 2, kSlackFactor = 1.4;
constexpr double kF32Noise = 3e-5;
constexpr Tolerance kOfLse = {1e-4, 5e-4, 1e-4};

// ---- One comparison

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
  // Few numbers round by luck: elements of the result, or the greatest weights of rows.
  const double rows = static_cast<double>(data.q_rows() * data.sizes.heads);
  const double luck = 1 + 4 / std::sqrt(std::min(static_cast<double>(found.count), 4 * rows) + 1);
  // A factor behind the softmax, such as 1 / keep, rounds the greatest weight of all rows alike, which is 1 without it.
  const double slack = (accuracy == Accuracy::kHigh ? kSlackHigh : kSlackFast) * (ir.factor != codegen::kNoValue ? kSlackFactor : 1);
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

const std::vector<ProblemShape> kShapes = {batch_shape(2, 129, 129), batch_shape(1, 127, 300), batch_shape(1, 200, 65),
                                           batch_shape(1, 1, 257, 6, 1), packed_shape({17, 0, 140, 1}, {33, 5, 140, 0})};

std::vector<Outcome> check(Runner::Problem& problem) {
  const Task& task = problem.task;
  PlanOptions options;
  options.device = device_under_test();
  options.accuracy = task.accuracy;
  options.tiered = task.tiered;
  ForwardCall call(problem.variant, task.c, problem.ir, problem.data, options);
  problem.description = call.plan().describe();
  call.run(problem.stream);
  std::vector<Outcome> outcomes = {compare(task.c, problem.data, call.result(problem.stream), task.accuracy)};
  if (task.tiered) {
    call.plan().wait_until_tuned();
    call.run(problem.stream);
    outcomes.push_back(compare(task.c, problem.data, call.result(problem.stream), task.accuracy));
    if (outcomes.back().failure) problem.description += ", tuned";
  }
  return outcomes;
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

void agree(const std::vector<Task>& tasks) {
  Runner runner("rounding of P and out", check);
  runner.run_all(tasks);
  EXPECT_EQ(runner.failures(), 0u);
}

class GpuForward : public testing::Test {
 protected:
  void SetUp() override {
    const std::string why = missing_for_gpu();
    if (!why.empty()) GTEST_SKIP() << "GPU tests skipped: " << why;
  }
};

TEST_F(GpuForward, AgreesWithTheReference) {
  agree(all_tasks(kShapes));
}

// Most of these problems are small; so that they test the kernels of large ones, too. No thread is at work while the environment changes.
TEST_F(GpuForward, LargeTilesAgreeWithTheReference) {
  const test::ScopedVariable large("ATTUNE_LARGE_TILES", "1");
  agree(all_tasks(kShapes));
}

TEST_F(GpuForward, SmallProblemsAgreeWithTheReference) {
  agree(small_tasks(number_of("ATTUNE_GPU_SEED", 1)));
}

// The quick kernels of tiered plans, and the tuned ones that follow.
TEST_F(GpuForward, TieredPlansAgreeWithTheReference) {
  std::vector<Task> tasks = example_tasks(number_of("ATTUNE_GPU_SEED", 1), {kShapes[0], kShapes[4]});
  std::erase_if(tasks, [](const Task& task) { return task.c.dtype != DType::kBF16; });
  for (Task& task : tasks) {
    task.name += " tiered";
    task.tiered = true;
    task.c.head_dim = task.c.v_dim = task.c.strided ? 88 : 80;  // so that the tuned kernel is not in the cache
  }
  agree(tasks);
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
