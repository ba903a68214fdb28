#include "random_data.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string_view>

#include "runtime/half.h"

namespace attune::numeric {
namespace {

using codegen::Ir;
using codegen::Param;
using codegen::ReferenceProblem;
using codegen::ReferenceResult;
using codegen::Type;

uint64_t hash(std::string_view text, uint64_t seed) {
  uint64_t h = seed ^ 0xcbf29ce484222325ull;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return h ^ (h >> 29);
}

// How values of one kind are drawn.
class Source {
 public:
  Source(uint64_t seed, std::string_view name) : random_(hash(name, seed)) {}

  bool chance(double probability) { return uniform(0, 1) < probability; }
  double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random_); }
  double normal(double deviation) { return std::normal_distribution<double>(0, deviation)(random_); }
  double integer(int low, int high) { return std::uniform_int_distribution<int>(low, std::max(low, high))(random_); }

 private:
  std::mt19937_64 random_;
};

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view prefix) { return name.starts_with(prefix); });
}

double float_value(std::string_view name, Source& source) {
  if (is_one_of(name, {"slope"})) return source.uniform(0.02, 0.3);
  if (is_one_of(name, {"gain"})) return source.uniform(0.5, 1.5);
  if (is_one_of(name, {"cap"})) return source.uniform(5, 12);
  if (is_one_of(name, {"gate"})) return source.uniform(0, 1);
  if (is_one_of(name, {"keep"})) return source.uniform(0.5, 0.95);
  return source.normal(0.6);
}

double integer_value(std::string_view name, const codegen::Sizes& sizes, Source& source) {
  if (is_one_of(name, {"seed", "bits"})) return source.integer(-2147483647, 2147483647);
  if (is_one_of(name, {"len", "k_valid", "prefix"})) return source.integer(0, sizes.k_len);
  if (is_one_of(name, {"win", "sliding"})) return source.integer(1, 40);
  if (is_one_of(name, {"id"})) return source.chance(0.1) ? source.integer(-3, 9) : source.integer(0, 5);  // some outside of their table
  return source.integer(0, 6);
}

double value_of(const Param& param, const codegen::Sizes& sizes, Source& source) {
  switch (param.element) {
    case dsl::ElementType::kBool:
      return source.chance(0.5);
    case dsl::ElementType::kU8:
      return is_one_of(param.name, {"flag", "keep"}) ? source.chance(0.7) : source.integer(0, 5);
    case dsl::ElementType::kI32:
      return integer_value(param.name, sizes, source);
    default:
      return float_value(param.name, source);
  }
}

DType dtype_of(dsl::ElementType element) {
  switch (element) {
    case dsl::ElementType::kF16:
      return DType::kF16;
    case dsl::ElementType::kBF16:
      return DType::kBF16;
    case dsl::ElementType::kI32:
      return DType::kI32;
    case dsl::ElementType::kU8:
      return DType::kU8;
    case dsl::ElementType::kBool:
      return DType::kU8;
    default:
      return DType::kF32;
  }
}

int64_t count_of(const std::vector<int64_t>& dims) {
  return std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
}

// Along the last dim, documents: a number that goes up now and then.
void make_documents(TensorParam& tensor, Source& source) {
  const int64_t length = tensor.dims.back();
  for (int64_t first = 0; first < static_cast<int64_t>(tensor.values.size()); first += length) {
    double document = 0;
    for (int64_t i = 0; i < length; ++i) tensor.values[first + i] = document += source.chance(0.05);
  }
}

TensorParam tensor_param(const Ir& ir, const Param& param, const codegen::Sizes& sizes, uint64_t seed) {
  TensorParam tensor;
  tensor.dtype = dtype_of(param.element);
  tensor.dims = codegen::tensor_dims(ir, param, sizes);
  Source source(seed, param.name);
  for (int64_t& dim : tensor.dims) {
    if (source.chance(0.12)) dim = 1;
    tensor.is_repeated.push_back(dim > 1 && source.chance(0.08));
  }
  tensor.values.resize(static_cast<size_t>(count_of(tensor.dims)));
  for (double& value : tensor.values) value = rounded(tensor.dtype, value_of(param, sizes, source));
  if (is_one_of(param.name, {"doc", "segment"})) make_documents(tensor, source);
  // A repeated dim takes its values at index 0.
  int64_t inner = 1;
  for (size_t axis = tensor.dims.size(); axis-- > 0; inner *= tensor.dims[axis]) {
    if (!tensor.is_repeated[axis]) continue;
    for (int64_t i = 0; i < static_cast<int64_t>(tensor.values.size()); ++i) {
      tensor.values[i] = tensor.values[i - (i / inner % tensor.dims[axis]) * inner];
    }
  }
  return tensor;
}

std::vector<double> random_rows(uint64_t seed, std::string_view name, DType dtype, int64_t count) {
  Source source(seed, name);
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = rounded(dtype, source.normal(1));
  return values;
}

std::vector<double> slice(const std::vector<double>& from, int64_t first, int64_t count) {
  return {from.begin() + first, from.begin() + first + count};
}

}  // namespace

double rounded(DType dtype, double value) {
  const auto single = static_cast<float>(value);
  switch (dtype) {
    case DType::kF16:
      return runtime::f32_of_f16(runtime::f16_of_f32(single));
    case DType::kBF16:
      return runtime::f32_of_bf16(runtime::bf16_of_f32(single));
    case DType::kF32:
      return single;
    default:
      return value;
  }
}

