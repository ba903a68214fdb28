// The GPU runtime on a GPU: kernels compiled here for the device at hand, run by GpuExecutor. Needs NVRTC, and a driver of CUDA 12 or
// newer.
#include "runtime/gpu_executor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "runtime/cuda_driver.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"
#include "runtime/gpu_memory.h"
#include "tests/gpu/cuda_graph.h"

namespace attune::runtime {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int kDevice = 0;
constexpr int kCount = 1 << 16;  // elements of x and y

// y = x * factor, by way of the workspace; then y += 1.
constexpr char kArithmetic[] = R"(
struct ScaleParams { const float* x; float* scratch; float factor; int count; };
struct AddParams { const float* scratch; float* y; int count; };

extern "C" __global__ void scale(const __grid_constant__ ScaleParams p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.count) p.scratch[i] = p.x[i] * p.factor;
}
extern "C" __global__ void add_one(const __grid_constant__ AddParams p) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.count) p.y[i] = p.scratch[i] + 1;
}
)";

// Copies boxes of 64 x 64 by the bulk tensor copy engine into shared memory, from there to another tensor, and element by element, the
// swizzle undone, to a plain array that has room for all of every box.
constexpr char kTensorCopy[] = R"(
struct alignas(64) TensorMap { unsigned long long words[16]; };
struct Params { TensorMap from, to; unsigned short* plain; int plain_columns; };
constexpr int kBox = 64, kBoxBytes = kBox * kBox * 2;

extern "C" __global__ void tensor_copy(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) unsigned char box[];
  __shared__ __align__(8) unsigned long long barrier_word;
  const unsigned barrier = __cvta_generic_to_shared(&barrier_word), to = __cvta_generic_to_shared(box);
  const int column = blockIdx.x * kBox, row = blockIdx.y * kBox;
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(kBoxBytes) : "memory");
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
                 "l"(&p.from), "r"(barrier), "r"(column), "r"(row)
                 : "memory");
  }
  __syncthreads();
  unsigned done = 0;
  while (!done) {
    asm volatile("{ .reg .pred ready; mbarrier.try_wait.parity.shared::cta.b64 ready, [%1], 0; selp.u32 %0, 1, 0, ready; }"
                 : "=r"(done) : "r"(barrier) : "memory");
  }
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&p.to), "r"(to), "r"(column), "r"(row)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
  for (int i = threadIdx.x; i < kBox * kBox; i += blockDim.x) {
    const int r = i / kBox, c = i % kBox;
    const int offset = r * 128 + ((c / 8) ^ (r % 8)) * 16 + c % 8 * 2;
    p.plain[(row + r) * p.plain_columns + column + c] = *reinterpret_cast<unsigned short*>(box + offset);
  }
}
)";

struct ScaleArgument {
  const float* x;
  float* scratch;
  float factor;
  int32_t count;
};
struct AddArgument {
  const float* scratch;
  float* y;
  int32_t count;
};
struct CopyArgument {
  alignas(64) std::byte from[128], to[128];
  void* plain;
  int32_t plain_columns;
};

