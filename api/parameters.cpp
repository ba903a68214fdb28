#include "api/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "api/tensors.h"
#include "codegen/eval/interpreter.h"
#include "codegen/index_bounds.h"
#include "dsl/diagnostics.h"
#include "runtime/error.h"

namespace attune {
namespace {

using codegen::Ir;
using codegen::Node;
using codegen::Op;
using codegen::Param;
using codegen::Symbol;
using codegen::Type;
using codegen::ValueId;

[[noreturn]] void fail(const Param& param, const std::string& message) {
  throw ArgumentError(fmt::format("parameter '{}': {}", param.name, message));
}

// Host values only: not const, no tensor.
Type scalar_type(const Param& param) {
  return codegen::value_type(param.element);
}

std::string describe_scalar(const Scalar& scalar) {
  if (const auto* boolean = std::get_if<bool>(&scalar)) return *boolean ? "true" : "false";
  if (const auto* integer = std::get_if<int64_t>(&scalar)) return fmt::format("{}", *integer);
  return fmt::format("{}", std::get<double>(scalar));
}

// The value as the parameter's type, in double.
double convert(const Param& param, const Scalar& scalar) {
  const Type type = scalar_type(param);
  const double number = std::visit([](auto value) { return static_cast<double>(value); }, scalar);
  const bool is_bool = std::holds_alternative<bool>(scalar);
  bool fits = false;
  switch (type) {
    case Type::kBool:
      fits = is_bool || (std::holds_alternative<int64_t>(scalar) && (number == 0 || number == 1));
      break;
    case Type::kI32:
      fits = !is_bool && number == std::trunc(number) && number >= std::numeric_limits<int32_t>::min() &&
             number <= std::numeric_limits<int32_t>::max();
      break;
    default:
      fits = !is_bool && !std::isnan(number);
  }
  if (!fits) fail(param, fmt::format("expected a value of {}, found {}", codegen::type_name(type), describe_scalar(scalar)));
  return number;
}

// The sizes as the program names them, for messages.
std::string lengths_text(const Problem& problem, Lengths lengths) {
  return problem.packed ? fmt::format(" (in a sequence of q_len {}, k_len {})", lengths.q_len, lengths.k_len) : "";
}

std::vector<ValueId> roots_of(const Ir& ir) {
  std::vector<ValueId> roots;
  for (ValueId root : {ir.score, ir.mask, ir.weight, ir.sink, ir.factor}) {
    if (root != codegen::kNoValue) roots.push_back(root);
  }
  return roots;
}

// All reads of the tensor that the roots need.
std::vector<const Node*> reads_of(const Ir& ir, int param) {
  const std::vector<bool> needed = codegen::reachable(ir.graph, roots_of(ir));
  std::vector<const Node*> reads;
  for (ValueId id = 0; id < ir.graph.size(); ++id) {
    const Node& node = ir.graph[id];
    if (needed[id] && node.op == Op::k_read && node.index == param) reads.push_back(&node);
  }
  return reads;
}

bool is_symbol(const Ir& ir, ValueId id, std::initializer_list<Symbol> symbols) {
  const Node& node = ir.graph[id];
  return node.op == Op::k_symbol && std::find(symbols.begin(), symbols.end(), static_cast<Symbol>(node.index)) != symbols.end();
}

// Whether some dim that is not broadcast is indexed by just one of the symbols in every read.
bool is_split_by(const Ir& ir, const std::vector<const Node*>& reads, const std::vector<int64_t>& shape,
                 std::initializer_list<Symbol> symbols) {
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    const auto plain = [&](const Node* read) { return is_symbol(ir, read->operands[axis], symbols); };
    if (shape[axis] != 1 && std::all_of(reads.begin(), reads.end(), plain)) return true;
  }
  return false;
}

}  // namespace

std::vector<bool> params_of_roots(const Ir& ir, std::span<const ValueId> roots) {
  const std::vector<bool> needed = codegen::reachable(ir.graph, roots);
  std::vector<bool> params(ir.params.size(), false);
  for (ValueId id = 0; id < ir.graph.size(); ++id) {
    const Node& node = ir.graph[id];
    if (needed[id] && (node.op == Op::k_read || node.op == Op::k_param)) params[static_cast<size_t>(node.index)] = true;
  }
  return params;
}

Parameters::Parameters(const Ir& ir, const Problem& problem, const PlanOptions& options, const std::vector<bool>& needed)
    : ir_(ir),
      problem_(problem),
      bound_(ir.params.size()),
      declared_dims_(ir.params.size()),
      dims_(ir.params.size() * runtime::kCpuMaxRank, 1) {
  check_names(options);
  for (size_t i = 0; i < ir.params.size(); ++i) bind_tensor(static_cast<int>(i), options, needed[i]);
  sets_.resize(problem.lengths.size());
  has_value_.resize(problem.lengths.size());
  for (size_t i = 0; i < sets_.size(); ++i) {
    has_value_[i].resize(ir.params.size(), false);
    bind_set(sets_[i], problem.lengths[i], options, needed);
    for (size_t param = 0; param < ir.params.size(); ++param) has_value_[i][param] = sets_[i].tensors[param].data != nullptr;
  }
  check_index_ranges(needed);
}

