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
  tolerance.worst = std::max(kSlackWorst * luck * model_worst, 2 * ulp(c.dtype)) + kF32Noise;  // P and the result are rounded
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

// Programs that read tensors by pair, by key or from small tables, which feeder warps bring where the copy engine can read them: rows of
// multiples of 8 elements; elsewhere each thread reads them.
constexpr const char* kFed[][2] = {
    {"bf16 bias",
     "attention fed(bias: bf16[batch, heads, q_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[b, h, q_idx, k_idx]\n"
     "  weights = softmax(score)\n}\n"},
    {"f32 bias, causal",
     "attention fed(bias: f32[heads, q_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[h, q_idx, k_idx]\n  mask = k_pos <= q_pos\n"
     "  weights = softmax(score)\n}\n"},
    {"f16 bias, window",
     "attention fed(bias: f16[q_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[q_idx, k_idx]\n"
     "  mask = abs(q_idx - k_idx) < 90\n  weights = softmax(score)\n}\n"},
    {"shifted",
     "attention fed(bias: bf16[heads, k_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[h, q_pos, k_pos]\n  mask = k_pos <= q_pos\n"
     "  weights = softmax(score)\n}\n"},
    {"sigmoid",
     "attention fed(bias: bf16[heads, q_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[h, q_idx, k_idx] - 4\n"
     "  mask = k_pos <= q_pos\n  weights = sigmoid(score)\n}\n"},
    {"relu",
     "attention fed(bias: f16[batch, 1, q_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[b, 0, q_idx, k_idx]\n"
     "  weights = relu(score) / k_len\n}\n"},
    {"bias and gate",
     "attention fed(bias: bf16[heads, q_len, k_len], gate: f32[batch, heads, q_len, k_len]) {\n"
     "  score = qk * rsqrt(head_dim) + bias[h, q_idx, k_idx]\n  weights = softmax(score) * gate[b, h, q_idx, k_idx]\n}\n"},
    {"keys",
     "attention fed(bias: f32[batch, k_len], scale: bf16[heads, k_len]) {\n"
     "  score = qk * rsqrt(head_dim) * scale[h, k_idx] + bias[b, k_idx]\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n"},
    {"keys by data",
     "attention fed(kind: u8[batch, k_len], table: f32[heads, 4]) {\n  score = qk * rsqrt(head_dim) + table[h, kind[b, k_idx] % 4]\n"
     "  weights = softmax(score)\n}\n"},
    {"documents and bias",
     "attention fed(doc: i32[batch, k_len], bias: bf16[heads, q_len, k_len]) {\n"
     "  score = qk * rsqrt(head_dim) + bias[h, q_idx, k_idx]\n  mask = doc[b, min(q_idx, k_len - 1)] % 3 == doc[b, k_idx] % 3\n"
     "  weights = softmax(score)\n}\n"},
    {"table",
     "attention fed(table: f32[heads, 65], scale: f16[9]) {\n  let near = clamp(q_pos - k_pos, -32, 32) + 32\n"
     "  score = qk * rsqrt(head_dim) * scale[near % 9] + table[h, near]\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n"},
    {"global rows",  // a warpgroup keeps all keys, the other one few
     "attention fed(bias: bf16[heads, q_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[h, q_idx, k_idx]\n"
     "  mask = k_pos <= q_pos or q_idx < 16\n  weights = softmax(score)\n}\n"},
    {"long skips",
     "attention fed(bias: bf16[q_len, k_len]) {\n  score = qk * rsqrt(head_dim) + bias[q_idx, k_idx]\n"
     "  mask = k_idx <= 3 * q_idx and k_idx > q_idx - 200\n  weights = softmax(score)\n}\n"},
};

