// attune.h on a GPU, with a driver that only records (fake_cuda.h) and the real NVRTC: what is launched with which arguments.
#include <dlfcn.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "api/attune.h"
#include "api/variant_impl.h"
#include "codegen/cuda_emitter.h"
#include "codegen/gpu_planner.h"
#include "runtime/gpu_memory.h"
#include "runtime/nvrtc.h"
#include "runtime/shared_library.h"
#include "tests/unit/api_util.h"
#include "tests/unit/fake_cuda.h"
#include "tests/unit/runtime_temporary.h"

namespace attune {
namespace {

using runtime::GpuBuffer;
using test::error_of;
using test::FakeCuda;
using test::FakeLaunch;
using test::FakeTensorMap;
using testing::HasSubstr;

constexpr int kMultiprocessors = 16;  // few, so that these shapes are large problems
constexpr Shape kShape = {.batch = 2, .heads = 4, .kv_heads = 2, .q_len = 100, .k_len = 130, .head_dim = 64, .v_dim = 64};
constexpr char kCausal[] = "attention causal() {\n  score = qk * rsqrt(head_dim)\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";
constexpr char kBiased[] =
    "attention biased(bias: f32 = -log(k_len), slopes: f32[heads], table: f32[batch, k_len], gain: grad f32 = 2) {\n"
    "  score = gain * qk + bias + slopes[h] + table[b, k_idx]\n  weights = sigmoid(score)\n}\n";
constexpr char kIndexed[] =
    "attention indexed(doc: i32[batch, k_len], table: f32[8]) {\n  score = qk + table[doc[b, k_idx]]\n  weights = softmax(score)\n}\n";

FakeCuda* find_fake() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  using Get = FakeCuda*();
  Get* get = library ? reinterpret_cast<Get*>(dlsym(library, test::kFakeCudaSymbol)) : nullptr;
  return get ? get() : nullptr;
}

void* address(uintptr_t value) {
  return reinterpret_cast<void*>(value);
}

PlanOptions on_gpu(DType dtype = DType::kBF16) {
  PlanOptions options;
  options.dtype = dtype;
  options.device.kind = Device::kCuda;
  return options;
}

// Tensors that nobody reads, at addresses of their own.
ForwardTensors tensors_of(const Shape& s, DType dtype = DType::kBF16) {
  ForwardTensors tensors;
  tensors.q = {address(0x10000), dtype, {s.batch, s.q_len, s.heads, s.head_dim}, {}};
  tensors.k = {address(0x20000), dtype, {s.batch, s.k_len, s.kv_heads, s.head_dim}, {}};
  tensors.v = {address(0x30000), dtype, {s.batch, s.k_len, s.kv_heads, s.v_dim}, {}};
  tensors.out = {address(0x40000), dtype, {s.batch, s.q_len, s.heads, s.v_dim}, {}};
  tensors.stream = address(0x77);
  return tensors;
}

class ApiGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    fake_ = find_fake();
    ASSERT_TRUE(fake_) << "the driver is not the one that records";
    if (!runtime::open_nvrtc_library().is_open()) GTEST_SKIP() << "no NVRTC";
    fake_->launches.clear();
    fake_->faults.clear();
    fake_->multiprocessors = kMultiprocessors;
  }

  // The kernel of such a plan; tells the driver how long its argument is.
  codegen::GpuKernel kernel_of(const Variant& variant, const codegen::GpuKernelOptions& options, codegen::GpuSkeleton skeleton) {
    codegen::GpuProblem problem;
    problem.batch = 2, problem.heads = 4, problem.kv_heads = 2;
    problem.q_len = problem.k_len = 100;
    problem.total_q = problem.total_k = 100;
    problem.multiprocessors = kMultiprocessors;
    problem.q = problem.k = problem.v = problem.out = {100 * 4 * 64, 4 * 64, 64};
    problem.aligned = skeleton == codegen::GpuSkeleton::kSm90;
    return kernel_of(variant, options, problem);
  }
  codegen::GpuKernel kernel_of(const Variant& variant, const codegen::GpuKernelOptions& options, const codegen::GpuProblem& problem) {
    const Variant::Impl& impl = *VariantAccess::impl(variant);
    const codegen::Lowered& lowered = impl.typed(options.head_dim, options.v_dim)->lowered();
    codegen::GpuKernel kernel =
        codegen::emit_gpu_forward(lowered, impl.canonical, options, codegen::default_config(lowered, options, problem));
    fake_->argument_bytes[kernel.name] = kernel.params_bytes;
    return kernel;
  }
  codegen::GpuKernel sm90(const Variant& variant, const codegen::GpuKernelOptions& options = {}) {
    return kernel_of(variant, options, codegen::GpuSkeleton::kSm90);
  }
  codegen::GpuKernel sm80(const Variant& variant, const codegen::GpuKernelOptions& options = {}) {
    return kernel_of(variant, options, codegen::GpuSkeleton::kSm80);
  }

  template <typename T>
  static T field(const codegen::GpuKernel& kernel, const FakeLaunch& launch, std::string_view name, size_t index = 0) {
    for (const codegen::GpuField& known : kernel.fields) {
      if (known.name != name) continue;
      EXPECT_LE((index + 1) * sizeof(T), known.bytes) << name;
      T value;
      std::memcpy(&value, launch.argument.data() + known.offset + index * sizeof(T), sizeof(T));
      return value;
    }
    ADD_FAILURE() << "no field " << name;
    return {};
  }

  FakeCuda* fake_ = nullptr;
};

