#include "codegen/gpu_argument.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace attune::codegen {

using runtime::GpuPatch;
using runtime::GpuTensorMap;

namespace {

int64_t bytes_of(dsl::ElementType element) {
  return element == dsl::ElementType::kF32 ? 4 : 2;
}

}  // namespace

const GpuField* GpuArgument::find(std::string_view name) const {
  const auto found = std::find_if(kernel_.fields.begin(), kernel_.fields.end(), [&](const GpuField& field) { return field.name == name; });
  return found == kernel_.fields.end() ? nullptr : &*found;
}

void GpuArgument::write(std::string_view name, const void* value, size_t bytes) {
  const GpuField* field = find(name);
  if (!field || bytes == 0) return;
  assert(bytes == field->bytes);
  std::memcpy(launch_.argument.data() + field->offset, value, bytes);
}

void GpuArgument::patch(std::string_view name, GpuPatch::Kind kind, int64_t index) {
  if (const GpuField* field = find(name)) launch_.patches.push_back({kind, index, field->offset});
}

void GpuArgument::map(std::string_view name, GpuTensorMap map) {
  patch(name, GpuPatch::Kind::kTensorMap, static_cast<int64_t>(launch_.tensor_maps.size()));
  launch_.tensor_maps.push_back(std::move(map));
}

std::array<GpuSide, 4> forward_sides(const GpuProblem& problem, const GpuKernelOptions& options) {
  const int64_t rows_q = options.packed ? problem.total_q : problem.q_len, rows_k = options.packed ? problem.total_k : problem.k_len;
  return {{{"q", GpuTensorIndex::kQ, &problem.q, rows_q, problem.heads, options.head_dim},
           {"k", GpuTensorIndex::kK, &problem.k, rows_k, problem.kv_heads, options.head_dim},
           {"v", GpuTensorIndex::kV, &problem.v, rows_k, problem.kv_heads, options.v_dim},
           {"out", GpuTensorIndex::kOut, &problem.out, rows_q, problem.heads, options.v_dim}}};
}

bool has_vector_rows(const GpuSide& side, const GpuProblem& problem) {
  const auto fits = [](int64_t stride) { return stride * kGpuElementBytes % 16 == 0; };
  return problem.aligned && side.dim * kGpuElementBytes % 16 == 0 && std::all_of(side.strides->begin(), side.strides->end(), fits);
}

bool fits_maps(const GpuSide& side, const GpuProblem& problem, const GpuKernelOptions& options) {
  const std::array<int64_t, 3> sizes = {options.packed ? 1 : problem.batch, side.rows, side.heads};
  if (!problem.aligned || side.dim % 8 != 0) return false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t stride = (*side.strides)[i];
    if (sizes[i] < 1 || (sizes[i] > 1 && (stride <= 0 || stride * kGpuElementBytes % 16 != 0))) return false;
  }
  return true;
}

GpuTensorMap map_of(const GpuSide& side, const GpuProblem& problem, const GpuKernelOptions& options, int rows) {
  const int64_t batch = options.packed ? 1 : problem.batch;
  const auto bytes = [&](int64_t size, int64_t stride) {
    return static_cast<uint64_t>(size == 1 ? 16 : stride * kGpuElementBytes);  // the stride of one is not looked at, but checked
  };
  GpuTensorMap map;
  map.tensor = side.tensor;
  map.type = options.dtype == dsl::ElementType::kF16 ? runtime::FloatType::kF16 : runtime::FloatType::kBF16;
  map.dims = {static_cast<uint64_t>(side.dim), static_cast<uint64_t>(side.rows), static_cast<uint64_t>(side.heads),
              static_cast<uint64_t>(batch)};
  map.strides = {bytes(side.rows, (*side.strides)[1]), bytes(side.heads, (*side.strides)[2]), bytes(batch, (*side.strides)[0])};
  map.box = {64, static_cast<uint32_t>(rows), 1, 1};
  return map;
}

