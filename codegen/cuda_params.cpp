#include "codegen/cuda_params.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "codegen/cuda_values.h"
#include "runtime/error.h"

namespace attune::codegen {
namespace {

constexpr size_t kMaxBytes = 4096;

size_t align(size_t bytes, size_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

size_t size_of_type(std::string_view type) {
  return type == "TensorMap" ? 128 : type == "int" || type == "float" ? 4 : 8;
}

std::string_view pointer_to(dsl::ElementType element) {
  switch (element) {
    case dsl::ElementType::kF16:
    case dsl::ElementType::kBF16:
      return "const Raw*";
    case dsl::ElementType::kI32:
      return "const int*";
    case dsl::ElementType::kU8:
    case dsl::ElementType::kBool:
      return "const unsigned char*";
    default:
      return "const float*";
  }
}

void add_param(const Param& param, bool packed, ParamsLayout& layout) {
  if (param.is_const) return;
  if (param.is_tensor) {
    const int rank = static_cast<int>(param.dims.size());
    layout.add("t_" + param.name, std::string(pointer_to(param.element)));
    layout.add_array("t_" + param.name + "_stride", "i64", rank);
    layout.add_array("t_" + param.name + "_dim", "int", rank);
  } else if (param.is_grad) {
    layout.add("p_" + param.name, "const float*");
  } else {
    layout.add("p_" + param.name, param.element == dsl::ElementType::kF32 ? "float" : "int");
    if (packed && param.default_value != kNoValue) layout.add("p_" + param.name + "_given", "int");
  }
}

void add_gradient(const Param& param, bool deterministic, ParamsLayout& layout) {
  layout.add("g_" + param.name, "float*");
  if (deterministic) layout.add("sum_" + param.name, "ExactSum*");
  if (!param.is_tensor) return;
  const int rank = static_cast<int>(param.dims.size());
  if (deterministic) layout.add_array("sum_" + param.name + "_stride", "i64", rank);
  layout.add_array("g_" + param.name + "_stride", "i64", rank);
  layout.add("g_" + param.name + "_count", "i64");
  layout.add_array("g_" + param.name + "_size", "int", rank);
}

void add_all(std::initializer_list<const char*> names, const std::string& type, ParamsLayout& layout) {
  for (const char* name : names) layout.add(name, type);
}

void add_strides(std::initializer_list<const char*> names, ParamsLayout& layout) {
  for (const char* name : names) layout.add_array(name, "i64", 3);
}

// Where sequences and the workspace lie, sizes and scheduling; `counts`: how many tiles a sequence has.
void add_call(const GpuParamsOptions& options, std::initializer_list<const char*> counts, ParamsLayout& layout) {
  const bool is_sm90 = options.skeleton == GpuSkeleton::kSm90;
  if (options.packed) add_all({"cu_q", "cu_k"}, "const int*", layout);
  layout.add("counter", "int*");
  if (is_sm90 && options.has_extents) layout.add("extents", "void*");
  if (options.has_index_flag) layout.add("index_flag", "int*");
  add_all({"batch", "heads", "kv_heads", "q_len", "k_len"}, "int", layout);
  add_all(counts, "int", layout);
  add_all({"tiles", "section_heads"}, "int", layout);
  if (!is_sm90) add_all({"vector_loads", "vector_stores"}, "int", layout);
}

void check_size(const Ir& ir, const ParamsLayout& layout) {
  if (layout.bytes() <= kMaxBytes) return;
  throw ArgumentError(fmt::format("'{}' has too many parameters for a GPU: its kernel's argument takes {} bytes, expected at most {}",
                                  ir.name, layout.bytes(), kMaxBytes));
}

}  // namespace

void ParamsLayout::add_array(const std::string& name, const std::string& element, int count) {
  add_member(name, element, count, fmt::format("{}[{}]", name, count));
}

// Members of one type in a row share a declaration.
void ParamsLayout::add_member(const std::string& name, const std::string& element, int count, const std::string& declared) {
  const size_t size = size_of_type(element), alignment = std::min<size_t>(size, 64), offset = align(end_, alignment);
  const bool is_array = declared != name;
  fields_.push_back({name, is_array ? fmt::format("{}[{}]", element, count) : element, offset, size * static_cast<size_t>(count)});
  end_ = offset + fields_.back().bytes;
  alignment_ = std::max(alignment_, alignment);
  if (lines_.empty() || lines_.back().type != element) lines_.push_back({element, {}});
  lines_.back().members.push_back(declared);
}

size_t ParamsLayout::bytes() const {
  return align(end_, alignment_);
}

std::string ParamsLayout::text() const {
  std::string text = "struct Params {\n";
  for (const Line& line : lines_) {
    // A star belongs to a name where there are several.
    const bool has_stars = line.type.back() == '*' && line.members.size() > 1;
    const std::string type = has_stars ? line.type.substr(0, line.type.size() - 1) : line.type;
    text += cuda_line(2, fmt::format("{} {}{};", type, has_stars ? "*" : "", fmt::join(line.members, has_stars ? ", *" : ", ")));
  }
  return text + fmt::format("}};\nstatic_assert(sizeof(Params) == {});\n", bytes());
}

ParamsLayout forward_params(const Ir& ir, const GpuParamsOptions& options) {
  const bool is_sm90 = options.skeleton == GpuSkeleton::kSm90;
  ParamsLayout layout;
  if (is_sm90) add_all({"q_map", "k_map", "v_map", "out_map"}, "TensorMap", layout);
  for (const int param : options.mapped) layout.add("t_" + ir.params[static_cast<size_t>(param)].name + "_map", "TensorMap");
  add_all({"q", "k", "v"}, "const Raw*", layout);
  layout.add("out", "Raw*");
  layout.add("lse", "float*");
  if (!is_sm90) layout.add("parts", "void*");
  if (is_sm90 && options.has_extents) layout.add("row_extents", "void*");
  add_strides({"q_stride", "k_stride", "v_stride", "out_stride", "lse_stride"}, layout);
  add_call(options, {"tiles_m"}, layout);
  if (!is_sm90) layout.add("splits", "int");
  for (const Param& param : ir.params) add_param(param, options.packed, layout);
  check_size(ir, layout);
  return layout;
}

ParamsLayout backward_params(const Ir& ir, const GpuParamsOptions& options) {
  const bool is_sm90 = options.skeleton == GpuSkeleton::kSm90;
  ParamsLayout layout;
  if (is_sm90) add_all({"q_map", "k_map", "v_map", "dout_map", "dk_map", "dv_map"}, "TensorMap", layout);
  for (const int param : options.mapped) layout.add("t_" + ir.params[static_cast<size_t>(param)].name + "_map", "TensorMap");
  add_all({"q", "k", "v", "out", "dout"}, "const Raw*", layout);
  add_all({"dq", "dk", "dv"}, "Raw*", layout);
  layout.add("lse", "const float*");
  add_all({"lse2", "delta"}, "float*", layout);
  if (is_sm90) layout.add("dq_sum", "float*");
  if (is_sm90 && options.deterministic) {
    add_all({"turns", "spans"}, "int*", layout);
    layout.add("meetings", "u32*");
    if (options.has_extents) layout.add("column_extents", "void*");
  }
  add_strides({"q_stride", "k_stride", "v_stride", "out_stride", "dout_stride", "dq_stride", "dk_stride", "dv_stride", "lse_stride"},
              layout);
  add_call(options, {"blocks_m", "blocks_n"}, layout);
  for (const Param& param : ir.params) {
    add_param(param, options.packed, layout);
    if (param.is_grad) add_gradient(param, options.deterministic, layout);
  }
  check_size(ir, layout);
  return layout;
}

}  // namespace attune::codegen