TEST_F(ApiGpuTest, ContiguousTensors) {
  const Variant variant = compile(kCausal);
  const codegen::GpuKernel kernel = sm90(variant);
  const Plan plan = variant.plan(kShape, on_gpu());
  EXPECT_THAT(plan.describe(), testing::StartsWith("cuda:0, sm90 "));
  EXPECT_GE(plan.workspace_bytes(), 8u);
  ForwardTensors tensors = tensors_of(kShape);
  tensors.lse = {address(0x50000), DType::kF32, {2, 4, 100}, {}};
  tensors.workspace = address(0x60000);
  plan.forward(tensors);
  ASSERT_EQ(fake_->launches.size(), 1u);
  const FakeLaunch& launch = fake_->launches[0];
  EXPECT_EQ(launch.kernel, "causal_forward");
  EXPECT_EQ(launch.stream, address(0x77));
  const auto map = field<FakeTensorMap>(kernel, launch, "q_map");
  EXPECT_EQ(map.address, address(0x10000));
  EXPECT_EQ(map.last_dim, 2u);
  EXPECT_EQ(map.last_stride, 100u * 4 * 64 * 2);
  EXPECT_EQ(field<void*>(kernel, launch, "out"), address(0x40000));
  EXPECT_EQ(field<void*>(kernel, launch, "lse"), address(0x50000));
  EXPECT_EQ(field<int64_t>(kernel, launch, "lse_stride", 1), 100);
  EXPECT_EQ(field<void*>(kernel, launch, "counter"), address(0x60000));
  EXPECT_EQ(field<int>(kernel, launch, "q_len"), 100);
  EXPECT_EQ(field<int>(kernel, launch, "k_len"), 130);
}

TEST_F(ApiGpuTest, OtherLengthsNeitherEmitNorCompile) {
  const Variant variant = compile(kCausal);
  sm90(variant);
  const Plan first = variant.plan(kShape, on_gpu());
  const int compiled = runtime::compile_gpu_count();
  for (int64_t k_len : {1, 64, 1000}) {
    Shape shape = kShape;
    shape.k_len = k_len;
    const Plan plan = variant.plan(shape, on_gpu());
    plan.forward(tensors_of(shape));
  }
  EXPECT_EQ(runtime::compile_gpu_count(), compiled);
  EXPECT_EQ(VariantAccess::impl(variant)->gpu_kernels.size(), 1u);
  EXPECT_EQ(fake_->launches.size(), 3u);
}

TEST_F(ApiGpuTest, OtherStridesShareTheKernelOrTakeAnotherSkeleton) {
  const Variant variant = compile(kCausal);
  const codegen::GpuKernel kernel = sm90(variant);
  const Plan plan = variant.plan(kShape, on_gpu());
  const auto& kernels = VariantAccess::impl(variant)->gpu_kernels;
  ForwardTensors tensors = tensors_of(kShape);
  tensors.q.strides = {4 * 100 * 64, 64, 100 * 64, 1};  // [batch, heads, q_len, dim] in memory
  plan.forward(tensors);
  EXPECT_EQ(kernels.size(), 1u);
  EXPECT_EQ(field<int64_t>(kernel, fake_->launches.back(), "q_stride", 2), 6400);

  const codegen::GpuKernel other = sm80(variant);
  tensors.q.data = address(0x10002);
  plan.forward(tensors);
  EXPECT_EQ(kernels.size(), 2u);
  EXPECT_EQ(field<int64_t>(other, fake_->launches.back(), "q_stride", 1), 64);
  EXPECT_EQ(field<void*>(other, fake_->launches.back(), "q"), address(0x10002));
  EXPECT_EQ(field<int>(other, fake_->launches.back(), "vector_loads"), 0);
  EXPECT_THAT(plan.describe(), HasSubstr("sm90"));
}