int Parameters::find(const std::string& name) const {
  std::vector<std::string> names;
  for (const Param& param : ir_.params) names.push_back(param.name);
  const auto place = std::find(names.begin(), names.end(), name);
  if (place != names.end()) return static_cast<int>(place - names.begin());
  const std::string nearest = dsl::nearest_name(name, names);
  throw ArgumentError(
      fmt::format("'{}' has no parameter '{}'{}", ir_.name, name, nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)));
}

void Parameters::check_names(const PlanOptions& options) const {
  for (const auto& [name, value] : options.scalars) {
    const Param& param = ir_.params[static_cast<size_t>(find(name))];
    if (param.is_const) fail(param, "is const, its value is given to compile()");
    if (param.is_tensor) fail(param, "is a tensor, expected it among the tensors");
    if (options.tensors.contains(name)) fail(param, "is given twice, as a scalar and as a tensor");
  }
  for (const auto& [name, value] : options.tensors) {
    const Param& param = ir_.params[static_cast<size_t>(find(name))];
    if (param.is_const) fail(param, "is const, its value is given to compile()");
    if (!param.is_tensor && !param.is_grad) fail(param, "is a scalar of the host, expected it among the scalars");
  }
}

void Parameters::bind_tensor(int index, const PlanOptions& options, bool needed) {
  const auto i = static_cast<size_t>(index);
  const Param& param = ir_.params[i];
  TensorRule rule;
  rule.what = fmt::format("parameter '{}'", param.name);
  rule.dtype = dtype_of(param.element);
  rule.may_broadcast = true;
  if (param.is_tensor) {
    check_dims(index);
    declared_dims_[i] = codegen::tensor_dims(ir_, param, problem_.longest());
    std::copy(declared_dims_[i].begin(), declared_dims_[i].end(), dims_.begin() + static_cast<ptrdiff_t>(i * runtime::kCpuMaxRank));
    rule.shape = declared_dims_[i];
  }
  const auto given = options.tensors.find(param.name);
  if (given == options.tensors.end()) {
    if (param.is_tensor && needed) check_tensor(rule, {});  // missing, unless it has no elements
    return;
  }
  if (!param.is_tensor) {
    rule.shape.assign(given->second.shape.size(), 1);  // any tensor of one element
    if (element_count(given->second.shape) != 1) rule.shape = {1};
  }
  check_tensor(rule, given->second);
  bound_[i] = given->second;
}

// Dims are positive for every sequence, and no sequence expects more than the longest lengths give: kernels index by the own lengths.
void Parameters::check_dims(int index) const {
  const Param& param = ir_.params[static_cast<size_t>(index)];
  const std::vector<int64_t> dims = codegen::tensor_dims(ir_, param, problem_.longest());
  const bool no_pairs = problem_.shape.q_len == 0 || problem_.shape.k_len == 0;
  for (size_t axis = 0; axis < dims.size(); ++axis) {
    bool clamps = false;
    for (const Node* read : reads_of(ir_, index)) clamps = clamps || codegen::is_data_dependent(ir_.graph, read->operands[axis]);
    const int64_t least = no_pairs && !clamps ? 0 : 1;
    if (dims[axis] < least || dims[axis] > runtime::kMaxCpuSize) {
      fail(param, fmt::format("dim {} is {} here, expected {}..{}", axis, dims[axis], least, runtime::kMaxCpuSize));
    }
  }
  for (Lengths lengths : problem_.lengths) {
    const std::vector<int64_t> own = codegen::tensor_dims(ir_, param, problem_.sizes(lengths));
    for (size_t axis = 0; axis < dims.size(); ++axis) {
      if (own[axis] <= dims[axis]) continue;
      fail(param, fmt::format("dim {} is {} for the longest lengths, expected at least {}{}", axis, dims[axis], own[axis],
                              lengths_text(problem_, lengths)));
    }
  }
}

