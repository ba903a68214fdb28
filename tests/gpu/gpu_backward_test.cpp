// The backward pass on a GPU, through the library, behind its own forward pass, against the reference in double: all examples, programs
// that are hard on purpose, then random programs of fresh seeds. Settings: gpu_cases.h.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <tuple>

#include "comparison.h"
#include "own_cache.h"
#include "run_case.h"
#include "runtime/gpu_memory.h"
#include "tests/gpu/backward_call.h"
#include "tests/gpu/cuda_graph.h"
#include "tests/gpu/gpu_cases.h"
#include "tests/gpu/rounding_model.h"

namespace attune::numeric {
namespace {

const testing::Environment* const kOwnCache = testing::AddGlobalTestEnvironment(new OwnCache());

using codegen::Precision;
using codegen::ReferenceProblem;
using codegen::ReferenceResult;

// What a result may add to the error of the rounding model: `fast` forms pass a gate of 1.5x.
constexpr double kSlackHigh = 1.15, kSlackFast = 1.5, kSlackWorst = 2;
constexpr double kF32Noise = 5e-5;
// Of a gradient that cancels, relative to its terms: they are f32, with approximate exponentials and the like.
constexpr double kNoiseOfTerms = 1e-4;

// ---- One comparison

ReferenceResult reference(const codegen::Ir& ir, const ProblemData& data, Precision precision = Precision::kDouble,
                          const std::vector<double>& stored_out = {}) {
  std::vector<ReferenceProblem> problems = reference_problems(data);
  auto next = stored_out.begin();
  for (ReferenceProblem& problem : problems) {
    problem.precision = precision;
    if (stored_out.empty()) continue;
    const auto count = static_cast<std::ptrdiff_t>(problem.dout.size());
    problem.stored_out.assign(next, next + count);
    next += count;
  }
  return reference_result(ir, problems, data);
}

// The reference in f32, and with inputs that are a little different: near a kink or a cancellation no kernel does better.
std::vector<ReferenceResult> others_of(const codegen::Ir& ir, const ProblemData& data, const std::vector<double>& stored_out,
                                       uint64_t seed) {
  std::vector<ReferenceResult> others = {reference(ir, data, Precision::kF32, stored_out)};
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> noise(-1e-6, 1e-6);
  for (int i = 0; i < 3; ++i) {
    ProblemData moved = data;
    for (double& x : moved.q) x *= 1 + noise(random);
    others.push_back(reference(ir, moved));
  }
  return others;
}

struct Quantity {
  std::string name;
  const std::vector<double>&got, &want, &model;
  std::vector<int64_t> dims;
  double magnitude = 0;  // gradients of parameters: the greatest sum of the terms' magnitudes
  double rounding = 0;   // and what is left of the terms' rounding
  double noise = 0;      // dq, dk: what is left of terms that cancel, where there is nothing else
  std::function<const std::vector<double>&(const ReferenceResult&)> of;
};

std::vector<Quantity> quantities(const codegen::Ir& ir, const ProblemData& data, const CallResult& got, const ReferenceResult& want,
                                 const RoundedGradients& model, DType dtype) {
  const codegen::Sizes& sizes = data.sizes;
  const CancellationNoise noise = cancellation_noise(data);
  std::vector<Quantity> all = {
      {"dq", got.dq, want.dq, model.dq, {data.q_rows(), sizes.heads, sizes.head_dim}, 0, 0, noise.dq, &ReferenceResult::dq},
      {"dk", got.dk, want.dk, model.dk, {data.k_rows(), sizes.kv_heads, sizes.head_dim}, 0, 0, noise.dk, &ReferenceResult::dk},
      {"dv", got.dv, want.dv, model.dv, {data.k_rows(), sizes.kv_heads, sizes.v_dim}, 0, 0, 0, &ReferenceResult::dv}};
  for (size_t i = 0; i < ir.params.size(); ++i) {
    if (!ir.params[i].is_grad) continue;
    const double magnitude = greatest_magnitude(want.param_grad_magnitudes[i]);
    std::vector<int64_t> dims;
    if (data.tensor_params[i]) dims = data.tensor_params[i]->dims;
    all.push_back({"d" + ir.params[i].name, got.param_grads[i], want.param_grads[i], model.param_grads[i], dims, magnitude,
                   rounding_of_terms(dtype, want.param_grad_squares[i]), 0,
                   [i](const ReferenceResult& r) -> const std::vector<double>& { return r.param_grads[i]; }});
  }
  return all;
}

// Of rows that count alike: few great ones outweigh many small ones.
double effective_rows(const std::vector<double>& values, int64_t row_length) {
  double sum = 0, squares = 0;
  for (size_t first = 0; first < values.size(); first += static_cast<size_t>(row_length)) {
    double row = 0;
    for (size_t i = first; i < first + static_cast<size_t>(row_length); ++i) row += values[i] * values[i];
    sum += row;
    squares += row * row;
  }
  return squares > 0 ? sum * sum / squares : 0;
}

Outcome compare(const Quantity& quantity, const Case& c, Accuracy accuracy,
                const std::function<const std::vector<ReferenceResult>&()>& others) {
  const bool is_param = quantity.magnitude > 0;
  const Difference found = difference(quantity.got, quantity.want), model = difference(quantity.model, quantity.want);
  Outcome outcome;
  // Few numbers round by luck: elements, or the greatest dS and P of rows.
  const double count = static_cast<double>(found.count);
  const double numbers =
      is_param || quantity.dims.empty() ? count : std::min(count, 4 * effective_rows(quantity.want, quantity.dims.back()));
  const double luck = 1 + 4 / std::sqrt(numbers + 1);
  Tolerance tolerance;
  tolerance.relative = (accuracy == Accuracy::kHigh ? kSlackHigh : kSlackFast) * luck * model.relative() + kF32Noise;
  if (found.count < 64 && !is_param) tolerance.relative += ulp(c.dtype);
  const double model_worst = model.greatest > 0 ? model.worst / model.greatest : 0;
  tolerance.worst =
      std::max(kSlackWorst * luck * model_worst, is_param ? 0 : 2 * ulp(c.dtype)) + kF32Noise;  // dS and the result are rounded
  tolerance.absolute = is_param ? kNoiseOfTerms * quantity.magnitude + quantity.rounding : c.dtype == DType::kF16 ? 0x1p-24 : 1e-9;
  if (model.norm > 0 && found.count >= 1000 && !is_param) outcome.ratio = found.norm / model.norm;
  if (found.within(tolerance)) return outcome;
  Difference expected;
  for (const ReferenceResult& other : others()) {
    const Difference error = difference(quantity.of(other), quantity.want);
    expected.norm = std::max(expected.norm, error.norm);
    expected.worst = std::max(expected.worst, error.worst);
  }
  // A single number's rounding may have cancelled by luck in the others.
  const double slack = found.count == 1 ? 20 : 4;
  if (found.want_norm > 0) tolerance.relative += slack * expected.norm / found.want_norm;
  if (found.greatest > 0) tolerance.worst += slack * expected.worst / found.greatest;
  if (found.want_norm == 0) tolerance.absolute += slack * expected.worst + quantity.noise;
  if (!found.within(tolerance)) {
    outcome.failure = describe(quantity.name, found, tolerance, quantity.got, quantity.want, quantity.dims) +
                      fmt::format(", worst bar {:.2e}, rounding alone {:.2e}", tolerance.worst * found.greatest, model.relative());
  }
  return outcome;
}

// What the results of a case have to be, made once.
class Expected {
 public:
  // `stored_out`: what the backward pass was given.
  Expected(const Case& c, const ProblemData& data, std::vector<double> stored_out)
      : case_(c),
        data_(data),
        ir_(reference_ir(c, HeadDims::kConstant)),
        stored_out_(std::move(stored_out)),
        want_(reference(ir_, data)),
        model_(gradients_of_rounded_ds(ir_, data, c.dtype, stored_out_)) {}

