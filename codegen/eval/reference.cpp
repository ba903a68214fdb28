#include "codegen/eval/reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>

#include "codegen/expr_builder.h"

namespace attune::codegen {
namespace {

constexpr int kNotAParam = -1;

// One leaf to differentiate by: qk, or one read of a `grad` parameter.
struct Variable {
  int param = kNotAParam;
  ValueId leaf = kNoValue;
};

// d root / d leaf in forward mode; 0 where the root does not depend on the leaf.
ValueId tangent(Graph& graph, ValueId root, ValueId leaf) {
  std::vector<Ex> tangents(root + 1);
  for (ValueId id = 0; id <= root; ++id) {
    if (id == leaf) tangents[id] = constant(graph, Type::kF32, 1);
    const Node node = graph[id];  // a copy: the rule adds nodes
    const TangentRule rule = info(node.op).tangent;
    if (node.type != Type::kF32 || !rule) continue;
    std::vector<Ex> x, dx;
    for (ValueId operand : node.operands) {
      x.push_back({&graph, operand});
      dx.push_back(tangents[operand]);
    }
    const bool is_independent = std::all_of(dx.begin(), dx.end(), [](const Ex& e) { return e.is_zero(); });
    if (!is_independent) tangents[id] = rule(x, dx, {&graph, id});
  }
  return tangents[root].is_zero() ? graph.constant(Type::kF32, 0) : tangents[root].id;
}

std::vector<Variable> variables_of(const Ir& ir) {
  std::vector<ValueId> roots;
  for (ValueId root : {ir.score, ir.weight, ir.sink, ir.factor}) {
    if (root != kNoValue) roots.push_back(root);
  }
  const std::vector<bool> needed = reachable(ir.graph, roots);
  std::vector<Variable> variables;
  for (ValueId id = 0; id < ir.graph.size(); ++id) {
    if (!needed[id]) continue;
    const Node& node = ir.graph[id];
    const bool is_qk = node.op == Op::k_symbol && static_cast<Symbol>(node.index) == Symbol::kQk;
    const bool is_grad = (node.op == Op::k_param || node.op == Op::k_read) && ir.params[node.index].is_grad;
    if (is_qk) variables.push_back({kNotAParam, id});
    if (is_grad) variables.push_back({node.index, id});
  }
  return variables;
}

// What is evaluated, each stage for its own set of leaves. `ir` is a copy: tangents are added to its graph.
struct Stages {
  Ir ir;
  std::vector<Variable> variables;
  std::vector<Variable> sink_variables;  // those of them that the sink reads
  std::vector<ValueId> forward;          // softmax: score, factor; pointwise: weight, 1
  std::vector<ValueId> backward;         // for each variable: the tangents of `forward`, the indices of its read
  std::vector<ValueId> row;              // sink, and for each of sink_variables: the tangent of the sink, the indices of its read

  explicit Stages(const Ir& program) : ir(program), variables(variables_of(program)) {
    Graph& graph = ir.graph;
    const bool is_softmax = ir.weight_kind == WeightKind::kSoftmax;
    const ValueId one = graph.constant(Type::kF32, 1);
    forward = is_softmax ? std::vector{ir.score, ir.factor == kNoValue ? one : ir.factor} : std::vector{ir.weight, one};
    for (const Variable& variable : variables) {
      for (ValueId root : std::vector(forward)) backward.push_back(tangent(graph, root, variable.leaf));
      const std::vector<ValueId> indices = graph[variable.leaf].operands;
      backward.insert(backward.end(), indices.begin(), indices.end());
    }
    if (ir.sink == kNoValue) return;
    row.push_back(ir.sink);
    const std::vector<bool> of_row = reachable(graph, std::span(&ir.sink, 1));
    for (const Variable& variable : variables) {
      if (!of_row[variable.leaf]) continue;
      sink_variables.push_back(variable);
      row.push_back(tangent(graph, ir.sink, variable.leaf));
      const std::vector<ValueId> indices = graph[variable.leaf].operands;
      row.insert(row.end(), indices.begin(), indices.end());
    }
  }
};

class PairEnv : public Env {
 public:
  PairEnv(const Ir& ir, const ReferenceProblem& problem) : tensors_(problem.tensors), scalars_(ir.params.size()) {
    for (auto symbol = Symbol::kBatch; symbol <= Symbol::kVDim; symbol = static_cast<Symbol>(static_cast<int>(symbol) + 1)) {
      set(symbol, size_of(problem.sizes, symbol));
    }
    for (size_t i = 0; i < ir.params.size(); ++i) {
      const Param& param = ir.params[i];
      if (param.is_tensor || param.is_const) continue;
      const bool is_given = i < problem.scalars.size() && problem.scalars[i];
      if (!is_given && param.default_value == kNoValue) throw std::logic_error(fmt::format("no value for '{}'", param.name));
      scalars_[i] = is_given ? *problem.scalars[i] : default_value(ir, param, problem.sizes);
    }
  }