void Parameters::bind_set(Set& set, Lengths lengths, const PlanOptions& options, const std::vector<bool>& needed) {
  set.scalars.resize(ir_.params.size());
  set.tensors.resize(ir_.params.size());
  for (size_t i = 0; i < ir_.params.size(); ++i) {
    const Param& param = ir_.params[i];
    runtime::CpuTensor& place = set.tensors[i];
    if (bound_[i]) {
      place.data = bound_[i]->data;
      const std::vector<int64_t> strides = strides_of(*bound_[i]);
      for (size_t axis = 0; param.is_tensor && axis < strides.size(); ++axis)
        place.strides[axis] = bound_[i]->shape[axis] == 1 ? 0 : strides[axis];
      continue;
    }
    if (param.is_tensor || param.is_const) continue;
    const auto given = options.scalars.find(param.name);
    if (given == options.scalars.end() && param.default_value == codegen::kNoValue) {
      if (needed[i]) fail(param, fmt::format("missing, expected a value of {}", codegen::type_name(scalar_type(param))));
      continue;
    }
    const double value =
        given != options.scalars.end() ? convert(param, given->second) : codegen::default_value(ir_, param, problem_.sizes(lengths));
    switch (scalar_type(param)) {
      case Type::kBool:
        set.scalars[i].boolean = value != 0;
        break;
      case Type::kI32:
        set.scalars[i].i32 = static_cast<int32_t>(value);
        break;
      default:
        set.scalars[i].f32 = static_cast<float>(value);
    }
    place.data = &set.scalars[i];
  }
}

void Parameters::check_index_ranges(const std::vector<bool>& needed) const {
  for (size_t i = 0; i < sets_.size(); ++i) {
    // What stands in memory may change after this: nothing is known of it.
    const auto value = [&](int param) {
      return bound_[static_cast<size_t>(param)] ? std::numeric_limits<double>::quiet_NaN() : scalar(i, param);
    };
    std::string text;
    for (const codegen::IndexProblem& found : codegen::check_indices(ir_, problem_.sizes(problem_.lengths[i]), value)) {
      if (needed[static_cast<size_t>(found.param)]) text += (text.empty() ? "" : "; ") + found.message;
    }
    if (!text.empty()) throw ArgumentError(fmt::format("index out of range{}: {}", lengths_text(problem_, problem_.lengths[i]), text));
  }
}

double Parameters::scalar(size_t lengths, int param) const {
  const auto i = static_cast<size_t>(param);
  const void* data = sets_[lengths].tensors[i].data;
  if (!has_value_[lengths][i]) return std::numeric_limits<double>::quiet_NaN();
  switch (scalar_type(ir_.params[i])) {
    case Type::kBool:
      return *static_cast<const uint8_t*>(data);
    case Type::kI32:
      return *static_cast<const int32_t*>(data);
    default:
      return bound_[i] ? load_element(*bound_[i], 0) : static_cast<double>(*static_cast<const float*>(data));
  }
}

double Parameters::element(int param, std::span<const double> indices) const {
  const auto i = static_cast<size_t>(param);
  int64_t offset = 0;
  for (size_t axis = 0; axis < indices.size(); ++axis) {
    const auto last = static_cast<double>(declared_dims_[i][axis] - 1);
    offset += static_cast<int64_t>(std::clamp(indices[axis], 0.0, last)) * sets_[0].tensors[i].strides[axis];
  }
  return load_element(*bound_[i], offset);
}

std::vector<int64_t> Parameters::gradient_shape(int param) const {
  const auto i = static_cast<size_t>(param);
  return bound_[i] ? bound_[i]->shape : std::vector<int64_t>(ir_.params[i].dims.size(), 0);
}

runtime::CpuParamGradient Parameters::gradient(const std::string& name, const Tensor& tensor) const {
  const int index = find(name);
  const auto i = static_cast<size_t>(index);
  const Param& param = ir_.params[i];
  if (!param.is_grad) fail(param, "has no gradient, it is not declared grad");
  TensorRule rule;
  rule.what = fmt::format("gradient of '{}'", name);
  rule.dtype = DType::kF32;
  rule.access = Access::kWrite;
  if (bound_[i]) rule.shape = bound_[i]->shape;
  if (!param.is_tensor && element_count(tensor.shape) == 1) rule.shape = tensor.shape;
  if (!param.is_tensor && rule.shape.empty() && !tensor.shape.empty()) rule.shape = {1};
  check_tensor(rule, tensor);
  runtime::CpuParamGradient gradient;
  gradient.param = index;
  gradient.data = static_cast<float*>(tensor.data);
  gradient.shape = tensor.shape;
  gradient.strides = strides_of(tensor);
  if (!param.is_tensor) {
    gradient.shape.clear();  // one element, whatever the rank
    gradient.strides.clear();
    return gradient;
  }
  const std::vector<const Node*> reads = reads_of(ir_, index);
  gradient.by_b = is_split_by(ir_, reads, gradient.shape, {Symbol::kB});
  gradient.by_h = is_split_by(ir_, reads, gradient.shape, {Symbol::kH, Symbol::kKvH});
  gradient.by_q = is_split_by(ir_, reads, gradient.shape, {Symbol::kQIdx});
  return gradient;
}

}  // namespace attune
