// attune.h on a GPU, with a driver that only records (fake_cuda.h) and the real NVRTC: what is launched with which arguments.
#include <dlfcn.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

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
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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
    fake_->knows_arguments = true;
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

TEST_F(ApiGpuTest, ABiasThatTheCopyEngineCanReadIsMapped) {
  const Variant variant =
      compile("attention bias(bias: bf16[heads, q_len, k_len]) {\n  score = qk + bias[h, q_idx, k_idx]\n  weights = softmax(score)\n}\n");
  codegen::GpuProblem problem;
  problem.batch = 2, problem.heads = 4, problem.kv_heads = 2;
  problem.q_len = 100, problem.multiprocessors = kMultiprocessors;
  problem.q = problem.k = problem.v = problem.out = {100 * 4 * 64, 4 * 64, 64};
  problem.k_len = 136;
  const codegen::GpuKernel kernel = kernel_of(variant, {}, problem);
  PlanOptions options = on_gpu();
  options.tensors["bias"] = {address(0x80000), DType::kBF16, {4, 100, 130}, {100 * 136, 136, 1}};
  const Plan plan = variant.plan(kShape, options);
  EXPECT_THAT(plan.describe(), HasSubstr(" stages of fed t0"));
  plan.forward(tensors_of(kShape));
  EXPECT_EQ(field<FakeTensorMap>(kernel, fake_->launches.back(), "t_bias_map").address, address(0x80000));
  EXPECT_EQ(field<void*>(kernel, fake_->launches.back(), "t_bias"), address(0x80000));

  problem.k_len = 137;  // rows of no multiple of 16 bytes
  kernel_of(variant, {}, problem);
  for (const auto& [where, row] : {std::pair(0x80002, 136), {0x80000, 131}}) {
    options.tensors["bias"] = {address(static_cast<uintptr_t>(where)), DType::kBF16, {4, 100, 130}, {100 * row, row, 1}};
    EXPECT_THAT(variant.plan(kShape, options).describe(), AllOf(HasSubstr("sm90"), Not(HasSubstr("fed"))));
  }
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

// ---- The backward pass

class BackwardTest : public ApiGpuTest {
 protected:
  void SetUp() override {
    ApiGpuTest::SetUp();
    if (!IsSkipped()) fake_->knows_arguments = false;
  }

  // The kernels of a plan for contiguous tensors, or for any.
  static codegen::GpuKernel backward_of(const Variant& variant, bool aligned = true) {
    const Variant::Impl& impl = *VariantAccess::impl(variant);
    const codegen::Lowered& lowered = impl.typed(64, 64)->lowered();
    codegen::GpuProblem problem;
    problem.q_len = problem.k_len = 1;
    problem.aligned = aligned;
    return codegen::emit_gpu_backward(lowered, impl.canonical, {}, codegen::default_backward_config(lowered, {}, problem));
  }

  static BackwardTensors backward_tensors(const Shape& s, bool softmax) {
    const ForwardTensors forward = tensors_of(s);
    BackwardTensors tensors;
    tensors.q = forward.q;
    tensors.k = forward.k;
    tensors.v = forward.v;
    if (softmax) {
      tensors.out = forward.out;
      tensors.lse = {address(0x50000), DType::kF32, {s.batch, s.heads, s.q_len}, {}};
    }
    const auto like = [](Tensor tensor, uintptr_t at) {
      tensor.data = address(at);
      return tensor;
    };
    tensors.dout = like(forward.out, 0x100000);
    tensors.dq = like(forward.q, 0x110000);
    tensors.dk = like(forward.k, 0x120000);
    tensors.dv = like(forward.v, 0x130000);
    tensors.stream = address(0x77);
    return tensors;
  }

  const FakeLaunch& launch_of(const std::string& kernel) const {
    for (const FakeLaunch& launch : fake_->launches) {
      if (launch.kernel == kernel) return launch;
    }
    throw std::out_of_range("no launch of " + kernel);
  }
};

TEST_F(BackwardTest, ContiguousTensors) {
  const Variant variant = compile(kCausal);
  const codegen::GpuKernel kernel = backward_of(variant);
  const Plan plan = variant.plan(kShape, on_gpu());
  EXPECT_GE(plan.backward_workspace_bytes(), size_t{2 * 4 * 100 * (64 + 2) * 4});
  BackwardTensors tensors = backward_tensors(kShape, true);
  tensors.workspace = address(0x600000);
  plan.backward(tensors);
  std::vector<std::string> names;
  for (const FakeLaunch& launch : fake_->launches) {
    names.push_back(launch.kernel);
    EXPECT_EQ(launch.stream, address(0x77));
  }
  EXPECT_THAT(names, testing::ElementsAre("causal_backward_prepare", "causal_backward", "causal_backward_finish"));
  const FakeLaunch& launch = launch_of("causal_backward");
  EXPECT_EQ(field<FakeTensorMap>(kernel, launch, "dout_map").address, address(0x100000));
  EXPECT_EQ(field<FakeTensorMap>(kernel, launch, "dk_map").address, address(0x120000));
  EXPECT_EQ(field<void*>(kernel, launch, "out"), address(0x40000));
  EXPECT_EQ(field<void*>(kernel, launch, "lse"), address(0x50000));
  EXPECT_EQ(field<void*>(kernel, launch, "dq"), address(0x110000));
  EXPECT_EQ(field<void*>(kernel, launch, "dv"), address(0x130000));
  EXPECT_EQ(field<int64_t>(kernel, launch, "dk_stride", 1), 2 * 64);
  EXPECT_GE(field<char*>(kernel, launch, "dq_sum"), address(0x600000));
}

TEST_F(BackwardTest, CompilesWithItsFirstCallOrWithThePlan) {
  const test::TemporaryFolder folder;
  const test::ScopedVariable cache("ATTUNE_CACHE_DIR", folder.path().string());
  Shape shape = kShape;
  shape.head_dim = 48;  // that no other test uses
  const int compiled = runtime::compile_gpu_count();
  const Variant variant = compile(kCausal);
  const Plan plan = variant.plan(shape, on_gpu());
  EXPECT_GT(plan.backward_workspace_bytes(), 0u);
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 1);
  plan.backward(backward_tensors(shape, true));
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 2);
  plan.backward(backward_tensors(shape, true));
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 2);

  CompileOptions forbidding;
  forbidding.forbid_jit = true;
  PlanOptions options = on_gpu();
  options.backward = true;
  compile(kCausal, forbidding).plan(shape, options);
  options.dtype = DType::kF16;
  compile(kCausal).warm_up(shape, on_gpu(DType::kF16));
  EXPECT_THAT(
      error_of<EnvironmentError>([&] { compile(kCausal, forbidding).plan(shape, options); }),
      testing::MatchesRegex("kernel 'causal_backward' \\(sm_90a, f16, head_dim 48, v_dim 64, sm90 backward .*\\) is not in the cache .*"));
  compile(kCausal).warm_up(shape, options);
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 4);
  compile(kCausal, forbidding).plan(shape, options);
}