  void set(Symbol symbol, double value) { symbols_[static_cast<size_t>(symbol)] = value; }
  double symbol(Symbol symbol) const override { return symbols_[static_cast<size_t>(symbol)]; }
  double param(int index) const override { return scalars_[index]; }
  double read(int param, std::span<const double> indices) const override { return tensors_[param].values[offset(param, indices)]; }

  // Clamps, and so also broadcasts dims of size 1.
  size_t offset(int param, std::span<const double> indices) const {
    const std::vector<int64_t>& dims = tensors_[param].dims;
    int64_t position = 0;
    for (size_t i = 0; i < dims.size(); ++i) {
      position = position * dims[i] + std::clamp<int64_t>(static_cast<int64_t>(indices[i]), 0, dims[i] - 1);
    }
    return static_cast<size_t>(position);
  }

 private:
  const std::vector<ReferenceTensor>& tensors_;
  std::vector<double> scalars_;
  std::array<double, static_cast<size_t>(Symbol::kCount)> symbols_{};
};

// The rows of some (b, kv_h): no two of these write the same results, but for the gradients of parameters, which each has of its own.
class Worker {
 public:
  Worker(const Stages& stages, const ReferenceProblem& problem, ReferenceResult& result)
      : stages_(stages),
        problem_(problem),
        sizes_(problem.sizes),
        result_(result),
        is_softmax_(stages.ir.weight_kind == WeightKind::kSoftmax),
        is_rounded_(problem.precision == Precision::kF32),
        env_(stages.ir, problem),
        mask_(stages.ir.graph, {stages.ir.mask}),
        forward_(stages.ir.graph, stages.forward, problem.precision),
        backward_(stages.ir.graph, stages.backward, problem.precision),
        row_(stages.ir.graph, stages.row, problem.precision),
        param_grads_(result.param_grads),
        param_grad_magnitudes_(result.param_grads),
        param_grad_squares_(result.param_grads) {}

  void run(int b, int kv_h) {
    b_ = b;
    kv_h_ = kv_h;
    env_.set(Symbol::kB, problem_.sequence.value_or(b));
    env_.set(Symbol::kKvH, kv_h);
    const int group = sizes_.heads / sizes_.kv_heads;
    for (h_ = kv_h * group; h_ < (kv_h + 1) * group; ++h_) {
      env_.set(Symbol::kH, h_);
      for (i_ = 0; i_ < sizes_.q_len; ++i_) {
        env_.set(Symbol::kQIdx, i_);
        row();
      }
    }
  }

  const std::vector<std::vector<double>>& param_grads() const { return param_grads_; }
  const std::vector<std::vector<double>>& param_grad_magnitudes() const { return param_grad_magnitudes_; }
  const std::vector<std::vector<double>>& param_grad_squares() const { return param_grad_squares_; }

 private:
  struct Pair {
    int j;
    double qk, score, factor, p;
    double weight;  // what multiplies v
    double dp;      // d loss / d weight
  };

  double round(double x) const { return is_rounded_ ? static_cast<double>(static_cast<float>(x)) : x; }

  size_t q_row(int dim) const { return ((static_cast<size_t>(b_) * sizes_.q_len + i_) * sizes_.heads + h_) * dim; }
  size_t k_row(int j, int dim) const { return ((static_cast<size_t>(b_) * sizes_.k_len + j) * sizes_.kv_heads + kv_h_) * dim; }

  double dot(const double* x, const double* y, int dim) const {
    double sum = 0;
    for (int d = 0; d < dim; ++d) sum = round(sum + round(x[d] * y[d]));
    return sum;
  }
  void add(double* sum, double scale, const double* x, int dim) const {
    for (int d = 0; d < dim; ++d) sum[d] = round(sum[d] + round(scale * x[d]));
  }

  void row() {
    keep_pairs();
    double sink = -INFINITY;
    if (!stages_.row.empty()) sink = row_(env_)[0];
    double lse = -INFINITY;
    if (is_softmax_) lse = softmax(sink);
    for (const Pair& pair : pairs_)
      add(&result_.out[q_row(sizes_.v_dim)], pair.weight, &problem_.v[k_row(pair.j, sizes_.v_dim)], sizes_.v_dim);
    if (is_softmax_) result_.lse[(static_cast<size_t>(b_) * sizes_.heads + h_) * sizes_.q_len + i_] = lse;
    if (!problem_.wants_gradients || pairs_.empty()) return;
    const double delta = weight_gradients();
    for (const Pair& pair : pairs_) pair_gradients(pair, delta);
    if (!stages_.row.empty()) sink_gradients(std::exp(sink - lse), delta);
  }

