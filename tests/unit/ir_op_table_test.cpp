#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = INFINITY;
constexpr double kLeast = -2147483648.0;
constexpr double kGreatest = 2147483647.0;

constexpr char letter(Type type) {
  return "bifd"[static_cast<int>(type)];
}

std::vector<Op> all_ops() {
  std::vector<Op> ops;
  for (int i = 0; i < static_cast<int>(Op::kCount); ++i) ops.push_back(static_cast<Op>(i));
  return ops;
}

// Every combination of operand types that the rule accepts: "ii>i ff>f".
std::string accepted(const OpInfo& row) {
  std::string text;
  int combinations = 1;
  for (int i = 0; i < row.arity; ++i) combinations *= 4;
  for (int combination = 0; combination < combinations; ++combination) {
    std::vector<Type> types;
    std::string letters;
    for (int rest = combination, i = 0; i < row.arity; ++i, rest /= 4) {
      types.insert(types.begin(), static_cast<Type>(rest % 4));
      letters.insert(letters.begin(), letter(types.front()));
    }
    const std::optional<Type> result = row.type(types);
    if (result) text += (text.empty() ? "" : " ") + letters + ">" + letter(*result);
  }
  return text;
}

// b bool, i i32, f f32, d f64 (bounds).
const std::map<std::string, std::string> kTypes = {
    {"add", "ii>i ff>f dd>d"},
    {"sub", "ii>i ff>f dd>d"},
    {"mul", "ii>i ff>f dd>d"},
    {"div", "ff>f dd>d"},
    {"floor_div", "ii>i ff>f"},
    {"mod", "ii>i ff>f"},
    {"neg", "i>i f>f d>d"},
    {"pow", "ff>f"},
    {"ipow", "ii>i"},
    {"eq", "bb>b ii>b ff>b dd>b"},
    {"ne", "bb>b ii>b ff>b dd>b"},
    {"lt", "ii>b ff>b dd>b"},
    {"le", "ii>b ff>b dd>b"},
    {"gt", "ii>b ff>b dd>b"},
    {"ge", "ii>b ff>b dd>b"},
    {"and", "bb>b"},
    {"or", "bb>b"},
    {"not", "b>b"},
    {"where", "bbb>b bii>i bff>f bdd>d"},
    {"min", "ii>i ff>f dd>d"},
    {"max", "ii>i ff>f dd>d"},
    {"clamp", "iii>i fff>f ddd>d"},
    {"abs", "i>i f>f d>d"},
    {"relu", "f>f"},
    {"floor", "f>f d>d"},
    {"exp", "f>f"},
    {"exp2", "f>f"},
    {"log", "f>f"},
    {"log2", "f>f"},
    {"sqrt", "f>f"},
    {"rsqrt", "f>f"},
    {"tanh", "f>f"},
    {"sigmoid", "f>f"},
    {"gelu", "f>f"},
    {"silu", "f>f"},
    {"softplus", "f>f"},
    {"erf", "f>f"},
    {"sin", "f>f"},
    {"cos", "f>f"},
    {"to_f32", "b>f i>f"},
    {"to_i32", "b>i f>i"},
    {"bit", "ii>b"},
    {"random", "iiiii>f"},
    {"to_f64", "i>d f>d"},
    {"f64_to_i32", "d>i"},
    {"tile_min", "i>d f>d"},
    {"tile_max", "i>d f>d"},
};

TEST(OpTable, TypeRulesAcceptExactlyTheseTypes) {
  size_t rules = 0;
  for (Op op : all_ops()) {
    const OpInfo& row = info(op);
    if (!row.type) continue;
    ++rules;
    const auto expected = kTypes.find(std::string(row.name));
    ASSERT_NE(expected, kTypes.end()) << row.name;
    EXPECT_EQ(accepted(row), expected->second) << row.name;
  }
  EXPECT_EQ(rules, kTypes.size());
}

TEST(OpTable, LeavesHaveNoRules) {
  for (Op op : {Op::k_constant, Op::k_symbol, Op::k_param, Op::k_read}) {
    const OpInfo& row = info(op);
    EXPECT_EQ(row.type, nullptr) << row.name;
    EXPECT_EQ(row.value, nullptr) << row.name;
    EXPECT_EQ(row.tangent, nullptr) << row.name;
    EXPECT_EQ(row.interval, nullptr) << row.name;
    EXPECT_EQ(row.llvm, nullptr) << row.name;
  }
}

