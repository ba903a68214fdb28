// Interval arithmetic on graph values: what the interval column of op_table.def refers to. See Interval in op_table.h for what end points
// mean.
#pragma once

#include "codegen/op_table.h"

namespace attune::codegen {

Interval number(Graph& graph, double value);                  // the point, f64
Interval undecided(Graph& graph);                             // a bool
Interval within(const Interval& x, double low, double high);  // of a function whose values lie there for every x but NaN

// Numbers. `type` is the result's: i32 is widened where it might wrap, f32 by rounding.
Interval add_range(const Interval& x, const Interval& y, Type type);
Interval sub_range(const Interval& x, const Interval& y, Type type);
Interval mul_range(const Interval& x, const Interval& y, Type type);
Interval div_range(const Interval& x, const Interval& y, Type type);
Interval floor_div_range(const Interval& x, const Interval& y, Type type);
Interval mod_range(const Interval& x, const Interval& y, Type type);
Interval neg_range(const Interval& x, Type type);
Interval abs_range(const Interval& x, Type type);
Interval pow_range(const Interval& x, const Interval& exponent);  // the exponent is a constant
Interval ipow_range(const Interval& x, const Interval& exponent);
Interval min_range(const Interval& x, const Interval& y);
Interval max_range(const Interval& x, const Interval& y);
Interval floor_range(const Interval& x);
Interval to_f32_range(const Interval& x);
Interval to_i32_range(const Interval& x);

// Elementary functions of f32, without evaluating any: they are not available in f64.
Interval log_range(const Interval& x);  // log and log2
Interval sqrt_range(const Interval& x);
Interval rsqrt_range(const Interval& x);
Interval tanh_range(const Interval& x);
Interval gated_range(const Interval& x, double least);  // silu and gelu: between their least value and max(x, 0)
Interval softplus_range(const Interval& x);
Interval wave_range(const Interval& x);  // sin and cos

// bool.
Interval eq_range(const Interval& x, const Interval& y);  // of numbers or bools
Interval lt_range(const Interval& x, const Interval& y);
Interval le_range(const Interval& x, const Interval& y);
Interval and_range(const Interval& x, const Interval& y);
Interval or_range(const Interval& x, const Interval& y);
Interval not_range(const Interval& x);
Interval where_range(const Interval& condition, const Interval& x, const Interval& y);  // of numbers or bools

}  // namespace attune::codegen