template <typename T>
std::vector<std::byte> bytes_of(const T& value) {
  std::vector<std::byte> bytes(sizeof(T));
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

template <typename Error, typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

// A stream of x -> y by the two kernels; tensors are x and y.
GpuPlan arithmetic_plan(const std::string& arch, float factor) {
  GpuPlan plan;
  plan.sources = {{kArithmetic, arch}};
  plan.workspace_bytes = kCount * sizeof(float);
  GpuLaunch scale;
  scale.kernel = "scale";
  scale.grid = {kCount / 256, 1, 1};
  scale.block = {256, 1, 1};
  scale.argument = bytes_of(ScaleArgument{nullptr, nullptr, factor, kCount});
  scale.patches = {{GpuPatch::Kind::kTensor, 0, offsetof(ScaleArgument, x)},
                   {GpuPatch::Kind::kWorkspace, 0, offsetof(ScaleArgument, scratch)}};
  GpuLaunch add = scale;
  add.kernel = "add_one";
  add.argument = bytes_of(AddArgument{nullptr, nullptr, kCount});
  add.patches = {{GpuPatch::Kind::kWorkspace, 0, offsetof(AddArgument, scratch)}, {GpuPatch::Kind::kTensor, 1, offsetof(AddArgument, y)}};
  plan.launches = {scale, add};
  return plan;
}

constexpr int kRows = 100, kColumns = 136;               // of the tensor that is copied
constexpr int kPlainRows = 128, kPlainColumns = 64 * 3;  // whole boxes

// Tensors are from, to, plain.
GpuPlan copy_plan(const std::string& arch) {
  const auto map = [](int tensor) { return GpuTensorMap{tensor, FloatType::kBF16, {kColumns, kRows}, {kColumns * 2}, {64, 64}}; };
  GpuPlan plan;
  plan.sources = {{kTensorCopy, arch}};
  GpuLaunch copy;
  copy.kernel = "tensor_copy";
  copy.grid = {kPlainColumns / 64, kPlainRows / 64, 1};
  copy.block = {128, 1, 1};
  copy.shared_bytes = 200 << 10;  // more than a kernel has without asking
  copy.argument = bytes_of(CopyArgument{{}, {}, nullptr, kPlainColumns});
  copy.tensor_maps = {map(0), map(1)};
  copy.patches = {{GpuPatch::Kind::kTensorMap, 0, offsetof(CopyArgument, from)},
                  {GpuPatch::Kind::kTensorMap, 1, offsetof(CopyArgument, to)},
                  {GpuPatch::Kind::kTensor, 2, offsetof(CopyArgument, plain)}};
  plan.launches = {copy};
  return plan;
}

std::vector<float> numbers(float first) {
  std::vector<float> values(kCount);
  std::iota(values.begin(), values.end(), first);
  return values;
}

// x, y and the workspace of the arithmetic plan.
struct Arithmetic {
  GpuBuffer x{kDevice, kCount * sizeof(float)}, y{kDevice, kCount * sizeof(float)}, workspace{kDevice, kCount * sizeof(float)};

  void run(GpuExecutor& executor, void* stream) const {
    void* const tensors[] = {x.data(), y.data()};
    executor.run(stream, tensors, workspace.data());
  }

  void set(const std::vector<float>& values, void* stream) const {
    x.copy_from_host(values.data(), x.size(), 0, stream);
    y.zero(stream);
    synchronize(kDevice, stream);
  }

  // Whether y = x * factor + 1.
  testing::AssertionResult is_done(const std::vector<float>& values, float factor, void* stream) const {
    std::vector<float> result(kCount);
    y.copy_to_host(result.data(), y.size(), 0, stream);
    synchronize(kDevice, stream);
    for (size_t i = 0; i < result.size(); ++i) {
      const float want = values[i] * factor + 1;
      if (result[i] != want) return testing::AssertionFailure() << "y[" << i << "] is " << result[i] << ", expected " << want;
    }
    return testing::AssertionSuccess();
  }
};

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string no_device = error_of<EnvironmentError>([&] { device_ = gpu_device(kDevice); });
    const std::string no_nvrtc = error_of<EnvironmentError>([] { nvrtc_version(); });
    for (const std::string& problem : {no_device, no_nvrtc}) {
      if (problem != "nothing thrown") GTEST_SKIP() << "GPU tests skipped: " << problem;
    }
    arch_ = device_.sm() + (device_.major >= 9 ? "a" : "");
  }

  std::unique_ptr<GpuExecutor> make(const GpuPlan& plan) const {
    // Nothing is kept on disk: what these tests run was compiled by them.
    static const ObjectCache cache(CacheFolder{"", "not used"}, 0);
    return std::make_unique<GpuExecutor>(plan, get_gpu_binaries(plan, cache), kDevice);
  }

  GpuDevice device_;
  std::string arch_;
};