TEST(OpTable, EveryOperatorOfUsersIsComplete) {
  for (Op op : all_ops()) {
    const OpInfo& row = info(op);
    if (row.spelled == Spelled::kNot) continue;
    EXPECT_FALSE(row.spelling.empty()) << row.name;
    EXPECT_NE(row.value, nullptr) << row.name;
    EXPECT_NE(row.interval, nullptr) << row.name;
    EXPECT_NE(row.llvm, nullptr) << row.name;
    EXPECT_GT(row.cost.alu + row.cost.special, 0) << row.name;
    for (const std::string_view form : {row.cuda.exact, row.cuda.fast}) {
      for (int i = 0; i < row.arity; ++i) EXPECT_NE(form.find("$" + std::to_string(i)), std::string_view::npos) << row.name;
    }
  }
}

TEST(OpTable, FindsFunctionsAndOperators) {
  EXPECT_EQ(find_function("exp"), Op::k_exp);
  EXPECT_EQ(find_function("f32"), Op::k_to_f32);
  EXPECT_EQ(find_function("i32"), Op::k_to_i32);
  EXPECT_EQ(find_function("add"), std::nullopt);
  EXPECT_EQ(find_function("ipow"), std::nullopt);
  EXPECT_EQ(find_function("tile_min"), std::nullopt);
  EXPECT_EQ(find_function("softmax"), std::nullopt);
  EXPECT_EQ(find_function(""), std::nullopt);
  EXPECT_EQ(find_operator("-", 1), Op::k_neg);
  EXPECT_EQ(find_operator("-", 2), Op::k_sub);
  EXPECT_EQ(find_operator("**", 2), Op::k_pow);
  EXPECT_EQ(find_operator("//", 2), Op::k_floor_div);
  EXPECT_EQ(find_operator("not", 1), Op::k_not);
  EXPECT_EQ(find_operator("where", 3), std::nullopt);
  EXPECT_EQ(find_operator("", 2), std::nullopt);
}

TEST(OpTable, FunctionsAreThoseOfTheLanguage) {
  const std::vector<std::string> names = function_names();
  const std::set<std::string> expected = {"exp",   "exp2",     "log",   "log2", "sqrt", "rsqrt", "tanh",  "sigmoid", "relu",
                                          "gelu",  "silu",     "erf",   "sin",  "cos",  "abs",   "min",   "max",     "clamp",
                                          "floor", "softplus", "where", "f32",  "i32",  "bit",   "random"};
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), expected);
  EXPECT_EQ(names.size(), expected.size());
}

struct ValueCase {
  Op op;
  std::string types;  // of the operands
  std::vector<double> x;
  double expected;
};

double value_of(const ValueCase& c) {
  std::vector<Type> types;
  for (char t : c.types) types.push_back(static_cast<Type>(std::string("bifd").find(t)));
  const OpInfo& row = info(c.op);
  const std::optional<Type> type = row.type(types);
  if (!type) throw std::logic_error("wrong types of " + std::string(row.name));
  return row.value(c.x, *type, types.front());
}

std::string describe(const ValueCase& c) {
  std::string text(info(c.op).name);
  for (double x : c.x) text += " " + std::to_string(x);
  return text;
}

void expect_values(const std::vector<ValueCase>& cases) {
  for (const ValueCase& c : cases) {
    const double got = value_of(c);
    if (std::isnan(c.expected)) {
      EXPECT_TRUE(std::isnan(got)) << describe(c) << " gives " << got;
    } else {
      EXPECT_EQ(got, c.expected) << describe(c);
    }
  }
}