  void keep_pairs() {
    pairs_.clear();
    for (int j = 0; j < sizes_.k_len; ++j) {
      env_.set(Symbol::kKIdx, j);
      if (mask_(env_)[0] == 0) continue;
      Pair pair{};
      pair.j = j;
      pair.qk = dot(&problem_.q[q_row(sizes_.head_dim)], &problem_.k[k_row(j, sizes_.head_dim)], sizes_.head_dim);
      env_.set(Symbol::kQk, pair.qk);
      const std::span<const double> roots = forward_(env_);
      pair.score = roots[0];
      pair.factor = roots[1];
      pair.weight = roots[0];
      pairs_.push_back(pair);
    }
  }

  // Weights of the row, and its lse. A row of only -inf is empty.
  double softmax(double sink) {
    double greatest = -INFINITY;
    for (const Pair& pair : pairs_) {
      if (std::isnan(pair.score) || pair.score > greatest) greatest = pair.score;
    }
    if (greatest == -INFINITY) {
      pairs_.clear();
      return sink;
    }
    if (std::isnan(sink) || sink > greatest) greatest = sink;
    double sum = round(std::exp(sink - greatest));
    for (Pair& pair : pairs_) {
      pair.p = round(std::exp(round(pair.score - greatest)));
      sum = round(sum + pair.p);
    }
    for (Pair& pair : pairs_) {
      pair.p = round(pair.p / sum);
      pair.weight = round(pair.p * pair.factor);
    }
    return round(greatest + round(std::log(sum)));
  }

  // dP and dV; returns delta, the row's sum of weight * dP.
  double weight_gradients() {
    const double* dout = &problem_.dout[q_row(sizes_.v_dim)];
    double delta = 0;
    for (Pair& pair : pairs_) {
      pair.dp = dot(dout, &problem_.v[k_row(pair.j, sizes_.v_dim)], sizes_.v_dim);
      delta = round(delta + round(pair.weight * pair.dp));
      add(&result_.dv[k_row(pair.j, sizes_.v_dim)], pair.weight, dout, sizes_.v_dim);
    }
    if (!problem_.stored_out.empty()) return dot(dout, &problem_.stored_out[q_row(sizes_.v_dim)], sizes_.v_dim);
    return delta;
  }

  void pair_gradients(const Pair& pair, double delta) {
    env_.set(Symbol::kKIdx, pair.j);
    env_.set(Symbol::kQk, pair.qk);
    // d loss / d score and d loss / d factor; of pointwise weights the first is d loss / d weight.
    const double by_first = is_softmax_ ? round(pair.p * round(round(pair.dp * pair.factor) - delta)) : pair.dp;
    const double by_factor = is_softmax_ ? round(pair.p * pair.dp) : 0;
    const double first_size = is_softmax_ ? pair.p * (std::abs(pair.dp * pair.factor) + std::abs(delta)) : std::abs(pair.dp);
    std::span<const double> roots = backward_(env_);
    for (const Variable& variable : stages_.variables) {
      const double gradient = round(round(by_first * roots[0]) + round(by_factor * roots[1]));
      const size_t rank = stages_.ir.graph[variable.leaf].operands.size();
      const double magnitude = first_size * std::abs(roots[0]) + std::abs(by_factor * roots[1]);
      receive(variable, roots.subspan(2, rank), gradient, magnitude, pair.j);
      roots = roots.subspan(2 + rank);
    }
  }

  void sink_gradients(double p, double delta) {
    std::span<const double> roots = row_(env_).subspan(1);
    for (const Variable& variable : stages_.sink_variables) {
      const size_t rank = stages_.ir.graph[variable.leaf].operands.size();
      const double gradient = round(-round(p * delta) * roots[0]);
      receive(variable, roots.subspan(1, rank), gradient, std::abs(gradient), 0);
      roots = roots.subspan(1 + rank);
    }
  }

  void receive(const Variable& variable, std::span<const double> indices, double gradient, double magnitude, int j) {
    if (variable.param == kNotAParam) {
      const int dim = sizes_.head_dim;
      add(&result_.dq[q_row(dim)], gradient, &problem_.k[k_row(j, dim)], dim);
      add(&result_.dk[k_row(j, dim)], gradient, &problem_.q[q_row(dim)], dim);
      return;
    }
    const size_t position = stages_.ir.params[variable.param].is_tensor ? env_.offset(variable.param, indices) : 0;
    double& sum = param_grads_[variable.param][position];
    sum = round(sum + gradient);
    param_grad_magnitudes_[variable.param][position] += magnitude;
    param_grad_squares_[variable.param][position] += gradient * gradient;
  }