TEST_F(GpuTest, Device) {
  fmt::print("{}: {}, {} SMs, {:.1f} GiB, {} bytes of shared memory a block, {} MiB of L2, memory at {} MHz, driver {}, NVRTC {} ({})\n",
             device_.name, device_.sm(), device_.multiprocessors, static_cast<double>(device_.memory_bytes) / (1 << 30),
             device_.shared_bytes, device_.l2_bytes >> 20, device_.memory_clock_khz / 1000, device_.driver_version,
             nvrtc_version().identity, nvrtc_version().path);
  EXPECT_GT(device_.multiprocessors, 0);
  EXPECT_GE(device_.shared_bytes, size_t{48} << 10);
  EXPECT_GT(device_.l2_bytes, 0u);
  EXPECT_EQ(gpu_devices().size() > 0, true);
  EXPECT_THAT(error_of<EnvironmentError>([] { gpu_device(99); }), StartsWith("no GPU 99: the driver shows "));
}

TEST_F(GpuTest, TensorsAndWorkspace) {
  const auto executor = make(arithmetic_plan(arch_, 3));
  const GpuStream stream(kDevice);
  const Arithmetic data;
  for (const float first : {0.f, -1000.f}) {
    const std::vector<float> x = numbers(first);
    data.set(x, stream.get());
    void* const tensors[] = {data.x.data(), data.y.data()};
    executor->check(tensors, data.workspace.data());
    data.run(*executor, stream.get());
    EXPECT_TRUE(data.is_done(x, 3, stream.get()));
  }
}

TEST_F(GpuTest, TheDefaultStream) {
  const auto executor = make(arithmetic_plan(arch_, 2));
  const Arithmetic data;
  const std::vector<float> x = numbers(5);
  data.set(x, nullptr);
  data.run(*executor, nullptr);
  EXPECT_TRUE(data.is_done(x, 2, nullptr));
}

TEST_F(GpuTest, TensorMaps) {
  if (device_.major < 9) GTEST_SKIP() << device_.sm() << " has no bulk tensor copies";
  const auto executor = make(copy_plan(arch_));
  const GpuStream stream(kDevice);
  std::vector<uint16_t> from(kRows * kColumns), to(from.size()), plain(kPlainRows * kPlainColumns);
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint16_t>(i * 7 + 1);
  const GpuBuffer plain_buffer(kDevice, plain.size() * 2);
  // More addresses than are remembered, and the first ones again.
  std::vector<GpuBuffer> buffers;
  for (int i = 0; i < 6; ++i) buffers.emplace_back(kDevice, from.size() * 2);
  for (const size_t pair : {0, 1, 2, 0}) {
    const GpuBuffer &a = buffers[2 * pair], &b = buffers[2 * pair + 1];
    a.copy_from_host(from.data(), a.size(), 0, stream.get());
    b.zero(stream.get());
    std::fill(plain.begin(), plain.end(), uint16_t{0xffff});
    plain_buffer.copy_from_host(plain.data(), plain_buffer.size(), 0, stream.get());
    void* const tensors[] = {a.data(), b.data(), plain_buffer.data()};
    executor->check(tensors, nullptr);
    executor->run(stream.get(), tensors, nullptr);
    b.copy_to_host(to.data(), b.size(), 0, stream.get());
    plain_buffer.copy_to_host(plain.data(), plain_buffer.size(), 0, stream.get());
    stream.synchronize();
    EXPECT_EQ(to, from) << "pair " << pair;
    int wrong = 0;
    for (int r = 0; r < kPlainRows; ++r) {
      for (int c = 0; c < kPlainColumns; ++c) {
        // Zero outside of the tensor.
        const uint16_t want = r < kRows && c < kColumns ? from[static_cast<size_t>(r * kColumns + c)] : uint16_t{0};
        wrong += plain[static_cast<size_t>(r * kPlainColumns + c)] != want ? 1 : 0;
      }
    }
    EXPECT_EQ(wrong, 0) << "of " << plain.size() << " elements, pair " << pair;
    from[0] = static_cast<uint16_t>(from[0] + 1);
  }
}

