#include "codegen/op_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "codegen/op_intervals.h"
#include "codegen/op_llvm_forms.h"

namespace attune::codegen {
namespace {

// Type rules. The arity has been checked.
using Types = std::span<const Type>;

bool all_are(Types types, Type type) {
  return std::all_of(types.begin(), types.end(), [type](Type t) { return t == type; });
}

std::optional<Type> result_if(bool fits, Type type) {
  return fits ? std::optional(type) : std::nullopt;
}
std::optional<Type> numbers(Types types) {
  return result_if(types[0] != Type::kBool && all_are(types, types[0]), types[0]);
}
std::optional<Type> floats(Types types) {
  return result_if(types[0] != Type::kI32 && numbers(types), types[0]);
}
std::optional<Type> i32s_or_f32s(Types types) {
  return result_if(types[0] != Type::kF64 && numbers(types), types[0]);
}
std::optional<Type> f32_to_f32(Types types) {
  return result_if(all_are(types, Type::kF32), Type::kF32);
}
std::optional<Type> i32_to_i32(Types types) {
  return result_if(all_are(types, Type::kI32), Type::kI32);
}
std::optional<Type> bools(Types types) {
  return result_if(all_are(types, Type::kBool), Type::kBool);
}
std::optional<Type> comparison(Types types) {
  return result_if(numbers(types).has_value(), Type::kBool);
}
std::optional<Type> equality(Types types) {
  return result_if(all_are(types, types[0]), Type::kBool);
}
std::optional<Type> choice(Types types) {
  return result_if(types[0] == Type::kBool && types[1] == types[2], types[1]);
}
std::optional<Type> i32s_to_bool(Types types) {
  return result_if(all_are(types, Type::kI32), Type::kBool);
}
std::optional<Type> i32s_to_f32(Types types) {
  return result_if(all_are(types, Type::kI32), Type::kF32);
}
std::optional<Type> i32_or_bool_to_f32(Types types) {
  return result_if(types[0] == Type::kI32 || types[0] == Type::kBool, Type::kF32);
}
std::optional<Type> f32_or_bool_to_i32(Types types) {
  return result_if(types[0] == Type::kF32 || types[0] == Type::kBool, Type::kI32);
}
std::optional<Type> i32_or_f32_to_f64(Types types) {
  return result_if(types[0] == Type::kI32 || types[0] == Type::kF32, Type::kF64);
}
std::optional<Type> f64_to_i32_type(Types types) {
  return result_if(types[0] == Type::kF64, Type::kI32);
}

// Values in double.
double wrap_i32(int64_t x) {
  return static_cast<int32_t>(static_cast<uint32_t>(x));
}
double wrap(double x, Type type) {
  return type == Type::kI32 ? wrap_i32(static_cast<int64_t>(x)) : x;
}

double multiply(double x, double y, Type type) {
  return type == Type::kI32 ? wrap_i32(static_cast<int64_t>(x) * static_cast<int64_t>(y)) : x * y;
}

// The quotient of two i32 in double never rounds across a whole number.
double floor_divide(double x, double y, Type type) {
  return y == 0 ? 0 : wrap(std::floor(x / y), type);
}
double floor_modulo(double x, double y, Type type) {
  return y == 0 ? 0 : wrap(x - y * std::floor(x / y), type);
}

double integer_power(double base, double exponent) {
  uint32_t result = 1;
  auto square = static_cast<uint32_t>(static_cast<int32_t>(base));
  for (auto rest = static_cast<uint32_t>(exponent); rest != 0; rest >>= 1) {
    if (rest & 1) result *= square;
    square *= square;
  }
  return static_cast<int32_t>(result);
}

double minimum(double x, double y) {
  return std::isnan(x) || x < y ? x : y;
}
double maximum(double x, double y) {
  return std::isnan(x) || x > y ? x : y;
}

double to_integer(double x) {
  if (std::isnan(x)) return 0;
  return std::trunc(std::clamp(x, -2147483648.0, 2147483647.0));
}

double bit_of(double x, double index) {
  if (index < 0 || index > 31) return 0;
  return static_cast<uint32_t>(static_cast<int32_t>(x)) >> static_cast<int>(index) & 1u;
}

double random_of(std::span<const double> x) {
  const auto word = [&x](int i) { return static_cast<uint32_t>(static_cast<int32_t>(x[i])); };
  return random_value(word(0), word(1), word(2), word(3), word(4));
}

// Tangents that are longer than a row.
using Exprs = std::span<const Ex>;

Ex extremum_tangent(Ex first_wins, Exprs x, Exprs dx) {
  if (dx[0].is_zero() && dx[1].is_zero()) return {};
  const Ex is_tie = apply(Op::k_eq, {x[0], x[1]});
  return where(first_wins, dx[0], where(is_tie, (dx[0] + dx[1]) * 0.5, dx[1]));
}

Ex clamp_tangent(Exprs x, Exprs dx) {
  const Ex is_above = max(x[0], x[1]) > x[2];
  const Ex is_below = x[0] < x[1];
  return where(is_above, dx[2], where(is_below, dx[1], dx[0]));
}

Ex mod_tangent(Exprs x, Exprs dx) {
  const Ex by_zero = apply(Op::k_eq, {x[1], constant(*x[1].graph, Type::kF32, 0)});
  return where(by_zero, {}, dx[0] - apply(Op::k_floor_div, {x[0], x[1]}) * dx[1]);
}

Ex pow_tangent(Exprs x, Exprs dx) {
  const double exponent = (*x[1].graph)[x[1].id].number;
  if (exponent == 0) return {};
  if (exponent == 1) return dx[0];
  return dx[0] * (exponent * apply(Op::k_pow, {x[0], constant(*x[0].graph, Type::kF32, exponent - 1)}));
}

// Phi(x) + x * phi(x), the normal distribution and its density.
Ex gelu_tangent(Exprs x, Exprs dx) {
  const Ex distribution = 0.5 + 0.5 * apply(Op::k_erf, {x[0] * (std::numbers::sqrt2 / 2)});
  const Ex density = apply(Op::k_exp, {x[0] * x[0] * -0.5}) * (std::numbers::inv_sqrtpi * std::numbers::sqrt2 / 2);
  return dx[0] * (distribution + x[0] * density);
}

// s + x * s * (1 - s), s the sigmoid of x; y = x * s.
Ex silu_tangent(Exprs x, Exprs dx, Ex y) {
  const Ex s = apply(Op::k_sigmoid, {x[0]});
  return dx[0] * (s + y * (1 - s));
}

#define VALUE(...)                                                                                                      \
  [](std::span<const double> x [[maybe_unused]], Type type [[maybe_unused]], Type operand [[maybe_unused]]) -> double { \
    return __VA_ARGS__;                                                                                                 \
  }
#define TANGENT(...) \
  [](std::span<const Ex> x [[maybe_unused]], std::span<const Ex> dx [[maybe_unused]], Ex y [[maybe_unused]]) -> Ex { return __VA_ARGS__; }
#define INTERVAL(...)                                                                                                       \
  [](Graph& graph [[maybe_unused]], std::span<const Interval> x [[maybe_unused]], Type type [[maybe_unused]]) -> Interval { \
    return __VA_ARGS__;                                                                                                     \
  }
#define COST(alu, special) (Cost{alu, special})
#define FORM(text) (CudaForms{text, text})
#define FORMS(exact, fast) (CudaForms{exact, fast})
#define LLVM(...)                                                                                                \
  [](MathBuilder& b [[maybe_unused]], std::span<const MathValue> x [[maybe_unused]], Type type [[maybe_unused]], \
     Type operand [[maybe_unused]], double exponent [[maybe_unused]]) -> MathValue { return __VA_ARGS__; }

constexpr std::array<OpInfo, static_cast<size_t>(Op::kCount)> kTable = {{
#define ATTUNE_OP(name, spelling, spelled, arity, type, value, tangent, interval, cost, cuda, llvm) \
  {#name, spelling, Spelled::spelled, arity, type, value, tangent, interval, cost, cuda, llvm},
#include "codegen/op_table.def"
#undef ATTUNE_OP
}};

std::optional<Op> find(std::string_view spelling, Spelled spelled, int arity) {
  for (size_t i = 0; i < kTable.size(); ++i) {
    const OpInfo& row = kTable[i];
    if (row.spelled == spelled && row.spelling == spelling && (arity < 0 || row.arity == arity)) return static_cast<Op>(i);
  }
  return std::nullopt;
}

}  // namespace

const OpInfo& info(Op op) {
  return kTable[static_cast<size_t>(op)];
}
std::optional<Op> find_function(std::string_view spelling) {
  return find(spelling, Spelled::kCall, -1);
}
std::optional<Op> find_operator(std::string_view spelling, int arity) {
  return find(spelling, Spelled::kOperator, arity);
}

std::vector<std::string> function_names() {
  std::vector<std::string> names;
  for (const OpInfo& row : kTable) {
    if (row.spelled == Spelled::kCall) names.emplace_back(row.spelling);
  }
  return names;
}

}  // namespace attune::codegen
