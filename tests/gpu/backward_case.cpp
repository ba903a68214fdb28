#include "tests/gpu/backward_case.h"

#include <fmt/format.h>

#include <cstring>

#include "codegen/eval/defaults.h"
#include "codegen/gpu_argument.h"
#include "dsl/parser.h"
#include "dsl/printer.h"
#include "runtime/half.h"
#include "tests/unit/golden_file.h"

namespace attune::numeric {
namespace {

using codegen::GpuField;
using codegen::Param;

// Threads have one key or one row each.
codegen::GpuConfig naive_config() {
  codegen::GpuConfig config;
  config.skeleton = codegen::GpuSkeleton::kSm80;
  config.warpgroups = 1;
  config.block_m = 16;
  config.block_n = 32;
  return config;
}

runtime::FloatType float_type(DType dtype) {
  return dtype == DType::kF16 ? runtime::FloatType::kF16 : dtype == DType::kBF16 ? runtime::FloatType::kBF16 : runtime::FloatType::kF32;
}

dsl::ElementType element_type(DType dtype) {
  return dtype == DType::kF16 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16;
}

std::string canonical(const std::string& text) {
  dsl::Diagnostics diagnostics("case.attn", text);
  return dsl::print(*dsl::parse(diagnostics));
}

std::vector<int64_t> dense_strides(const std::vector<int64_t>& dims) {
  std::vector<int64_t> strides(dims.size());
  int64_t count = 1;
  for (size_t axis = dims.size(); axis-- > 0; count *= dims[axis]) strides[axis] = dims[axis] == 1 ? 0 : count;
  return strides;
}

codegen::GpuKernelOptions options_of(const Case& c, size_t problem, bool deterministic, bool is_sm90 = false) {
  codegen::GpuKernelOptions options;
  options.arch = is_sm90 ? "sm_90a" : "sm_80";
  options.dtype = element_type(c.dtype);
  options.head_dim = c.head_dim;
  options.v_dim = c.v_dim;
  options.packed = c.problems[problem].packed;
  options.deterministic = deterministic;
  return options;
}

const codegen::GpuSkeletonText& naive_skeleton() {
  static const codegen::GpuSkeletonText skeleton = {
      .vocabulary = "",
      .text = codegen::read_file(std::filesystem::path(ATTUNE_SOURCE_DIR) / "tests/gpu/naive_backward.cuh"),
      .function = "attention_backward_keys_naive",
      .prepare = "attention_backward_prepare",
      .queries = "attention_backward_queries_naive",
      .finish = ""};
  return skeleton;
}

codegen::ReferenceResult forward_of(const codegen::Ir& ir, const ProblemData& data) {
  std::vector<codegen::ReferenceProblem> problems = reference_problems(data);
  for (codegen::ReferenceProblem& problem : problems) {
    problem.wants_gradients = false;
    problem.dout.clear();
  }
  return reference_result(ir, problems, data);
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

BackwardCase::BackwardCase(const Case& c, size_t problem, const std::optional<codegen::GpuConfig>& own, bool deterministic)
    : BackwardCase(c, problem, own.value_or(naive_config()),
                   options_of(c, problem, deterministic, own && own->skeleton == codegen::GpuSkeleton::kSm90),
                   own ? nullptr : &naive_skeleton()) {}

BackwardCase BackwardCase::of_turns(const Case& c, size_t problem) {
  codegen::GpuConfig config;
  config.block_m = 64;
  config.block_n = 64;
  config.warpgroups = 1;
  codegen::GpuSkeletonText skeleton;
  skeleton.vocabulary = codegen::read_file(std::filesystem::path(ATTUNE_SOURCE_DIR) / "codegen/device/sm90_common.cuh");
  skeleton.text = codegen::read_file(std::filesystem::path(ATTUNE_SOURCE_DIR) / "codegen/device/sm90_turns.cuh") +
                  codegen::read_file(std::filesystem::path(ATTUNE_SOURCE_DIR) / "tests/gpu/turns_check.cuh");
  skeleton.prepare = "prepare_turns";
  skeleton.function = "record_turns";
  skeleton.finish = "check_turns";
  return {c, problem, config, options_of(c, problem, true), &skeleton};
}

BackwardCase::BackwardCase(const Case& c, size_t problem, codegen::GpuConfig config, const codegen::GpuKernelOptions& options,
                           const codegen::GpuSkeletonText* skeleton)
    : case_(c), ir_(reference_ir(c)), data_(random_data(ir_, c, problem)), forward_(forward_of(ir_, data_)) {
  leave_fitting(config);
  const codegen::Sizes& sizes = data_.sizes;
  const codegen::Lowered lowered = codegen::lower(reference_ir(c, HeadDims::kConstant));
  kernel = skeleton ? codegen::emit_gpu_backward(lowered, canonical(c.text), options, config, *skeleton)
                    : codegen::emit_gpu_backward(lowered, canonical(c.text), options, config);
  plan.sources.push_back({kernel.source, options.arch});

  Fields fields;
  const int64_t blocks_m = ceil_div(sizes.q_len, config.block_m), blocks_n = ceil_div(sizes.k_len, config.block_n);
  const int64_t rows = data_.q_rows() * sizes.heads, keys = data_.k_rows() * sizes.kv_heads;
  const auto add_rows = [&](const std::string& name, int64_t heads, int64_t length, int64_t dim, const std::vector<double>* values) {
    fields.integers[name + "_stride"] = {data_.shape.packed ? 0 : length * heads * dim, heads * dim, dim};
    if (values) add_tensor(name, case_.dtype, *values);
  };
  add_rows("q", sizes.heads, sizes.q_len, sizes.head_dim, &data_.q);
  add_rows("k", sizes.kv_heads, sizes.k_len, sizes.head_dim, &data_.k);
  add_rows("v", sizes.kv_heads, sizes.k_len, sizes.v_dim, &data_.v);
  add_rows("dout", sizes.heads, sizes.q_len, sizes.v_dim, &data_.dout);
  add_rows("out", sizes.heads, sizes.q_len, sizes.v_dim, &forward_.out);
  add_rows("dq", sizes.heads, sizes.q_len, sizes.head_dim, nullptr);
  add_rows("dk", sizes.kv_heads, sizes.k_len, sizes.head_dim, nullptr);
  add_rows("dv", sizes.kv_heads, sizes.k_len, sizes.v_dim, nullptr);
  add_result("dq", case_.dtype, static_cast<size_t>(rows * sizes.head_dim));
  add_result("dk", case_.dtype, static_cast<size_t>(keys * sizes.head_dim));
  add_result("dv", case_.dtype, static_cast<size_t>(keys * sizes.v_dim));
  // [row, head], as the reference has it.
  add_tensor("lse", DType::kF32, forward_.lse);
  fields.integers["lse_stride"] = {data_.shape.packed ? 0 : int64_t{sizes.q_len} * sizes.heads, 1, sizes.heads};
  for (const char* name : {"lse2", "delta"})
    add_result(name, DType::kF32, static_cast<size_t>(blocks_m * config.block_m * sizes.batch * sizes.heads));
  const std::vector<int32_t> cu_q = offsets_of(data_.shape.q_lens), cu_k = offsets_of(data_.shape.k_lens);
  add_tensor("cu_q", DType::kI32, {cu_q.begin(), cu_q.end()});
  add_tensor("cu_k", DType::kI32, {cu_k.begin(), cu_k.end()});
  add_tensor("index_flag", DType::kI32, {0});
  for (const auto& [name, value] : {std::pair<const char*, int64_t>("batch", sizes.batch),
                                    {"heads", sizes.heads},
                                    {"kv_heads", sizes.kv_heads},
                                    {"q_len", sizes.q_len},
                                    {"k_len", sizes.k_len},
                                    {"blocks_m", blocks_m},
                                    {"blocks_n", blocks_n},
                                    {"tiles", blocks_n * sizes.batch * sizes.kv_heads},
                                    {"section_heads", 1}}) {
    fields.integers[name] = {value};
  }
  fields.integers["vector_loads"] = fields.integers["vector_stores"] = {c.head_dim % 8 == 0 && c.v_dim % 8 == 0 && c.seed % 3 != 0};
  add_params(fields);
  if (config.skeleton == codegen::GpuSkeleton::kSm90) {
    if (options.deterministic) add_turns(blocks_m, blocks_n);
    if (config.persistent) add_result("counter", DType::kI32, 1);
    add_sums_of_dq(config, blocks_m * int64_t{sizes.batch} * sizes.heads, blocks_n, skeleton != nullptr);
    add_maps(config, fields);
    add_result("extents", DType::kU8, static_cast<size_t>(blocks_m * sizes.batch * sizes.heads) * kernel.row_extent_bytes + 1);
  }

  const int64_t all_heads = int64_t{sizes.batch} * sizes.heads;
  if (!kernel.prepare_name.empty())
    add_launch(kernel.prepare_name, std::max<int64_t>(1, blocks_m * all_heads), kernel.side_threads, fields);
  if (!kernel.extents_name.empty()) add_launch(kernel.extents_name, ceil_div(blocks_m * all_heads, 4), kernel.side_threads, fields);
  const int64_t tiles = blocks_n * sizes.batch * sizes.kv_heads;
  constexpr int64_t kFewCtas = 2;  // so that each has several tiles
  add_launch(kernel.name, config.persistent ? std::min(tiles, kFewCtas) : tiles, kernel.threads, fields);
  if (!kernel.finish_name.empty()) add_launch(kernel.finish_name, blocks_m * all_heads, kernel.side_threads, fields);
  if (!kernel.queries_name.empty())
    add_launch(kernel.queries_name, ceil_div(sizes.q_len, config.block_n) * all_heads, kernel.threads, fields);
  if (!kernel.sums_name.empty()) add_launch(kernel.sums_name, 3, kernel.side_threads, fields);
}

void BackwardCase::add_tensor(const std::string& name, DType dtype, const std::vector<double>& values) {
  add_result(name, dtype, values.size());
  std::byte* data = tensors.back().data();
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kI32) {
      const auto value = static_cast<int32_t>(values[i]);
      std::memcpy(data + 4 * i, &value, 4);
    } else if (dtype == DType::kU8) {
      data[i] = static_cast<std::byte>(values[i]);
    } else {
      runtime::store_float(float_type(dtype), data, static_cast<int64_t>(i), static_cast<float>(values[i]));
    }
  }
}

// All bits set: NaN.
void BackwardCase::add_result(const std::string& name, DType dtype, size_t count) {
  places_[name] = tensors.size();
  dtypes_[name] = dtype;
  tensors.emplace_back(count * dtype_size(dtype), std::byte{0xFF});
}

// What is written before it is read is NaN, or a very large number.
void BackwardCase::add_turns(int64_t blocks_m, int64_t blocks_n) {
  const auto heads = static_cast<size_t>(data_.sizes.batch * data_.sizes.heads), rows = static_cast<size_t>(blocks_m) * heads,
             columns = static_cast<size_t>(blocks_n);
  add_result("turns", DType::kI32, rows);
  add_result("spans", DType::kI32, 2 * heads * columns);
  add_result("meetings", DType::kI32, 2 * rows * ((columns + 31) / 32));
  add_result("counter", DType::kI32, 1);
  add_result("column_extents", DType::kU8, heads * columns * kernel.column_extent_bytes + 1);
}

// turns_check.cuh writes a number for each pair of blocks instead.
void BackwardCase::add_sums_of_dq(const codegen::GpuConfig& config, int64_t blocks, int64_t blocks_n, bool of_turns) {
  if (of_turns) return add_tensor("dq_sum", DType::kF32, std::vector<double>(static_cast<size_t>(blocks * blocks_n), 0));
  add_result("dq_sum", DType::kF32, static_cast<size_t>(blocks * config.block_m * ceil_div(data_.sizes.head_dim, 64) * 64));
}

// The strides and sizes of tensors.
codegen::GpuProblem BackwardCase::bindings() const {
  codegen::GpuProblem problem;
  problem.params.resize(ir_.params.size());
  for (size_t i = 0; i < ir_.params.size(); ++i) {
    if (!data_.tensor_params[i]) continue;
    const std::vector<int64_t> dims = codegen::tensor_dims(ir_, ir_.params[i], data_.sizes);
    problem.params[i].strides = dense_strides(data_.tensor_params[i]->dims);
    problem.params[i].dims.assign(dims.begin(), dims.end());
  }
  return problem;
}

// Of tensors by pair those that the copy engine can read: they may be broadcast.
void BackwardCase::leave_fitting(codegen::GpuConfig& config) const {
  const codegen::GpuProblem problem = bindings();
  std::erase_if(config.fed_tensors, [&](int param) { return !codegen::fits_map_of_pairs(ir_, param, problem); });
}

// As backward_sides() and map_of() of the planner have it.
void BackwardCase::add_maps(const codegen::GpuConfig& config, const Fields& fields) {
  const codegen::Sizes& sizes = data_.sizes;
  const bool packed = data_.shape.packed;
  const auto add = [&](const std::string& name, int64_t rows, int64_t heads, int64_t dim, int rows_of_box) {
    const std::vector<int64_t>& stride = fields.integers.at(name + "_stride");
    runtime::GpuTensorMap map;
    map.tensor = static_cast<int>(places_.at(name));
    map.type = float_type(case_.dtype);
    const int64_t batch = packed ? 1 : sizes.batch;
    for (const int64_t size : {dim, packed ? rows : rows / batch, heads, batch}) map.dims.push_back(static_cast<uint64_t>(size));
    for (const int64_t step : {stride[1], stride[2], stride[0]}) map.strides.push_back(static_cast<uint64_t>(step) * 2);
    map.box = {64, static_cast<uint32_t>(rows_of_box), 1, 1};
    maps_[name + "_map"] = map;
  };
  constexpr int kRowsOfWarp = 16;
  const int64_t q = data_.q_rows(), k = data_.k_rows();
  add("q", q, sizes.heads, sizes.head_dim, config.block_m);
  add("k", k, sizes.kv_heads, sizes.head_dim, config.block_n);
  add("v", k, sizes.kv_heads, sizes.v_dim, config.block_n);
  add("dout", q, sizes.heads, sizes.v_dim, config.block_m);
  add("dk", k, sizes.kv_heads, sizes.head_dim, kRowsOfWarp);
  add("dv", k, sizes.kv_heads, sizes.v_dim, kRowsOfWarp);
  for (const int param : config.fed_tensors) {
    const std::string name = "t_" + ir_.params[static_cast<size_t>(param)].name;
    runtime::GpuTensorMap map = codegen::map_of_pairs(ir_, param, bindings());
    map.tensor = static_cast<int>(places_.at(name));
    maps_[name + "_map"] = map;
  }
}

bool BackwardCase::has_right_turns() const {
  const std::vector<double> said = values_of("dq_sum");
  const size_t rows = tensors[places_.at("turns")].size() / sizeof(int32_t), columns = rows > 0 ? said.size() / rows : 0;
  for (size_t row = 0; columns > 0 && row < rows; ++row) {
    if (said[row * columns] != 1) return false;
  }
  return true;
}

// Zero between calls.
void BackwardCase::add_sums(const std::string& name, size_t count) {
  constexpr size_t kBytesOfSum = 104;
  places_[name] = tensors.size();
  tensors.emplace_back(count * kBytesOfSum, std::byte{0});
}

std::vector<double> BackwardCase::values_of(const std::string& name) const {
  const std::vector<std::byte>& bytes = tensors[places_.at(name)];
  const DType dtype = dtypes_.at(name);
  std::vector<double> values(bytes.size() / dtype_size(dtype));
  for (size_t i = 0; i < values.size(); ++i) values[i] = runtime::load_float(float_type(dtype), bytes.data(), static_cast<int64_t>(i));
  return values;
}

void BackwardCase::add_params(Fields& fields) {
  for (size_t i = 0; i < ir_.params.size(); ++i) {
    const Param& param = ir_.params[i];
    if (param.is_const) continue;
    const std::string t = "t_" + param.name, p = "p_" + param.name, g = "g_" + param.name;
    if (const std::optional<TensorParam>& tensor = data_.tensor_params[i]) {
      add_tensor(t, tensor->dtype, tensor->values);
      fields.integers[t + "_stride"] = dense_strides(tensor->dims);
      fields.integers[t + "_dim"] = codegen::tensor_dims(ir_, param, data_.sizes);
      if (!param.is_grad) continue;
      add_result(g, DType::kF32, tensor->values.size());
      fields.integers[g + "_stride"] = dense_strides(tensor->dims);
      fields.integers[g + "_size"] = tensor->dims;
      fields.integers[g + "_count"] = {static_cast<int64_t>(tensor->values.size())};
      add_sums("sum_" + param.name, tensor->values.size());
      fields.integers["sum_" + param.name + "_stride"] = dense_strides(tensor->dims);
      continue;
    }
    const std::optional<double>& scalar = data_.scalars[i];
    if (param.is_grad) {
      if (scalar) add_tensor(p, DType::kF32, {*scalar});
      add_result(g, DType::kF32, 1);
      add_sums("sum_" + param.name, 1);
      continue;
    }
    const double value = scalar ? *scalar : codegen::default_value(ir_, param, data_.sizes);
    fields.integers[p] = {static_cast<int64_t>(value)};
    fields.floats[p] = static_cast<float>(value);
    fields.integers[p + "_given"] = {scalar.has_value()};
  }
}

void BackwardCase::add_launch(const std::string& name, int64_t grid, int threads, const Fields& fields) {
  runtime::GpuLaunch launch;
  launch.kernel = name;
  launch.grid[0] = static_cast<uint32_t>(grid);
  launch.block[0] = static_cast<uint32_t>(threads);
  launch.shared_bytes = name == kernel.name || name == kernel.queries_name ? kernel.shared_bytes : 0;
  launch.argument.resize(kernel.params_bytes);
  for (const GpuField& field : kernel.fields) {
    std::byte* to = launch.argument.data() + field.offset;
    if (const auto map = maps_.find(field.name); map != maps_.end()) {
      launch.patches.push_back({runtime::GpuPatch::Kind::kTensorMap, static_cast<int64_t>(launch.tensor_maps.size()), field.offset});
      launch.tensor_maps.push_back(map->second);
    } else if (field.type.back() == '*') {
      const auto place = places_.find(field.name);
      if (place != places_.end())
        launch.patches.push_back({runtime::GpuPatch::Kind::kTensor, static_cast<int64_t>(place->second), field.offset});
    } else if (field.type == "float") {
      std::memcpy(to, &fields.floats.at(field.name), sizeof(float));
    } else if (const auto values = fields.integers.find(field.name); values != fields.integers.end()) {
      const size_t size = field.type.starts_with("i64") ? 8 : 4;
      for (size_t i = 0; i < values->second.size(); ++i) std::memcpy(to + size * i, &values->second[i], size);
    }
  }
  plan.launches.push_back(std::move(launch));
}

std::optional<std::string> BackwardCase::failure() const {
  CallResult result;
  for (double value : forward_.out) result.out.push_back(rounded(case_.dtype, value));
  result.lse = forward_.lse;
  result.dq = values_of("dq");
  result.dk = values_of("dk");
  result.dv = values_of("dv");
  result.param_grads.resize(ir_.params.size());
  for (size_t i = 0; i < ir_.params.size(); ++i) {
    if (ir_.params[i].is_grad) result.param_grads[i] = values_of("g_" + ir_.params[i].name);
  }
  return difference_of(case_, ir_, data_, result);
}

}  // namespace attune::numeric