TEST_F(GpuTest, CallsOfAStreamRunInOrder) {
  // y of each call is x of the next: ((x * 1 + 1) * 1 + 1) ...
  const auto executor = make(arithmetic_plan(arch_, 1));
  const GpuStream stream(kDevice);
  const Arithmetic data;
  const std::vector<float> x = numbers(0);
  data.set(x, stream.get());
  constexpr int kCalls = 500;
  for (int i = 0; i < kCalls; ++i) {
    void* const forth[] = {data.x.data(), data.y.data()};
    void* const back[] = {data.y.data(), data.x.data()};
    executor->run(stream.get(), i % 2 == 0 ? forth : back, data.workspace.data());
  }
  std::vector<float> result(kCount);
  data.x.copy_to_host(result.data(), data.x.size(), 0, stream.get());
  stream.synchronize();
  for (size_t i = 0; i < result.size(); ++i) ASSERT_EQ(result[i], x[i] + kCalls) << i;
}

TEST_F(GpuTest, StreamsAndThreadsDoNotDisturbEachOther) {
  const auto executor = make(arithmetic_plan(arch_, 2));
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const GpuStream stream(kDevice);
      const Arithmetic data;
      for (int round = 0; round < 20; ++round) {
        const std::vector<float> x = numbers(static_cast<float>(100 * t + round));
        data.set(x, stream.get());
        data.run(*executor, stream.get());
        EXPECT_TRUE(data.is_done(x, 2, stream.get())) << "thread " << t << ", round " << round;
      }
    });
  }
}

TEST_F(GpuTest, ACallCanBeCapturedAndReplayed) {
  const auto executor = make(arithmetic_plan(arch_, 4));
  const GpuStream stream(kDevice);
  const Arithmetic data;
  const std::vector<float> untouched = numbers(0);
  data.set(untouched, stream.get());
  // The first call of this executor: nothing is left to be loaded.
  const test::CudaGraph graph(kDevice, stream.get(), [&] { data.run(*executor, stream.get()); });
  std::vector<float> y(kCount, -1);
  data.y.copy_to_host(y.data(), data.y.size(), 0, stream.get());
  stream.synchronize();
  EXPECT_EQ(y, std::vector<float>(kCount, 0)) << "capturing must not run";
  for (const float first : {0.f, 10.f, 20.f}) {
    const std::vector<float> x = numbers(first);
    data.set(x, stream.get());
    graph.launch();
    EXPECT_TRUE(data.is_done(x, 4, stream.get())) << "x from " << first << " on";
  }
}

TEST_F(GpuTest, AnExecutorCanBeMadeDuringACapture) {
  const GpuStream stream(kDevice);
  const Arithmetic data;
  const std::vector<float> x = numbers(0);
  data.set(x, stream.get());
  std::unique_ptr<GpuExecutor> executor;
  const test::CudaGraph graph(kDevice, stream.get(), [&] {
    executor = make(arithmetic_plan(arch_, 5));
    data.run(*executor, stream.get());
  });
  graph.launch();
  EXPECT_TRUE(data.is_done(x, 5, stream.get()));
}

// A context of the test's own, current while it lives.
class OwnContext {
 public:
  OwnContext() { cuda::call(cuda::driver(), create_, "making a context", &context_, 0u, kDevice); }
  ~OwnContext() { destroy_(context_); }  // and takes it off the stack
  OwnContext(const OwnContext&) = delete;
  OwnContext& operator=(const OwnContext&) = delete;

 private:
  const cuda::DriverFunction<cuda::Context*, unsigned, cuda::Device> create_ = cuda::driver().find("cuCtxCreate", 3020);
  const cuda::DriverFunction<cuda::Context> destroy_ = cuda::driver().find("cuCtxDestroy", 4000);
  cuda::Context context_ = nullptr;
};