std::vector<Task> fed_tasks(uint64_t seed) {
  const std::vector<ProblemShape> shapes = {batch_shape(2, 129, 129),
                                            batch_shape(1, 127, 300),
                                            batch_shape(1, 200, 72),
                                            batch_shape(1, 1, 264, 6, 1),
                                            batch_shape(1, 300, 1),
                                            batch_shape(1, 260, 400),
                                            packed_shape({17, 0, 140, 1}, {33, 5, 140, 2}),
                                            packed_shape({200, 64, 129}, {300, 64, 129})};
  std::vector<Task> tasks;
  for (const auto& [name, text] : kFed) {
    for (const auto& [head_dim, v_dim] :
         {std::pair(64, 64), std::pair(128, 128), std::pair(40, 24), std::pair(192, 128), std::pair(256, 256)}) {
      Task task;
      task.name = fmt::format("fed {}", name);
      task.c.text = text;
      task.c.seed = seed + tasks.size();
      task.c.dtype = tasks.size() % 2 == 0 ? DType::kBF16 : DType::kF16;
      task.c.head_dim = head_dim;
      task.c.v_dim = v_dim;
      task.c.padded = true;
      task.accuracy = tasks.size() % 3 == 0 ? Accuracy::kHigh : Accuracy::kFast;
      task.c.problems = shapes;
      tasks.push_back(task);
      if (head_dim > 128) continue;
      task.name += " read by each thread";
      task.c.padded = false;
      task.c.strided = tasks.size() % 4 == 0;
      task.c.problems.resize(2);
      tasks.push_back(std::move(task));
    }
  }
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

TEST_F(GpuForward, TensorsThroughSharedMemoryAgreeWithTheReference) {
  const test::ScopedVariable large("ATTUNE_LARGE_TILES", "1");
  agree(fed_tasks(number_of("ATTUNE_GPU_SEED", 1)));
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
  explicit Fixed(uint64_t seed, const ProblemShape& shape = batch_shape(2, 2000, 700, 8, 2)) : Fixed(case_of(seed, shape)) {}
  explicit Fixed(Case fixed)
      : c(std::move(fixed)),
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

// Several tiles for each CTA: as by the kernel of small tiles, which any strides run on.
double distance_from_small_tiles(Case c, const std::vector<double>& got, void* stream) {
  c.padded = false;
  c.strided = true;
  c.seed |= 1;  // at any address
  Fixed other(c);
  other.call.run(stream);
  return difference(got, other.call.result(stream).out).relative();
}

// Warpgroups of a tile begin with different blocks.
TEST_F(GpuForward, TilesOfOneCtaFollowEachOther) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "tiles are a GPU's";
  const runtime::GpuStream stream(0);
  for (const auto& [head_dim, v_dim] : {std::pair(64, 64), std::pair(128, 128), std::pair(192, 128), std::pair(256, 256)}) {
    for (const char* mask : {"k_pos <= q_pos", "k_pos <= q_pos or q_idx < 16"}) {
      // Head dim 64: tiles of 192 and of 256 rows.
      for (const auto& [batch, q_len] :
           head_dim == 64 ? std::vector{std::pair(2, 1300), std::pair(12, 1000)} : std::vector{std::pair(2, 1300)}) {
        Case c = Fixed::case_of(7, batch_shape(batch, q_len, 1001, 8, 2));
        c.text = fmt::format("attention test() {{\n  score = qk * rsqrt(head_dim)\n  mask = {}\n  weights = softmax(score)\n}}\n", mask);
        c.head_dim = head_dim;
        c.v_dim = v_dim;
        Fixed fixed(c);
        SCOPED_TRACE(fixed.call.plan().describe());
        EXPECT_NE(fixed.call.plan().describe().find("sm90"), std::string::npos);
        fixed.call.run(stream.get());
        EXPECT_LT(distance_from_small_tiles(c, fixed.call.result(stream.get()).out, stream.get()), 8e-3);
      }
    }
  }
}

// Through feeders, and with the same bits in many calls, since a wait that is missing shows only now and then.
TEST_F(GpuForward, TensorsThroughSharedMemoryGiveTheSameBitsEveryTime) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "streams are a GPU's";
  const runtime::GpuStream stream(0);
  for (const auto& [name, text] : kFed) {
    for (const int dim : {64, 128, 256}) {
      Case c = Fixed::case_of(7, batch_shape(2, 1300, 1001, 8, 2));
      c.text = text;
      c.head_dim = c.v_dim = dim;
      c.padded = true;
      Fixed fixed(c);
      SCOPED_TRACE(fmt::format("{}, {}", name, fixed.call.plan().describe()));
      EXPECT_NE(fixed.call.plan().describe().find(" stages of fed"), std::string::npos);
      fixed.call.run(stream.get());
      const std::vector<uint8_t> first = fixed.call.bytes_of_out(stream.get());
      EXPECT_LT(distance_from_small_tiles(c, fixed.call.result(stream.get()).out, stream.get()), 8e-3);
      int different = 0;
      for (int i = 0; i < 50; ++i) {
        fixed.call.run(stream.get());
        different += fixed.call.bytes_of_out(stream.get()) != first;
      }
      EXPECT_EQ(different, 0) << "of 50 calls";
    }
  }
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
