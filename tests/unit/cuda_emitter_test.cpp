// What is emitted, looked at piece by piece: the layout of Params, where values are computed, how reads are guarded, integers.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <regex>

#include "codegen/gpu_planner.h"
#include "codegen/whole_numbers.h"
#include "runtime/error.h"
#include "tests/unit/cuda_util.h"

namespace attune::codegen {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string attention(const std::string& params, const std::string& statements) {
  return "attention test(" + params + ") {\n" + statements + "\n}\n";
}

std::string emitted(const std::string& text, bool packed = false) {
  GpuKernelOptions options = gpu_options(64);
  options.packed = packed;
  return emit_gpu_variant(lowered_for(text, options), options, GpuConfig{});
}

std::string emitted_backward(const std::string& text) {
  const GpuKernelOptions options = gpu_options(64);
  return emit_gpu_backward_variant(lowered_for(text, options), options, GpuConfig{});
}

// However long lines were broken.
std::string one_line(const std::string& text) {
  return std::regex_replace(text, std::regex("\\n +"), " ");
}

// The body of the function or struct whose head ends so.
std::string part(const std::string& source, const std::string& head) {
  const size_t start = source.find(head);
  if (start == std::string::npos) return "no " + head;
  return one_line(source.substr(start, source.find("\n  }", start) - start));
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "nothing thrown";
}

GpuKernel params_of(const std::string& text, bool packed = false) {
  GpuKernelOptions options = gpu_options(64);
  options.packed = packed;
  return emit_naive(text, options);
}

const GpuField& field(const GpuKernel& kernel, const std::string& name) {
  for (const GpuField& one : kernel.fields) {
    if (one.name == name) return one;
  }
  throw std::runtime_error("no field " + name);
}

bool has_field(const GpuKernel& kernel, const std::string& name) {
  return std::any_of(kernel.fields.begin(), kernel.fields.end(), [&](const GpuField& one) { return one.name == name; });
}

constexpr char kSoftmax[] = "  score = qk\n  weights = softmax(score)";

TEST(CudaParams, MembersLieAsCudaLaysThem) {
  const GpuKernel kernel = params_of(attention("flag: bool = true, table: bf16[heads, k_len], scale: grad f32 = 2, n: i32",
                                               "  let x = where(flag, table[h, k_idx], n)\n"
                                               "  score = qk * scale + x\n  weights = softmax(score)"));
  EXPECT_EQ(field(kernel, "q").offset, 0u);
  EXPECT_EQ(field(kernel, "q_stride").type, "i64[3]");
  EXPECT_EQ(field(kernel, "q_stride").bytes, 24u);
  EXPECT_EQ(field(kernel, "p_flag").type, "int");
  EXPECT_EQ(field(kernel, "t_table").type, "const Raw*");
  EXPECT_EQ(field(kernel, "t_table").offset % 8, 0u);
  EXPECT_EQ(field(kernel, "t_table_stride").offset, field(kernel, "t_table").offset + 8);
  EXPECT_EQ(field(kernel, "t_table_dim").type, "int[2]");
  EXPECT_EQ(field(kernel, "p_scale").type, "const float*");
  EXPECT_EQ(field(kernel, "p_n").bytes, 4u);
  size_t end = 0;
  for (const GpuField& one : kernel.fields) {
    EXPECT_GE(one.offset, end) << one.name;
    end = one.offset + one.bytes;
  }
  EXPECT_EQ(kernel.params_bytes, (end + 7) / 8 * 8);
  EXPECT_THAT(kernel.source, HasSubstr(fmt::format("static_assert(sizeof(Params) == {});", kernel.params_bytes)));
  EXPECT_FALSE(has_field(kernel, "index_flag"));
  EXPECT_FALSE(has_field(kernel, "cu_q"));
}

TEST(CudaParams, PackedSequencesSayWhichDefaultsTheyTake) {
  const std::string text = attention("bias: f32 = -log(k_len), other: f32", "  score = qk + bias + other\n  weights = softmax(score)");
  EXPECT_FALSE(has_field(params_of(text), "p_bias_given"));
  EXPECT_TRUE(has_field(params_of(text, true), "p_bias_given"));
  EXPECT_FALSE(has_field(params_of(text, true), "p_other_given"));
  EXPECT_TRUE(has_field(params_of(text, true), "cu_k"));
  EXPECT_THAT(emitted(text, true), HasSubstr("p.p_bias_given ? p.p_bias : -logf(to_f32(u.k_len))"));
}

TEST(CudaParams, TooManyAreRefused) {
  std::string params;
  for (int i = 0; i < 50; ++i) params += fmt::format("{}t{}: f32[1, 1, 1, 1, 1, 1]", i == 0 ? "" : ", ", i);
  EXPECT_EQ(message_of([&] { emitted(attention(params, kSoftmax)); }),
            "'test' has too many parameters for a GPU: its kernel's argument takes 4736 bytes, expected at most 4096");
}

TEST(CudaEmitter, RefusesWhatAGpuKernelCannotBe) {
  const Lowered lowered = lowered_for(attention("", kSoftmax), gpu_options(64));
  EXPECT_EQ(message_of([&] { emit_gpu_variant(lowered, gpu_options(64, dsl::ElementType::kF32), GpuConfig{}); }),
            "dtype is f32, expected f16 or bf16 on a GPU: its matrix units have no f32");
  EXPECT_EQ(message_of([&] { emit_gpu_variant(lowered, gpu_options(264), GpuConfig{}); }),
            "head_dim is 264, expected 1..256 on a GPU: a tile of more does not fit into its registers");
}

TEST(CudaEmitter, HeaderNamesTheCommandThatMakesTheFileAgain) {
  const GpuKernel kernel = params_of(attention("w: const i32 = 7", "  score = qk\n  mask = q_idx - k_idx < w\n  weights = softmax(score)"));
  EXPECT_EQ(kernel.source.find("// test, forward, sm_90a, bf16, head_dim 64\n//\n//   attention test(w: const i32 = 7) {\n"), 0u);
  EXPECT_THAT(kernel.source, HasSubstr("--emit cuda --arch sm_90a --dtype bf16 --shape 1,4096,4096,16,16,64,64 --const w=7\n"));
}

TEST(CudaEmitter, ValuesStandWhereTheirRateAllows) {
  const std::string source = emitted(attention("a: f32[heads], r: f32[q_len], c: f32[k_len]",
                                               "  score = qk * exp(a[h]) + exp(r[q_idx]) * exp(c[k_idx])\n  weights = softmax(score)"));
  // Exact forms for what is rare, fast ones for what each thread computes for every column.
  EXPECT_THAT(part(source, "Uniform uniform("), HasSubstr("expf("));
  EXPECT_THAT(part(source, "Row row("), AllOf(HasSubstr("load_f32(p.t_r"), HasSubstr("expf(")));
  EXPECT_THAT(part(source, "Column column("), AllOf(HasSubstr("load_f32(p.t_c"), HasSubstr("exp_fast(")));
  EXPECT_THAT(part(source, "float score2("), AllOf(Not(HasSubstr("exp")), Not(HasSubstr("load_"))));
}

TEST(CudaEmitter, CheapIndexArithmeticTakesNoRegister) {
  const std::string source = emitted(attention("", "  score = qk\n  mask = k_pos <= q_pos\n  weights = softmax(score)"));
  EXPECT_THAT(source, HasSubstr("struct Row {};"));
  EXPECT_THAT(part(source, "bool keep("), HasSubstr("return k_idx <= q_idx + (u.k_len - u.q_len);"));
}

TEST(CudaEmitter, ReadsAreGuardedWherePairsMayBeOthers) {
  const std::string source = emitted(attention("t: f32[heads, q_len, k_len], m: u8[k_len]",
                                               "  score = qk + t[h, q_idx, k_idx]\n  mask = m[k_idx] == 0\n  weights = softmax(score)"));
  const std::string score = part(source, "float score2(");
  EXPECT_THAT(score, AllOf(HasSubstr("inside<kGuarded>(q_idx, p.t_t_dim[1])"), HasSubstr("inside<kGuarded>(k_idx, p.t_t_dim[2])")));
  EXPECT_THAT(score, HasSubstr("+ u.h * p.t_t_stride[0]"));  // the plan has looked at it
  EXPECT_THAT(part(source, "ColumnExtent column_extent("), HasSubstr("inside<true>(k_idx, p.t_m_dim[0])"));
  EXPECT_THAT(source, Not(HasSubstr("index_flag")));
}

TEST(CudaEmitter, IndicesThatDependOnDataRaiseTheFlagOfPairsThatCount) {
  const std::string per_pair =
      emitted(attention("t: f32[4], i: i32[q_len, k_len]", "  score = qk + t[i[q_idx, k_idx]]\n  weights = softmax(score)"));
  EXPECT_THAT(part(per_pair, "float score2("),
              AllOf(HasSubstr("p.t_t_dim[0], outside)"), HasSubstr("raise(outside && keeps && q_idx < u.q_len, p.index_flag);")));

  // A row's is known before any of its pairs, and may belong to a row that keeps none.
  const std::string per_row = emitted(attention("t: f32[4], i: i32[q_len]", "  score = qk + t[i[q_idx]]\n  weights = softmax(score)"));
  EXPECT_THAT(part(per_row, "Row row("), AllOf(HasSubstr("row.outside = outside;"), Not(HasSubstr("raise"))));
  EXPECT_THAT(part(per_row, "float score2("), HasSubstr("raise(row.outside && keeps && q_idx < u.q_len, p.index_flag);"));

  const std::string per_call = emitted(attention("t: f32[4], i: i32[heads]", "  score = qk + t[i[h]]\n  weights = softmax(score)"));
  EXPECT_THAT(part(per_call, "Uniform uniform("), HasSubstr("raise(outside, p.index_flag);"));
}

TEST(CudaEmitter, GradScalarsLieInMemory) {
  const std::string source = emitted(attention("s: grad f32 = 3, t: grad f32", "  score = qk * s + t\n  weights = softmax(score)"));
  EXPECT_THAT(part(source, "Uniform uniform("), AllOf(HasSubstr("p.p_s ? *p.p_s : 3.0f"), HasSubstr("*p.p_t")));
}

TEST(CudaEmitter, SigmoidsHaveTheirArgumentInBothDomains) {
  const std::string source = emitted(attention("bias: f32", "  score = qk * 0.5 + bias\n  weights = sigmoid(score)"));
  EXPECT_THAT(source, HasSubstr("kWeight = Weight::kSigmoid"));
  EXPECT_THAT(part(source, "float exponent2("), HasSubstr("return qk * 0.7213475f + u.bias;"));
  EXPECT_THAT(part(source, "float half("), HasSubstr("return qk * 0.25f + u.half_bias;"));
  EXPECT_THAT(part(source, "float center("), HasSubstr("return p.p_bias;"));
  EXPECT_THAT(emitted(attention("", "  score = qk\n  weights = relu(score)")), HasSubstr("kWeight = Weight::kGeneral"));
}

TEST(CudaEmitter, IntegersThatMayWrapAreUnsignedAdditions) {
  const std::string source = emitted(attention("w: i32", "  score = qk\n  mask = q_idx * w + k_idx < 10\n  weights = softmax(score)"));
  EXPECT_THAT(source, HasSubstr("wrapping_mul("));
  EXPECT_THAT(source, HasSubstr("wrapping_add("));
}

TEST(CudaEmitter, BoundsAreIntegers) {
  for (const char* mask : {"k_pos <= q_pos", "q_pos - k_pos < 7 or k_idx < 3", "2 * k_idx <= 3 * q_idx", "k_idx < n"}) {
    const std::string source = emitted(attention("n: i32", fmt::format("  score = qk\n  mask = {}\n  weights = softmax(score)", mask)));
    EXPECT_THAT(source, Not(HasSubstr("double"))) << mask;
  }
  const std::string of_f32 = emitted(attention("x: f32", "  score = qk\n  mask = q_idx - k_idx < x\n  weights = softmax(score)"));
  EXPECT_THAT(part(of_f32, "KeyRange kept_keys("), HasSubstr("double"));
}

TEST(CudaEmitter, LongChainsDoNotNeedTheStack) {
  std::string statements = "  let x0 = qk\n";
  for (int i = 1; i <= 1500; ++i) statements += fmt::format("  let x{} = tanh(x{})\n", i, i - 1);
  EXPECT_THAT(emitted(attention("", statements + "  score = x1500\n  weights = softmax(score)")), HasSubstr("tanh_accurate("));
}

TEST(CudaBackward, GradientsAreSummedWhereTheirAddressStaysTheSame) {
  const std::string source = emitted_backward(
      attention("s: grad f32, slope: grad f32[heads], per_key: grad f32[k_len], per_row: grad f32[q_len], pairs: grad f32[q_len, k_len],"
                " table: grad f32[9]",
                "  score = qk + s + slope[h] + per_key[k_idx] + per_row[q_idx] + pairs[q_idx, k_idx]"
                " + table[clamp(q_idx - k_idx, -4, 4) + 4]\n  weights = softmax(score)"));
  EXPECT_THAT(source, HasSubstr("kFromWeight = true, kGradients = true, kRowGradients = false;"));
  EXPECT_THAT(part(source, "struct Gradients {"),
              AllOf(HasSubstr("float s_value = 0.0f;"), HasSubstr("float slope_h = 0.0f;"), HasSubstr("RunningSum table_value;"),
                    Not(HasSubstr("per_")), Not(HasSubstr("pairs"))));
  EXPECT_THAT(part(source, "struct KeyGradients {"), HasSubstr("float per_key_k_idx = 0.0f;"));
  const std::string gradients = part(source, "void gradients(");
  EXPECT_THAT(gradients, AllOf(HasSubstr("gradients.slope_h += "), HasSubstr("key_gradients.per_key_k_idx += "),
                               HasSubstr("if (p.g_per_row) add_global(p.g_per_row + "), Not(HasSubstr("pairs")),
                               HasSubstr("if (p.g_table) gradients.table_value.add(p.g_table + ")));
  EXPECT_THAT(gradients, Not(HasSubstr("qk")));
  EXPECT_THAT(part(source, "void add_pair("),
              HasSubstr("add_global(place_of_pair(p.g_pairs, q_idx, p.g_pairs_stride[0], k_idx, p.g_pairs_stride[1])"));
  EXPECT_THAT(part(source, "void flush(Gradients&"),
              AllOf(HasSubstr("if (p.g_s) add_of_warp(p.g_s, gradients.s_value);"),
                    HasSubstr("add_of_warp(p.g_slope + u.h * p.g_slope_stride[0], gradients.slope_h);"),
                    HasSubstr("gradients.table_value.flush();")));
  EXPECT_THAT(part(source, "void flush(KeyGradients&"), HasSubstr("if (counts && p.g_per_key) add_global(p.g_per_key + "));
  EXPECT_THAT(part(source, "void clear_gradients("), AllOf(HasSubstr("if (p.g_s && thread == 0) *p.g_s = 0.0f;"),
                                                           HasSubstr("clear_strided(p.g_pairs, p.g_pairs_stride, p.g_pairs_size")));
}

TEST(CudaBackward, Lse2AndDeltaAreArguments) {
  const std::string source = emitted_backward(attention("r: f32[q_len]", "  score = qk * 0.5 + r[q_idx]\n  weights = softmax(score)"));
  EXPECT_THAT(part(source, "struct Row {"), AllOf(HasSubstr("float r2"), Not(HasSubstr("lse2"))));
  EXPECT_THAT(part(source, "Row row("), Not(HasSubstr("lse2")));
  EXPECT_THAT(part(source, "float weight("), HasSubstr("lse2"));
}

TEST(CudaBackward, DerivativesFollowFromTheWeightWhereTheyDoNotNeedQk) {
  const auto weights = [](const char* expression) {
    return emitted_backward(attention("", fmt::format("  score = qk * 0.5\n  weights = {}", expression)));
  };
  EXPECT_THAT(part(weights("sigmoid(score)"), "float dqk("), HasSubstr("return dp * fmaf(-weight, weight, weight);"));
  EXPECT_THAT(part(weights("softmax(score)"), "float dqk("), HasSubstr("return weight * (dp - delta);"));
  EXPECT_THAT(weights("relu(score) ** 2"), AllOf(HasSubstr("kFromWeight = false"), Not(HasSubstr("float dqk("))));
  EXPECT_THAT(weights("softmax(score)"), HasSubstr("kUsesDelta = true"));
  EXPECT_THAT(weights("sigmoid(score)"), HasSubstr("kUsesDelta = false"));
  // What is qk times something has the something's gradient from dQ; behind a function of it, it needs qk.
  EXPECT_THAT(emitted_backward(attention("s: grad f32", "  score = qk * s\n  weights = softmax(score)")),
              AllOf(HasSubstr("kFromWeight = true, kGradients = false"), HasSubstr("kQkSums = true")));
  EXPECT_THAT(emitted_backward(attention("s: grad f32", "  score = tanh(qk) * s\n  weights = softmax(score)")),
              HasSubstr("kFromWeight = false, kGradients = true"));
}

TEST(CudaBackward, AFactorOfAllPairsAndHeadsIsLeftOut) {
  const auto scale = [](const std::string& params, const char* score) {
    return part(emitted_backward(attention(params, fmt::format("  score = {}\n  weights = softmax(score)", score))), "float dqk_scale(");
  };
  EXPECT_THAT(scale("", "qk * 0.5"), HasSubstr("return 0.5f;"));
  EXPECT_THAT(scale("t: f32", "qk * t"), HasSubstr("return p.p_t;"));
  EXPECT_THAT(scale("t: f32[heads]", "qk * t[h]"), HasSubstr("return 1.0f;"));
  EXPECT_THAT(scale("", "qk / k_len"), HasSubstr("if (u.q_len == 0 || u.k_len == 0) return 0.0f;"));
}

TEST(CudaBackward, KernelsOfEachSkeleton) {
  const std::string softmax = attention("", kSoftmax), pointwise = attention("", "  score = qk\n  weights = relu(score)");
  const auto emitted = [](const std::string& text, const GpuConfig& config) {
    const GpuKernelOptions options = gpu_options(64);
    return emit_gpu_backward(lowered_for(text, options), "", options, config, {});
  };
  const GpuKernel sm90 = emitted(softmax, GpuConfig{}), sm80 = emitted(softmax, sm80_config());
  EXPECT_EQ(sm90.prepare_name + " " + sm90.name + " " + sm90.queries_name + " " + sm90.finish_name,
            "test_backward_prepare test_backward  test_backward_finish");
  EXPECT_EQ(sm80.prepare_name + " " + sm80.name + " " + sm80.queries_name + " " + sm80.finish_name,
            "test_backward_prepare test_backward_keys test_backward_queries ");
  EXPECT_EQ(emitted(pointwise, GpuConfig{}).prepare_name, "test_backward_prepare");
  EXPECT_EQ(emitted(pointwise, sm80_config()).prepare_name, "");
  EXPECT_EQ(
      emitted(attention("m: i32[k_len]", "  score = qk\n  mask = m[k_idx] == 0\n  weights = softmax(score)"), GpuConfig{}).extents_name,
      "test_backward_extents");
  EXPECT_TRUE(has_field(sm90, "dq_sum"));
  EXPECT_FALSE(has_field(sm80, "dq_sum"));
  EXPECT_EQ(field(sm90, "dv_map").offset % 64, 0u);
}

// What is emitted is looked at by the golden files, NVRTC, and where it runs: here only that emitting goes well, under sanitizers too.
TEST(CudaEmitter, EveryProgramOnEverySkeleton) {
  for (const std::filesystem::path& path : programs()) {
    const std::string text = read_file(path);
    for (const bool packed : {false, true}) {
      GpuKernelOptions options = gpu_options(64);
      options.packed = packed;
      const Lowered lowered = lowered_for(text, options);
      GpuProblem problem;
      problem.q_len = problem.k_len = 4096;
      problem.heads = problem.kv_heads = 64;
      for (const char* arch : {"sm_80", "sm_90a"}) {
        options.arch = arch;
        EXPECT_NE(emit_gpu_forward(lowered, canonical(text), options, default_config(lowered, options, problem)).source, "") << path;
        EXPECT_NE(emit_gpu_backward(lowered, canonical(text), options, default_backward_config(lowered, options, problem)).source, "")
            << path;
      }
    }
  }
}

std::string emitted_fed(const std::string& text) {
  const GpuKernelOptions options = gpu_options(64);
  const Lowered lowered = lowered_for(text, options);
  return emit_gpu_variant(lowered, options, default_config(lowered, options, large_problem(options)));
}

TEST(CudaEmitter, FeedersBringPairsKeysAndTables) {
  const std::string source = emitted_fed(attention("a: f16[heads, k_len, k_len], c: f32[k_len], d: i32[k_len], t: f32[heads, 9], e: f32[4]",
                                                   "  let near = clamp(q_pos - k_pos, -4, 4) + 4\n"
                                                   "  score = qk + a[h // 2, q_pos, k_pos] + c[k_idx] + t[h, near] + e[d[k_idx]]\n"
                                                   "  mask = d[k_idx] > 0\n  weights = softmax(score)"));
  EXPECT_THAT(part(source, "struct Pair : Column"), AllOf(HasSubstr("float a_k_idx;"), HasSubstr("u32 tables;")));
  EXPECT_THAT(part(source, "void load_pairs("),
              AllOf(HasSubstr("PairTile<2, Config::kBlockN>::load(to + 0, &p.t_a_map, barrier, k_idx, q_idx + "),
                    HasSubstr("p.t_a_stride[0] != 0 ? ")));
  EXPECT_THAT(part(source, "float score2("),
              AllOf(HasSubstr("const Pair& column"), HasSubstr("column.a_k_idx"), HasSubstr("column.c_k_idx"),
                    HasSubstr("read_table(column.tables + 0, inside<kGuarded>("), Not(HasSubstr("load_"))));
  EXPECT_THAT(part(source, "void store_column("), AllOf(HasSubstr("__float_as_int(column.c_k_idx)"), HasSubstr("column.outside")));
  EXPECT_THAT(part(source, "bool keep("), HasSubstr("const Column& column"));
  EXPECT_THAT(part(source, "TensorMap q_map"), HasSubstr("t_a_map"));
}

// A mask is the same for a tile and for its pairs, so it reads by itself.
TEST(CudaEmitter, MasksReadPairsThemselves) {
  const std::string source = emitted_fed(
      attention("a: f16[q_len, k_len]", "  score = qk + a[q_idx, k_idx]\n  mask = a[q_idx, k_idx] > 0\n  weights = softmax(score)"));
  EXPECT_THAT(part(source, "bool keep("), HasSubstr("load_f16(p.t_a"));
  EXPECT_THAT(part(source, "float score2("), Not(HasSubstr("load_f16")));
}

// A distance is converted by row and by column, unless positions are too far out for f32.
TEST(CudaEmitter, Distances) {
  const std::string text = "attention test() {\n  score = qk - 0.5 * (q_pos - k_pos)\n  weights = softmax(score)\n}\n";
  GpuKernelOptions options = gpu_options(64);
  const auto source = [&] { return emit_gpu_forward(lowered_for(text, options), canonical(text), options, GpuConfig{}).source; };
  EXPECT_NE(source().find("= to_f32(k_idx);"), std::string::npos);
  options.far_positions = true;
  EXPECT_EQ(source().find("= to_f32(k_idx);"), std::string::npos);
}

TEST(WholeNumbers, RangesOfIntegersAndOfWholeBounds) {
  Graph graph;
  const ValueId q = graph.symbol(Symbol::kQIdx), k_len = graph.symbol(Symbol::kKLen), n = graph.param(Type::kI32, 0);
  const ValueId sum = graph.op(Op::k_add, {q, k_len}), wide = graph.op(Op::k_add, {sum, graph.constant(Type::kI32, 2)});
  const ValueId as_f64 = graph.op(Op::k_to_f64, {n}), half = graph.op(Op::k_div, {as_f64, graph.constant(Type::kF64, 2)});
  const ValueId floor = graph.op(Op::k_floor, {half}), square = graph.op(Op::k_mul, {as_f64, as_f64});
  const auto ranges = whole_ranges(graph);
  EXPECT_FALSE(ranges[sum]->wraps);
  EXPECT_TRUE(ranges[wide]->wraps);
  EXPECT_EQ(ranges[as_f64]->low, -2147483648.0);
  EXPECT_FALSE(ranges[half].has_value());
  EXPECT_EQ(ranges[floor]->high, 1073741823.0);
  EXPECT_EQ(whole_division(graph, ranges, floor)->dividend, as_f64);
  EXPECT_FALSE(ranges[square].has_value());  // up to 2^62: not exact in double
}

}  // namespace
}  // namespace attune::codegen
