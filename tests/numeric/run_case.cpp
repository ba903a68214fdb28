#include "run_case.h"

#include <fmt/format.h>

#include <cmath>
#include <list>
#include <random>
#include <stdexcept>

#include "codegen/build_ir.h"
#include "comparison.h"
#include "dsl/parser.h"
#include "guarded_tensor.h"

namespace attune::numeric {
namespace {

using codegen::Ir;
using codegen::Precision;
using codegen::ReferenceProblem;
using codegen::ReferenceResult;

// f32: sums of up to 150 * 80 rounded products, scores of up to about 50. f16 and bf16: the rounding of the results themselves, and of the
// stored out that delta is taken from.
double relative_bar(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return 2e-3;
    case DType::kBF16:
      return 1.5e-2;
    default:
      return 2e-5;
  }
}

Tolerance tolerance_of(DType dtype) {
  const double bar = relative_bar(dtype);
  // f16 has no numbers between multiples of 2^-24.
  return {bar, 5 * bar, dtype == DType::kF16 ? 0x1p-24 : 1e-9};
}

class Call {
 public:
  Call(const Case& c, const Ir& ir, const ProblemData& data) : case_(c), ir_(ir), data_(data) {}

  CallResult run() {
    CompileOptions compile_options;
    compile_options.file_name = "case.attn";
    compile_options.constants = case_.constants;
    compile_options.threads = case_.threads;
    const Variant variant = compile(case_.text, compile_options);
    PlanOptions options = plan_options();
    const std::vector<int32_t> cu_q = offsets_of(data_.shape.q_lens), cu_k = offsets_of(data_.shape.k_lens);
    if (data_.shape.packed) {
      options.cu_q = cu_q.data();
      options.cu_k = cu_k.data();
    }
    const codegen::Sizes& sizes = data_.sizes;
    const Plan plan =
        variant.plan({sizes.batch, sizes.heads, sizes.kv_heads, sizes.q_len, sizes.k_len, sizes.head_dim, sizes.v_dim}, options);

    const bool is_softmax = variant.is_softmax();
    GuardedTensor& q = rows("q", true, sizes.head_dim, &data_.q);
    GuardedTensor& k = rows("k", false, sizes.head_dim, &data_.k);
    GuardedTensor& v = rows("v", false, sizes.v_dim, &data_.v);
    GuardedTensor& out = rows("out", true, sizes.v_dim, nullptr);
    GuardedTensor& lse = lse_tensor();
    ForwardTensors forward = {q.tensor(), k.tensor(), v.tensor(), out.tensor(), {}};
    if (is_softmax) forward.lse = lse.tensor();
    plan.forward(forward);

    GuardedTensor& dout = rows("dout", true, sizes.v_dim, &data_.dout);
    GuardedTensor& dq = rows("dq", true, sizes.head_dim, nullptr);
    GuardedTensor& dk = rows("dk", false, sizes.head_dim, nullptr);
    GuardedTensor& dv = rows("dv", false, sizes.v_dim, nullptr);
    std::vector<std::pair<size_t, GuardedTensor*>> grads;
    BackwardTensors backward = {q.tensor(), k.tensor(), v.tensor(), {}, {}, dout.tensor(), dq.tensor(), dk.tensor(), dv.tensor(), {}};
    if (is_softmax) {
      backward.out = out.tensor();
      backward.lse = lse.tensor();
    }
    for (size_t i = 0; i < ir_.params.size(); ++i) {
      if (!ir_.params[i].is_grad) continue;
      std::vector<int64_t> dims;
      if (data_.tensor_params[i]) dims = data_.tensor_params[i]->dims;
      grads.emplace_back(i, &add("gradient of '" + ir_.params[i].name + "'", DType::kF32, dims, false));
      backward.param_grads[ir_.params[i].name] = grads.back().second->tensor();
    }
    plan.backward(backward);

    for (const auto& [name, tensor] : tensors_) {
      if (!tensor.is_intact()) throw std::runtime_error(fmt::format("{}: memory beside the elements was written", name));
    }
    CallResult result;
    result.out = out.read();
    if (is_softmax) result.lse = lse_by_row(data_, lse.read());
    result.dq = dq.read();
    result.dk = dk.read();
    result.dv = dv.read();
    result.param_grads.resize(ir_.params.size());
    for (const auto& [index, tensor] : grads) result.param_grads[index] = tensor->read();
    return result;
  }