TEST_F(BackwardTest, GradientsMayBeLeftOut) {
  const Variant variant = compile(kCausal);
  const codegen::GpuKernel kernel = backward_of(variant);
  const Plan plan = variant.plan(kShape, on_gpu());
  BackwardTensors tensors = backward_tensors(kShape, true);
  tensors.dq = tensors.dk = {};
  plan.backward(tensors);
  const FakeLaunch& launch = launch_of("causal_backward");
  EXPECT_EQ(field<void*>(kernel, launch, "dq"), nullptr);
  EXPECT_EQ(field<void*>(kernel, launch, "dk"), nullptr);
  EXPECT_EQ(field<void*>(kernel, launch, "dv"), address(0x130000));
  // The plan's own workspace, zero where that matters.
  const char* sums = field<const char*>(kernel, launch, "dq_sum");
  EXPECT_TRUE(std::all_of(sums, sums + 2 * 4 * 100 * 64 * 4, [](char byte) { return byte == 0; }));
}

TEST_F(BackwardTest, OtherStridesRunOnSm80InAPartOfTheWorkspace) {
  const Variant variant = compile(kCausal);
  const codegen::GpuKernel fast = backward_of(variant), general = backward_of(variant, false);
  const Plan plan = variant.plan(kShape, on_gpu());
  BackwardTensors tensors = backward_tensors(kShape, true);
  tensors.workspace = address(0x600000);
  plan.backward(tensors);
  const char* sums = field<const char*>(fast, launch_of("causal_backward"), "dq_sum");
  fake_->launches.clear();
  tensors.dout.strides = {4 * 64 * 100, 64, 64 * 100, 1};  // [batch, heads, q_len, dim] in memory: still 16 bytes at a time
  plan.backward(tensors);
  EXPECT_EQ(field<int64_t>(fast, launch_of("causal_backward"), "dout_stride", 2), 6400);
  tensors.dq.data = address(0x110002);
  plan.backward(tensors);
  const FakeLaunch& launch = launch_of("causal_backward_queries");
  EXPECT_EQ(field<void*>(general, launch, "dq"), address(0x110002));
  EXPECT_EQ(field<int>(general, launch, "vector_stores"), 0);
  const char* lse2 = field<const char*>(general, launch, "lse2");
  EXPECT_GE(lse2, sums + 2 * 4 * 100 * 64 * 4);  // what sm90 has left zero stays so
  EXPECT_LE(lse2 + 2 * 4 * 100 * 4, static_cast<char*>(address(0x600000)) + plan.backward_workspace_bytes());
}

