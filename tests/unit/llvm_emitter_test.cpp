// The emitter for processors that this machine may not be: what it emits calls nothing, is the same every time, and converts f16 and bf16
// exactly with and without the machine's instructions. What kernels compute is tested in tests/numeric.
#include "codegen/llvm_emitter.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "api/attune.h"
#include "codegen/build_ir.h"
#include "dsl/parser.h"
#include "runtime/error.h"
#include "runtime/half.h"

namespace attune {
namespace {

using codegen::CpuKernelOptions;
using codegen::CpuTarget;

const std::vector<CpuTarget> kTargets = {{"x86-64", ""}, {"x86-64-v3", ""}, {"x86-64-v4", ""}};

codegen::Lowered lower(const std::string& text) {
  dsl::Diagnostics diagnostics("test.attn", text);
  const std::optional<dsl::Program> program = dsl::parse(diagnostics);
  std::optional<codegen::Ir> ir;
  if (program) ir = codegen::build_ir(*program, diagnostics, {.constants = {}, .head_dim = 40, .v_dim = 24});
  EXPECT_TRUE(ir) << diagnostics.render();
  return codegen::lower(std::move(*ir));
}

// Every function, reads of every kind, a mask that is not a range, a sink and a factor.
constexpr const char* kEverything = R"(
attention everything(t: grad f16[heads, k_len], u: grad bf16[q_len], m: u8[q_len, k_len], s: grad f32[heads], g: grad f32 = 1) {
  let x = qk * rsqrt(head_dim)
  let y = exp(-abs(x)) + exp2(-abs(x)) + log(2 + x * x) + log2(2 + x * x) + sqrt(1 + x * x) + tanh(x) + sigmoid(x) + relu(x) + gelu(x) + silu(x)
  let z = softplus(x) + erf(x) + sin(x) + cos(x) + min(x, 1.0) + max(x, -1.0) + clamp(x, -2.0, 2.0) + floor(x) + abs(x) ** 1.3
  score = y * 0.1 + z * 0.1 + t[h, k_idx] + u[q_idx] + g * f32(i32(x) // 3) + f32(q_idx // 3 % 5)
  mask = m[q_idx, k_idx] != 0 and (q_idx // 4 + k_idx // 4) % 2 == 0 and bit(q_idx, k_idx % 32)
  weights = softmax(score, sink = s[h]) * where(random(3) < 0.5, 2.0, 0.0)
}
)";

CpuKernelOptions options_of(runtime::CpuPass pass, dsl::ElementType dtype) {
  CpuKernelOptions options;
  options.dtype = dtype;
  options.head_dim = 40;
  options.v_dim = 24;
  options.pass = pass;
  return options;
}

constexpr dsl::ElementType kDTypes[] = {dsl::ElementType::kF32, dsl::ElementType::kF16, dsl::ElementType::kBF16};
constexpr runtime::CpuPass kPasses[] = {runtime::CpuPass::kForward, runtime::CpuPass::kBackward};

TEST(LlvmEmitter, ObjectsCallNothing) {
  const codegen::Lowered lowered = lower(kEverything);
  for (const CpuTarget& target : kTargets) {
    for (const dsl::ElementType dtype : kDTypes) {
      for (const runtime::CpuPass pass : kPasses) {
        const runtime::CpuKernel kernel = codegen::emit_cpu_kernel(lowered, options_of(pass, dtype), target);
        ASSERT_EQ(kernel.object.substr(0, 4), "\177ELF") << target.cpu;
        ASSERT_NE(kernel.object.find(kernel.symbol), std::string::npos);
        for (const char* function :
             {"memcpy", "memset", "expf", "floor", "round", "fmaf", "fmin", "fmax", "__extend", "__trunc", "sinf", "powf"}) {
          EXPECT_EQ(kernel.object.find(function), std::string::npos) << function << " on " << target.cpu;
        }
      }
    }
  }
}

TEST(LlvmEmitter, IsDeterministic) {
  const CpuKernelOptions options = options_of(runtime::CpuPass::kBackward, dsl::ElementType::kF32);
  const std::string first = codegen::emit_cpu_kernel(lower(kEverything), options, kTargets[1]).object;
  EXPECT_EQ(first, codegen::emit_cpu_kernel(lower(kEverything), options, kTargets[1]).object);
}

TEST(LlvmEmitter, SaysWhatACallNeeds) {
  const codegen::Lowered lowered = lower(kEverything);
  for (const CpuTarget& target : kTargets) {
    const runtime::CpuKernel kernel =
        codegen::emit_cpu_kernel(lowered, options_of(runtime::CpuPass::kBackward, dsl::ElementType::kF32), target);
    EXPECT_GE(kernel.dk_row, 40);
    EXPECT_GE(kernel.dv_row, 24);
    EXPECT_GT(kernel.block_q, 0);
    EXPECT_GT(kernel.scratch_bytes, 0u);
  }
}

TEST(LlvmEmitter, AnUnknownProcessorIsAnError) {
  const codegen::Lowered lowered = lower(kEverything);
  const CpuTarget target{"abacus", ""};
  try {
    codegen::emit_cpu_kernel(lowered, options_of(runtime::CpuPass::kForward, dsl::ElementType::kF32), target);
    FAIL() << "no error";
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.what(), "LLVM " + codegen::llvm_version() + " does not know the CPU 'abacus'");
  }
}

// One key of weight 1: out is v by way of f32. One of weight 1/3 shows the rounding.
class Conversions : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { setenv("ATTUNE_CPU", GetParam(), 1); }
  void TearDown() override { unsetenv("ATTUNE_CPU"); }