 private:
  GuardedTensor& add(const std::string& name, DType dtype, const std::vector<int64_t>& shape, bool keeps_last_dim,
                     std::vector<bool> is_repeated = {}) {
    Layout layout;
    layout.gaps_seed = case_.strided ? case_.seed * 64 + tensors_.size() + 1 : 0;
    layout.keeps_last_dim = keeps_last_dim;
    layout.is_repeated = std::move(is_repeated);
    tensors_.emplace_back(name, GuardedTensor(dtype, shape, layout));
    return tensors_.back().second;
  }

  GuardedTensor& rows(const std::string& name, bool of_queries, int dim, const std::vector<double>* values) {
    const int64_t heads = of_queries ? data_.sizes.heads : data_.sizes.kv_heads;
    const int64_t length = of_queries ? data_.sizes.q_len : data_.sizes.k_len;
    std::vector<int64_t> shape = {data_.sizes.batch, length, heads, dim};
    if (data_.shape.packed) shape = {of_queries ? data_.q_rows() : data_.k_rows(), heads, dim};
    GuardedTensor& tensor = add(name, case_.dtype, shape, true);
    if (values) tensor.write(*values);
    return tensor;
  }

  GuardedTensor& lse_tensor() {
    std::vector<int64_t> shape = {data_.sizes.batch, data_.sizes.heads, data_.sizes.q_len};
    if (data_.shape.packed) shape = {data_.sizes.heads, data_.q_rows()};
    return add("lse", DType::kF32, shape, false);
  }

  PlanOptions plan_options() {
    PlanOptions options;
    options.dtype = case_.dtype;
    bind_parameters(
        ir_, data_,
        [&](const std::string& name, DType dtype, const std::vector<int64_t>& shape, const std::vector<bool>& is_repeated,
            const std::vector<double>& values) {
          GuardedTensor& bound = add(name, dtype, shape, false, is_repeated);
          bound.write(values);
          return bound.tensor();
        },
        options);
    return options;
  }