TEST(OpValues, IntegersWrap) {
  expect_values({
      {Op::k_add, "ii", {kGreatest, 1}, kLeast},
      {Op::k_add, "ii", {kLeast, -1}, kGreatest},
      {Op::k_sub, "ii", {kLeast, 1}, kGreatest},
      {Op::k_sub, "ii", {0, kLeast}, kLeast},
      {Op::k_mul, "ii", {65536, 65536}, 0},
      {Op::k_mul, "ii", {65536, 32768}, kLeast},
      {Op::k_mul, "ii", {kGreatest, kGreatest}, 1},
      {Op::k_mul, "ii", {kLeast, kLeast}, 0},
      {Op::k_mul, "ii", {kLeast, -1}, kLeast},
      {Op::k_neg, "i", {kLeast}, kLeast},
      {Op::k_neg, "i", {7}, -7},
      {Op::k_abs, "i", {kLeast}, kLeast},
      {Op::k_abs, "i", {-7}, 7},
      {Op::k_ipow, "ii", {3, 4}, 81},
      {Op::k_ipow, "ii", {-3, 3}, -27},
      {Op::k_ipow, "ii", {0, 0}, 1},
      {Op::k_ipow, "ii", {kLeast, 0}, 1},
      {Op::k_ipow, "ii", {2, 31}, kLeast},
      {Op::k_ipow, "ii", {2, 32}, 0},
      {Op::k_ipow, "ii", {3, 21}, 1870418611},
      {Op::k_ipow, "ii", {-1, kGreatest}, -1},
  });
}

TEST(OpValues, FloatsDoNotWrap) {
  expect_values({
      {Op::k_add, "ff", {kGreatest, 1}, 2147483648.0},
      {Op::k_mul, "ff", {65536, 65536}, 4294967296.0},
      {Op::k_neg, "f", {kLeast}, 2147483648.0},
      {Op::k_add, "ff", {kInf, -kInf}, kNan},
      {Op::k_add, "ff", {0.5, 0.25}, 0.75},
      {Op::k_sub, "ff", {0.5, 0.25}, 0.25},
      {Op::k_div, "ff", {1, 4}, 0.25},
      {Op::k_div, "ff", {1, 0}, kInf},
      {Op::k_div, "ff", {-1, 0}, -kInf},
      {Op::k_div, "ff", {0, 0}, kNan},
  });
}

TEST(OpValues, DivisionIsFlooredAndZeroByZero) {
  expect_values({
      {Op::k_floor_div, "ii", {7, 2}, 3},
      {Op::k_floor_div, "ii", {-7, 2}, -4},
      {Op::k_floor_div, "ii", {7, -2}, -4},
      {Op::k_floor_div, "ii", {-7, -2}, 3},
      {Op::k_floor_div, "ii", {6, -2}, -3},
      {Op::k_floor_div, "ii", {7, 0}, 0},
      {Op::k_floor_div, "ii", {kLeast, 0}, 0},
      {Op::k_floor_div, "ii", {kLeast, -1}, kLeast},
      {Op::k_floor_div, "ii", {kLeast, 3}, -715827883},
      {Op::k_floor_div, "ii", {kGreatest, 3}, 715827882},
      {Op::k_mod, "ii", {7, 2}, 1},
      {Op::k_mod, "ii", {-7, 2}, 1},
      {Op::k_mod, "ii", {7, -2}, -1},
      {Op::k_mod, "ii", {-7, -2}, -1},
      {Op::k_mod, "ii", {-6, 3}, 0},
      {Op::k_mod, "ii", {7, 0}, 0},
      {Op::k_mod, "ii", {kLeast, -1}, 0},
      {Op::k_mod, "ii", {kLeast, 10}, 2},
      {Op::k_mod, "ii", {kLeast, kGreatest}, 2147483646},
      {Op::k_floor_div, "ff", {7.5, 2}, 3},
      {Op::k_floor_div, "ff", {-7.5, 2}, -4},
      {Op::k_floor_div, "ff", {7.5, 0}, 0},
      {Op::k_floor_div, "ff", {kNan, 2}, kNan},
      {Op::k_mod, "ff", {7.5, 2}, 1.5},
      {Op::k_mod, "ff", {-7.5, 2}, 0.5},
      {Op::k_mod, "ff", {7.5, -2}, -0.5},
      {Op::k_mod, "ff", {7.5, 0}, 0},
      {Op::k_mod, "ff", {kNan, 2}, kNan},
  });
}

