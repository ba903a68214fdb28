// Soundness of the interval column: for random operand intervals, the values of random members lie in the interval of the result.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/expr_builder.h"
#include "codegen/op_intervals.h"
#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kLeast = -2147483648.0;
constexpr double kGreatest = 2147483647.0;
constexpr double kMaxF32 = std::numeric_limits<float>::max();

// Numeric end points of an operand or a result; NaN: unknown. bool: 0 or 1.
struct Range {
  double low, high;
  bool is_unknown() const { return std::isnan(low); }
};

Ex end_point(Graph& graph, Type type, double value) {
  if (type == Type::kBool) return constant(graph, Type::kBool, value);
  if (!std::isnan(value)) return constant(graph, Type::kF64, value);
  const Ex infinity = constant(graph, Type::kF64, INFINITY);
  return infinity - infinity;
}

Interval interval_of(Graph& graph, Type type, const Range& range) {
  return {end_point(graph, type, range.low), end_point(graph, type, range.high)};
}

Range result_range(Op op, const std::vector<Type>& types, const std::vector<Range>& operands) {
  Graph graph;
  std::vector<Interval> x;
  for (size_t i = 0; i < operands.size(); ++i) x.push_back(interval_of(graph, types[i], operands[i]));
  const Interval result = info(op).interval(graph, x, *info(op).type(types));
  return {constant_value(graph, result.low.id).value(), constant_value(graph, result.high.id).value()};
}

double to_f32(double x) {
  return std::abs(x) > kMaxF32 && std::isfinite(x) ? std::copysign(INFINITY, x) : static_cast<double>(static_cast<float>(x));
}

// The value at the type's precision.
double member_value(Op op, const std::vector<Type>& types, const std::vector<double>& x) {
  const Type type = *info(op).type(types);
  const double value = info(op).value(x, type, types[0]);
  return type == Type::kF32 ? to_f32(value) : value;
}

// f32 (%) loses digits in three roundings: the remainder by the quotient, product and difference of f32.
double f32_remainder(double x, double y) {
  const auto a = static_cast<float>(x), b = static_cast<float>(y);
  if (b == 0) return 0;
  const float product = b * std::floor(a / b);
  return a - product;
}

class RandomRanges {
 public:
  explicit RandomRanges(uint64_t seed) : random_(seed) {}

  Range range(Type type) {
    if (type == Type::kBool) {
      const double low = pick(2), high = pick(2);
      return {std::min(low, high), std::max(low, high)};
    }
    if (type == Type::kF32 && pick(12) == 0) return {kNan, kNan};
    double a = point(type), b = pick(4) == 0 ? a : point(type);
    if (pick(3) == 0) b = step(type, a);
    return {std::min(a, b), std::max(a, b)};
  }

  double member(Type type, const Range& range) {
    if (range.is_unknown()) return pick(4) == 0 ? kNan : point(type);
    if (type == Type::kBool) return pick(2) == 0 ? range.low : range.high;
    const int where = pick(6);
    if (where == 0) return range.low;
    if (where == 1) return range.high;
    double value = point(type);
    if (where < 5 && std::isfinite(range.low) && std::isfinite(range.high)) {
      value = range.low + (range.high - range.low) * std::uniform_real_distribution<double>(0, 1)(random_);
    }
    value = type == Type::kI32 ? std::round(value) : to_f32(value);
    value = std::clamp(value, range.low, range.high);
    return value == 0 && pick(2) == 0 && type == Type::kF32 ? -value : value;  // both zeros are members
  }

  int pick(int count) { return std::uniform_int_distribution<int>(0, count - 1)(random_); }

 private:
  double point(Type type) {
    if (type == Type::kI32) {
      const std::vector<double> special = {0, 1, -1, 2, -2, 7, -7, 31, 32, 65536, kLeast, kLeast + 1, kGreatest, kGreatest - 1, 46341};
      if (pick(3) == 0) return special[pick(static_cast<int>(special.size()))];
      const double size = std::exp2(std::uniform_real_distribution<double>(0, 31)(random_));
      return std::clamp(std::round(sign() * size), kLeast, kGreatest);
    }
    const std::vector<double> special = {0, 1, -1, 0.5, 3, 88.8, -104, 1e-45, -1e-45, 1e-38, kMaxF32, -kMaxF32, INFINITY, -INFINITY, 1e20};
    if (pick(4) == 0) return to_f32(special[pick(static_cast<int>(special.size()))]);
    const double exponent =
        pick(3) == 0 ? std::uniform_real_distribution<double>(-140, 128)(random_) : std::normal_distribution<double>(0, 3)(random_);
    return to_f32(sign() * std::exp2(exponent));
  }