  const Case& case_;
  const Ir& ir_;
  const ProblemData& data_;
  std::list<std::pair<std::string, GuardedTensor>> tensors_;
};

// The reference's own error in f32, and its change when the inputs change by a little more than an f32 rounding: where the problem itself
// is that sensitive (a cancellation, a pair near a kink), no kernel can do better.
std::vector<ReferenceResult> expected_errors(const Case& c, const Ir& ir, const ProblemData& data, const ReferenceResult& exact) {
  std::vector<ReferenceResult> results;
  std::vector<ReferenceProblem> problems = reference_problems(data);
  size_t row = 0;
  for (ReferenceProblem& problem : problems) {
    problem.precision = Precision::kF32;
    const size_t count = problem.q.size() / static_cast<size_t>(data.sizes.head_dim) * static_cast<size_t>(data.sizes.v_dim);
    for (size_t i = 0; i < count; ++i) problem.stored_out.push_back(rounded(c.dtype, exact.out[row++]));
  }
  results.push_back(reference_result(ir, problems, data));
  std::mt19937_64 random(c.seed);
  std::uniform_real_distribution<double> noise(-1e-6, 1e-6);
  for (int i = 0; i < 3; ++i) {
    ProblemData moved = data;
    for (double& x : moved.q) x *= 1 + noise(random);
    results.push_back(reference_result(ir, reference_problems(moved), moved));
  }
  return results;
}

struct Quantity {
  std::string name;
  Tolerance tolerance;
  double noise = 0;  // what is left of terms that cancel, where there is nothing else
  std::vector<int64_t> dims;
  std::function<const std::vector<double>&(const CallResult&)> got;
  std::function<const std::vector<double>&(const ReferenceResult&)> want;
};

// A gradient that cancels (softmax does not change with what is added to a whole row) is left with the roundings of its terms.
constexpr double kSumRoundings = 4;

std::vector<Quantity> quantities(const Case& c, const Ir& ir, const ProblemData& data, const ReferenceResult& want) {
  const Tolerance tolerance = tolerance_of(c.dtype);
  const Tolerance of_lse = {relative_bar(DType::kF32), 5 * relative_bar(DType::kF32), 1e-5};
  const auto rows = [&](int64_t count, int heads, int dim) {
    return data.shape.packed ? std::vector<int64_t>{count, heads, dim}
                             : std::vector<int64_t>{data.sizes.batch, count / data.sizes.batch, heads, dim};
  };
  const std::vector<int64_t> of_q = rows(data.q_rows(), data.sizes.heads, data.sizes.head_dim);
  const std::vector<int64_t> of_k = rows(data.k_rows(), data.sizes.kv_heads, data.sizes.head_dim);
  const std::vector<int64_t> of_v = rows(data.k_rows(), data.sizes.kv_heads, data.sizes.v_dim);
  const std::vector<int64_t> of_out = rows(data.q_rows(), data.sizes.heads, data.sizes.v_dim);
  const CancellationNoise noise = cancellation_noise(data);
  std::vector<Quantity> all = {
      {"out", tolerance, 0, of_out, &CallResult::out, &ReferenceResult::out},
      {"lse", of_lse, 0, {data.q_rows(), data.sizes.heads}, &CallResult::lse, &ReferenceResult::lse},
      {"dq", tolerance, noise.dq, of_q, &CallResult::dq, &ReferenceResult::dq},
      {"dk", tolerance, noise.dk, of_k, &CallResult::dk, &ReferenceResult::dk},
      {"dv", tolerance, 0, of_v, &CallResult::dv, &ReferenceResult::dv},
  };
  for (size_t i = 0; i < ir.params.size(); ++i) {
    if (!ir.params[i].is_grad) continue;
    std::vector<int64_t> dims;
    if (data.tensor_params[i]) dims = data.tensor_params[i]->dims;
    Tolerance of_sum = tolerance;
    of_sum.absolute += kSumRoundings * 0x1p-24 * greatest_magnitude(want.param_grad_magnitudes[i]) +
                       rounding_of_terms(c.dtype, want.param_grad_squares[i]);
    all.push_back({"d" + ir.params[i].name, of_sum, 0, dims,
                   [i](const CallResult& r) -> const std::vector<double>& { return r.param_grads[i]; },
                   [i](const ReferenceResult& r) -> const std::vector<double>& { return r.param_grads[i]; }});
  }
  return all;
}

}  // namespace

double rounding_of_terms(DType dtype, const std::vector<double>& squares) {
  if (dtype == DType::kF32) return 0;
  const double roundoff = dtype == DType::kF16 ? 0x1p-11 : 0x1p-9;
  return 2 * roundoff * std::sqrt(greatest_magnitude(squares));  // five standard deviations: one roundoff is 0.42 of it in the mean
}

double greatest_magnitude(const std::vector<double>& values) {
  double greatest = 0;
  for (double x : values) greatest = std::isfinite(x) ? std::max(greatest, std::abs(x)) : greatest;
  return greatest;
}

CancellationNoise cancellation_noise(const ProblemData& data) {
  const double of_dp = 1e-6 * std::sqrt(data.sizes.v_dim) * greatest_magnitude(data.dout) * greatest_magnitude(data.v);
  return {of_dp * greatest_magnitude(data.k), of_dp * greatest_magnitude(data.q)};
}