int64_t ProblemData::q_rows() const {
  return std::accumulate(shape.q_lens.begin(), shape.q_lens.end(), int64_t{0});
}
int64_t ProblemData::k_rows() const {
  return std::accumulate(shape.k_lens.begin(), shape.k_lens.end(), int64_t{0});
}

ProblemData random_data(const Ir& ir, const Case& c, size_t problem) {
  ProblemData data;
  data.shape = c.problems.at(problem);
  const uint64_t seed = c.seed + 0x51ed27 * problem;
  data.sizes = {data.shape.batch(),
                data.shape.heads,
                data.shape.kv_heads,
                *std::max_element(data.shape.q_lens.begin(), data.shape.q_lens.end()),
                *std::max_element(data.shape.k_lens.begin(), data.shape.k_lens.end()),
                c.head_dim,
                c.v_dim};
  data.q = random_rows(seed, "q", c.dtype, data.q_rows() * data.shape.heads * c.head_dim);
  data.k = random_rows(seed, "k", c.dtype, data.k_rows() * data.shape.kv_heads * c.head_dim);
  data.v = random_rows(seed, "v", c.dtype, data.k_rows() * data.shape.kv_heads * c.v_dim);
  data.dout = random_rows(seed, "dout", c.dtype, data.q_rows() * data.shape.heads * c.v_dim);
  data.scalars.resize(ir.params.size());
  data.tensor_params.resize(ir.params.size());
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const Param& param = ir.params[i];
    if (param.is_tensor) data.tensor_params[i] = tensor_param(ir, param, data.sizes, seed);
    if (param.is_tensor || param.is_const) continue;
    Source source(seed, param.name);
    const bool takes_default = param.default_value != codegen::kNoValue && source.chance(0.5);
    if (!takes_default) data.scalars[i] = rounded(dtype_of(param.element), value_of(param, data.sizes, source));
  }
  return data;
}

std::vector<ReferenceProblem> reference_problems(const ProblemData& data) {
  const int sequences = data.shape.packed ? data.shape.batch() : 1;
  std::vector<ReferenceProblem> problems(static_cast<size_t>(sequences));
  int64_t first_q = 0, first_k = 0;
  for (int s = 0; s < sequences; ++s) {
    ReferenceProblem& problem = problems[static_cast<size_t>(s)];
    problem.sizes = data.sizes;
    problem.scalars = data.scalars;
    for (const std::optional<TensorParam>& tensor : data.tensor_params) {
      problem.tensors.emplace_back();
      if (tensor) problem.tensors.back() = {tensor->dims, tensor->values};
    }
    int64_t q_rows = data.q_rows(), k_rows = data.k_rows();
    if (data.shape.packed) {
      problem.sequence = s;
      q_rows = problem.sizes.q_len = data.shape.q_lens[static_cast<size_t>(s)];
      k_rows = problem.sizes.k_len = data.shape.k_lens[static_cast<size_t>(s)];
    }
    const int64_t q_width = int64_t{data.sizes.heads} * data.sizes.head_dim, k_width = int64_t{data.sizes.kv_heads} * data.sizes.head_dim;
    const int64_t out_width = int64_t{data.sizes.heads} * data.sizes.v_dim, v_width = int64_t{data.sizes.kv_heads} * data.sizes.v_dim;
    problem.q = slice(data.q, first_q * q_width, q_rows * q_width);
    problem.k = slice(data.k, first_k * k_width, k_rows * k_width);
    problem.v = slice(data.v, first_k * v_width, k_rows * v_width);
    problem.wants_gradients = true;
    problem.dout = slice(data.dout, first_q * out_width, q_rows * out_width);
    first_q += q_rows;
    first_k += k_rows;
  }
  return problems;
}

ReferenceResult reference_result(const Ir& ir, const std::vector<ReferenceProblem>& problems, const ProblemData& data) {
  ReferenceResult whole;
  whole.param_grads.resize(ir.params.size());
  whole.param_grad_magnitudes = whole.param_grad_squares = whole.param_grads;
  const auto append = [](std::vector<double>& to, const std::vector<double>& from) { to.insert(to.end(), from.begin(), from.end()); };
  for (const ReferenceProblem& problem : problems) {
    const ReferenceResult part = codegen::evaluate_reference(ir, problem);
    append(whole.out, part.out);
    append(whole.dq, part.dq);
    append(whole.dk, part.dk);
    append(whole.dv, part.dv);
    const int64_t heads = data.sizes.heads, q_len = problem.sizes.q_len;
    const int64_t batch = problem.sequence ? 1 : problem.sizes.batch;
    for (int64_t row = 0; row < batch * q_len && !part.lse.empty(); ++row) {
      for (int64_t h = 0; h < heads; ++h)
        whole.lse.push_back(part.lse[static_cast<size_t>((row / q_len * heads + h) * q_len + row % q_len)]);
    }
    for (size_t i = 0; i < part.param_grads.size(); ++i) {
      for (auto* sums : {&whole.param_grads, &whole.param_grad_magnitudes, &whole.param_grad_squares})
        (*sums)[i].resize(part.param_grads[i].size());
      for (size_t x = 0; x < part.param_grads[i].size(); ++x) {
        whole.param_grads[i][x] += part.param_grads[i][x];
        whole.param_grad_magnitudes[i][x] += part.param_grad_magnitudes[i][x];
        whole.param_grad_squares[i][x] += part.param_grad_squares[i][x];
      }
    }
  }
  return whole;
}

}  // namespace attune::numeric