TEST_F(GpuTest, RunsInTheContextsOfTheCaller) {
  const auto executor = make(arithmetic_plan(arch_, 6));
  const std::vector<float> x = numbers(3);
  const auto run_here = [&] {
    const GpuStream stream(kDevice);
    const Arithmetic data;
    data.set(x, stream.get());
    data.run(*executor, stream.get());
    EXPECT_TRUE(data.is_done(x, 6, stream.get()));
  };
  run_here();  // the primary one
  for (int i = 0; i < 3; ++i) {
    const OwnContext context;
    run_here();
    if (i == 1) {
      const OwnContext inner;
      run_here();
    }
    run_here();
  }
  run_here();
}

TEST_F(GpuTest, OutOfMemoryIsSaidAndNotForGood) {
  const size_t too_much = gpu_memory(kDevice).total_bytes + (size_t{1} << 30);
  EXPECT_EQ(error_of<EnvironmentError>([&] { GpuBuffer(kDevice, too_much); }),
            fmt::format("cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2), out of memory; while allocating {} bytes on GPU 0", too_much));
  EXPECT_NE(GpuBuffer(kDevice, 1 << 20).data(), nullptr);
}

TEST_F(GpuTest, MemoryOfBuffersIsGivenBack) {
  const GpuBuffer first(kDevice, 1 << 20);
  const size_t before = gpu_memory(kDevice).free_bytes;
  for (int i = 0; i < 10; ++i) GpuBuffer(kDevice, size_t{256} << 20);
  EXPECT_EQ(gpu_memory(kDevice).free_bytes, before);
}

TEST_F(GpuTest, ErrorsOfTheDriverNameTheLaunch) {
  GpuPlan plan = arithmetic_plan(arch_, 1);
  plan.launches[0].block = {2048, 1, 1};
  const auto executor = make(plan);
  const Arithmetic data;
  EXPECT_THAT(error_of<EnvironmentError>([&] { data.run(*executor, nullptr); }),
              AllOf(StartsWith("cuLaunchKernelEx: CUDA_ERROR_INVALID_VALUE (1), invalid argument; while launching kernel 'scale', grid "),
                    HasSubstr("block 2048x1x1, 0 bytes of dynamic shared memory")));
  plan = arithmetic_plan(arch_, 1);
  plan.launches[1].kernel = "absent";
  EXPECT_THAT(error_of<EnvironmentError>([&] { make(plan); }),
              AllOf(HasSubstr("CUDA_ERROR_NOT_FOUND (500)"), HasSubstr("while loading kernel 'absent'")));
  plan = arithmetic_plan(arch_, 1);
  plan.launches[0].shared_bytes = static_cast<uint32_t>(device_.shared_bytes) + 16;
  EXPECT_EQ(
      error_of<EnvironmentError>([&] { make(plan); }),
      fmt::format("kernel 'scale' needs {} bytes of shared memory a block, GPU 0 has {}", device_.shared_bytes + 16, device_.shared_bytes));
  plan = arithmetic_plan(arch_, 1);
  plan.launches[0].argument.resize(32);
  EXPECT_EQ(error_of<std::logic_error>([&] { make(plan); }), "kernel 'scale' takes an argument of 24 bytes, the plan has 32");
  // Code of another architecture.
  const std::string error = error_of<EnvironmentError>([&] { make(arithmetic_plan(device_.major == 8 ? "sm_90a" : "sm_80", 1)); });
  fmt::print("code of another architecture: {}\n", error);
  EXPECT_THAT(error, AllOf(HasSubstr("CUDA_ERROR_"), HasSubstr("; while loading ")));
}