  const Stages& stages_;
  const ReferenceProblem& problem_;
  const Sizes& sizes_;
  ReferenceResult& result_;
  const bool is_softmax_;
  const bool is_rounded_;
  PairEnv env_;
  Interpreter mask_, forward_, backward_, row_;
  std::vector<std::vector<double>> param_grads_, param_grad_magnitudes_, param_grad_squares_;
  std::vector<Pair> pairs_;  // the kept ones of the row at hand
  int b_ = 0, kv_h_ = 0, h_ = 0, i_ = 0;
};

void check_size(std::string_view name, size_t found, size_t expected) {
  if (found != expected) throw std::logic_error(fmt::format("{} has {} values, not {}", name, found, expected));
}

void check(const Ir& ir, const ReferenceProblem& problem, size_t q_rows, size_t k_rows) {
  const Sizes& sizes = problem.sizes;
  check_size("q", problem.q.size(), q_rows * sizes.head_dim);
  check_size("k", problem.k.size(), k_rows * sizes.head_dim);
  check_size("v", problem.v.size(), k_rows * sizes.v_dim);
  if (problem.wants_gradients) check_size("dout", problem.dout.size(), q_rows * sizes.v_dim);
  if (!problem.stored_out.empty()) check_size("stored_out", problem.stored_out.size(), q_rows * sizes.v_dim);
  for (size_t i = 0; i < ir.params.size(); ++i) {
    if (!ir.params[i].is_tensor) continue;
    check_size("tensors", problem.tensors.size(), ir.params.size());
    const ReferenceTensor& tensor = problem.tensors[i];
    check_size(fmt::format("the shape of '{}'", ir.params[i].name), tensor.dims.size(), ir.params[i].dims.size());
    int64_t count = 1;
    for (int64_t dim : tensor.dims) count *= dim;
    check_size(ir.params[i].name, tensor.values.size(), static_cast<size_t>(count));
  }
}

ReferenceResult zeros(const Ir& ir, const ReferenceProblem& problem, size_t q_rows, size_t k_rows) {
  const Sizes& sizes = problem.sizes;
  ReferenceResult result;
  result.out.resize(q_rows * sizes.v_dim);
  if (ir.weight_kind == WeightKind::kSoftmax) result.lse.resize(q_rows);
  result.param_grads.resize(ir.params.size());
  if (problem.wants_gradients) {
    result.dq.resize(q_rows * sizes.head_dim);
    result.dk.resize(k_rows * sizes.head_dim);
    result.dv.resize(k_rows * sizes.v_dim);
    for (size_t i = 0; i < ir.params.size(); ++i) {
      if (ir.params[i].is_grad) result.param_grads[i].resize(ir.params[i].is_tensor ? problem.tensors[i].values.size() : 1);
    }
  }
  result.param_grad_magnitudes = result.param_grad_squares = result.param_grads;
  return result;
}

}  // namespace

ReferenceResult evaluate_reference(const Ir& ir, const ReferenceProblem& problem, int threads) {
  const Sizes& sizes = problem.sizes;
  const int batch = problem.sequence ? 1 : sizes.batch;
  const size_t q_rows = static_cast<size_t>(batch) * sizes.q_len * sizes.heads;
  const size_t k_rows = static_cast<size_t>(batch) * sizes.k_len * sizes.kv_heads;
  check(ir, problem, q_rows, k_rows);
  ReferenceResult result = zeros(ir, problem, q_rows, k_rows);
  const Stages stages(ir);

  const int tasks = batch * sizes.kv_heads;
  std::vector<Worker> workers;
  for (int t = 0; t < std::clamp(threads, 1, std::max(tasks, 1)); ++t) workers.emplace_back(stages, problem, result);
  const auto work = [&](size_t first) {
    for (size_t task = first; task < static_cast<size_t>(tasks); task += workers.size()) {
      workers[first].run(static_cast<int>(task) / sizes.kv_heads, static_cast<int>(task) % sizes.kv_heads);
    }
  };
  std::vector<std::thread> others;
  for (size_t t = 1; t < workers.size(); ++t) others.emplace_back(work, t);
  work(0);
  for (std::thread& other : others) other.join();

  for (const Worker& worker : workers) {
    for (size_t i = 0; i < result.param_grads.size(); ++i) {
      for (size_t x = 0; x < result.param_grads[i].size(); ++x) {
        result.param_grads[i][x] += worker.param_grads()[i][x];
        result.param_grad_magnitudes[i][x] += worker.param_grad_magnitudes()[i][x];
        result.param_grad_squares[i][x] += worker.param_grad_squares()[i][x];
      }
    }
  }
  return result;
}

}  // namespace attune::codegen