TEST(OpValues, ComparisonsOfNanAreFalseButNe) {
  for (Op op : {Op::k_eq, Op::k_lt, Op::k_le, Op::k_gt, Op::k_ge}) {
    expect_values({{op, "ff", {kNan, 1}, 0}, {op, "ff", {1, kNan}, 0}, {op, "ff", {kNan, kNan}, 0}});
  }
  expect_values({
      {Op::k_ne, "ff", {kNan, 1}, 1},
      {Op::k_ne, "ff", {kNan, kNan}, 1},
      {Op::k_eq, "ff", {0.0, -0.0}, 1},
      {Op::k_eq, "bb", {1, 0}, 0},
      {Op::k_ne, "bb", {1, 0}, 1},
      {Op::k_lt, "ii", {-1, 0}, 1},
      {Op::k_lt, "ii", {0, 0}, 0},
      {Op::k_le, "ii", {0, 0}, 1},
      {Op::k_gt, "ii", {0, 0}, 0},
      {Op::k_ge, "ii", {0, 0}, 1},
      {Op::k_gt, "ff", {kInf, 1}, 1},
      {Op::k_ge, "ff", {-kInf, 1}, 0},
      {Op::k_and, "bb", {1, 1}, 1},
      {Op::k_and, "bb", {1, 0}, 0},
      {Op::k_or, "bb", {0, 0}, 0},
      {Op::k_or, "bb", {0, 1}, 1},
      {Op::k_not, "b", {0}, 1},
      {Op::k_not, "b", {1}, 0},
      {Op::k_where, "bff", {1, 2, kNan}, 2},
      {Op::k_where, "bff", {0, kNan, 3}, 3},
  });
}

TEST(OpValues, SelectionPassesNanOn) {
  expect_values({
      {Op::k_min, "ff", {1, 2}, 1},
      {Op::k_min, "ff", {kNan, 2}, kNan},
      {Op::k_min, "ff", {1, kNan}, kNan},
      {Op::k_max, "ff", {1, 2}, 2},
      {Op::k_max, "ff", {kNan, 2}, kNan},
      {Op::k_max, "ff", {1, kNan}, kNan},
      {Op::k_max, "ff", {-kInf, kInf}, kInf},
      {Op::k_clamp, "fff", {5, 0, 1}, 1},
      {Op::k_clamp, "fff", {-5, 0, 1}, 0},
      {Op::k_clamp, "fff", {0.5, 0, 1}, 0.5},
      {Op::k_clamp, "fff", {5, 1, 0}, 0},  // min(max(x, low), high)
      {Op::k_clamp, "fff", {-5, 1, 0}, 0},
      {Op::k_clamp, "fff", {kNan, 0, 1}, kNan},
      {Op::k_clamp, "fff", {5, kNan, 1}, kNan},
      {Op::k_clamp, "fff", {5, 0, kNan}, kNan},
      {Op::k_clamp, "iii", {7, -1, 3}, 3},
      {Op::k_relu, "f", {-2}, 0},
      {Op::k_relu, "f", {2}, 2},
      {Op::k_relu, "f", {kNan}, kNan},
      {Op::k_abs, "f", {-2.5}, 2.5},
      {Op::k_abs, "f", {kNan}, kNan},
      {Op::k_floor, "f", {-0.5}, -1},
      {Op::k_floor, "f", {kNan}, kNan},
      {Op::k_floor, "f", {kInf}, kInf},
  });
}

TEST(OpValues, Powers) {
  expect_values({
      {Op::k_pow, "ff", {-2, 3}, -8},
      {Op::k_pow, "ff", {-2, -2}, 0.25},
      {Op::k_pow, "ff", {4, 0.5}, 2},
      {Op::k_pow, "ff", {-4, 0.5}, kNan},
      {Op::k_pow, "ff", {kNan, 0}, 1},
      {Op::k_pow, "ff", {0, 0}, 1},
      {Op::k_pow, "ff", {0, -1}, kInf},
      {Op::k_pow, "ff", {kNan, 1}, kNan},
  });
}