TEST_F(ApiGpuTest, Parameters) {
  const Variant variant = compile(kBiased);
  const codegen::GpuKernel kernel = sm90(variant);
  PlanOptions options = on_gpu();
  options.tensors["slopes"] = {address(0x80000), DType::kF32, {4}, {3}};
  options.tensors["table"] = {address(0x90000), DType::kF32, {1, 130}, {}};  // broadcast
  const Plan plan = variant.plan(kShape, options);
  plan.forward(tensors_of(kShape));
  const FakeLaunch& launch = fake_->launches.back();
  EXPECT_FLOAT_EQ(field<float>(kernel, launch, "p_bias"), -std::log(130.0f));
  EXPECT_EQ(field<void*>(kernel, launch, "t_slopes"), address(0x80000));
  EXPECT_EQ(field<int64_t>(kernel, launch, "t_slopes_stride"), 3);
  EXPECT_EQ(field<int>(kernel, launch, "t_slopes_dim"), 4);
  EXPECT_EQ(field<int64_t>(kernel, launch, "t_table_stride", 0), 0);
  EXPECT_EQ(field<int64_t>(kernel, launch, "t_table_stride", 1), 1);
  EXPECT_EQ(field<int>(kernel, launch, "t_table_dim", 0), 2);
  EXPECT_EQ(*field<const float*>(kernel, launch, "p_gain"), 2.0f);  // the plan's own
  options.tensors["gain"] = {address(0xa0000), DType::kF32, {1}, {}};
  variant.plan(kShape, options).forward(tensors_of(kShape));
  EXPECT_EQ(field<void*>(kernel, fake_->launches.back(), "p_gain"), address(0xa0000));
}

TEST_F(ApiGpuTest, PackedSequences) {
  const Variant variant = compile(kBiased);
  codegen::GpuKernelOptions kernel_options;
  kernel_options.packed = true;
  const codegen::GpuKernel kernel = sm90(variant, kernel_options);
  PlanOptions options = on_gpu();
  const std::vector<int32_t> cu_q = {0, 100, 103}, cu_k = {0, 7, 137};
  options.cu_q = cu_q.data();
  options.cu_k = cu_k.data();
  options.tensors["slopes"] = {address(0x80000), DType::kF32, {4}, {}};
  options.tensors["table"] = {address(0x90000), DType::kF32, {2, 130}, {}};
  const Plan plan = variant.plan(kShape, options);
  ForwardTensors tensors = tensors_of(kShape);
  tensors.q.shape = tensors.out.shape = {103, 4, 64};
  tensors.k.shape = tensors.v.shape = {137, 2, 64};
  plan.forward(tensors);
  const FakeLaunch& launch = fake_->launches.back();
  EXPECT_EQ(field<const int*>(kernel, launch, "cu_q")[2], 103);
  EXPECT_EQ(field<const int*>(kernel, launch, "cu_k")[1], 7);
  EXPECT_EQ(field<int64_t>(kernel, launch, "q_stride", 0), 0);
  EXPECT_EQ(field<int64_t>(kernel, launch, "q_stride", 1), 256);
  EXPECT_EQ(field<int>(kernel, launch, "p_bias_given"), 0);
  options.scalars["bias"] = 0.5;
  variant.plan(kShape, options).forward(tensors);
  EXPECT_EQ(field<int>(kernel, fake_->launches.back(), "p_bias_given"), 1);
  EXPECT_EQ(field<float>(kernel, fake_->launches.back(), "p_bias"), 0.5f);
}

TEST_F(ApiGpuTest, IndexFlag) {
  const Variant variant = compile(kIndexed);
  const codegen::GpuKernel kernel = sm90(variant);
  PlanOptions options = on_gpu();
  options.tensors["doc"] = {address(0x80000), DType::kI32, {2, 130}, {}};
  options.tensors["table"] = {address(0x90000), DType::kF32, {8}, {}};
  const Plan plan = variant.plan(kShape, options);
  plan.forward(tensors_of(kShape));
  plan.check();
  *field<int*>(kernel, fake_->launches.back(), "index_flag") = 1;
  EXPECT_EQ(error_of<ArgumentError>([&] { plan.check(); }),
            "'indexed': an index that depends on data was outside its tensor and was clamped");
  plan.check();
}