bool fits_map_of_pairs(const Ir& ir, int param, const GpuProblem& problem) {
  const int64_t bytes = bytes_of(ir.params[static_cast<size_t>(param)].element);
  if (problem.params.empty()) return problem.k_len * bytes % 16 == 0;
  const GpuParamBinding& binding = problem.params[static_cast<size_t>(param)];
  const std::vector<int64_t>& strides = binding.strides;
  if (!binding.is_aligned || strides.back() != 1 || strides[strides.size() - 2] <= 0) return false;
  return std::all_of(strides.begin(), strides.end() - 1, [&](int64_t stride) { return stride >= 0 && stride * bytes % 16 == 0; });
}

GpuTensorMap map_of_pairs(const Ir& ir, int param, const GpuProblem& problem) {
  const auto place = static_cast<size_t>(param);
  const dsl::ElementType element = ir.params[place].element;
  const GpuParamBinding& binding = problem.params[place];
  const auto bytes = static_cast<uint64_t>(bytes_of(element));
  GpuTensorMap map;
  map.tensor = GpuTensorIndex::kParams + param;
  map.type = element == dsl::ElementType::kF32   ? runtime::FloatType::kF32
             : element == dsl::ElementType::kF16 ? runtime::FloatType::kF16
                                                 : runtime::FloatType::kBF16;
  for (size_t axis = binding.dims.size(); axis-- > 0;) {
    const bool is_broadcast = binding.strides[axis] == 0;
    map.dims.push_back(is_broadcast ? 1 : static_cast<uint64_t>(binding.dims[axis]));
    if (axis + 1 < binding.dims.size()) map.strides.push_back(is_broadcast ? 16 : static_cast<uint64_t>(binding.strides[axis]) * bytes);
  }
  while (map.dims.size() < 4) {
    map.dims.push_back(1);
    map.strides.push_back(16);
  }
  map.box = {static_cast<uint32_t>(128 / bytes), 64, 1, 1};
  return map;
}

int section_heads(const Lowered& lowered, const GpuProblem& problem, int64_t head_bytes, int heads) {
  if (lowered.bounds.kind == MaskBounds::Kind::kAll) return 1;
  head_bytes = std::max<int64_t>(1, head_bytes);
  return static_cast<int>(std::clamp<int64_t>((problem.l2_bytes * 2 / 3 + head_bytes / 2) / head_bytes, 1, std::max(1, heads)));
}

void set_problem(const Ir& ir, const GpuProblem& problem, GpuArgument& argument) {
  argument.set("batch", problem.batch);
  argument.set("heads", problem.heads);
  argument.set("kv_heads", problem.kv_heads);
  argument.set("q_len", problem.q_len);
  argument.set("k_len", problem.k_len);
  argument.patch("cu_q", GpuPatch::Kind::kTensor, GpuTensorIndex::kCuQ);
  argument.patch("cu_k", GpuPatch::Kind::kTensor, GpuTensorIndex::kCuK);
  argument.patch("index_flag", GpuPatch::Kind::kTensor, GpuTensorIndex::kIndexFlag);
  for (size_t i = 0; i < ir.params.size(); ++i) {
    const Param& param = ir.params[i];
    const GpuParamBinding& binding = problem.params[i];
    const int64_t tensor = GpuTensorIndex::kParams + static_cast<int64_t>(i);
    if (param.is_tensor) {
      argument.patch("t_" + param.name, GpuPatch::Kind::kTensor, tensor);
      argument.set_all("t_" + param.name + "_stride", binding.strides);
      argument.set_all("t_" + param.name + "_dim", binding.dims);
    } else if (param.is_grad) {
      argument.patch("p_" + param.name, GpuPatch::Kind::kTensor, tensor);
    } else if (param.element == dsl::ElementType::kF32) {
      argument.set("p_" + param.name, static_cast<float>(binding.scalar));
    } else {
      argument.set("p_" + param.name, static_cast<int32_t>(binding.scalar));
    }
    argument.set("p_" + param.name + "_given", int32_t{binding.is_given});
  }
}

}  // namespace attune::codegen