TEST_F(BackwardTest, NoQueriesOrNoKeys) {
  const Variant variant = compile(kCausal);
  Shape shape = kShape;
  shape.q_len = 0;
  BackwardTensors tensors = backward_tensors(shape, true);
  tensors.q = tensors.out = tensors.lse = tensors.dout = tensors.dq = {};
  variant.plan(shape, on_gpu()).backward(tensors);
  EXPECT_EQ(launch_of("causal_backward_keys").stream, address(0x77));  // writes zeros into dk and dv
  shape = kShape;
  shape.k_len = 0;
  tensors = backward_tensors(shape, true);
  tensors.k = tensors.v = tensors.dk = tensors.dv = {};
  fake_->launches.clear();
  variant.plan(shape, on_gpu()).backward(tensors);
  EXPECT_EQ(launch_of("causal_backward_queries").stream, address(0x77));
}

TEST_F(BackwardTest, GradientsOfParameters) {
  constexpr char kText[] =
      "attention tables(gain: grad f32 = 2, table: grad f32[heads, k_len], slopes: grad f32[heads]) {\n"
      "  score = gain * qk + table[h, k_idx] + slopes[h]\n  weights = sigmoid(score)\n}\n";
  const Variant variant = compile(kText);
  const codegen::GpuKernel kernel = backward_of(variant);
  PlanOptions options = on_gpu();
  options.tensors["table"] = {address(0x80000), DType::kF32, {1, 130}, {}};  // one for all heads
  options.tensors["slopes"] = {address(0x90000), DType::kF32, {4}, {}};
  const Plan plan = variant.plan(kShape, options);
  BackwardTensors tensors = backward_tensors(kShape, false);
  tensors.param_grads["table"] = {address(0x140000), DType::kF32, {1, 130}, {500, 3}};
  tensors.param_grads["gain"] = {address(0x150000), DType::kF32, {}, {}};
  plan.backward(tensors);
  const FakeLaunch& launch = launch_of("tables_backward");
  EXPECT_EQ(field<void*>(kernel, launch, "g_table"), address(0x140000));
  EXPECT_EQ(field<int64_t>(kernel, launch, "g_table_stride", 0), 0);
  EXPECT_EQ(field<int64_t>(kernel, launch, "g_table_stride", 1), 3);
  EXPECT_EQ(field<int>(kernel, launch, "g_table_size", 0), 1);
  EXPECT_EQ(field<int>(kernel, launch, "g_table_size", 1), 130);
  EXPECT_EQ(field<int64_t>(kernel, launch, "g_table_count"), 130);
  EXPECT_EQ(field<void*>(kernel, launch, "g_gain"), address(0x150000));
  EXPECT_EQ(field<void*>(kernel, launch, "g_slopes"), nullptr);

  const auto error = [&](const std::string& name, const Tensor& tensor) {
    tensors.param_grads = {{name, tensor}};
    return error_of<ArgumentError>([&] { plan.backward(tensors); });
  };
  EXPECT_EQ(error("slopes", {address(0x140000), DType::kF32, {5}, {}}), "gradient of 'slopes': expected f32[4], found f32[5]");
  EXPECT_EQ(error("slopes", {address(0x140000), DType::kBF16, {4}, {}}), "gradient of 'slopes': expected f32[4], found bf16[4]");
  EXPECT_EQ(error("table", {address(0x140000), DType::kF32, {4, 130}, {}}), "gradient of 'table': expected f32[1, 130], found f32[4, 130]");
  EXPECT_EQ(error("off", {address(0x140000), DType::kF32, {1}, {}}), "'tables' has no parameter 'off'");
}