TEST_F(ApiGpuTest, NothingToCompute) {
  const Variant variant = compile(kCausal);
  Shape shape = kShape;
  shape.q_len = 0;
  const Plan plan = variant.plan(shape, on_gpu());
  plan.forward(tensors_of(shape));
  EXPECT_TRUE(fake_->launches.empty());
  EXPECT_EQ(plan.workspace_bytes(), 0u);
  EXPECT_EQ(plan.describe(), "cuda:0, no rows");
}

TEST_F(ApiGpuTest, NoKeysRunOnSm80) {
  const Variant variant = compile(kCausal);
  const codegen::GpuKernel kernel = sm80(variant);
  Shape shape = kShape;
  shape.k_len = 0;
  const Plan plan = variant.plan(shape, on_gpu());
  ForwardTensors tensors = tensors_of(shape);
  tensors.k = tensors.v = {};
  plan.forward(tensors);
  ASSERT_EQ(fake_->launches.size(), 1u);
  EXPECT_EQ(field<void*>(kernel, fake_->launches[0], "k"), nullptr);
  EXPECT_THAT(plan.describe(), testing::StartsWith("cuda:0, sm80 "));
}

TEST_F(ApiGpuTest, SmallProblemsAreSplit) {
  const Variant variant = compile(kCausal);
  Shape shape = kShape;
  shape.q_len = 1;
  shape.k_len = 1000;  // 16 blocks, 4 tiles, 2 CTAs a multiprocessor
  codegen::GpuProblem problem;
  problem.batch = 2, problem.heads = 4, problem.kv_heads = 2, problem.q_len = 1, problem.k_len = 1000;
  const codegen::GpuKernel kernel = kernel_of(variant, {}, problem);
  const Plan plan = variant.plan(shape, on_gpu());
  EXPECT_EQ(plan.describe(), "cuda:0, sm80 16x64x2, 8 splits, 2 heads a tile");
  EXPECT_EQ(plan.workspace_bytes(), 64u + 4 * 8 * (16 * 64 + 32 * 4) * sizeof(float));
  plan.forward(tensors_of(shape));
  ASSERT_EQ(fake_->launches.size(), 1u);
  EXPECT_EQ(field<int>(kernel, fake_->launches[0], "splits"), 8);
  EXPECT_EQ(field<std::byte*>(kernel, fake_->launches[0], "parts"), field<std::byte*>(kernel, fake_->launches[0], "counter") + 64);
  shape.k_len = 100;
  const int compiled = runtime::compile_gpu_count();
  EXPECT_EQ(variant.plan(shape, on_gpu()).describe(), "cuda:0, sm80 16x64x2, 2 heads a tile");
  EXPECT_EQ(runtime::compile_gpu_count(), compiled);
}

TEST_F(ApiGpuTest, Errors) {
  const Variant variant = compile(kCausal);
  sm90(variant);
  const auto plan_error = [&](const Shape& shape, const PlanOptions& options) {
    return error_of<std::exception>([&] { variant.plan(shape, options); });
  };
  EXPECT_EQ(plan_error(kShape, on_gpu(DType::kF32)), "dtype is f32, expected f16 or bf16 on cuda: the matrix units of a GPU have no f32");
  Shape shape = kShape;
  shape.head_dim = 264;
  EXPECT_EQ(plan_error(shape, on_gpu()), "shape: head_dim is 264, expected 1..256 on cuda");
  PlanOptions options = on_gpu();
  options.device.ordinal = 7;
  EXPECT_EQ(plan_error(kShape, options), "no GPU 7: the driver shows 2");
  const Plan plan = variant.plan(kShape, on_gpu());
  EXPECT_EQ(error_of<ArgumentError>([&] { plan.backward({}); }), "backward is not available on cuda yet, use the CPU");
  ForwardTensors tensors = tensors_of(kShape);
  tensors.q.dtype = DType::kF16;
  EXPECT_EQ(error_of<ArgumentError>([&] { plan.forward(tensors); }), "tensor 'q': expected bf16[2, 100, 4, 64], found f16[2, 100, 4, 64]");
  tensors = tensors_of(kShape);
  tensors.k.data = nullptr;
  EXPECT_EQ(error_of<ArgumentError>([&] { plan.forward(tensors); }), "tensor 'k': data is null");
}

