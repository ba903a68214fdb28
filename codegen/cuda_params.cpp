#include "codegen/cuda_params.h"

#include <fmt/format.h>

#include <algorithm>
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

ParamsLayout forward_params(const Ir& ir, const ForwardParamsOptions& options) {
  const bool is_sm90 = options.skeleton == GpuSkeleton::kSm90;
  ParamsLayout layout;
  if (is_sm90) {
    for (const char* name : {"q_map", "k_map", "v_map", "out_map"}) layout.add(name, "TensorMap");
  }
  for (const char* name : {"q", "k", "v"}) layout.add(name, "const Raw*");
  layout.add("out", "Raw*");
  layout.add("lse", "float*");
  for (const char* name : {"q_stride", "k_stride", "v_stride", "out_stride", "lse_stride"}) layout.add_array(name, "i64", 3);
  if (options.packed) {
    for (const char* name : {"cu_q", "cu_k"}) layout.add(name, "const int*");
  }
  layout.add("counter", "int*");
  if (is_sm90 && options.has_extents) layout.add("extents", "void*");
  if (!is_sm90) layout.add("parts", "void*");
  if (options.has_index_flag) layout.add("index_flag", "int*");
  for (const char* name : {"batch", "heads", "kv_heads", "q_len", "k_len", "tiles_m", "tiles", "section_heads"}) layout.add(name, "int");
  if (!is_sm90) {
    for (const char* name : {"splits", "vector_loads", "vector_stores"}) layout.add(name, "int");
  }
  for (const Param& param : ir.params) add_param(param, options.packed, layout);
  if (layout.bytes() > kMaxBytes) {
    throw ArgumentError(fmt::format("'{}' has too many parameters for a GPU: its kernel's argument takes {} bytes, expected at most {}",
                                    ir.name, layout.bytes(), kMaxBytes));
  }
  return layout;
}

}  // namespace attune::codegen