  double step(Type type, double a) {
    if (type == Type::kI32) return std::clamp(a + pick(5) - 2, kLeast, kGreatest);
    return to_f32(a * (1 + 0.01 * pick(20)));
  }

  double sign() { return pick(2) == 0 ? 1 : -1; }

  std::mt19937_64 random_;
};

::testing::AssertionResult contains(const Range& range, Type type, double value) {
  if (type == Type::kBool) {
    const bool fits = value == 0 ? range.low == 0 : range.high == 1;
    return fits ? ::testing::AssertionSuccess()
                : ::testing::AssertionFailure() << "always " << range.low << ", ever " << range.high << ", found " << value;
  }
  if (std::isnan(range.low) != std::isnan(range.high)) return ::testing::AssertionFailure() << "only one end point is NaN";
  if (range.is_unknown()) {
    return type == Type::kI32 ? ::testing::AssertionFailure() << "an i32 is always known" : ::testing::AssertionSuccess();
  }
  if (value >= range.low && value <= range.high) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << fmt::format("{} is not in [{}, {}]", value, range.low, range.high);
}

std::vector<std::vector<Type>> signatures(Op op) {
  const OpInfo& row = info(op);
  std::vector<std::vector<Type>> all;
  int combinations = 1;
  for (int i = 0; i < row.arity; ++i) combinations *= 3;
  for (int combination = 0; combination < combinations; ++combination) {
    std::vector<Type> types;
    for (int rest = combination, i = 0; i < row.arity; ++i, rest /= 3) types.push_back(static_cast<Type>(rest % 3));
    if (row.type(types)) all.push_back(types);
  }
  return all;
}

TEST(Intervals, ContainTheValuesOfRandomMembers) {
  constexpr int kRanges = 1500, kMembers = 12;
  int narrow = 0;
  for (int i = 0; i < static_cast<int>(Op::kCount); ++i) {
    const auto op = static_cast<Op>(i);
    const OpInfo& row = info(op);
    if (!row.interval) continue;
    for (const std::vector<Type>& types : signatures(op)) {
      const uint64_t seed = 0x5eed0000 + i;
      RandomRanges random(seed);
      for (int trial = 0; trial < kRanges; ++trial) {
        std::vector<Range> operands;
        for (Type type : types) operands.push_back(random.range(type));
        if (op == Op::k_pow) {
          const double exponents[] = {0, 1, 2, 3, -1, -2, 0.5, -0.5, 1.75, 7, 64, 65};
          operands[1].low = operands[1].high = exponents[random.pick(12)];
        }
        if (op == Op::k_ipow) operands[1].low = operands[1].high = random.pick(9);
        const Range result = result_range(op, types, operands);
        narrow += std::isfinite(result.low) && std::isfinite(result.high);
        for (int m = 0; m < kMembers; ++m) {
          std::vector<double> x;
          for (size_t k = 0; k < types.size(); ++k) x.push_back(random.member(types[k], operands[k]));
          double value = member_value(op, types, x);
          if (op == Op::k_mod && types[0] == Type::kF32) value = f32_remainder(x[0], x[1]);
          std::string text = fmt::format("seed {:#x} trial {}: {}", seed, trial, row.name);
          for (size_t k = 0; k < x.size(); ++k) text += fmt::format(" {:.9g} of [{:.9g}, {:.9g}]", x[k], operands[k].low, operands[k].high);
          ASSERT_TRUE(contains(result, *row.type(types), value)) << text;
        }
      }
    }
  }
  EXPECT_GT(narrow, 10000);  // the rules say something
}

// Exact results, so that rules stay as tight as masks need them.
void expect_range(Op op, const std::vector<Type>& types, const std::vector<Range>& operands, double low, double high) {
  const Range result = result_range(op, types, operands);
  EXPECT_EQ(result.low, low) << info(op).name;
  EXPECT_EQ(result.high, high) << info(op).name;
}

TEST(Intervals, IntegersAreExactUntilTheyMightWrap) {
  const std::vector<Type> one = {Type::kI32}, two = {Type::kI32, Type::kI32};
  expect_range(Op::k_add, two, {{1, 3}, {10, 20}}, 11, 23);
  expect_range(Op::k_sub, two, {{1, 3}, {10, 20}}, -19, -7);
  expect_range(Op::k_mul, two, {{-2, 3}, {10, 20}}, -40, 60);
  expect_range(Op::k_neg, one, {{-2, 3}}, -3, 2);
  expect_range(Op::k_abs, one, {{-2, 3}}, 0, 3);
  expect_range(Op::k_abs, one, {{-5, -3}}, 3, 5);
  expect_range(Op::k_add, two, {{kGreatest - 1, kGreatest}, {0, 1}}, kLeast, kGreatest);
  expect_range(Op::k_add, two, {{kGreatest - 1, kGreatest}, {0, 0}}, kGreatest - 1, kGreatest);
  expect_range(Op::k_sub, two, {{kLeast, 0}, {0, 1}}, kLeast, kGreatest);
  expect_range(Op::k_mul, two, {{0, 65536}, {0, 65536}}, kLeast, kGreatest);
  expect_range(Op::k_neg, one, {{kLeast, 0}}, kLeast, kGreatest);
  expect_range(Op::k_abs, one, {{kLeast, 0}}, kLeast, kGreatest);
  expect_range(Op::k_ipow, two, {{-3, 2}, {2, 2}}, 0, 9);
  expect_range(Op::k_ipow, two, {{-3, 2}, {3, 3}}, -27, 8);
  expect_range(Op::k_ipow, two, {{0, 65536}, {2, 2}}, kLeast, kGreatest);
}