TEST_F(BackwardTest, Errors) {
  const Plan plan = compile(kCausal).plan(kShape, on_gpu());
  const auto error = [&](const auto& change) {
    BackwardTensors tensors = backward_tensors(kShape, true);
    change(tensors);
    return error_of<ArgumentError>([&] { plan.backward(tensors); });
  };
  EXPECT_EQ(error([](BackwardTensors& t) { t.lse = {}; }), "tensor 'lse': missing, expected f32[2, 4, 100]");
  EXPECT_EQ(error([](BackwardTensors& t) { t.out = {}; }), "tensor 'out': missing, expected bf16[2, 100, 4, 64]");
  EXPECT_EQ(error([](BackwardTensors& t) { t.dout = {}; }), "tensor 'dout': missing, expected bf16[2, 100, 4, 64]");
  EXPECT_EQ(error([](BackwardTensors& t) { t.dq.shape[1] = 99; }), "tensor 'dq': expected bf16[2, 100, 4, 64], found bf16[2, 99, 4, 64]");
  EXPECT_EQ(error([](BackwardTensors& t) { t.dk.strides = {0, 128, 64, 1}; }),
            "tensor 'dk': dim 0 is broadcast (stride 0), but is written to");
  EXPECT_EQ(error([](BackwardTensors& t) { t.dv.dtype = DType::kF32; }),
            "tensor 'dv': expected bf16[2, 130, 2, 64], found f32[2, 130, 2, 64]");
  EXPECT_TRUE(fake_->launches.empty());
}

// ---- Tiered plans

class TieredTest : public ApiGpuTest {
 protected:
  void SetUp() override {
    ApiGpuTest::SetUp();
    if (IsSkipped()) return;
    fake_->knows_arguments = false;  // both kernels have one name
    shape_.head_dim = 40;            // that no other test uses
  }
  static PlanOptions tiered() {
    PlanOptions options = on_gpu();
    options.tiered = true;
    return options;
  }
  uint32_t threads_of_last_launch() const { return fake_->launches.back().block[0]; }

  const test::ScopedVariable large_{"ATTUNE_LARGE_TILES", "1"};  // the kernels of large problems, however small these are
  test::TemporaryFolder folder_;
  test::ScopedVariable cache_{"ATTUNE_CACHE_DIR", folder_.path().string()};
  Shape shape_ = kShape;
};

constexpr uint32_t kQuickThreads = 128, kTunedThreads = 512;

TEST_F(TieredTest, CallsTakeTheTunedKernelOnceItIsThere) {
  const Variant variant = compile(kCausal);
  const int compiled = runtime::compile_gpu_count();
  const Plan plan = variant.plan(shape_, tiered());
  EXPECT_EQ(plan.describe(), "cuda:0, sm90 192x128x2, stale softmax, at first sm80 64x16x1, quick");
  const size_t workspace_bytes = plan.workspace_bytes();
  plan.forward(tensors_of(shape_));
  EXPECT_EQ(threads_of_last_launch(), kQuickThreads);
  plan.wait_until_tuned();
  EXPECT_TRUE(plan.is_tuned());
  plan.forward(tensors_of(shape_));
  EXPECT_EQ(threads_of_last_launch(), kTunedThreads);
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 2);
  EXPECT_EQ(plan.workspace_bytes(), workspace_bytes);

  // Now it is in the cache: no quick kernel any more.
  for (const Variant& other : {variant, compile(kCausal)}) {
    const Plan again = other.plan(shape_, tiered());
    EXPECT_TRUE(again.is_tuned());
    EXPECT_EQ(again.describe(), "cuda:0, sm90 192x128x2, stale softmax");
    again.forward(tensors_of(shape_));
    EXPECT_EQ(threads_of_last_launch(), kTunedThreads);
  }
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 2);
}

