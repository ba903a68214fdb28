// Elementary functions from basic instructions: range reduction and minimax polynomials, for any MathBuilder. Each form states its error over its
// whole domain, measured in tests/unit against double. Sources are named at each form's definition.
#pragma once

#include "codegen/math_builder.h"

namespace attune::codegen {

// f32 -> f32. "ulp" is the unit in the last place of the exact result.
using MathForm = MathBuilder::Value (*)(MathBuilder& builder, MathBuilder::Value x);

MathBuilder::Value form_exp2(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_exp(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_log2(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_log(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_rsqrt(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_tanh(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_sigmoid(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_silu(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_gelu(MathBuilder& b, MathBuilder::Value x);      // x * Phi(x), by erf
MathBuilder::Value form_erf(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_softplus(MathBuilder& b, MathBuilder::Value x);  // log(1 + exp(x))
MathBuilder::Value form_sin(MathBuilder& b, MathBuilder::Value x);
MathBuilder::Value form_cos(MathBuilder& b, MathBuilder::Value x);

// exp2 for x <= 0 or NaN: softmax's inner loop. Below -126 the result is 0 (no denormals); NaN passes.
MathBuilder::Value form_exp2_nonpositive(MathBuilder& b, MathBuilder::Value x);

// min and max that pass NaN on, whichever operand it is in. f32 or f64.
MathBuilder::Value form_min(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);
MathBuilder::Value form_max(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);

// Floor division and remainder of i32; 0 by a zero divisor; INT_MIN // -1 wraps.
MathBuilder::Value form_floor_div(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);
MathBuilder::Value form_floor_mod(MathBuilder& b, MathBuilder::Value x, MathBuilder::Value y);
// i32(x): truncates, saturates, 0 for NaN.
MathBuilder::Value form_f32_to_i32(MathBuilder& b, MathBuilder::Value x);
// x ** exponent for a constant f32 exponent: |x| and sign by parity where the exponent is an integer, NaN for a negative x otherwise (IEEE pow).
MathBuilder::Value form_pow(MathBuilder& b, MathBuilder::Value x, float exponent);

// Uniform in [0, 1), 24 bits, from the counter (b, h, q_idx, k_idx) and the key `seed`: Philox 4x32 (Salmon et al. 2011), 7 rounds,
// first output word. The same bits on every back end; `random_value` is the reference on the host.
MathBuilder::Value form_random(MathBuilder& b, MathBuilder::Value seed, MathBuilder::Value batch, MathBuilder::Value head, MathBuilder::Value q_idx, MathBuilder::Value k_idx);
float random_value(uint32_t seed, uint32_t batch, uint32_t head, uint32_t q_idx, uint32_t k_idx);

}  // namespace attune::codegen
