#include "codegen/op_intervals.h"

#include <cmath>
#include <limits>
#include <stdexcept>

namespace attune::codegen {
namespace {

constexpr double kLeastI32 = -2147483648.0;
constexpr double kGreatestI32 = 2147483647.0;
constexpr double kGreatestF32 = std::numeric_limits<float>::max();
// Twice the error of a rounded f32 operation or of CUDA's approximate division and square root; the absolute part covers results that are
// flushed to zero.
constexpr double kRelativeError = 0x1p-22;
constexpr double kAbsoluteError = 0x1p-125;
// pow goes by log2 and exp2 of up to 128: log2 of the result loses 7 bits.
constexpr double kPowRelativeError = 0x1p-15;

Ex f64(const Interval& like, double value) {
  return constant(*like.low.graph, Type::kF64, value);
}
Type type_of(Ex x) {
  return (*x.graph)[x.id].type;
}
Ex abs(Ex x) {
  return apply(Op::k_abs, {x});
}

Interval unknown(Graph& graph) {
  const Ex infinity = constant(graph, Type::kF64, INFINITY);
  const Ex nan = infinity - infinity;  // constants are never NaN
  return {nan, nan};
}

Interval only_if(Ex condition, const Interval& x) {
  const Interval otherwise = unknown(*condition.graph);
  return {where(condition, x.low, otherwise.low), where(condition, x.high, otherwise.high)};
}

// False for NaN.
Ex is_finite(const Interval& x) {
  return x.low >= -kGreatestF32 && x.high <= kGreatestF32;
}

// i32: all of it where the exact result might not fit or is not known.
Interval fit_i32(const Interval& x) {
  const Ex fits = x.low >= kLeastI32 && x.high <= kGreatestI32;
  return {where(fits, x.low, f64(x, kLeastI32)), where(fits, x.high, f64(x, kGreatestI32))};
}

// f32: unknown where the result might be infinite, since an infinity may then turn into a NaN.
Interval widen_f32(const Interval& x, double relative = kRelativeError) {
  const Interval wide = {x.low - (abs(x.low) * relative + kAbsoluteError), x.high + (abs(x.high) * relative + kAbsoluteError)};
  return only_if(is_finite(wide), wide);
}

Interval rounded(const Interval& x, Type type) {
  switch (type) {
    case Type::kI32:
      return fit_i32(x);
    case Type::kF32:
      return widen_f32(x);
    default:
      return x;
  }
}

Interval hull(Ex a, Ex b, Ex c, Ex d) {
  return {min(min(a, b), min(c, d)), max(max(a, b), max(c, d))};
}

Interval product(const Interval& x, const Interval& y) {
  return hull(x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high);
}

// Exact or unknown: unknown where the divisor may be 0.
Interval quotient(const Interval& x, const Interval& y) {
  return only_if(y.low > 0 || y.high < 0, hull(x.low / y.low, x.low / y.high, x.high / y.low, x.high / y.high));
}

// x ** exponent, exponent a whole number >= 0, without rounding.
Interval whole_power(const Interval& x, double exponent) {
  const auto power = [](Ex base, double rest) {
    Ex result = constant(*base.graph, Type::kF64, 1);
    for (; rest >= 1; rest = std::floor(rest / 2)) {
      if (std::fmod(rest, 2) == 1) result = result * base;
      if (rest >= 2) base = base * base;
    }
    return result;
  };
  if (std::fmod(exponent, 2) == 1) return {power(x.low, exponent), power(x.high, exponent)};
  // Even: decreasing up to 0, then increasing.
  const Ex nearest = max(max(x.low, -x.high), 0.0);
  const Ex farthest = max(-x.low, x.high);
  return {power(nearest, exponent), power(farthest, exponent)};
}

double constant_value(Ex x) {
  const Node& node = (*x.graph)[x.id];
  if (node.op == Op::k_to_f64) return constant_value({x.graph, node.operands[0]});
  if (node.op != Op::k_constant) throw std::logic_error("the interval of an exponent is not a constant");
  return node.number;
}

}  // namespace

Interval number(Graph& graph, double value) {
  const Ex point = constant(graph, Type::kF64, value);
  return {point, point};
}

Interval undecided(Graph& graph) {
  return {constant(graph, Type::kBool, 0), constant(graph, Type::kBool, 1)};
}

Interval within(const Interval& x, double low, double high) {
  return only_if(x.low <= x.high, {f64(x, low), f64(x, high)});
}

Interval add_range(const Interval& x, const Interval& y, Type type) {
  return rounded({x.low + y.low, x.high + y.high}, type);
}
Interval sub_range(const Interval& x, const Interval& y, Type type) {
  return rounded({x.low - y.high, x.high - y.low}, type);
}
Interval mul_range(const Interval& x, const Interval& y, Type type) {
  return rounded(product(x, y), type);
}
Interval div_range(const Interval& x, const Interval& y, Type type) {
  return rounded(quotient(x, y), type);
}
Interval neg_range(const Interval& x, Type type) {
  const Interval result = {-x.high, -x.low};
  return type == Type::kI32 ? fit_i32(result) : result;
}

Interval abs_range(const Interval& x, Type type) {
  const Interval result = {max(max(x.low, -x.high), 0.0), max(-x.low, x.high)};
  return type == Type::kI32 ? fit_i32(result) : result;
}

Interval floor_div_range(const Interval& x, const Interval& y, Type type) {
  if (type != Type::kI32) return floor_range(div_range(x, y, type));
  // In f64 the floor of a rounded quotient of two i32 is exact. By what may be 0 the result is not greater than the dividend, and 0 by 0.
  const Ex may_be_zero = y.low <= 0 && y.high >= 0;
  const Interval corners = hull(floor(x.low / y.low), floor(x.low / y.high), floor(x.high / y.low), floor(x.high / y.high));
  const Ex greatest = max(abs(x.low), abs(x.high));
  return fit_i32({where(may_be_zero, -greatest, corners.low), where(may_be_zero, greatest, corners.high)});
}

Interval mod_range(const Interval& x, const Interval& y, Type type) {
  if (type != Type::kI32) return sub_range(x, mul_range(y, floor_div_range(x, y, type), type), type);
  // The remainder lies between 0 and the divisor. By a known divisor > 0 it does not leap while the quotient stays the same.
  const Ex quotient = floor(x.low / y.low);
  const Ex is_tight = y.low > 0 && (y.low >= y.high && quotient >= floor(x.high / y.low));
  const Ex base = quotient * y.low;
  return fit_i32({where(is_tight, x.low - base, min(y.low + 1, 0.0)), where(is_tight, x.high - base, max(y.high - 1, 0.0))});
}

Interval pow_range(const Interval& x, const Interval& exponent) {
  const double e = constant_value(exponent.low);
  constexpr double kGreatestUnrolled = 64;
  const Interval one = number(*x.low.graph, 1);
  if (e == 0) return one;  // IEEE: even of NaN
  if (e == std::floor(e) && std::abs(e) <= kGreatestUnrolled) {
    const Interval power = whole_power(x, std::abs(e));
    const Interval result = e > 0 ? power : quotient(one, power);
    return widen_f32(result, kPowRelativeError);
  }
  return only_if(x.low >= 0 && x.high >= 0, within(x, 0, INFINITY));
}

Interval ipow_range(const Interval& x, const Interval& exponent) {
  return fit_i32(whole_power(x, constant_value(exponent.low)));
}

Interval min_range(const Interval& x, const Interval& y) {
  return {min(x.low, y.low), min(x.high, y.high)};
}
Interval max_range(const Interval& x, const Interval& y) {
  return {max(x.low, y.low), max(x.high, y.high)};
}
Interval floor_range(const Interval& x) {
  return {floor(x.low), floor(x.high)};
}

Interval to_f32_range(const Interval& x) {
  if (type_of(x.low) == Type::kBool) {
    const Ex one = constant(*x.low.graph, Type::kF64, 1);
    const Ex zero = constant(*x.low.graph, Type::kF64, 0);
    return {where(x.low, one, zero), where(x.high, one, zero)};
  }
  // Half a unit in the last place; 0 stays 0.
  return {x.low - abs(x.low) * 0x1p-24, x.high + abs(x.high) * 0x1p-24};
}

Interval to_i32_range(const Interval& x) {
  if (type_of(x.low) == Type::kBool) return to_f32_range(x);
  const auto truncated = [](Ex end) {
    const Ex whole = where(end < 0, -floor(-end), floor(end));
    return min(max(whole, kLeastI32), kGreatestI32);
  };
  return fit_i32({truncated(x.low), truncated(x.high)});
}

// log(x) and log2(x) are less than x.
Interval log_range(const Interval& x) {
  return only_if(x.low >= 0 && x.high >= 0, {f64(x, -INFINITY), x.high});
}
// sqrt(x) is at most 1 or x.
Interval sqrt_range(const Interval& x) {
  return only_if(x.low >= 0 && x.high >= 0, {f64(x, 0), max(x.high, 1.0)});
}
// rsqrt(-0) is -inf.
Interval rsqrt_range(const Interval& x) {
  return only_if(x.low > 0 && x.high > 0, {f64(x, 0), f64(x, INFINITY)});
}
// tanh(x) lies between 0 and x.
Interval tanh_range(const Interval& x) {
  const Interval result = {max(min(x.low, 0.0), -1.0), min(max(x.high, 0.0), 1.0)};
  return widen_f32(result);
}

Interval gated_range(const Interval& x, double least) {
  return only_if(is_finite(x), widen_f32({max(min(x.low, 0.0), least), max(x.high, 0.0)}));
}

// softplus(x) lies between max(x, 0) and max(x, 0) + log(2).
Interval softplus_range(const Interval& x) {
  const Interval result = {max(x.low, 0.0), max(x.high, 0.0) + 0.6932};
  return {result.low * (1 - kRelativeError), result.high * (1 + kRelativeError)};  // both are >= 0, and infinite ones stay so
}

Interval wave_range(const Interval& x) {
  return only_if(is_finite(x), widen_f32({f64(x, -1), f64(x, 1)}));
}

Interval eq_range(const Interval& x, const Interval& y) {
  if (type_of(x.low) == Type::kBool) {
    return {(x.low && y.low) || !(x.high || y.high), (x.high && y.high) || !(x.low || y.low)};
  }
  const Ex same_point = x.low >= y.high && x.high <= y.low;
  return {same_point, !(x.high < y.low || y.high < x.low)};
}

Interval lt_range(const Interval& x, const Interval& y) {
  return {x.high < y.low, !(x.low >= y.high)};
}
Interval le_range(const Interval& x, const Interval& y) {
  return {x.high <= y.low, !(x.low > y.high)};
}
Interval and_range(const Interval& x, const Interval& y) {
  return {x.low && y.low, x.high && y.high};
}
Interval or_range(const Interval& x, const Interval& y) {
  return {x.low || y.low, x.high || y.high};
}
Interval not_range(const Interval& x) {
  return {!x.high, !x.low};
}

Interval where_range(const Interval& condition, const Interval& x, const Interval& y) {
  if (type_of(x.low) == Type::kBool) {
    return {where(condition.low, x.low, where(condition.high, x.low && y.low, y.low)),
            where(condition.low, x.high, where(condition.high, x.high || y.high, y.high))};
  }
  return {where(condition.low, x.low, where(condition.high, min(x.low, y.low), y.low)),
          where(condition.low, x.high, where(condition.high, max(x.high, y.high), y.high))};
}

}  // namespace attune::codegen