TEST_F(TieredTest, OtherStridesStartWithTheQuickKernelToo) {
  const Plan plan = compile(kCausal).plan(shape_, tiered());
  plan.wait_until_tuned();
  const int compiled = runtime::compile_gpu_count();
  ForwardTensors tensors = tensors_of(shape_);
  tensors.q.data = address(0x10002);
  plan.forward(tensors);
  plan.wait_until_tuned();
  EXPECT_EQ(runtime::compile_gpu_count(), compiled + 1);  // sm80 for any strides; the quick one is known
  plan.forward(tensors_of(shape_));
  EXPECT_EQ(threads_of_last_launch(), kTunedThreads);
}

TEST_F(TieredTest, CallsGoOnWhenTheTunedKernelFails) {
  const Plan plan = compile(kCausal).plan(shape_, tiered());
  fake_->faults["cuLibraryLoadData"] = 2;
  EXPECT_THAT(error_of<EnvironmentError>([&] { plan.wait_until_tuned(); }), HasSubstr("loading a module of"));
  EXPECT_FALSE(plan.is_tuned());
  plan.forward(tensors_of(shape_));
  EXPECT_EQ(threads_of_last_launch(), kQuickThreads);
  EXPECT_THAT(error_of<EnvironmentError>([&] { plan.wait_until_tuned(); }), HasSubstr("loading a module of"));
}

TEST_F(TieredTest, DestructionCancelsTheCompilation) {
  const Variant variant = compile(kCausal);
  {
    const Plan plan = variant.plan(shape_, tiered());
    plan.forward(tensors_of(shape_));
  }
  // Who waits for the same kernel gets it all the same.
  const Variant other = compile(kCausal);
  std::optional<Plan> first = variant.plan(shape_, tiered());
  std::future<Plan> second = other.plan_async(shape_, on_gpu());
  first.reset();
  second.get().forward(tensors_of(shape_));
  EXPECT_EQ(threads_of_last_launch(), kTunedThreads);
}

TEST_F(TieredTest, ForbidJitMeansTheTunedKernelAlone) {
  CompileOptions forbidding;
  forbidding.forbid_jit = true;
  const Variant strict = compile(kCausal, forbidding);
  EXPECT_THAT(error_of<EnvironmentError>([&] { strict.plan(shape_, tiered()); }),
              HasSubstr("sm90 192x128x2, stale softmax) is not in the cache"));
  compile(kCausal).warm_up(shape_, on_gpu());
  EXPECT_TRUE(strict.plan(shape_, tiered()).is_tuned());
}

// Kernels are known by this text within a program.
TEST(GpuKernelText, DiffersWhereKernelsDo) {
  using codegen::GpuConfig;
  const auto text = [](GpuPass pass, const GpuConfig& config, const codegen::GpuKernelOptions& options = {}) {
    return gpu_kernel_text(pass, options, config);
  };
  std::vector<GpuConfig> backward(6);
  backward[1].persistent = true;
  backward[2].sums = true;
  backward[3].fed_tensors = {1};
  backward[4].fed_tensors = {1, 2};
  backward[5].block_m = 32;
  std::set<std::string> texts;
  for (const GpuConfig& config : backward) texts.insert(text(GpuPass::kBackward, config));
  EXPECT_EQ(texts.size(), backward.size());
  codegen::GpuKernelOptions far, deterministic;
  far.far_positions = true;
  deterministic.deterministic = true;
  EXPECT_NE(text(GpuPass::kForward, {}), text(GpuPass::kForward, {}, far));
  EXPECT_NE(text(GpuPass::kBackward, {}), text(GpuPass::kBackward, {}, far));
  EXPECT_NE(text(GpuPass::kBackward, {}), text(GpuPass::kBackward, {}, deterministic));
  EXPECT_NE(text(GpuPass::kBackward, {}), text(GpuPass::kForward, {}));
}

}  // namespace
}  // namespace attune
