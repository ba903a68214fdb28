// Attention computed as docs/language.md defines it, forward and backward, one pair after the other: what every kernel is tested against.
//
// It shares no pass with the compiler: it interprets the typed program as written, and takes derivatives in forward mode, one variable at a
// time, by the tangent column of the operator table. Tests check those against finite differences of the forward pass.
#pragma once

#include <optional>
#include <vector>

#include "codegen/eval/defaults.h"
#include "codegen/eval/interpreter.h"
#include "codegen/ir.h"

namespace attune::codegen {

// Dense, the last dim fastest. A dim of size 1 is read at every index.
struct ReferenceTensor {
  std::vector<int64_t> dims;
  std::vector<double> values;
};

// q, dout, dq [batch, q_len, heads, dim]; k, v, dk, dv [batch, k_len, kv_heads, dim]; lse [batch, heads, q_len].
struct ReferenceProblem {
  Sizes sizes;
  // Packed sequences are one problem each: q_len and k_len are the own lengths, sizes.batch counts the sequences, and q, k, v and the
  // results hold this sequence only (batch 1 in the shapes above).
  std::optional<int> sequence;
  std::vector<double> q, k, v;
  bool wants_gradients = false;
  std::vector<double> dout;                    // where gradients are wanted
  std::vector<std::optional<double>> scalars;  // by parameter; nullopt is the default
  std::vector<ReferenceTensor> tensors;        // by parameter; of a scalar it does not matter
  // kF32: every operation and sum is rounded to f32. The difference to kDouble is the error that is to be expected of f32 arithmetic.
  Precision precision = Precision::kDouble;
  // Where given, softmax takes delta = rowsum(dout * out) of this one, as kernels do whose out has been rounded.
  std::vector<double> stored_out;
};

struct ReferenceResult {
  std::vector<double> out;
  std::vector<double> lse;                       // natural logarithm; empty for pointwise weights
  std::vector<double> dq, dk, dv;                // empty where no gradients are wanted
  std::vector<std::vector<double>> param_grads;  // by parameter, shaped like the given tensor; empty where there is no gradient
  // The same sums with all terms taken positive. Rounding errors are relative to these: a gradient itself may cancel to zero.
  std::vector<std::vector<double>> param_grad_magnitudes;
  // Sums of the terms' squares: what terms that are rounded by themselves leave is relative to the root.
  std::vector<std::vector<double>> param_grad_squares;
};

// `ir` comes from build_ir. Rows run on `threads` threads; for one number of threads the result is always the same. Throws std::logic_error
// if a vector of the problem has not the size that `sizes` and `ir` ask for.
ReferenceResult evaluate_reference(const Ir& ir, const ReferenceProblem& problem, int threads = 1);

}  // namespace attune::codegen