TEST(Intervals, FloorDivisionAndRemainder) {
  const std::vector<Type> two = {Type::kI32, Type::kI32};
  expect_range(Op::k_floor_div, two, {{-7, 9}, {4, 4}}, -2, 2);
  expect_range(Op::k_floor_div, two, {{8, 9}, {-4, -2}}, -5, -2);
  expect_range(Op::k_floor_div, two, {{-7, 9}, {-1, 1}}, -9, 9);
  expect_range(Op::k_floor_div, two, {{kLeast, kLeast}, {-1, -1}}, kLeast, kGreatest);
  expect_range(Op::k_mod, two, {{8, 11}, {4, 4}}, 0, 3);
  expect_range(Op::k_mod, two, {{9, 10}, {4, 4}}, 1, 2);
  expect_range(Op::k_mod, two, {{-1, -1}, {4, 4}}, 3, 3);
  expect_range(Op::k_mod, two, {{7, 8}, {4, 4}}, 0, 3);
  expect_range(Op::k_mod, two, {{0, 100}, {-4, 6}}, -3, 5);
}

TEST(Intervals, ComparisonsDecideWhereTheyCan) {
  const std::vector<Type> two = {Type::kI32, Type::kI32};
  expect_range(Op::k_lt, two, {{0, 3}, {4, 9}}, 1, 1);
  expect_range(Op::k_lt, two, {{0, 4}, {4, 9}}, 0, 1);
  expect_range(Op::k_lt, two, {{9, 10}, {4, 9}}, 0, 0);
  expect_range(Op::k_le, two, {{0, 4}, {4, 9}}, 1, 1);
  expect_range(Op::k_ge, two, {{0, 3}, {4, 9}}, 0, 0);
  expect_range(Op::k_gt, two, {{5, 6}, {1, 4}}, 1, 1);
  expect_range(Op::k_eq, two, {{5, 5}, {5, 5}}, 1, 1);
  expect_range(Op::k_eq, two, {{5, 6}, {5, 5}}, 0, 1);
  expect_range(Op::k_eq, two, {{6, 7}, {5, 5}}, 0, 0);
  expect_range(Op::k_ne, two, {{6, 7}, {5, 5}}, 1, 1);
}

TEST(Intervals, UnknownStaysUnknown) {
  const std::vector<Type> one = {Type::kF32}, two = {Type::kF32, Type::kF32};
  const Range unknown = {kNan, kNan};
  for (Op op : {Op::k_exp, Op::k_log, Op::k_tanh, Op::k_sigmoid, Op::k_gelu, Op::k_silu, Op::k_softplus, Op::k_sin, Op::k_relu, Op::k_abs,
                Op::k_floor}) {
    EXPECT_TRUE(result_range(op, one, {unknown}).is_unknown()) << info(op).name;
  }
  for (Op op : {Op::k_add, Op::k_mul, Op::k_div, Op::k_min, Op::k_max}) {
    EXPECT_TRUE(result_range(op, two, {unknown, {0, 1}}).is_unknown()) << info(op).name;
    EXPECT_TRUE(result_range(op, two, {{0, 1}, unknown}).is_unknown()) << info(op).name;
  }
  for (Op op : {Op::k_lt, Op::k_le, Op::k_gt, Op::k_ge, Op::k_eq, Op::k_ne}) {
    const Range result = result_range(op, two, {unknown, {0, 1}});
    EXPECT_EQ(result.low, 0) << info(op).name;
    EXPECT_EQ(result.high, 1) << info(op).name;
  }
  EXPECT_TRUE(result_range(Op::k_div, two, {{1, 1}, {-1, 1}}).is_unknown());
  EXPECT_TRUE(result_range(Op::k_sqrt, one, {{-1, 1}}).is_unknown());
  expect_range(Op::k_to_i32, one, {unknown}, kLeast, kGreatest);
}

}  // namespace
}  // namespace attune::codegen