  std::vector<Outcome> compare(const CallResult& got, Accuracy accuracy) {
    std::vector<Outcome> outcomes;
    for (const Quantity& quantity : quantities(ir_, data_, got, want_, model_, case_.dtype)) {
      outcomes.push_back(numeric::compare(quantity, case_, accuracy, [this]() -> const std::vector<ReferenceResult>& { return others(); }));
    }
    return outcomes;
  }

 private:
  const std::vector<ReferenceResult>& others() {
    if (others_.empty()) others_ = others_of(ir_, data_, stored_out_, case_.seed);
    return others_;
  }

  const Case& case_;
  const ProblemData& data_;
  const codegen::Ir ir_;
  const std::vector<double> stored_out_;
  const ReferenceResult want_;
  const RoundedGradients model_;
  std::vector<ReferenceResult> others_;
};

std::vector<Outcome> check(Runner::Problem& problem) {
  const Task& task = problem.task;
  PlanOptions options;
  options.device = device_under_test();
  options.accuracy = task.accuracy;
  options.deterministic = task.deterministic;
  BackwardCall call(problem.variant, task.c, problem.ir, problem.data, options);
  problem.description = call.plan().describe();
  call.run(problem.stream);
  call.run_backward(problem.stream);
  CallResult got = call.backward_result(problem.stream);
  Expected expected(task.c, problem.data, got.out);
  std::vector<Outcome> outcomes = expected.compare(got, task.accuracy);
  if (std::any_of(outcomes.begin(), outcomes.end(), [](const Outcome& outcome) { return outcome.failure.has_value(); })) return outcomes;
  // Again: it finds what the first call has left in the workspace. A part of the results is left out.
  WantedGradients wanted;
  bool* const parts[] = {&wanted.dq, &wanted.dk, &wanted.dv, &wanted.params};
  *parts[task.c.seed % 4] = false;
  call.run_backward(problem.stream, wanted);
  CallResult again = call.backward_result(problem.stream, wanted);
  if (wanted.dq) got.dq = std::move(again.dq);
  if (wanted.dk) got.dk = std::move(again.dk);
  if (wanted.dv) got.dv = std::move(again.dv);
  if (wanted.params) got.param_grads = std::move(again.param_grads);
  for (Outcome& outcome : expected.compare(got, task.accuracy)) {
    if (!outcome.failure) continue;
    outcome.failure = "the second call: " + *outcome.failure;
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

// ---- Cases

const std::vector<ProblemShape> kShapes = {batch_shape(2, 129, 129),
                                           batch_shape(1, 192, 192),
                                           batch_shape(1, 127, 200),
                                           batch_shape(1, 200, 65),
                                           batch_shape(1, 1, 130, 6, 1),
                                           batch_shape(2, 1, 1),
                                           packed_shape({17, 0, 140, 1}, {33, 5, 140, 0})};

std::vector<Task> hard_tasks(uint64_t seed) {
  const std::pair<const char*, const char*> programs[] = {
      {"lse below -88",
       "attention low() {\n  score = qk * rsqrt(head_dim) - 150\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n"},
      {"logits x20", "attention large() {\n  score = 20 * qk * rsqrt(head_dim)\n  weights = softmax(score)\n}\n"},
      {"logits x60", "attention larger() {\n  score = 60 * qk * rsqrt(head_dim)\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n"},
      {"logits grow", "attention grow() {\n  score = qk * rsqrt(head_dim) + 0.5 * k_idx\n  weights = softmax(score)\n}\n"},
      {"logits fall", "attention fall() {\n  score = qk * rsqrt(head_dim) - 0.5 * k_idx\n  weights = softmax(score)\n}\n"},
      {"rows that keep nothing",
       "attention few() {\n  score = qk * rsqrt(head_dim)\n  mask = k_pos <= q_pos - 70\n  weights = softmax(score)\n}\n"},
      {"nothing kept", "attention none() {\n  score = qk * rsqrt(head_dim)\n  mask = k_idx < 0\n  weights = softmax(score)\n}\n"},
      {"sigmoid far out", "attention far() {\n  score = 8 * qk * rsqrt(head_dim) - 12\n  weights = sigmoid(score)\n}\n"},
  };
  std::vector<Task> tasks;
  for (const auto& [name, text] : programs) {
    for (const auto& [dtype, dim] : {std::pair(DType::kBF16, 64), std::pair(DType::kF16, 128)}) {
      Task task;
      task.name = fmt::format("hard '{}'", name);
      task.c.text = text;
      task.c.dtype = dtype;
      task.c.head_dim = task.c.v_dim = dim;
      task.c.seed = seed + tasks.size();
      task.c.problems = {batch_shape(1, 193, 193, 4, 4), batch_shape(1, 130, 64, 4, 1)};
      task.accuracy = dtype == DType::kBF16 ? Accuracy::kFast : Accuracy::kHigh;
      tasks.push_back(task);
    }
  }
  return tasks;
}

// Steps of 32 queries and of 64; two warpgroups that have the same pairs, each of which adds once to the gradient of a parameter.
std::vector<Task> wide_tasks(uint64_t seed) {
  constexpr std::pair<int, int> kDims[] = {{192, 128}, {136, 64}, {256, 256}, {136, 160}, {192, 128}, {128, 192}, {168, 200}};
  std::vector<Task> tasks = example_tasks(seed, kShapes);
  for (size_t i = 0; i < tasks.size(); ++i) {
    std::tie(tasks[i].c.head_dim, tasks[i].c.v_dim) = kDims[i % std::size(kDims)];
    tasks[i].deterministic = i % 4 == 3;
  }
  return tasks;
}

class GpuBackward : public testing::Test {
 protected:
  void SetUp() override {
    const std::string why = missing_for_gpu();
    if (!why.empty()) GTEST_SKIP() << "GPU tests skipped: " << why;
  }
};

TEST_F(GpuBackward, AgreesWithTheReference) {
  Runner runner("rounding of P, dS and the results", check);
  runner.run_all(all_tasks(kShapes));
  EXPECT_EQ(runner.failures(), 0u);
}

TEST_F(GpuBackward, HardProgramsAgreeWithTheReference) {
  Runner runner("rounding of P, dS and the results", check);
  runner.run_all(hard_tasks(number_of("ATTUNE_GPU_SEED", 1)));
  EXPECT_EQ(runner.failures(), 0u);
}

TEST_F(GpuBackward, WideHeadsAgreeWithTheReference) {
  Runner runner("rounding of P, dS and the results", check);
  runner.run_all(wide_tasks(number_of("ATTUNE_GPU_SEED", 1)));
  EXPECT_EQ(runner.failures(), 0u);
}

TEST_F(GpuBackward, DeterministicAgreesWithTheReference) {
  Runner runner("rounding of P, dS and the results", check);
  const uint64_t seed = number_of("ATTUNE_GPU_SEED", 1);
  for (std::vector<Task> tasks : {example_tasks(seed, kShapes), hard_tasks(seed)}) {
    for (Task& task : tasks) task.deterministic = true;
    runner.run_all(tasks);
  }
  EXPECT_EQ(runner.failures(), 0u);
}

constexpr char kBiased[] =
    "attention biased(slopes: grad f32[heads], gain: grad f32 = 1.5) {\n  score = gain * qk * rsqrt(head_dim) - slopes[h] * (q_pos - "
    "k_pos)\n"
    "  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";

// One problem with its plan.
struct Fixed {
  Case c;
  codegen::Ir ir;
  ProblemData data;
  Variant variant;
  BackwardCall call;

  static Case case_of(uint64_t seed, const ProblemShape& shape) {
    Case c;
    c.text = kBiased;
    c.dtype = DType::kBF16;
    c.head_dim = c.v_dim = 64;
    c.seed = seed;
    c.problems = {shape};
    return c;
  }
  static PlanOptions options() {
    PlanOptions options;
    options.device = device_under_test();
    options.backward = true;
    return options;
  }
  explicit Fixed(uint64_t seed, const ProblemShape& shape = batch_shape(2, 300, 500, 8, 2))
      : c(case_of(seed, shape)),
        ir(reference_ir(c)),
        data(random_data(ir, c, 0)),
        variant(compile(c.text)),
        call(variant, c, ir, data, options()) {}
};

// Sums in memory come in any order, and a last bit of the dtype may follow.
void expect_same(const CallResult& got, const CallResult& want, const std::string& what) {
  constexpr double kLastBits = 1e-3;
  EXPECT_LT(difference(got.dq, want.dq).relative(), kLastBits) << what << ": dq";
  EXPECT_LT(difference(got.dk, want.dk).relative(), kLastBits) << what << ": dk";
  EXPECT_LT(difference(got.dv, want.dv).relative(), kLastBits) << what << ": dv";
  for (size_t i = 0; i < want.param_grads.size(); ++i) {
    EXPECT_LT(difference(got.param_grads[i], want.param_grads[i]).relative(), kLastBits) << what << ": parameter " << i;
  }
}

TEST_F(GpuBackward, GivesTheSameEveryTime) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "streams are a GPU's";
  Fixed fixed(1);
  const runtime::GpuStream stream(0);
  fixed.call.run(stream.get());
  fixed.call.run_backward(stream.get());
  const CallResult first = fixed.call.backward_result(stream.get());
  for (int i = 0; i < 30; ++i) {
    for (int repeat = 0; repeat < 10; ++repeat) fixed.call.enqueue_backward(stream.get());
    expect_same(fixed.call.backward_result(stream.get()), first, fmt::format("after {} calls", 10 * (i + 1)));
    if (HasFailure()) break;
  }
}

// Blocks of keys enough that many of one head are at work together, key heads that several query heads share, lengths that are no multiple
// of a tile, and sequences of which some have no key, no query or a single block.
class GpuBackwardDeterministic : public GpuBackward, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Examples, GpuBackwardDeterministic,
                         ::testing::Values("softmax", "causal", "flash_sigmoid", "window", "alibi", "t5_bias", "dense_bias", "sink",
                                           "documents"),
                         [](const auto& info) { return std::string(info.param); });
TEST_P(GpuBackwardDeterministic, HasTheSameBits) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "streams are a GPU's";
  const uint64_t repeats = number_of("ATTUNE_GPU_REPEATS", 200);
  const ProblemShape shapes[] = {batch_shape(1, 1500, 1500, 4, 2), packed_shape({300, 0, 1000, 1, 700}, {300, 5, 1000, 0, 900})};
  const std::string name = fmt::format("example {}", GetParam());
  Fixed other(7, batch_shape(1, 700, 700, 8, 8));  // at work at the same time, so that CTAs start in other places
  const runtime::GpuStream stream(0), beside(0);
  other.call.run(beside.get());
  for (Task& task : example_tasks(1, {shapes[0]})) {
    if (!task.name.ends_with(name) || task.c.strided) continue;
    for (const ProblemShape& shape : shapes) {
      std::vector<std::pair<int, int>> dims = {{task.c.head_dim, task.c.v_dim}};
      if (task.name.ends_with("causal")) dims.insert(dims.end(), {{96, 96}, {192, 128}, {192, 192}, {256, 256}});
      for (const auto& [head_dim, v_dim] : dims) {
        task.c.problems = {shape};
        task.c.head_dim = head_dim;
        task.c.v_dim = v_dim;
        SCOPED_TRACE(fmt::format("{}, {}", task.name, describe(task.c)));
        const codegen::Ir ir = reference_ir(task.c);
        const ProblemData data = random_data(ir, task.c, 0);
        PlanOptions options;
        options.device = device_under_test();
        options.deterministic = true;
        BackwardCall call(compile(task.c.text, {.constants = task.c.constants}), task.c, ir, data, options);
        call.run(stream.get());
        call.run_backward(stream.get());
        const CallResult first = call.backward_result(stream.get());
        for (uint64_t i = 0; i < repeats; ++i) {
          if (i % 2 == 0) other.call.enqueue_backward(beside.get());
          if (i % 5 != 0) {
            call.enqueue_backward(stream.get());
            continue;
          }
          call.run_backward(stream.get());
          const CallResult again = call.backward_result(stream.get());
          ASSERT_EQ(again.dq, first.dq) << "call " << i;
          ASSERT_EQ(again.dk, first.dk) << "call " << i;
          ASSERT_EQ(again.dv, first.dv) << "call " << i;
          ASSERT_EQ(again.param_grads, first.param_grads) << "call " << i;
        }
      }
    }
  }
}

TEST_F(GpuBackward, CanBeCapturedAndReplayed) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "graphs are a GPU's";
  Fixed fixed(2);
  const runtime::GpuStream stream(0);
  fixed.call.run(stream.get());
  fixed.call.run_backward(stream.get());
  const CallResult want = fixed.call.backward_result(stream.get());
  Fixed again(2);  // a plan whose backward pass has never run
  again.call.run(stream.get());
  again.call.poison(stream.get());
  stream.synchronize();
  const test::CudaGraph graph(0, stream.get(), [&] { again.call.enqueue_backward(stream.get()); });
  for (int i = 0; i < 3; ++i) {
    graph.launch();
    expect_same(again.call.backward_result(stream.get()), want, fmt::format("replay {}", i));
  }
}

