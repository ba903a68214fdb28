// What build_ir makes of programs. Expected values are added to the same graph: equal nodes have equal ids.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "codegen/eval/defaults.h"
#include "codegen/verify.h"
#include "ir_test_util.h"

namespace attune::codegen {
namespace {

ValueId sym(Ir& ir, Symbol symbol) {
  return ir.graph.symbol(symbol);
}
ValueId f32(Ir& ir, double value) {
  return ir.graph.constant(Type::kF32, value);
}
ValueId i32(Ir& ir, double value) {
  return ir.graph.constant(Type::kI32, value);
}
ValueId op(Ir& ir, Op op, std::vector<ValueId> operands) {
  return ir.graph.op(op, std::move(operands));
}

// A program of one expression, the score.
Ir score_of(const std::string& expr, const std::string& params = "", const BuildOptions& options = {}) {
  return typed("attention a(" + params + ") {\n  score = " + expr + "\n  weights = softmax(score)\n}\n", options);
}
Ir mask_of(const std::string& expr, const std::string& params = "") {
  return typed("attention a(" + params + ") {\n  score = qk\n  mask = " + expr + "\n  weights = softmax(score)\n}\n");
}
Ir weights_of(const std::string& expr, const std::string& params = "") {
  return typed("attention a(" + params + ") {\n  score = qk * 2\n  weights = " + expr + "\n}\n");
}

TEST(BuildIr, TheUsualScore) {
  Ir ir = score_of("qk * rsqrt(head_dim)");
  EXPECT_EQ(ir.name, "a");
  const ValueId scale = op(ir, Op::k_rsqrt, {op(ir, Op::k_to_f32, {sym(ir, Symbol::kHeadDim)})});
  EXPECT_EQ(ir.score, op(ir, Op::k_mul, {sym(ir, Symbol::kQk), scale}));
  EXPECT_EQ(ir.weight_kind, WeightKind::kSoftmax);
  EXPECT_EQ(ir.mask, ir.graph.constant(Type::kBool, 1));
  EXPECT_EQ(ir.weight, kNoValue);
  EXPECT_EQ(ir.sink, kNoValue);
  EXPECT_EQ(ir.factor, kNoValue);
  EXPECT_TRUE(ir.params.empty());
}

TEST(BuildIr, PositionsAreExpanded) {
  Ir ir = mask_of("k_pos <= q_pos");
  const ValueId end = op(ir, Op::k_add, {sym(ir, Symbol::kQIdx), sym(ir, Symbol::kKLen)});
  EXPECT_EQ(ir.mask, op(ir, Op::k_le, {sym(ir, Symbol::kKIdx), op(ir, Op::k_sub, {end, sym(ir, Symbol::kQLen)})}));
}

TEST(BuildIr, IntegersStayIntegersOrConvert) {
  Ir ir = score_of("qk + (h + b * 2)");
  const ValueId sum = op(ir, Op::k_add, {sym(ir, Symbol::kH), op(ir, Op::k_mul, {sym(ir, Symbol::kB), i32(ir, 2)})});
  EXPECT_EQ(ir.score, op(ir, Op::k_add, {sym(ir, Symbol::kQk), op(ir, Op::k_to_f32, {sum})}));

  ir = score_of("h / 2");
  EXPECT_EQ(ir.score, op(ir, Op::k_div, {op(ir, Op::k_to_f32, {sym(ir, Symbol::kH)}), op(ir, Op::k_to_f32, {i32(ir, 2)})}));

  ir = score_of("h // 2 % 3");
  const ValueId quotient = op(ir, Op::k_floor_div, {sym(ir, Symbol::kH), i32(ir, 2)});
  EXPECT_EQ(ir.score, op(ir, Op::k_to_f32, {op(ir, Op::k_mod, {quotient, i32(ir, 3)})}));

  ir = score_of("where(h == 0, 1, 0.5)");
  const ValueId is_first = op(ir, Op::k_eq, {sym(ir, Symbol::kH), i32(ir, 0)});
  EXPECT_EQ(ir.score, op(ir, Op::k_where, {is_first, op(ir, Op::k_to_f32, {i32(ir, 1)}), f32(ir, 0.5)}));

  ir = score_of("where(h == 0, 1, 2)");
  EXPECT_EQ(ir.score,
            op(ir, Op::k_to_f32, {op(ir, Op::k_where, {op(ir, Op::k_eq, {sym(ir, Symbol::kH), i32(ir, 0)}), i32(ir, 1), i32(ir, 2)})}));

  ir = score_of("min(h, qk) + clamp(h, 0, 3) + abs(h) + max(h, b)");
  EXPECT_EQ(ir.graph[ir.score].type, Type::kF32);
  const ValueId clamped = op(ir, Op::k_clamp, {sym(ir, Symbol::kH), i32(ir, 0), i32(ir, 3)});
  const size_t size = ir.graph.size();
  op(ir, Op::k_min, {op(ir, Op::k_to_f32, {sym(ir, Symbol::kH)}), sym(ir, Symbol::kQk)});
  op(ir, Op::k_abs, {sym(ir, Symbol::kH)});
  op(ir, Op::k_max, {sym(ir, Symbol::kH), sym(ir, Symbol::kB)});
  op(ir, Op::k_to_f32, {clamped});
  EXPECT_EQ(ir.graph.size(), size) << "all of these were there";
}

TEST(BuildIr, ComparisonsMixIntegersAndFloats) {
  Ir ir = mask_of("k_idx < 1.5");
  EXPECT_EQ(ir.mask, op(ir, Op::k_lt, {op(ir, Op::k_to_f32, {sym(ir, Symbol::kKIdx)}), f32(ir, 1.5)}));
  ir = mask_of("(k_idx > 3) == (q_idx != 4)");
  EXPECT_EQ(ir.mask, op(ir, Op::k_eq,
                        {op(ir, Op::k_gt, {sym(ir, Symbol::kKIdx), i32(ir, 3)}), op(ir, Op::k_ne, {sym(ir, Symbol::kQIdx), i32(ir, 4)})}));
}

TEST(BuildIr, PowersAreIntegerWhereTheyCanBe) {
  Ir ir = score_of("h ** 3");
  EXPECT_EQ(ir.score, op(ir, Op::k_to_f32, {op(ir, Op::k_ipow, {sym(ir, Symbol::kH), i32(ir, 3)})}));
  ir = score_of("h ** -1");
  EXPECT_EQ(ir.score, op(ir, Op::k_pow, {op(ir, Op::k_to_f32, {sym(ir, Symbol::kH)}), f32(ir, -1)}));
  ir = score_of("qk ** 2");
  EXPECT_EQ(ir.score, op(ir, Op::k_pow, {sym(ir, Symbol::kQk), f32(ir, 2)}));
  ir = score_of("qk ** (p / 2)", "p: const i32 = 3");
  EXPECT_EQ(ir.score, op(ir, Op::k_pow, {sym(ir, Symbol::kQk), f32(ir, 1.5)}));
  ir = score_of("h ** 0.0");
  EXPECT_EQ(ir.score, op(ir, Op::k_pow, {op(ir, Op::k_to_f32, {sym(ir, Symbol::kH)}), f32(ir, 0)}));
}

TEST(BuildIr, ConversionsToTheSameTypeVanish) {
  Ir ir = score_of("f32(f32(qk)) + f32(i32(i32(h)))");
  EXPECT_EQ(ir.score, op(ir, Op::k_add, {sym(ir, Symbol::kQk), op(ir, Op::k_to_f32, {sym(ir, Symbol::kH)})}));
  ir = score_of("f32(h == 0) + i32(qk)");
  const ValueId flag = op(ir, Op::k_to_f32, {op(ir, Op::k_eq, {sym(ir, Symbol::kH), i32(ir, 0)})});
  EXPECT_EQ(ir.score, op(ir, Op::k_add, {flag, op(ir, Op::k_to_f32, {op(ir, Op::k_to_i32, {sym(ir, Symbol::kQk)})})}));
}

TEST(BuildIr, Literals) {
  Ir ir = score_of("0.1");
  EXPECT_EQ(ir.score, f32(ir, 0.1));
  ir = score_of("1e-3");
  EXPECT_EQ(ir.score, f32(ir, 0.001));
  ir = score_of("-inf");
  EXPECT_EQ(ir.score, op(ir, Op::k_neg, {f32(ir, INFINITY)}));
  ir = mask_of("false");
  EXPECT_EQ(ir.mask, ir.graph.constant(Type::kBool, 0));
}

TEST(BuildIr, RandomGetsItsCounter) {
  Ir ir = weights_of("softmax(score) * random(seed)", "seed: i32");
  EXPECT_EQ(ir.factor,
            op(ir, Op::k_random,
               {ir.graph.param(Type::kI32, 0), sym(ir, Symbol::kB), sym(ir, Symbol::kH), sym(ir, Symbol::kQIdx), sym(ir, Symbol::kKIdx)}));
}

TEST(BuildIr, LetsAreSharedNodes) {
  Ir ir = typed("attention a() { let x = tanh(qk); let y = x * x; score = y + x; weights = softmax(score) }");
  const ValueId x = op(ir, Op::k_tanh, {sym(ir, Symbol::kQk)});
  EXPECT_EQ(ir.score, op(ir, Op::k_add, {op(ir, Op::k_mul, {x, x}), x}));
}

TEST(BuildIr, FunctionsAreANameSpaceOfTheirOwn) {
  Ir ir = typed("attention a(tanh: f32) { let exp = tanh * 2; score = exp(qk) + exp + tanh(qk); weights = softmax(score) }");
  const ValueId exp = op(ir, Op::k_mul, {ir.graph.param(Type::kF32, 0), op(ir, Op::k_to_f32, {i32(ir, 2)})});
  const ValueId sum = op(ir, Op::k_add, {op(ir, Op::k_exp, {sym(ir, Symbol::kQk)}), exp});
  EXPECT_EQ(ir.score, op(ir, Op::k_add, {sum, op(ir, Op::k_tanh, {sym(ir, Symbol::kQk)})}));
}

TEST(BuildIr, SoftmaxWithSinkAndFactors) {
  Ir ir = weights_of("softmax(score, sink = 0)");
  EXPECT_EQ(ir.weight_kind, WeightKind::kSoftmax);
  EXPECT_EQ(ir.sink, op(ir, Op::k_to_f32, {i32(ir, 0)}));
  EXPECT_EQ(ir.factor, kNoValue);

  ir = weights_of("softmax(score) * 0.5");
  EXPECT_EQ(ir.sink, kNoValue);
  EXPECT_EQ(ir.factor, f32(ir, 0.5));

  ir = weights_of("softmax(score) * 0.5 * h");
  EXPECT_EQ(ir.factor, op(ir, Op::k_mul, {f32(ir, 0.5), op(ir, Op::k_to_f32, {sym(ir, Symbol::kH)})}));

  ir = weights_of("softmax(score) / 0.5");
  EXPECT_EQ(ir.factor, op(ir, Op::k_div, {f32(ir, 1), f32(ir, 0.5)}));

  ir = weights_of("softmax(score) * score / 0.5");
  const ValueId score = ir.score;
  EXPECT_EQ(ir.factor, op(ir, Op::k_div, {score, f32(ir, 0.5)}));
}

TEST(BuildIr, PointwiseWeightsSubstituteTheScore) {
  Ir ir = weights_of("sigmoid(score) * score");
  EXPECT_EQ(ir.weight_kind, WeightKind::kPointwise);
  const ValueId score = op(ir, Op::k_mul, {sym(ir, Symbol::kQk), op(ir, Op::k_to_f32, {i32(ir, 2)})});
  EXPECT_EQ(ir.score, score);
  EXPECT_EQ(ir.weight, op(ir, Op::k_mul, {op(ir, Op::k_sigmoid, {score}), score}));
  ir = weights_of("1");
  EXPECT_EQ(ir.weight, op(ir, Op::k_to_f32, {i32(ir, 1)}));
}

TEST(BuildIr, Parameters) {
  const Ir ir = typed(
      "attention a(cap: f32 = 50, n: i32, causal: bool = true, w: const i32 = 4, slopes: grad bf16[heads], sink: grad f32,\n"
      "            doc: u8[batch, k_len], rel: f16[2 * w - 1, 3]) {\n"
      "  score = qk * cap + slopes[h] + rel[0, 1]\n  mask = doc[b, k_idx] < n or causal\n  weights = softmax(score, sink = sink)\n}");
  ASSERT_EQ(ir.params.size(), 8u);
  const auto check = [&](size_t i, const std::string& name, dsl::ElementType element, bool is_tensor, bool is_const, bool is_grad) {
    EXPECT_EQ(ir.params[i].name, name);
    EXPECT_EQ(ir.params[i].element, element) << name;
    EXPECT_EQ(ir.params[i].is_tensor, is_tensor) << name;
    EXPECT_EQ(ir.params[i].is_const, is_const) << name;
    EXPECT_EQ(ir.params[i].is_grad, is_grad) << name;
  };
  check(0, "cap", dsl::ElementType::kF32, false, false, false);
  check(1, "n", dsl::ElementType::kI32, false, false, false);
  check(2, "causal", dsl::ElementType::kBool, false, false, false);
  check(3, "w", dsl::ElementType::kI32, false, true, false);
  check(4, "slopes", dsl::ElementType::kBF16, true, false, true);
  check(5, "sink", dsl::ElementType::kF32, false, false, true);
  check(6, "doc", dsl::ElementType::kU8, true, false, false);
  check(7, "rel", dsl::ElementType::kF16, true, false, false);
  const Sizes sizes = {2, 6, 3, 10, 20, 32, 16};
  EXPECT_EQ(default_value(ir, ir.params[0], sizes), 50);
  EXPECT_EQ(ir.params[1].default_value, kNoValue);
  EXPECT_EQ(default_value(ir, ir.params[2], sizes), 1);
  EXPECT_EQ(default_value(ir, ir.params[3], sizes), 4);
  EXPECT_EQ(tensor_dims(ir, ir.params[4], sizes), (std::vector<int64_t>{6}));
  EXPECT_EQ(tensor_dims(ir, ir.params[6], sizes), (std::vector<int64_t>{2, 20}));
  EXPECT_EQ(tensor_dims(ir, ir.params[7], sizes), (std::vector<int64_t>{7, 3}));
  EXPECT_EQ(ir.params[1].range.begin, std::string("attention a(cap: f32 = 50, ").size());
}

TEST(BuildIr, ReadsHaveTheTypeTheyLoadAs) {
  for (const auto& [element, type] :
       {std::pair("f32", Type::kF32), {"f16", Type::kF32}, {"bf16", Type::kF32}, {"i32", Type::kI32}, {"u8", Type::kI32}}) {
    Ir ir = score_of("t[h, 0] * 1", std::string("t: ") + element + "[heads, 2]");
    const ValueId read = ir.graph.read(type, 0, {sym(ir, Symbol::kH), i32(ir, 0)});
    const ValueId one = type == Type::kI32 ? i32(ir, 1) : op(ir, Op::k_to_f32, {i32(ir, 1)});
    const ValueId product = op(ir, Op::k_mul, {read, one});
    EXPECT_EQ(ir.score, type == Type::kI32 ? op(ir, Op::k_to_f32, {product}) : product) << element;
  }
}

TEST(BuildIr, DefaultsUseSizesAndFunctions) {
  const Ir ir = score_of("qk * a + n", "c: const i32 = 3, a: f32 = -log(k_len), n: i32 = max(q_len, heads) // c, t: f32 = batch");
  Sizes sizes;
  sizes.batch = 5;
  sizes.k_len = 100;
  sizes.q_len = 7;
  sizes.heads = 8;
  EXPECT_DOUBLE_EQ(default_value(ir, ir.params[1], sizes), -std::log(100));
  EXPECT_EQ(default_value(ir, ir.params[2], sizes), 2);
  EXPECT_EQ(default_value(ir, ir.params[3], sizes), 5);
}

TEST(BuildIr, ConstParametersAreConstants) {
  const std::string params = "w: const i32 = 2 ** 3, c: const f32 = 0.5, f: const bool = true, d: const f32 = 1 / w";
  BuildOptions options;
  Ir ir = score_of("where(f, c * qk, w) + d", params);
  const ValueId one = ir.graph.constant(Type::kBool, 1);
  EXPECT_EQ(ir.score,
            op(ir, Op::k_add,
               {op(ir, Op::k_where, {one, op(ir, Op::k_mul, {f32(ir, 0.5), sym(ir, Symbol::kQk)}), op(ir, Op::k_to_f32, {i32(ir, 8)})}),
                f32(ir, 0.125)}));
  options.constants = {{"w", 4}, {"c", 3}, {"f", 0}};
  ir = score_of("where(f, c * qk, w) + d", params, options);
  const ValueId zero = ir.graph.constant(Type::kBool, 0);
  EXPECT_EQ(ir.score,
            op(ir, Op::k_add,
               {op(ir, Op::k_where, {zero, op(ir, Op::k_mul, {f32(ir, 3), sym(ir, Symbol::kQk)}), op(ir, Op::k_to_f32, {i32(ir, 4)})}),
                f32(ir, 0.25)}));
}

TEST(BuildIr, ConstantsWithoutDefaultAreGiven) {
  BuildOptions options;
  options.constants = {{"w", -3}};
  Ir ir = score_of("qk + w", "w: const i32", options);
  EXPECT_EQ(ir.score, op(ir, Op::k_add, {sym(ir, Symbol::kQk), op(ir, Op::k_to_f32, {i32(ir, -3)})}));
}

TEST(BuildIr, HeadDimsBecomeConstantsWhereGiven) {
  BuildOptions options;
  options.head_dim = 64;
  options.v_dim = 32;
  Ir ir = score_of("qk * head_dim + v_dim + q_len", "", options);
  const ValueId product = op(ir, Op::k_mul, {sym(ir, Symbol::kQk), op(ir, Op::k_to_f32, {i32(ir, 64)})});
  const ValueId sum = op(ir, Op::k_add, {product, op(ir, Op::k_to_f32, {i32(ir, 32)})});
  EXPECT_EQ(ir.score, op(ir, Op::k_add, {sum, op(ir, Op::k_to_f32, {sym(ir, Symbol::kQLen)})}));
  ir = score_of("qk * c", "c: const f32 = rsqrt(head_dim)", options);
  EXPECT_EQ(ir.score, op(ir, Op::k_mul, {sym(ir, Symbol::kQk), f32(ir, 0.125)}));
}

TEST(BuildIr, WrongConstantsAreErrors) {
  const std::string text =
      "attention a(window: const i32 = 4, flag: const bool = true) {\n  score = qk * window\n  mask = flag\n  weights = softmax(score)\n}";
  const auto errors = [&](std::map<std::string, double> constants) {
    BuildOptions options;
    options.constants = std::move(constants);
    return errors_of(text, options);
  };
  const std::string line = "  attention a(window: const i32 = 4, flag: const bool = true) {\n";
  EXPECT_EQ(errors({{"window", 5}, {"flag", 0}}), "");
  const std::string of_window = errors({{"window", 1.5}});
  EXPECT_NE(of_window.find("test.attn:1:13: error: const parameter 'window': expected a value of i32, found 1.5\n"), std::string::npos)
      << of_window;
  const std::string too_large = errors({{"window", 2147483648.0}});
  EXPECT_NE(too_large.find("const parameter 'window': expected a value of i32, found 2147483648\n"), std::string::npos) << too_large;
  const std::string of_flag = errors({{"flag", 2}});
  EXPECT_NE(of_flag.find("test.attn:1:36: error: const parameter 'flag': expected a value of bool, found 2\n"), std::string::npos)
      << of_flag;
  const std::string of_nan = errors({{"window", std::numeric_limits<double>::quiet_NaN()}});
  EXPECT_NE(of_nan.find("const parameter 'window': expected a value of i32, found nan\n"), std::string::npos) << of_nan;
  const std::string unknown = errors({{"windw", 5}});
  EXPECT_NE(unknown.find("test.attn:1:11: error: 'windw' is given a value, but is no const parameter of 'a'\n"), std::string::npos)
      << unknown;
  EXPECT_NE(unknown.find("did you mean 'window'?\n"), std::string::npos) << unknown;
}

TEST(BuildIr, TheScoreIsNoUseOfQkInWeights) {
  EXPECT_EQ(errors_of("attention a() { let s = qk; score = s; let t = score * 2; weights = relu(t) }"), "");
  EXPECT_EQ(errors_of("attention a() { score = qk; let t = score * 2; weights = softmax(score) * t }"), "");
}

TEST(BuildIr, SinksMayUseWhatDoesNotDependOnKeys) {
  EXPECT_EQ(
      errors_of("attention a(s: grad f32[heads, q_len]) { score = qk; weights = softmax(score, sink = s[h, q_idx] + q_pos + k_len) }"), "");
}

TEST(BuildIr, StatementsMayComeInAnyUsefulOrder) {
  Ir ir = typed("attention a() { mask = k_idx < 3; score = qk; weights = softmax(score) }");
  EXPECT_EQ(ir.mask, op(ir, Op::k_lt, {sym(ir, Symbol::kKIdx), i32(ir, 3)}));
}

}  // namespace
}  // namespace attune::codegen
