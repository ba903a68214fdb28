#include "tests/gpu/variant_case.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

#include "codegen/build_ir.h"
#include "dsl/parser.h"
#include "dsl/printer.h"
#include "runtime/half.h"
#include "tests/unit/golden_file.h"

namespace attune::codegen {
namespace {

namespace fs = std::filesystem;
using runtime::FloatType;

FloatType float_type(dsl::ElementType type) {
  return type == dsl::ElementType::kF16 ? FloatType::kF16 : type == dsl::ElementType::kBF16 ? FloatType::kBF16 : FloatType::kF32;
}

// As they are stored; the values are rounded to that.
std::vector<std::byte> stored(dsl::ElementType type, std::vector<double>& values) {
  std::vector<std::byte> bytes;
  const auto put = [&bytes](const auto& value) {
    const auto* data = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), data, data + sizeof(value));
  };
  for (double& value : values) {
    if (value_type(type) == Type::kF32) {
      std::byte element[4];
      runtime::store_float(float_type(type), element, 0, static_cast<float>(value));
      value = runtime::load_float(float_type(type), element, 0);
      bytes.insert(bytes.end(), element, element + runtime::float_size(float_type(type)));
    } else if (type == dsl::ElementType::kI32) {
      put(static_cast<int32_t>(value));
    } else {
      put(static_cast<uint8_t>(value));
    }
  }
  bytes.resize(bytes.size() + 16);
  return bytes;
}

std::vector<double> loaded(const std::vector<std::byte>& bytes, FloatType type) {
  std::vector<double> values(bytes.size() / runtime::float_size(type));
  for (size_t i = 0; i < values.size(); ++i) values[i] = runtime::load_float(type, bytes.data(), static_cast<int64_t>(i));
  return values;
}

// Sum of squares of the differences, and of what was wanted; infinities must be the same.
struct Norm {
  double error = 0, size = 0;
  void add(double got, double want) {
    if (got == want && std::isinf(want)) return;
    error += (got - want) * (got - want);
    size += want * want;
  }
  double relative() const { return std::sqrt(error / std::max(size, 1e-30)); }
};

}  // namespace

fs::path source_folder() {
  return fs::exists(ATTUNE_SOURCE_DIR) ? fs::path(ATTUNE_SOURCE_DIR) : fs::current_path();
}