  static std::vector<uint16_t> through_kernel(DType dtype, const std::string& weight, std::vector<uint16_t> v) {
    const auto dim = static_cast<int64_t>(256);
    const auto batch = static_cast<int64_t>(v.size()) / dim;
    const Variant variant = compile("attention one() {\n  score = qk\n  weights = " + weight + "\n}\n");
    PlanOptions options;
    options.dtype = dtype;
    const Plan plan = variant.plan({batch, 1, 1, 1, 1, 1, dim}, options);
    std::vector<uint16_t> q(static_cast<size_t>(batch)), k(static_cast<size_t>(batch)), out(v.size(), 0xffff);
    const std::vector<int64_t> narrow = {batch, 1, 1, 1}, wide = {batch, 1, 1, dim};
    plan.forward(
        {{q.data(), dtype, narrow, {}}, {k.data(), dtype, narrow, {}}, {v.data(), dtype, wide, {}}, {out.data(), dtype, wide, {}}, {}});
    return out;
  }

  static std::vector<uint16_t> all_numbers() {
    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
    return all;
  }
};

float as_float(DType dtype, uint16_t bits) {
  return runtime::load_float(dtype == DType::kF16 ? runtime::FloatType::kF16 : runtime::FloatType::kBF16, &bits, 0);
}

uint16_t as_bits(DType dtype, float value) {
  uint16_t bits = 0;
  runtime::store_float(dtype == DType::kF16 ? runtime::FloatType::kF16 : runtime::FloatType::kBF16, &bits, 0, value);
  return bits;
}

TEST_P(Conversions, AreExactThereAndBack) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const std::vector<uint16_t> all = all_numbers();
    const std::vector<uint16_t> out = through_kernel(dtype, "1.0", all);
    for (size_t i = 0; i < all.size(); ++i) {
      const float want = as_float(dtype, all[i]), got = as_float(dtype, out[i]);
      // 0 + -0 is 0: the sum over keys starts there.
      ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : want == got) << dtype_name(dtype) << " " << i << ": " << got << ", not " << want;
    }
  }
}

TEST_P(Conversions, RoundToNearestEven) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const std::vector<uint16_t> all = all_numbers();
    const std::vector<uint16_t> out = through_kernel(dtype, "score + 0.3333333", all);
    for (size_t i = 0; i < all.size(); ++i) {
      const float exact = as_float(dtype, all[i]) * 0.3333333f;
      if (std::isnan(exact)) continue;
      ASSERT_EQ(as_float(dtype, out[i]), as_float(dtype, as_bits(dtype, exact))) << dtype_name(dtype) << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpus, Conversions, testing::Values("x86-64", "native"),
                         [](const auto& info) { return std::string(info.param) == "native" ? "Native" : "Plain"; });

}  // namespace
}  // namespace attune