TEST_F(GpuBackward, StreamsDoNotDisturbEachOther) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "streams are a GPU's";
  Fixed one(3), two(4);
  const runtime::GpuStream first(0), second(0);
  const auto alone = [](Fixed& fixed, const runtime::GpuStream& stream) {
    fixed.call.run(stream.get());
    fixed.call.run_backward(stream.get());
    return fixed.call.backward_result(stream.get());
  };
  const CallResult want_one = alone(one, first), want_two = alone(two, second);
  for (int i = 0; i < 50; ++i) {
    one.call.enqueue_backward(first.get());
    two.call.enqueue_backward(second.get());
  }
  expect_same(one.call.backward_result(first.get()), want_one, "the first stream");
  expect_same(two.call.backward_result(second.get()), want_two, "the second stream");
}

// The sum of out * dout along a random direction, by differences of the forward pass in double: no derivative is taken anywhere.
TEST_F(GpuBackward, AgreesWithFiniteDifferences) {
  Fixed fixed(5, batch_shape(1, 40, 50, 2, 1));
  std::optional<runtime::GpuStream> stream;
  if (device_under_test().kind == Device::kCuda) stream.emplace(0);
  void* const handle = stream ? stream->get() : nullptr;
  fixed.call.run(handle);
  fixed.call.run_backward(handle);
  const CallResult got = fixed.call.backward_result(handle);
  const codegen::Ir ir = reference_ir(fixed.c, HeadDims::kConstant);
  const auto loss = [&](const ProblemData& data) {
    std::vector<ReferenceProblem> problems = reference_problems(data);
    for (ReferenceProblem& problem : problems) problem.wants_gradients = false;
    const std::vector<double> out = reference_result(ir, problems, data).out;
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * data.dout[i];
    return sum;
  };
  std::mt19937_64 random(7);
  const auto check_one = [&](const char* name, const std::vector<double>& gradient,
                             const std::function<std::vector<double>&(ProblemData&)>& of, double bar = 1e-2) {
    // Along the gradient itself the change is greatest; a random part finds what points elsewhere.
    std::vector<double> direction = gradient;
    double scale = 0;
    for (double x : gradient) scale += x * x;
    scale = std::sqrt(scale / static_cast<double>(gradient.size()));
    std::normal_distribution<double> normal;
    for (double& x : direction) x = x / scale + 0.3 * normal(random);
    constexpr double kStep = 1e-4;
    ProblemData up = fixed.data, down = fixed.data;
    double along = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      of(up)[i] += kStep * direction[i];
      of(down)[i] -= kStep * direction[i];
      along += gradient[i] * direction[i];
    }
    const double difference = (loss(up) - loss(down)) / (2 * kStep);
    EXPECT_NEAR(along / difference, 1, bar) << name;
  };
  check_one("dq", got.dq, [](ProblemData& data) -> std::vector<double>& { return data.q; });
  check_one("dk", got.dk, [](ProblemData& data) -> std::vector<double>& { return data.k; });
  check_one("dv", got.dv, [](ProblemData& data) -> std::vector<double>& { return data.v; });
  // Its terms cancel, and delta comes from an output of 16 bits.
  check_one("dslopes", got.param_grads[0], [](ProblemData& data) -> std::vector<double>& { return data.tensor_params[0]->values; }, 5e-2);
}

// Host time of a call on a plan that has run before.
TEST_F(GpuBackward, CallsCostLittleHostTime) {
  if (device_under_test().kind == Device::kCpu) GTEST_SKIP() << "calls of the CPU do the work themselves";
  Fixed fixed(6);
  const runtime::GpuStream stream(0);
  fixed.call.run(stream.get());
  fixed.call.run_backward(stream.get());
  stream.synchronize();
  std::vector<double> microseconds;
  for (int round = 0; round < 50; ++round) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < 20; ++i) fixed.call.enqueue_backward(stream.get());
    microseconds.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() / 20);
    stream.synchronize();
  }
  std::sort(microseconds.begin(), microseconds.end());
  std::cout << fmt::format("host time of a call: median {:.1f} us\n", microseconds[microseconds.size() / 2]);
  EXPECT_LE(microseconds[microseconds.size() / 2], 25);  // three launches
}

}  // namespace
}  // namespace attune::numeric