void bind_parameters(const Ir& ir, const ProblemData& data, const PlaceTensor& place, PlanOptions& options) {
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const codegen::Param& param = ir.params[i];
    if (const std::optional<TensorParam>& tensor = data.tensor_params[i]) {
      options.tensors[param.name] = place(param.name, tensor->dtype, tensor->dims, tensor->is_repeated, tensor->values);
    } else if (data.scalars[i] && param.is_grad) {
      options.tensors[param.name] = place(param.name, DType::kF32, {}, {}, {*data.scalars[i]});
    } else if (data.scalars[i]) {
      const double value = *data.scalars[i];
      const codegen::Type type = codegen::value_type(param.element);
      options.scalars[param.name] = type == codegen::Type::kBool  ? Scalar(value != 0)
                                    : type == codegen::Type::kI32 ? Scalar(static_cast<int64_t>(value))
                                                                  : Scalar(value);
    }
  }
}

std::vector<int32_t> offsets_of(const std::vector<int>& lengths) {
  std::vector<int32_t> sums = {0};
  for (int length : lengths) sums.push_back(sums.back() + length);
  return sums;
}

std::vector<double> lse_by_row(const ProblemData& data, const std::vector<double>& values) {
  const int64_t heads = data.sizes.heads, total = data.q_rows();
  const int64_t length = data.shape.packed ? total : data.sizes.q_len;
  std::vector<double> by_row;
  for (int64_t row = 0; row < total; ++row) {
    for (int64_t h = 0; h < heads; ++h) by_row.push_back(values[static_cast<size_t>((row / length * heads + h) * length + row % length)]);
  }
  return by_row;
}

Ir reference_ir(const Case& c, HeadDims head_dims) {
  dsl::Diagnostics diagnostics("case.attn", c.text);
  codegen::BuildOptions options;
  for (const auto& [name, value] : c.constants) {
    options.constants[name] = std::visit([](auto number) { return static_cast<double>(number); }, value);
  }
  if (head_dims == HeadDims::kConstant) {
    options.head_dim = c.head_dim;
    options.v_dim = c.v_dim;
  }
  const std::optional<dsl::Program> program = dsl::parse(diagnostics);
  std::optional<Ir> ir = program ? codegen::build_ir(*program, diagnostics, options) : std::nullopt;
  if (!ir) throw std::runtime_error(diagnostics.render());
  return std::move(*ir);
}

CallResult run_library(const Case& c, const Ir& ir, const ProblemData& data) {
  return Call(c, ir, data).run();
}

std::optional<std::string> difference_of(const Case& c, const Ir& ir, const ProblemData& data, const CallResult& got) {
  const ReferenceResult want = reference_result(ir, reference_problems(data), data);
  std::vector<ReferenceResult> others;
  for (const Quantity& quantity : quantities(c, ir, data, want)) {
    const Difference found = difference(quantity.got(got), quantity.want(want));
    Tolerance tolerance = quantity.tolerance;
    if (found.within(tolerance)) continue;
    if (others.empty()) others = expected_errors(c, ir, data, want);
    Difference expected;
    for (const ReferenceResult& other : others) {
      const Difference error = difference(quantity.want(other), quantity.want(want));
      expected.norm = std::max(expected.norm, error.norm);
      expected.worst = std::max(expected.worst, error.worst);
    }
    // A single number's rounding may have cancelled by luck in the others.
    const double slack = found.count == 1 ? 20 : 4;
    if (found.want_norm > 0) tolerance.relative += slack * expected.norm / found.want_norm;
    if (found.greatest > 0) tolerance.worst += slack * expected.worst / found.greatest;
    if (found.want_norm == 0) tolerance.absolute += slack * expected.worst + quantity.noise;
    if (found.within(tolerance)) continue;
    return describe(quantity.name, found, tolerance, quantity.got(got), quantity.want(want), quantity.dims);
  }
  return std::nullopt;
}

std::optional<std::string> failure_of(const Case& c) {
  try {
    const Ir ir = reference_ir(c);
    for (size_t i = 0; i < c.problems.size(); ++i) {
      const ProblemData data = random_data(ir, c, i);
      if (const auto failure = difference_of(c, ir, data, run_library(c, ir, data))) return fmt::format("problem {}: {}", i, *failure);
    }
  } catch (const std::exception& error) {
    return fmt::format("exception: {}", error.what());
  }
  return std::nullopt;
}

}  // namespace attune::numeric
