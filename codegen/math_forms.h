// Elementary functions from basic instructions: range reduction and minimax polynomials, for any MathBuilder. Each form states its error
// over its whole domain, measured in tests/unit against double. Sources are named at each form's definition.
#pragma once

#include <cstdint>

#include "codegen/math_builder.h"

namespace attune::codegen {

// f32 -> f32. "ulp" is the unit in the last place of the exact result.
using MathForm = MathBuilder::Value (*)(MathBuilder& builder, MathBuilder::Value x);

// Greatest errors, measured by tests/unit/math_forms_test over all magnitudes, with and without a fused multiply-add. Results below 2^-126
// may come out as 0.
MathBuilder::Value form_exp2(MathBuilder& b, MathBuilder::Value x);      // 1.6 ulp
MathBuilder::Value form_exp(MathBuilder& b, MathBuilder::Value x);       // 1.8 ulp
MathBuilder::Value form_log2(MathBuilder& b, MathBuilder::Value x);      // 1.3 ulp; denormal x too
MathBuilder::Value form_log(MathBuilder& b, MathBuilder::Value x);       // 1.0 ulp; denormal x too
MathBuilder::Value form_rsqrt(MathBuilder& b, MathBuilder::Value x);     // 1.5 ulp
MathBuilder::Value form_tanh(MathBuilder& b, MathBuilder::Value x);      // 5.0 ulp
MathBuilder::Value form_sigmoid(MathBuilder& b, MathBuilder::Value x);   // 3.4 ulp
MathBuilder::Value form_silu(MathBuilder& b, MathBuilder::Value x);      // 3.6 ulp
MathBuilder::Value form_gelu(MathBuilder& b, MathBuilder::Value x);      // x * Phi(x), by erfc: 6.2 ulp
MathBuilder::Value form_erf(MathBuilder& b, MathBuilder::Value x);       // 1.3 ulp
MathBuilder::Value form_softplus(MathBuilder& b, MathBuilder::Value x);  // log(1 + exp(x)): 2.4 ulp
// Absolute error 1.2e-7 for |x| up to 1e5; beyond, bounded by 1; NaN for an infinite x.
MathBuilder::Value form_sin(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_cos(MathBuilder& b, MathBuilder::Value x);

// exp2 for x <= 0 or NaN: softmax's inner loop. 2.2 ulp; 0 below x = -126; NaN passes.
MathBuilder::Value form_exp2_nonpositive(MathBuilder& b, MathBuilder::Value x);

// min and max that pass NaN on, whichever operand it is in. f32 or f64.
MathBuilder::Value form_min(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);
MathBuilder::Value form_max(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);

// Floor division and remainder of i32; 0 by a zero divisor; INT_MIN // -1 wraps.
MathBuilder::Value form_floor_div(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);
MathBuilder::Value form_floor_mod(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);
// i32(x): truncates, saturates, 0 for NaN.
MathBuilder::Value form_f32_to_i32(MathBuilder& b, MathBuilder::Value x);
// x ** exponent for a constant f32 exponent (IEEE pow). Whole exponents up to 8 by multiplication, 1/2 by the square root, others by log2
// and exp2 through f64: 1.7 ulp.
MathBuilder::Value form_pow(MathBuilder& b, MathBuilder::Value x, float exponent);

// Uniform in [0, 1), 24 bits, from the counter (b, h, q_idx, k_idx) and the key `seed`: Philox 4x32 (Salmon et al. 2011), 7 rounds,
// first output word. The same bits on every back end; `random_value` is the reference on the host.
MathBuilder::Value form_random(MathBuilder& b, MathBuilder::Value seed, MathBuilder::Value batch, MathBuilder::Value head,
                               MathBuilder::Value q_idx, MathBuilder::Value k_idx);
float random_value(uint32_t seed, uint32_t batch, uint32_t head, uint32_t q_idx, uint32_t k_idx);

}  // namespace attune::codegen