std::vector<fs::path> variant_programs() {
  std::vector<fs::path> paths;
  for (const char* folder : {"examples", "tests/golden"}) {
    for (const auto& entry : fs::directory_iterator(source_folder() / folder)) {
      if (entry.path().extension() == ".attn") paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

VariantCase::VariantCase(const std::string& text, const GpuKernelOptions& options, unsigned seed, const VariantSizes& wanted,
                         bool own_skeleton)
    : options_(options), heads_(wanted.heads) {
  const int heads = wanted.heads, kv_heads = wanted.kv_heads;
  std::mt19937 random(seed);
  const auto below = [&random](int end) { return std::uniform_int_distribution<int>(0, end - 1)(random); };
  const auto normals = [&random](int64_t count) {
    std::vector<double> values(static_cast<size_t>(count));
    for (double& value : values) value = std::normal_distribution<double>()(random);
    return values;
  };
  const auto append = [](std::vector<double>& all, const std::vector<double>& part) { all.insert(all.end(), part.begin(), part.end()); };

  // The program, for these head dims and, for the reference, for any.
  dsl::Diagnostics diagnostics("test.attn", text);
  const std::optional<dsl::Program> program = dsl::parse(diagnostics);
  if (!program) throw std::runtime_error(diagnostics.render());
  ir_ = *build_ir(*program, diagnostics);
  const Lowered lowered = lower(*build_ir(*program, diagnostics, {.constants = {}, .head_dim = options.head_dim, .v_dim = options.v_dim}));

  // Lengths and data; what is packed lies one sequence after the other, and so does the rest.
  GpuProblem problem;
  problem.batch = 2, problem.heads = heads, problem.kv_heads = kv_heads;
  if (wanted.multiprocessors > 0) problem.large_tiles = true, problem.multiprocessors = wanted.multiprocessors;
  const int sequences = options.packed ? 2 : 1;
  std::vector<double> q, k, v;
  std::vector<int32_t> cu_q = {0}, cu_k = {0};
  for (int i = 0; i < sequences; ++i) {
    ReferenceProblem& reference = references_.emplace_back();
    Sizes& sizes = reference.sizes;
    sizes = {.batch = 2,
             .heads = heads,
             .kv_heads = kv_heads,
             .q_len = wanted.q_len > 0 ? (wanted.q_len + i) / (i + 1) : 60 + below(50),
             .k_len = wanted.k_len > 0 ? (wanted.k_len + i) / (i + 1) : 60 + below(80),
             .head_dim = options.head_dim,
             .v_dim = options.v_dim};
    if (options.packed) reference.sequence = i;
    const int64_t batch = options.packed ? 1 : sizes.batch;
    reference.q = normals(batch * sizes.q_len * heads * options.head_dim);
    reference.k = normals(batch * sizes.k_len * kv_heads * options.head_dim);
    reference.v = normals(batch * sizes.k_len * kv_heads * options.v_dim);
    for (std::vector<double>* values : {&reference.q, &reference.k, &reference.v}) stored(options.dtype, *values);
    append(q, reference.q), append(k, reference.k), append(v, reference.v);
    problem.q_len = std::max(problem.q_len, sizes.q_len);
    problem.k_len = std::max(problem.k_len, sizes.k_len);
    cu_q.push_back(cu_q.back() + sizes.q_len);
    cu_k.push_back(cu_k.back() + sizes.k_len);
  }
  problem.total_q = cu_q.back(), problem.total_k = cu_k.back();
  const auto rows = [&](int64_t len, int64_t count, int64_t dim) {
    return GpuStrides{options.packed ? 0 : len * count * dim, count * dim, dim};
  };
  problem.q = rows(problem.q_len, heads, options.head_dim);
  problem.k = rows(problem.k_len, kv_heads, options.head_dim);
  problem.v = rows(problem.k_len, kv_heads, options.v_dim);
  problem.out = rows(problem.q_len, heads, options.v_dim);
  problem.lse = options.packed ? GpuStrides{0, problem.total_q, 1} : GpuStrides{int64_t{heads} * problem.q_len, problem.q_len, 1};

  const auto bytes_of = [](const std::vector<int32_t>& values) {
    const auto* data = reinterpret_cast<const std::byte*>(values.data());
    return std::vector<std::byte>(data, data + values.size() * sizeof(int32_t));
  };
  const size_t rows_q = static_cast<size_t>(options.packed ? problem.total_q : int64_t{2} * problem.q_len) * heads;
  for (std::vector<double>* values : {&q, &k, &v}) tensors.push_back(stored(options.dtype, *values));
  tensors.emplace_back(rows_q * static_cast<size_t>(options.v_dim) * 2);  // out
  tensors.emplace_back(rows_q * 4);                                       // lse
  tensors.push_back(bytes_of(cu_q));
  tensors.push_back(bytes_of(cu_k));
  tensors.emplace_back(16);  // the flag

  Sizes longest = references_[0].sizes;
  longest.q_len = problem.q_len, longest.k_len = problem.k_len;
  for (ReferenceProblem& reference : references_) {
    reference.tensors.resize(ir_.params.size());
    reference.scalars.resize(ir_.params.size());
  }
  for (size_t i = 0; i < ir_.params.size(); ++i) {
    const Param& param = ir_.params[i];
    GpuParamBinding& binding = problem.params.emplace_back();
    std::vector<double> values(1);
    if (param.is_tensor) {
      ReferenceTensor tensor;
      tensor.dims = tensor_dims(ir_, param, longest);
      binding.dims.assign(tensor.dims.begin(), tensor.dims.end());
      binding.strides.resize(tensor.dims.size());
      int64_t count = 1;
      for (size_t axis = tensor.dims.size(); axis-- > 0; count *= tensor.dims[axis]) binding.strides[axis] = count;
      values = normals(count);
      const int end = tensor.dims.size() == 1 ? problem.k_len : 3;  // lengths, or numbers of documents
      for (double& value : values) value = value_type(param.element) == Type::kF32 ? 0.5 * value : below(end);
      tensors.push_back(stored(param.element, values));
      tensor.values = values;
      for (ReferenceProblem& reference : references_) reference.tensors[i] = tensor;
      continue;
    }
    binding.is_given = param.default_value == kNoValue || (!param.is_const && !options.packed && below(2) == 0);
    values[0] = param.default_value == kNoValue ? 0.75 : default_value(ir_, param, longest);
    tensors.push_back(stored(param.element, values));
    binding.scalar = values[0];
    for (ReferenceProblem& reference : references_) {
      if (binding.is_given) reference.scalars[i] = values[0];
    }
  }

  if (own_skeleton) {
    config = default_config(lowered, options, problem);
    kernel = emit_gpu_forward(lowered, dsl::print(*program), options, config);
  } else {
    GpuSkeletonText skeleton;
    skeleton.text = read_file(source_folder() / "tests/gpu/naive_forward.cuh");
    skeleton.function = "attention_forward_naive";
    config.skeleton = GpuSkeleton::kSm80;
    config.warpgroups = 2;
    config.block_n = 32;
    kernel = emit_gpu_forward(lowered, dsl::print(*program), options, config, skeleton);
    kernel.shared_bytes = 0;
  }
  plan = plan_gpu_forward(lowered, kernel, options, config, problem);
}

VariantCase::Errors VariantCase::errors(int threads) const {
  const std::vector<double> out = loaded(tensors[GpuTensorIndex::kOut], float_type(options_.dtype));
  const std::vector<double> lse = loaded(tensors[GpuTensorIndex::kLse], FloatType::kF32);
  Norm out_norm, lse_norm;
  bool has_lse = false;
  size_t row = 0, row_of_head = 0;  // of `out`, and of a head's lse where sequences are packed
  for (const ReferenceProblem& reference : references_) {
    const ReferenceResult want = evaluate_reference(ir_, reference, threads);
    for (size_t i = 0; i < want.out.size(); ++i) out_norm.add(out[row + i], want.out[i]);
    row += want.out.size();
    const auto q_len = static_cast<size_t>(reference.sizes.q_len);
    const size_t total_q = lse.size() / static_cast<size_t>(heads_);
    has_lse = !want.lse.empty();
    for (size_t i = 0; i < want.lse.size(); ++i) {
      lse_norm.add(lse[reference.sequence ? i / q_len * total_q + row_of_head + i % q_len : i], want.lse[i]);
    }
    row_of_head += q_len;
  }
  Errors errors;
  errors.out = out_norm.relative();
  if (has_lse) errors.lse = lse_norm.relative();
  errors.is_flagged = tensors[GpuTensorIndex::kIndexFlag][0] != std::byte{0};
  return errors;
}

}  // namespace attune::codegen