TEST_F(ApiGpuTest, ForbidJit) {
  const test::TemporaryFolder folder;
  const test::ScopedVariable cache("ATTUNE_CACHE_DIR", folder.path().string());
  const std::string text = kCausal;
  CompileOptions forbidding;
  forbidding.forbid_jit = true;
  Shape shape = kShape;
  shape.head_dim = 32;  // that no other test uses
  codegen::GpuKernelOptions kernel_options;
  kernel_options.head_dim = 32;
  sm90(compile(text), kernel_options);
  const Variant strict = compile(text, forbidding);
  const int compiled = runtime::compile_gpu_count();
  EXPECT_THAT(error_of<EnvironmentError>([&] { strict.plan(shape, on_gpu()); }),
              testing::MatchesRegex("kernel 'causal_forward' \\(sm_90a, bf16, head_dim 32, v_dim 64, sm90 .*\\) is not in the cache '.*', "
                                    "and compiling is forbidden \\(forbid_jit, ATTUNE_DISABLE_JIT\\)"));
  EXPECT_EQ(runtime::compile_gpu_count(), compiled);
  compile(text).warm_up(shape, on_gpu());
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 1);
  strict.plan(shape, on_gpu());
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 1);
}

TEST_F(ApiGpuTest, TheEnvironmentForbidsAndDumps) {
  const test::TemporaryFolder cache_folder, dump_folder;
  const test::ScopedVariable cache("ATTUNE_CACHE_DIR", cache_folder.path().string());
  const test::ScopedVariable dump("ATTUNE_DUMP", dump_folder.path().string());
  Shape shape = kShape;
  shape.head_dim = 24;  // that no other test uses
  codegen::GpuKernelOptions kernel_options;
  kernel_options.head_dim = 24;
  sm90(compile(kCausal), kernel_options);
  {
    const test::ScopedVariable forbid("ATTUNE_DISABLE_JIT", "1");
    EXPECT_THAT(error_of<EnvironmentError>([&] { compile(kCausal).plan(shape, on_gpu()); }), HasSubstr("compiling is forbidden"));
    EXPECT_THAT(error_of<EnvironmentError>([&] { compile(kCausal).plan(shape); }),
                testing::MatchesRegex("the forward pass of 'causal' is not in the cache '.*', and compiling is forbidden .*"));
  }
  const int compiled = runtime::compile_gpu_count();
  compile(kCausal).warm_up(shape, on_gpu());
  std::vector<std::string> extensions;
  for (const auto& entry : std::filesystem::directory_iterator(dump_folder.path())) {
    EXPECT_THAT(entry.path().filename().string(), testing::StartsWith("causal_forward_"));
    EXPECT_GT(entry.file_size(), 1000u);
    extensions.push_back(entry.path().extension());
  }
  EXPECT_THAT(extensions, testing::UnorderedElementsAre(".cu", ".cubin"));
  compile(kCausal).warm_up(shape, on_gpu());
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 1);
  const test::ScopedVariable always("ATTUNE_ALWAYS_COMPILE", "1");
  compile(kCausal).warm_up(shape, on_gpu());
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 2);
}

TEST_F(ApiGpuTest, ThePlansOwnWorkspaceIsZeroAndBroadcastKeysRunOnSm80) {
  const Variant variant = compile(kCausal);
  sm90(variant);
  const Plan plan = variant.plan(kShape, on_gpu());
  const codegen::GpuKernel kernel = sm80(variant);
  ForwardTensors tensors = tensors_of(kShape);
  tensors.k.strides = {0, 2 * 64, 64, 1};
  plan.forward(tensors);
  EXPECT_EQ(field<int64_t>(kernel, fake_->launches.back(), "k_stride", 0), 0);
  EXPECT_EQ(field<int>(kernel, fake_->launches.back(), "vector_loads"), 1);
  const codegen::GpuKernel fast = sm90(variant);
  tensors.k.strides.clear();
  plan.forward(tensors);
  const int* counter = field<const int*>(fast, fake_->launches.back(), "counter");
  EXPECT_EQ(counter[0], 0);
  EXPECT_EQ(counter[1], 0);
}

TEST_F(ApiGpuTest, PlansInTheBackground) {
  const Variant variant = compile(kCausal);
  sm90(variant);
  std::future<Plan> future = variant.plan_async(kShape, on_gpu());
  future.get().forward(tensors_of(kShape));
  EXPECT_EQ(fake_->launches.size(), 1u);
}

}  // namespace
}  // namespace attune
