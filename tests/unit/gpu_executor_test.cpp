// gpu_executor.h, gpu_module.h, tensor_map_cache.h, gpu_device.h and gpu_memory.h on a driver that only records (fake_cuda.h).
#include "runtime/gpu_executor.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "runtime/driver_report.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"
#include "runtime/gpu_memory.h"
#include "tests/unit/fake_cuda.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Not inlined: GCC 12 then takes the pairs for mismatched ones.
__attribute__((noinline)) void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace attune::runtime {
namespace {

using test::FakeContext;
using test::FakeCuda;
using test::FakeLaunch;
using test::FakeTensorMap;
using testing::HasSubstr;

FakeCuda* find_fake() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  using Get = FakeCuda*();
  Get* get = library ? reinterpret_cast<Get*>(dlsym(library, test::kFakeCudaSymbol)) : nullptr;
  return get ? get() : nullptr;
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

void* address(uintptr_t value) {
  return reinterpret_cast<void*>(value);
}

template <typename T>
T read(const FakeLaunch& launch, size_t offset) {
  T value;
  std::memcpy(&value, launch.argument.data() + offset, sizeof(value));
  return value;
}

GpuTensorMap map_of(int tensor, uint64_t rows) {
  return {tensor, FloatType::kBF16, {128, 16, rows, 2}, {256, 4096, 4096 * rows}, {64, 1, 128, 1}};
}

// A map and two addresses: 256 bytes that are 0, 1, 2, ... but for what is patched.
GpuLaunch first_launch() {
  GpuLaunch launch;
  launch.kernel = "first";
  launch.grid = {3, 2, 1};
  launch.block = {384, 1, 1};
  launch.shared_bytes = 200000;
  launch.argument.resize(256);
  for (size_t i = 0; i < launch.argument.size(); ++i) launch.argument[i] = static_cast<std::byte>(i);
  launch.tensor_maps = {map_of(1, 512)};
  launch.patches = {{GpuPatch::Kind::kTensorMap, 0, 0}, {GpuPatch::Kind::kTensor, 2, 128}, {GpuPatch::Kind::kWorkspace, 64, 144}};
  return launch;
}

GpuLaunch second_launch() {
  GpuLaunch launch;
  launch.kernel = "second";
  launch.argument.resize(256);
  launch.tensor_maps = {map_of(0, 512), map_of(1, 512)};
  launch.patches = {{GpuPatch::Kind::kTensor, 0, 0}, {GpuPatch::Kind::kTensorMap, 1, 64}};
  return launch;
}

GpuPlan plan_of(std::vector<GpuLaunch> launches) {
  GpuPlan plan;
  plan.sources = {{"source", "sm_90a"}};
  plan.launches = std::move(launches);
  plan.workspace_bytes = 1024;
  return plan;
}

std::shared_ptr<const GpuBinary> binary_of(uint64_t key) {
  return std::make_shared<const GpuBinary>(GpuBinary{{key, 0}, "cubin", {}, {}});
}

class GpuExecutorTest : public testing::Test {
 protected:
  void SetUp() override {
    fake_ = find_fake();
    ASSERT_NE(fake_, nullptr) << "libcuda.so.1 is not the one of tests/unit/fake_cuda.cpp";
    *fake_ = {};
  }

  std::unique_ptr<GpuExecutor> make(GpuPlan plan, int device = 0) {
    const std::shared_ptr<const GpuBinary> binaries[] = {binary_of(++last_key_)};
    return std::make_unique<GpuExecutor>(std::move(plan), binaries, device);
  }

  std::string plan_error(const GpuLaunch& launch) {
    return error_of<std::logic_error>([&] { make(plan_of({launch})); });
  }

  FakeCuda* fake_ = nullptr;
  static inline uint64_t last_key_ = 0;
  void* const tensors_[3] = {address(0x10000), address(0x20000), address(0x30000)};
  void* const workspace_ = address(0x40000);
};

using GpuDevices = GpuExecutorTest;
using GpuMemoryTest = GpuExecutorTest;

TEST_F(GpuExecutorTest, FillsInArgumentsInOrder) {
  const auto executor = make(plan_of({first_launch(), second_launch()}));
  executor->run(address(0x77), tensors_, workspace_);
  ASSERT_EQ(fake_->launches.size(), 2u);
  const FakeLaunch& first = fake_->launches[0];
  EXPECT_EQ(first.kernel, "first");
  EXPECT_EQ(first.grid, (std::array<uint32_t, 3>{3, 2, 1}));
  EXPECT_EQ(first.block, (std::array<uint32_t, 3>{384, 1, 1}));
  EXPECT_EQ(first.shared_bytes, 200000u);
  EXPECT_EQ(first.stream, address(0x77));
  EXPECT_EQ(read<void*>(first, 128), tensors_[2]);
  EXPECT_EQ(read<void*>(first, 144), address(0x40040));
  for (size_t i : {136, 143, 152, 255}) EXPECT_EQ(first.argument[i], static_cast<std::byte>(i));
  const auto map = read<FakeTensorMap>(first, 0);
  EXPECT_EQ(map.address, tensors_[1]);
  EXPECT_EQ(map.type, 9);  // bf16
  EXPECT_EQ(map.interleave, 0);
  EXPECT_EQ(map.swizzle, 3);    // 128 bytes
  EXPECT_EQ(map.promotion, 3);  // 256 bytes
  EXPECT_EQ(map.fill, 0);       // zero
  EXPECT_EQ(map.rank, 4u);
  EXPECT_EQ(map.last_dim, 2u);
  EXPECT_EQ(map.last_stride, 4096u * 512);
  EXPECT_EQ(map.last_box, 1u);
  const FakeLaunch& second = fake_->launches[1];
  EXPECT_EQ(second.kernel, "second");
  EXPECT_EQ(read<void*>(second, 0), tensors_[0]);
  EXPECT_EQ(read<FakeTensorMap>(second, 64).address, tensors_[1]);
}

TEST_F(GpuExecutorTest, ATensorThatIsNotGivenIsNull) {
  const auto executor = make(plan_of({first_launch()}));
  void* const tensors[] = {nullptr, address(0x20000), nullptr};
  executor->run(nullptr, tensors, workspace_);
  EXPECT_EQ(read<void*>(fake_->launches.at(0), 128), nullptr);
}

TEST_F(GpuExecutorTest, AnEmptyGridIsNotLaunched) {
  GpuLaunch empty = first_launch();
  empty.grid[1] = 0;
  make(plan_of({empty, second_launch()}))->run(nullptr, tensors_, workspace_);
  ASSERT_EQ(fake_->launches.size(), 1u);
  EXPECT_EQ(fake_->launches[0].kernel, "second");
}

TEST_F(GpuExecutorTest, EncodesAMapOnceForAnAddress) {
  const auto executor = make(plan_of({first_launch(), second_launch()}));
  const auto run_at = [&](uintptr_t value) {
    void* const tensors[] = {tensors_[0], address(value), tensors_[2]};
    executor->run(nullptr, tensors, workspace_);
    EXPECT_EQ(read<FakeTensorMap>(fake_->launches.back(), 64).address, address(value));
    return fake_->encodings;
  };
  EXPECT_EQ(run_at(0x1000), 1);  // the same view in both launches
  EXPECT_EQ(run_at(0x1000), 1);
  EXPECT_EQ(run_at(0x2000), 2);
  EXPECT_EQ(run_at(0x3000), 3);
  EXPECT_EQ(run_at(0x4000), 4);
  EXPECT_EQ(run_at(0x1000), 4);
  EXPECT_EQ(run_at(0x5000), 5);  // in place of the oldest
  EXPECT_EQ(run_at(0x1000), 6);
  EXPECT_EQ(run_at(0x5000), 6);
}

TEST_F(GpuExecutorTest, AskingTooMuchOfTheDriverSaysWhat) {
  const auto executor = make(plan_of({first_launch()}));
  fake_->faults["cuLaunchKernelEx"] = 2;
  EXPECT_EQ(
      error_of<EnvironmentError>([&] { executor->run(nullptr, tensors_, workspace_); }),
      "cuLaunchKernelEx: CUDA_ERROR_OUT_OF_MEMORY (2), out of memory; while launching kernel 'first', grid 3x2x1, block 384x1x1, 200000 "
      "bytes of dynamic shared memory");
  fake_->faults = {{"cuTensorMapEncodeTiled", 1}};
  void* const elsewhere[] = {tensors_[0], address(0x90000), tensors_[2]};
  EXPECT_EQ(
      error_of<EnvironmentError>([&] { executor->run(nullptr, elsewhere, workspace_); }),
      "cuTensorMapEncodeTiled: CUDA_ERROR_OTHER (1), something else; while encoding a tensor map with dims [128, 16, 512, 2], strides "
      "[256, 4096, 2097152] in bytes, box [64, 1, 128, 1] at address 0x90000");
  fake_->faults = {{"cuLibraryGetKernel", 500}};
  EXPECT_EQ(error_of<EnvironmentError>([&] { make(plan_of({first_launch()})); }),
            "cuLibraryGetKernel: CUDA_ERROR_NOT_FOUND (500), named symbol not found; while loading kernel 'first'");
  fake_->faults = {{"cuLibraryLoadData", 209}};
  EXPECT_EQ(error_of<EnvironmentError>([&] { make(plan_of({first_launch()})); }),
            "cuLibraryLoadData: CUDA_ERROR_OTHER (209), something else; while loading a module of 5 bytes");
}

TEST_F(GpuExecutorTest, RefusesWrongCalls) {
  const auto executor = make(plan_of({first_launch()}));
  const auto run = [&](std::vector<void*> tensors, void* workspace) {
    return error_of<ArgumentError>([&] { executor->run(nullptr, tensors, workspace); });
  };
  EXPECT_EQ(run({tensors_[0], tensors_[1]}, workspace_), "2 tensors, expected 3");
  EXPECT_EQ(run({tensors_[0], nullptr, tensors_[2]}, workspace_), "tensor 1: not given, kernel 'first' needs it");
  EXPECT_EQ(run({tensors_[0], address(0x20008), tensors_[2]}, workspace_), "tensor 1: its address 0x20008 is not a multiple of 16 bytes");
  EXPECT_EQ(run({tensors_[0], tensors_[1], tensors_[2]}, nullptr), "workspace: 0x0, expected 1024 bytes at a multiple of 16");
  EXPECT_EQ(run({tensors_[0], tensors_[1], tensors_[2]}, address(0x40001)), "workspace: 0x40001, expected 1024 bytes at a multiple of 16");
  EXPECT_TRUE(fake_->launches.empty());
  EXPECT_EQ(fake_->encodings, 0);
}

TEST_F(GpuExecutorTest, AWrongPlanIsOurBug) {
  GpuLaunch launch = first_launch();
  launch.source = 1;
  EXPECT_EQ(plan_error(launch), "launch of 'first': source 1 of 1");
  launch = first_launch();
  launch.argument.resize(5000);
  EXPECT_EQ(plan_error(launch), "launch of 'first': an argument of 5000 bytes, expected at most 4096");
  launch = first_launch();
  launch.patches[1].offset = 252;
  EXPECT_EQ(plan_error(launch), "launch of 'first': a patch of 8 bytes at 252 in an argument of 256");
  launch.patches[1].offset = 132;
  EXPECT_EQ(plan_error(launch), "launch of 'first': a patch at 132, expected a multiple of 8");
  launch = first_launch();
  launch.patches[0].offset = 16;
  EXPECT_EQ(plan_error(launch), "launch of 'first': a patch at 16, expected a multiple of 64");
  launch = first_launch();
  launch.patches[0].index = 1;
  EXPECT_EQ(plan_error(launch), "launch of 'first': tensor map 1 of 1");
  launch = first_launch();
  launch.patches[2].index = 1025;
  EXPECT_EQ(plan_error(launch), "launch of 'first': byte 1025 of a workspace of 1024");
  launch = first_launch();
  launch.tensor_maps[0].strides[0] = 250;
  EXPECT_EQ(
      plan_error(launch),
      "a tensor map with dims [128, 16, 512, 2], strides [250, 4096, 2097152] in bytes, box [64, 1, 128, 1]: expected strides that are "
      "multiples of 16 below 2^40");
  launch = first_launch();
  launch.tensor_maps[0].box[0] = 128;
  EXPECT_THAT(plan_error(launch), HasSubstr("expected box rows of at most 128 bytes, a multiple of 16"));
  fake_->argument_bytes["first"] = 192;
  EXPECT_EQ(plan_error(first_launch()), "kernel 'first' takes an argument of 192 bytes, the plan has 256");
  EXPECT_EQ(error_of<std::logic_error>([] { GpuExecutor(plan_of({}), {}, 0); }), "0 binaries of 1 sources");
}

TEST_F(GpuExecutorTest, SharedMemoryUpToWhatTheDeviceHas) {
  make(plan_of({first_launch(), second_launch()}));
  // All that there is, so that plans which share a kernel do not lower each other's limit.
  EXPECT_EQ(fake_->max_dynamic_shared["first"], (227 << 10) - 1024);
  EXPECT_EQ(fake_->max_dynamic_shared.count("second"), 0u);
  GpuLaunch launch = first_launch();
  launch.shared_bytes = 227 << 10;
  EXPECT_EQ(error_of<EnvironmentError>([&] { make(plan_of({launch})); }),
            "kernel 'first' needs 233472 bytes of shared memory a block, GPU 0 has 232448");
}

TEST_F(GpuExecutorTest, WithoutAContextItRunsInThePrimaryOne) {
  for (int device : {0, 1}) {
    const auto executor = make(plan_of({second_launch()}), device);
    executor->run(nullptr, tensors_, workspace_);
    EXPECT_EQ(fake_->launches.back().context, 100u + static_cast<unsigned>(device));
    EXPECT_TRUE(fake_->contexts.empty());
  }
  const auto executor = make(plan_of({second_launch()}));
  EXPECT_THROW(executor->run(nullptr, {}, workspace_), ArgumentError);
  fake_->faults["cuLaunchKernelEx"] = 1;
  EXPECT_THROW(executor->run(nullptr, tensors_, workspace_), EnvironmentError);
  EXPECT_TRUE(fake_->contexts.empty());
}

TEST_F(GpuExecutorTest, InTheCallersContextIfItIsOfTheDevice) {
  FakeContext own = {7, 0}, another = {8, 0}, elsewhere = {9, 1};
  const auto executor = make(plan_of({second_launch()}));
  EXPECT_EQ(fake_->functions, 1);
  const auto run_in = [&](FakeContext& context) {
    fake_->contexts = {&context};
    executor->run(nullptr, tensors_, workspace_);
    EXPECT_EQ(fake_->contexts, std::vector<FakeContext*>{&context});
    return fake_->launches.back().context;
  };
  EXPECT_EQ(run_in(own), 7u);
  EXPECT_EQ(fake_->functions, 2);
  EXPECT_EQ(run_in(another), 8u);
  EXPECT_EQ(run_in(own), 7u);
  EXPECT_EQ(fake_->functions, 3);
  EXPECT_EQ(run_in(elsewhere), 100u);  // the primary one of the executor's device
  EXPECT_EQ(fake_->functions, 3);
  // A context at the same address that is not the same one.
  own.id = 10;
  EXPECT_EQ(run_in(own), 10u);
  EXPECT_EQ(fake_->functions, 4);
  EXPECT_EQ(fake_->library_loads, 1);
  fake_->contexts.clear();
}

TEST_F(GpuExecutorTest, ExecutorsOfOneBinaryShareItsModule) {
  const std::shared_ptr<const GpuBinary> binaries[] = {binary_of(++last_key_)};
  auto first = std::make_unique<GpuExecutor>(plan_of({first_launch()}), binaries, 0);
  auto second = std::make_unique<GpuExecutor>(plan_of({second_launch()}), binaries, 0);
  EXPECT_EQ(fake_->library_loads, 1);
  first.reset();
  EXPECT_EQ(fake_->library_unloads, 0);
  second->run(nullptr, tensors_, workspace_);
  second.reset();
  EXPECT_EQ(fake_->library_unloads, 1);
}

TEST_F(GpuExecutorTest, CheckAsksTheDriver) {
  const auto executor = make(plan_of({first_launch()}));
  const GpuBuffer tensor(0, 4096 * 512 * 2), plain(0, 16), workspace(0, 1024), foreign(1, 1024);
  const auto check = [&](std::vector<void*> tensors, void* scratch) {
    return error_of<ArgumentError>([&] { executor->check(tensors, scratch); });
  };
  void *const good = tensor.data(), *const small = plain.data(), *const scratch = workspace.data();
  EXPECT_EQ(check({nullptr, good, nullptr}, scratch), "nothing thrown");
  EXPECT_EQ(check({nullptr, good, small}, scratch), "nothing thrown");
  EXPECT_EQ(check({nullptr, good, small}, nullptr), "workspace: 0x0 is not memory of GPU 0");
  EXPECT_EQ(check({nullptr, good, small}, foreign.data()), fmt::format("workspace: {} is memory of GPU 1, expected GPU 0", foreign.data()));
  EXPECT_EQ(check({nullptr, small, small}, scratch), fmt::format("tensor 1: 16 bytes of memory from {} on, expected 4194304", small));
  EXPECT_EQ(check({nullptr, good, address(0x10)}, scratch), "tensor 2: 0x10 is not memory of GPU 0");
}

TEST_F(GpuExecutorTest, ARunAllocatesNothingAndIsShort) {
  const auto executor = make(plan_of({first_launch(), second_launch()}));
  fake_->records = false;
  executor->run(nullptr, tensors_, workspace_);
  const int64_t before = allocations;
  executor->run(nullptr, tensors_, workspace_);
  void* const elsewhere[] = {tensors_[0], address(0x90000), tensors_[2]};
  executor->run(nullptr, elsewhere, workspace_);
  EXPECT_EQ(allocations, before);

  constexpr int kRuns = 20000;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kRuns; ++i) executor->run(nullptr, tensors_, workspace_);
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  fmt::print("a run of two launches takes {:.2f} us of the host, the driver's time not counted\n", took.count() / kRuns);
  EXPECT_LT(took.count() / kRuns, 10);
}

TEST_F(GpuDevices, AreDescribed) {
  const std::vector<GpuDevice> devices = gpu_devices();
  ASSERT_EQ(devices.size(), 2u);
  const GpuDevice& device = devices[1];
  EXPECT_EQ(device.ordinal, 1);
  EXPECT_EQ(device.name, "Fake H100");
  EXPECT_EQ(device.sm(), "sm_90");
  EXPECT_EQ(device.multiprocessors, 132);
  EXPECT_EQ(device.memory_bytes, size_t{80} << 30);
  EXPECT_EQ(device.shared_bytes, 232448u);
  EXPECT_EQ(device.l2_bytes, size_t{50} << 20);
  EXPECT_EQ(device.memory_clock_khz, 2619000);
  EXPECT_EQ(device.driver_version, "13.0");
  EXPECT_EQ(error_of<EnvironmentError>([] { gpu_device(2); }), "no GPU 2: the driver shows 2");
  EXPECT_EQ(error_of<EnvironmentError>([] { gpu_device(-1); }), "no GPU -1: the driver shows 2");
  const GpuReport report = report_gpus();
  EXPECT_EQ(report.driver.version, "13.0");
  EXPECT_THAT(report.driver.path, HasSubstr("libcuda.so.1"));
  EXPECT_EQ(report.gpus.at(0), "Fake H100, sm_90, 132 SMs, 80 GiB");
}

TEST_F(GpuDevices, ATroubledDriverShowsNone) {
  fake_->faults["cuDeviceGetCount"] = 2;
  EXPECT_TRUE(gpu_devices().empty());
  EXPECT_EQ(error_of<EnvironmentError>([] { gpu_device(0); }),
            "cuDeviceGetCount: CUDA_ERROR_OUT_OF_MEMORY (2), out of memory; while counting devices");
}

TEST_F(GpuMemoryTest, BuffersCopyAndAreFreed) {
  {
    GpuBuffer buffer(1, 8);
    const uint32_t value = 0x01020304;
    buffer.zero();
    buffer.copy_from_host(&value, 4, 4);
    uint32_t read[2] = {9, 9};
    buffer.copy_to_host(read, 8);
    EXPECT_EQ(read[0], 0u);
    EXPECT_EQ(read[1], value);
    EXPECT_EQ(error_of<ArgumentError>([&] { buffer.copy_to_host(read, 8, 4); }),
              "copy_to_host: 8 bytes at 4 are not within the buffer's 8");
    const GpuBuffer moved = std::move(buffer);
    EXPECT_EQ(moved.size(), 8u);
    EXPECT_EQ(buffer.data(), nullptr);
    EXPECT_EQ(fake_->memory.size(), 1u);
    EXPECT_EQ(fake_->memory.begin()->second.second, 1);
  }
  EXPECT_TRUE(fake_->memory.empty());
  EXPECT_EQ(GpuBuffer(0, 0).data(), nullptr);
  EXPECT_EQ(error_of<EnvironmentError>([] { GpuBuffer(0, size_t{1} << 40); }),
            "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2), out of memory; while allocating 1099511627776 bytes on GPU 0");
  EXPECT_EQ(gpu_memory(0).free_bytes, size_t{80} << 30);
}

TEST_F(GpuMemoryTest, StreamsAndEvents) {
  const GpuStream stream(0);
  EXPECT_NE(stream.get(), nullptr);
  GpuEvent start(0), stop(0);
  start.record(stream.get());
  stop.record(stream.get());
  EXPECT_EQ(stop.milliseconds_since(start), 0.5);
  stream.synchronize();
}

}  // namespace
}  // namespace attune::runtime