TEST(OpValues, ConversionsAndBits) {
  expect_values({
      {Op::k_to_i32, "f", {2.9}, 2},          {Op::k_to_i32, "f", {-2.9}, -2},      {Op::k_to_i32, "f", {kNan}, 0},
      {Op::k_to_i32, "f", {kInf}, kGreatest}, {Op::k_to_i32, "f", {-kInf}, kLeast}, {Op::k_to_i32, "f", {3e9}, kGreatest},
      {Op::k_to_i32, "f", {-3e9}, kLeast},    {Op::k_to_i32, "b", {1}, 1},          {Op::k_to_f32, "b", {1}, 1},
      {Op::k_to_f32, "i", {-5}, -5},          {Op::k_f64_to_i32, "d", {kNan}, 0},   {Op::k_f64_to_i32, "d", {-3.5}, -3},
      {Op::k_bit, "ii", {5, 0}, 1},           {Op::k_bit, "ii", {5, 1}, 0},         {Op::k_bit, "ii", {5, 2}, 1},
      {Op::k_bit, "ii", {-1, 31}, 1},         {Op::k_bit, "ii", {kLeast, 31}, 1},   {Op::k_bit, "ii", {-1, 32}, 0},
      {Op::k_bit, "ii", {-1, -1}, 0},
  });
}

TEST(OpValues, ElementaryFunctions) {
  const auto near = [](Op op, double x, double expected) {
    const double got = value_of({op, "f", {x}, 0});
    EXPECT_NEAR(got, expected, 1e-14 * std::max(1.0, std::abs(expected))) << info(op).name << " " << x;
  };
  near(Op::k_exp, 1, 2.718281828459045);
  near(Op::k_exp2, -1.5, 0.35355339059327376);
  near(Op::k_log, 10, 2.302585092994046);
  near(Op::k_log2, 10, 3.321928094887362);
  near(Op::k_sqrt, 2, 1.4142135623730951);
  near(Op::k_rsqrt, 2, 0.7071067811865475);
  near(Op::k_tanh, 0.5, 0.46211715726000975);
  near(Op::k_sigmoid, 1, 0.7310585786300049);
  near(Op::k_gelu, 1, 0.8413447460685429);
  near(Op::k_gelu, -10, -7.619853024160527e-23);
  near(Op::k_silu, 1, 0.7310585786300049);
  near(Op::k_softplus, 1, 1.3132616875182228);
  near(Op::k_softplus, 800, 800);
  near(Op::k_softplus, -800, 0);
  near(Op::k_erf, 0.5, 0.5204998778130465);
  near(Op::k_sin, 1, 0.8414709848078965);
  near(Op::k_cos, 1, 0.5403023058681398);
  expect_values({
      {Op::k_exp, "f", {-kInf}, 0},
      {Op::k_log, "f", {0}, -kInf},
      {Op::k_log, "f", {-1}, kNan},
      {Op::k_sqrt, "f", {-1}, kNan},
      {Op::k_rsqrt, "f", {0}, kInf},
      {Op::k_sigmoid, "f", {-kInf}, 0},
      {Op::k_sigmoid, "f", {kInf}, 1},
      {Op::k_softplus, "f", {kNan}, kNan},
      {Op::k_softplus, "f", {-kInf}, 0},
      {Op::k_softplus, "f", {kInf}, kInf},
      {Op::k_silu, "f", {kInf}, kInf},
      {Op::k_gelu, "f", {kInf}, kInf},
  });
}

TEST(OpValues, RandomIsUniformAndDependsOnEveryOperand) {
  const std::vector<double> x = {1, 2, 3, 4, 5};
  const double value = value_of({Op::k_random, "iiiii", x, 0});
  EXPECT_GE(value, 0);
  EXPECT_LT(value, 1);
  EXPECT_EQ(value_of({Op::k_random, "iiiii", x, 0}), value);
  for (size_t i = 0; i < x.size(); ++i) {
    std::vector<double> other = x;
    other[i] += 1;
    EXPECT_NE(value_of({Op::k_random, "iiiii", other, 0}), value) << "operand " << i;
  }
  double sum = 0, square = 0;
  constexpr int kCount = 20000;
  for (int i = 0; i < kCount; ++i) {
    const double u = value_of({Op::k_random, "iiiii", {-7, 0, 1, static_cast<double>(i / 100), static_cast<double>(i % 100)}, 0});
    EXPECT_TRUE(u >= 0 && u < 1);
    sum += u;
    square += u * u;
  }
  // Six standard deviations of the mean of that many uniform values.
  EXPECT_NEAR(sum / kCount, 0.5, 6 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(square / kCount, 1.0 / 3, 6 * std::sqrt(4.0 / 45 / kCount));
}

}  // namespace
}  // namespace attune::codegen