TEST_F(GpuTest, CheckRefusesWhatIsNotOnTheGpu) {
  const auto executor = make(arithmetic_plan(arch_, 1));
  const Arithmetic data;
  std::vector<float> host(kCount);
  const auto check = [&](void* x, void* workspace) {
    void* const tensors[] = {x, data.y.data()};
    return error_of<ArgumentError>([&] { executor->check(tensors, workspace); });
  };
  EXPECT_EQ(check(data.x.data(), data.workspace.data()), "nothing thrown");
  EXPECT_EQ(check(host.data(), data.workspace.data()), fmt::format("tensor 0: {} is not memory of GPU 0", static_cast<void*>(host.data())));
  EXPECT_EQ(check(data.x.data(), nullptr), "workspace: 0x0 is not memory of GPU 0");
  const GpuBuffer small(kDevice, 64);
  EXPECT_THAT(check(data.x.data(), small.data()),
              AllOf(StartsWith("workspace: "), testing::EndsWith(fmt::format("expected {}", kCount * sizeof(float)))));
}

// Median over rounds of the host's time of one call, in us; the stream is emptied between rounds, so that no call waits for a full queue.
template <typename Call>
double host_us(const GpuStream& stream, const Call& call) {
  constexpr int kRounds = 31, kCalls = 100;
  std::vector<double> times;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; ++i) call(i);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    times.push_back(took.count() / kCalls);
    stream.synchronize();
  }
  std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
  return times[kRounds / 2];
}

TEST_F(GpuTest, ACallTakesTheHostLittleTime) {
  const GpuStream stream(kDevice);
  const Arithmetic data;
  GpuPlan one = arithmetic_plan(arch_, 1);
  one.launches.pop_back();
  const auto single = make(one), two = make(arithmetic_plan(arch_, 1));
  const double of_one = host_us(stream, [&](int) { data.run(*single, stream.get()); });
  const double of_two = host_us(stream, [&](int) { data.run(*two, stream.get()); });
  fmt::print("host time of a call: one launch {:.2f} us, two launches {:.2f} us (driver included, median of 31 x 100 calls)\n", of_one,
             of_two);
  EXPECT_LT(of_one, 10);
  EXPECT_LT(of_two, 20);
  if (device_.major < 9) return;
  const auto copy = make(copy_plan(arch_));
  std::vector<GpuBuffer> tensors;
  for (int i = 0; i < 8; ++i) tensors.emplace_back(kDevice, kRows * kColumns * 2);
  const GpuBuffer plain(kDevice, kPlainRows * kPlainColumns * 2);
  const auto run = [&](int i) {
    void* const addresses[] = {tensors[static_cast<size_t>(i) % 8].data(), tensors[static_cast<size_t>(i + 1) % 8].data(), plain.data()};
    copy->run(stream.get(), addresses, nullptr);
  };
  const double same = host_us(stream, [&](int) { run(0); }), changing = host_us(stream, run);
  fmt::print("with two tensor maps: {:.2f} us at the same addresses, {:.2f} us at changing ones\n", same, changing);
  EXPECT_LT(same, 10);
  EXPECT_LT(changing, 15);
}

TEST_F(GpuTest, EventsTakeTheTime) {
  const auto executor = make(arithmetic_plan(arch_, 1));
  const GpuStream stream(kDevice);
  const Arithmetic data;
  data.run(*executor, stream.get());
  GpuEvent start(kDevice), stop(kDevice);
  start.record(stream.get());
  for (int i = 0; i < 100; ++i) data.run(*executor, stream.get());
  stop.record(stream.get());
  const double milliseconds = stop.milliseconds_since(start);
  fmt::print("100 calls of two small launches take {:.3f} ms on the GPU\n", milliseconds);
  EXPECT_GT(milliseconds, 0);
  EXPECT_LT(milliseconds, 1000);
}

TEST_F(GpuTest, CompilingIsShort) {
  const CompiledGpu compiled = compile_gpu({kTensorCopy, device_.major >= 9 ? arch_ : "sm_90a"});
  fmt::print("NVRTC: a kernel of {} bytes in {:.3f} s\n", compiled.cubin.size(), compiled.seconds);
  EXPECT_LT(compiled.seconds, 5);
}

}  // namespace
}  // namespace attune::runtime
