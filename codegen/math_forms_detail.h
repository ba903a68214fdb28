// What the sources of math forms share.
#pragma once

#include <initializer_list>

#include "codegen/math_forms.h"

namespace attune::codegen::detail {

using Value = MathBuilder::Value;

// Adding it to a number of magnitude < 2^22 rounds that to whole, ties to even; its last 9 bits and sign are 0, so that those of the sum
// are the number's own.
inline constexpr float kRound = 0x1.8p23f;
inline constexpr int kMantissaBits = 23;
inline constexpr int kBias = 127;

inline constexpr float kLog2E = 0x1.715476p0f;
// ln 2 in two parts. The first has 15 bits: its product with a whole number below 2^9 is exact, also without a fused multiply-add.
inline constexpr float kLn2High = 0x1.62e4p-1f;
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;

// The polynomial with these coefficients, the highest power first, by Horner's rule: fewest instructions, and loops overlap their
// latencies.
Value horner(MathBuilder& b, Value x, std::initializer_list<float> coefficients);

// NaN passes.
Value at_least(MathBuilder& b, Value x, float low);
Value at_most(MathBuilder& b, Value x, float high);

// +x or -x by the sign bit of `sign`, for x whose sign bit is clear.
Value with_sign_of(MathBuilder& b, Value x, Value sign);

// 2^f * 2^n for f in [0, 1] and a whole n in [-127, 128]: 0 for -127, inf for 128. Error 0.6 ulp.
Value exp2_scaled(MathBuilder& b, Value f, Value n);

// exp(high + low), for high <= 0 and |low| <= 0.05: low holds what high rounded off. 0 where it is below 2^-126. Error 1.0 ulp, if high and
// low are exact.
Value exp_of_sum(MathBuilder& b, Value high, Value low);

}  // namespace attune::codegen::detail
