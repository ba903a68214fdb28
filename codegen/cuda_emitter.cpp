#include "codegen/cuda_emitter.h"

#include <fmt/format.h>

#include <array>
#include <numbers>
#include <optional>
#include <string_view>
#include <vector>

#include "codegen/cuda_values.h"
#include "codegen/device_sources.h"
#include "codegen/eval/interpreter.h"
#include "codegen/expr_builder.h"
#include "codegen/fold_scale.h"
#include "codegen/index_bounds.h"
#include "codegen/rates.h"
#include "codegen/simplify.h"
#include "codegen/wgmma_text.h"
#include "runtime/error.h"

namespace attune::codegen {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr size_t kMaxParamsBytes = 4096;

std::string_view dtype_text(dsl::ElementType dtype) {
  return dtype == dsl::ElementType::kF16 ? "f16" : dtype == dsl::ElementType::kBF16 ? "bf16" : "f32";
}

void check(const GpuKernelOptions& options) {
  if (options.dtype != dsl::ElementType::kF16 && options.dtype != dsl::ElementType::kBF16) {
    throw ArgumentError(fmt::format("dtype is {}, expected f16 or bf16 on a GPU: its matrix units have no f32", dtype_text(options.dtype)));
  }
  for (const auto& [name, dim] : {std::pair("head_dim", options.head_dim), std::pair("v_dim", options.v_dim)}) {
    if (dim < 1 || dim > kMaxHeadDim) {
      throw ArgumentError(
          fmt::format("{} is {}, expected 1..{} on a GPU: a tile of more does not fit into its registers", name, dim, kMaxHeadDim));
    }
  }
}

// The members of Params with the offsets that CUDA gives them.
class ParamsLayout {
 public:
  void add(const std::string& name, const std::string& type) { add(name, type, 1, name); }
  void add_array(const std::string& name, const std::string& type, int count) {
    add(name, type, count, fmt::format("{}[{}]", name, count));
  }

  size_t bytes() const { return align(end_, alignment_); }
  const std::vector<GpuField>& fields() const { return fields_; }
  std::string text() const { return fmt::format("struct Params {{\n{}}};\nstatic_assert(sizeof(Params) == {});\n", text_, bytes()); }

 private:
  static size_t align(size_t bytes, size_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

  // Members of one type in a row share a declaration.
  void add(const std::string& name, const std::string& type, int count, const std::string& declared) {
    const size_t size = type == "TensorMap" ? 128 : type == "int" || type == "float" ? 4 : 8;
    const size_t alignment = std::min<size_t>(size, 64), offset = align(end_, alignment);
    fields_.push_back({name, type, offset, size * count});
    end_ = offset + size * count;
    alignment_ = std::max(alignment_, alignment);
    const bool is_pointer = type.back() == '*';
    if (last_type_ == type) {
      text_.insert(text_.size() - 2, (is_pointer ? ", *" : ", ") + declared);
    } else {
      text_ += fmt::format("  {} {}{};\n", is_pointer ? type.substr(0, type.size() - 1) : type, is_pointer ? "*" : "", declared);
    }
    last_type_ = type;
  }

  std::vector<GpuField> fields_;
  std::string text_, last_type_;
  size_t end_ = 0, alignment_ = 8;
};

std::string_view element_type_text(dsl::ElementType element) {
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

// Everything that is derived once for a kernel: the roots as the kernel wants them, and their texts.
class Emitter {
 public:
  Emitter(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
      : lowered_(lowered), options_(options), config_(config), ir_(lowered.ir) {
    check(options);
    find_roots();
    values_.emplace(ir_, ir_.graph, options.packed, element_roots());
    if (is_searched()) values_->find_extents(std::array{lowered.bounds.may_keep, lowered.bounds.all_kept});
    lay_out();
  }

  std::string variant_text() const { return config_text() + "\n" + layout_.text() + "\n" + variant(); }
  const ParamsLayout& layout() const { return layout_; }
  bool is_searched() const { return lowered_.bounds.kind == MaskBounds::Kind::kTileMap; }
  bool redoes() const { return config_.stale || (exponent2_ != kNoValue && options_.accuracy == Accuracy::kFast); }
  size_t extent_bytes() const { return 4 * std::max<size_t>(1, values_->extents(Rate::kColumn).size()); }

 private:
  bool is_sm90() const { return config_.skeleton == GpuSkeleton::kSm90; }
  bool is_softmax() const { return ir_.weight_kind == WeightKind::kSoftmax; }
  bool has_mask() const { return lowered_.bounds.kind != MaskBounds::Kind::kAll; }

  // The graph is a copy: it may grow.
  void find_roots() {
    Graph& graph = ir_.graph;
    if (is_softmax()) {
      score2_ = lowered_.score2;
      if (ir_.sink != kNoValue) {
        sink2_ = fold_scale(graph, ir_.sink, std::numbers::log2e);
        simplify(graph, std::array{&sink2_});
      }
      if (ir_.factor != kNoValue) {
        const ValueId qk = graph.symbol(Symbol::kQk);
        factor_of_score_ = reachable(graph, std::array{ir_.factor})[qk];
      }
      return;
    }
    const Node weight = graph[ir_.weight];
    if (weight.op != Op::k_sigmoid) return;
    const ValueId x = weight.operands[0];
    exponent2_ = fold_scale(graph, x, std::numbers::log2e);
    half_ = fold_scale(graph, x, 0.5);
    center_ = without_qk(x);
    simplify(graph, std::array{&exponent2_, &half_, &center_});
    if (assign_rates(graph)[center_] != Rate::kUniform) center_ = kNoValue;
  }

  // The value for qk = 0.
  ValueId without_qk(ValueId root) {
    Graph& graph = ir_.graph;
    std::vector<ValueId> now(root + 1, kNoValue);
    const std::vector<bool> needed = reachable(graph, std::array{root});
    for (ValueId id = 0; id <= root; ++id) {
      if (!needed[id]) continue;
      Node node = graph[id];
      if (node.op == Op::k_symbol && static_cast<Symbol>(node.index) == Symbol::kQk) {
        now[id] = graph.constant(Type::kF32, 0);
        continue;
      }
      for (ValueId& operand : node.operands) operand = now[operand];
      now[id] = graph.add(std::move(node));
    }
    return now[root];
  }

  std::vector<ValueId> element_roots() const {
    std::vector<ValueId> roots;
    for (const ValueId id :
         {score2_, sink2_, is_softmax() ? ir_.factor : ir_.weight, exponent2_, half_, center_, has_mask() ? ir_.mask : kNoValue}) {
      if (id != kNoValue) roots.push_back(id);
    }
    return roots;
  }

  // Whether a text of the program reads an index that depends on data, and so raises the flag.
  bool raises_flag() const {
    const std::vector<bool> needed = reachable(ir_.graph, element_roots());
    for (ValueId id = 0; id < ir_.graph.size(); ++id) {
      if (!needed[id] || ir_.graph[id].op != Op::k_read) continue;
      for (ValueId index : ir_.graph[id].operands) {
        if (is_data_dependent(ir_.graph, index)) return true;
      }
    }
    return false;
  }

  void lay_out() {
    if (is_sm90()) {
      for (const char* name : {"q_map", "k_map", "v_map", "out_map"}) layout_.add(name, "TensorMap");
    }
    for (const char* name : {"q", "k", "v"}) layout_.add(name, "const Raw*");
    layout_.add("out", "Raw*");
    layout_.add("lse", "float*");
    for (const char* name : {"q_stride", "k_stride", "v_stride", "out_stride", "lse_stride"}) layout_.add_array(name, "i64", 3);
    if (options_.packed) {
      for (const char* name : {"cu_q", "cu_k"}) layout_.add(name, "const int*");
    }
    layout_.add("counter", "int*");
    if (is_searched() && is_sm90()) layout_.add("extents", "void*");
    if (raises_flag()) layout_.add("index_flag", "int*");
    for (const char* name : {"batch", "heads", "kv_heads", "q_len", "k_len", "tiles_m", "tiles", "section_heads"}) layout_.add(name, "int");
    if (!is_sm90()) {
      for (const char* name : {"vector_loads", "vector_stores"}) layout_.add(name, "int");
    }
    for (const Param& param : ir_.params) add_param(param);
    if (layout_.bytes() > kMaxParamsBytes) {
      throw ArgumentError(fmt::format("'{}' has too many parameters for a GPU kernel: {} bytes of arguments, at most {} are possible",
                                      ir_.name, layout_.bytes(), kMaxParamsBytes));
    }
  }

  void add_param(const Param& param) {
    if (param.is_const) return;
    if (param.is_tensor) {
      const int rank = static_cast<int>(param.dims.size());
      layout_.add("t_" + param.name, std::string(element_type_text(param.element)));
      layout_.add_array("t_" + param.name + "_stride", "i64", rank);
      layout_.add_array("t_" + param.name + "_dim", "int", rank);
      return;
    }
    if (param.is_grad) {
      layout_.add("p_" + param.name, "const float*");
      return;
    }
    layout_.add("p_" + param.name, param.element == dsl::ElementType::kF32 ? "float" : "int");
    if (options_.packed && param.default_value != kNoValue) layout_.add("p_" + param.name + "_given", "int");
  }

  std::string config_text() const {
    std::string text =
        fmt::format("struct Config {{\n  static constexpr int kHeadDim = {}, kVDim = {};\n", options_.head_dim, options_.v_dim);
    text += fmt::format("  static constexpr int kBlockN = {};  // key columns of a tile\n", config_.block_n);
    text += fmt::format("  static constexpr int kStages = {};  // depth of the K and V rings\n", config_.stages);
    if (is_sm90()) {
      text += fmt::format("  static constexpr int kWarpgroups = {};  // of 64 query rows each\n", config_.warpgroups);
      text += fmt::format("  static constexpr int kBuffersQ = {};  // tiles of Q in shared memory\n", config_.buffers_q);
      text += fmt::format("  static constexpr int kColumnsO = {};  // columns of the accumulator\n", (options_.v_dim + 15) / 16 * 16);
      text += fmt::format("  static constexpr bool kStale = {};  // softmax: stale reference\n", config_.stale);
      text += fmt::format("  static constexpr bool kRedoes = {};  // tiles may be computed again\n", redoes());
    } else {
      text += fmt::format("  static constexpr int kWarps = {};  // of 16 query rows each\n", config_.warpgroups);
    }
    text += fmt::format("  static constexpr bool kFast = {};  // accuracy\n", options_.accuracy == Accuracy::kFast);
    text += fmt::format("  static constexpr bool kPacked = {};\n", options_.packed);
    text += fmt::format("  using Element = {};\n}};\n", options_.dtype == dsl::ElementType::kF16 ? "F16" : "BF16");
    return text;
  }

  std::string variant() const {
    const char* weight = is_softmax() ? "kSoftmax" : exponent2_ != kNoValue ? "kSigmoid" : "kGeneral";
    const char* mask = !has_mask() ? "kAll" : is_searched() ? "kSearch" : "kRange";
    std::string text = fmt::format(
        "struct Variant {{\n  static constexpr Weight kWeight = Weight::{};\n  static constexpr Mask kMask = Mask::{};\n"
        "  static constexpr bool kSink = {}, kFactor = {}, kFactorOfScore = {};\n\n",
        weight, mask, sink2_ != kNoValue, ir_.factor != kNoValue, factor_of_score_);
    text += uniform_text() + row_text() + column_text();
    if (is_softmax()) {
      text += element_function("float score2", score2_);
      if (ir_.factor != kNoValue) text += element_function("float factor", ir_.factor);
    } else {
      text += element_function("float weight", ir_.weight);
      if (exponent2_ != kNoValue) {
        text += element_function("float exponent2", exponent2_) + element_function("float half", half_) + center_text();
      }
    }
    if (has_mask()) text += keep_text();
    text += is_searched() ? search_text() : ranges_text();
    return text + "};\n";
  }

  std::string uniform_text() const {
    std::string text =
        "  struct Uniform {\n    int b, h, kv_h, q_len, k_len, first_q, first_k;\n" + values_->members_text(CudaScope::kUniform);
    text += "  };\n  static DEVICE Uniform uniform(const Params& p, int b, int h) {\n    Uniform u = {b, h, h / (p.heads / p.kv_heads), ";
    text +=
        options_.packed ? "p.cu_q[b + 1] - p.cu_q[b], p.cu_k[b + 1] - p.cu_k[b], p.cu_q[b], p.cu_k[b]};\n" : "p.q_len, p.k_len, 0, 0};\n";
    return text + assigned(CudaScope::kUniform, "u", CudaGuard::kNever) + "    return u;\n  }\n";
  }

  std::string assigned(CudaScope scope, const char* owner, CudaGuard guard) const {
    const std::vector<ValueId>& members = values_->members(scope);
    const CudaValues::Body body = values_->body(members, scope, guard);
    std::string text = body.statements;
    for (size_t i = 0; i < members.size(); ++i) text += fmt::format("    {}.v{} = {};\n", owner, members[i], body.roots[i]);
    return text;
  }

  std::string row_text() const {
    std::string text = "  struct Row {\n" + values_->members_text(CudaScope::kRow);
    if (sink2_ != kNoValue) text += "    float sink2;\n";
    text += "  };\n  template <bool kGuarded>\n  static DEVICE Row row(int q_idx, const Params& p, const Uniform& u) {\n    Row row;\n";
    text += assigned(CudaScope::kRow, "row", CudaGuard::kByTemplate);
    if (sink2_ != kNoValue) {
      const Rate rate = values_->rate(sink2_);
      const ValueId root = sink2_;
      if (rate == Rate::kUniform && !is_plain(root)) {
        text += fmt::format("    row.sink2 = u.v{};\n", root);
      } else if (rate == Rate::kRow && !is_plain(root)) {
        text += fmt::format("    row.sink2 = row.v{};\n", root);
      } else {
        text += fmt::format("    row.sink2 = {};\n", values_->body(std::array{root}, CudaScope::kRow, CudaGuard::kByTemplate).roots[0]);
      }
    }
    return text + "    return row;\n  }\n";
  }
  bool is_plain(ValueId id) const {
    const std::vector<ValueId>& members = values_->members(values_->rate(id) == Rate::kUniform ? CudaScope::kUniform : CudaScope::kRow);
    return std::find(members.begin(), members.end(), id) == members.end();
  }

  std::string column_text() const {
    std::string text = "  struct Column {\n" + values_->members_text(CudaScope::kColumn);
    text +=
        "  };\n  template <bool kGuarded>\n  static DEVICE Column column(int k_idx, const Params& p, const Uniform& u) {\n    Column "
        "column;\n";
    return text + assigned(CudaScope::kColumn, "column", CudaGuard::kByTemplate) + "    return column;\n  }\n";
  }

  static constexpr std::string_view kPair =
      "int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column, bool keeps";

  std::string element_function(std::string_view declared, ValueId root) const {
    const CudaValues::Body body = values_->body(std::array{root}, CudaScope::kElement, CudaGuard::kByTemplate);
    return fmt::format("  template <bool kGuarded>\n  static DEVICE {}(float qk, {}) {{\n{}    return {};\n  }}\n", declared, kPair,
                       body.statements, body.roots[0]);
  }

  std::string center_text() const {
    const std::string value =
        center_ == kNoValue ? "-kInfinity" : values_->body(std::array{center_}, CudaScope::kElement, CudaGuard::kNever).roots[0];
    return fmt::format(
        "  static DEVICE float center(const Params& p, const Uniform& u) {{ return {}; }}  // of the sigmoid's argument, at qk = 0\n",
        value);
  }

  std::string keep_text() const {
    const CudaValues::Body body = values_->body(std::array{ir_.mask}, CudaScope::kElement, CudaGuard::kAlways);
    return fmt::format(
        "  static DEVICE bool keep(int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column) {{\n"
        "    constexpr bool keeps = true;\n    (void)keeps;\n{}    return {};\n  }}\n",
        body.statements, body.roots[0]);
  }

  std::string ranges_text() const {
    std::string text;
    for (const auto& [name, range] :
         {std::pair("kept_keys", lowered_.bounds.kept_keys), std::pair("full_keys", lowered_.bounds.full_keys)}) {
      const CudaValues::Body body = values_->body(std::array{range.begin, range.end}, CudaScope::kBounds, CudaGuard::kNever);
      text += fmt::format(
          "  static DEVICE KeyRange {}(int first_q, int last_q, const Params& p, const Uniform& u) {{\n{}    return {{{}, {}}};\n  }}\n",
          name, body.statements, body.roots[0], body.roots[1]);
    }
    return text;
  }

  // The least and greatest of per-row or per-column values over a tile, by one warp.
  std::string extent_text(Rate rate, const char* type, const char* function, const char* index) const {
    const std::vector<ValueId>& extents = values_->extents(rate);
    std::string members, start, fold, finish;
    std::vector<ValueId> operands;
    for (const ValueId id : extents) operands.push_back(ir_.graph[id].operands[0]);
    const CudaValues::Body body = values_->body(operands, CudaScope::kBounds, CudaGuard::kAlways);
    for (size_t i = 0; i < extents.size(); ++i) {
      const Node& node = ir_.graph[extents[i]];
      const bool is_int = ir_.graph[operands[i]].type == Type::kI32, is_min = node.op == Op::k_tile_min;
      members += fmt::format("    {} v{};\n", is_int ? "int" : "float", extents[i]);
      const char* first = is_int ? (is_min ? "2147483647" : "-2147483647 - 1") : (is_min ? "kInfinity" : "-kInfinity");
      start += fmt::format("    extent.v{} = {};\n", extents[i], first);
      fold += fmt::format("      extent.v{0} = {1}(extent.v{0}, {2});\n", extents[i], is_min ? "nan_min" : "nan_max", body.roots[i]);
      finish += fmt::format("    extent.v{0} = {1}(extent.v{0});\n", extents[i], is_min ? "warp_min" : "warp_max");
    }
    std::string statements = body.statements;
    return fmt::format(
        "  struct {0} {{\n{1}  }};\n"
        "  static DEVICE {0} {2}(int first, int last, const Params& p, const Uniform& u) {{\n    {0} extent;\n{3}"
        "    for (int {4} = first + static_cast<int>(threadIdx.x) % kWarp; {4} <= last; {4} += kWarp) {{\n{5}{6}    }}\n{7}    return "
        "extent;\n  }}\n",
        type, members, function, start, index, statements, fold, finish);
  }

  std::string search_text() const {
    std::string text =
        extent_text(Rate::kRow, "RowExtent", "row_extent", "q_idx") + extent_text(Rate::kColumn, "ColumnExtent", "column_extent", "k_idx");
    const CudaValues::Body body =
        values_->body(std::array{lowered_.bounds.may_keep, lowered_.bounds.all_kept}, CudaScope::kBounds, CudaGuard::kNever);
    text += fmt::format(
        "  static DEVICE TileClass classify(const RowExtent& rows, const ColumnExtent& columns, int first_q, int last_q, int first_k, int "
        "last_k,\n"
        "                                   const Params& p, const Uniform& u) {{\n{}    if (!({})) return TileClass::kSkip;\n"
        "    return {} ? TileClass::kFull : TileClass::kPartial;\n  }}\n",
        body.statements, body.roots[0], body.roots[1]);
    if (is_sm90()) {
      text +=
          "  static DEVICE ColumnExtent* stored_extents(const Params& p, int b, int h) {\n"
          "    const int blocks = (p.k_len + Config::kBlockN - 1) / Config::kBlockN;\n"
          "    return static_cast<ColumnExtent*>(p.extents) + (static_cast<i64>(b) * p.heads + h) * blocks;\n  }\n";
    }
    return text;
  }

  const Lowered& lowered_;
  const GpuKernelOptions& options_;
  const GpuConfig& config_;
  Ir ir_;
  ValueId score2_ = kNoValue, sink2_ = kNoValue, exponent2_ = kNoValue, half_ = kNoValue, center_ = kNoValue;
  bool factor_of_score_ = false;
  std::optional<CudaValues> values_;
  ParamsLayout layout_;
};

std::string header(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options) {
  std::string text =
      fmt::format("// {}, forward, {}, {}, head_dim {}", lowered.ir.name, options.arch, dtype_text(options.dtype), options.head_dim);
  if (options.v_dim != options.head_dim) text += fmt::format(", v_dim {}", options.v_dim);
  text += "\n//\n";
  size_t at = 0;
  while (at < program.size()) {
    const size_t end = std::min(program.find('\n', at), program.size());
    text += end == at ? "//\n" : "//   " + program.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return text + fmt::format("//\n// attune explain {}.attn --emit cuda --arch {} --dtype {} --shape 1,512,512,8,8,{},{}\n\n",
                            lowered.ir.name, options.arch, dtype_text(options.dtype), options.head_dim, options.v_dim);
}

int ceil_to(int value, int unit) {
  return (value + unit - 1) / unit * unit;
}

// What Layout in sm90_forward.cuh adds up to; the kernel asserts that it fits.
uint32_t sm90_shared_bytes(const GpuKernelOptions& options, const GpuConfig& config, bool redoes) {
  const int chunks_q = (options.head_dim + 63) / 64, chunks_v = (options.v_dim + 63) / 64;
  const int q = config.buffers_q * config.warpgroups * 64 * std::max(chunks_q, chunks_v) * 128;
  const int kv = config.stages * config.block_n * (chunks_q + chunks_v) * 128;
  constexpr int kAlignment = 1024, kSmall = 1024, kRedo = 16 * 256;
  return static_cast<uint32_t>(ceil_to(q + kv + kAlignment + kSmall + (redoes ? kRedo : 0), 128));
}

// What Layout in sm80_forward.cuh adds up to; the kernel asserts it.
uint32_t sm80_shared_bytes(const GpuKernelOptions& options, const GpuConfig& config) {
  const int columns_k = ceil_to(options.head_dim, 16), columns_v = ceil_to(options.v_dim, 16);
  const int bytes_k = config.block_n * 2 * columns_k, bytes_v = config.block_n * 2 * columns_v, rows = config.block_m();
  const bool keeps_q = columns_k / 4 + columns_v / 2 + config.block_n / 2 <= 176;
  const int q = config.stages * bytes_k + (keeps_q ? config.stages - 1 : config.stages) * bytes_v;
  const int end = std::max({config.stages * (bytes_k + bytes_v), q + rows * 2 * columns_k, rows * 2 * columns_v});
  return static_cast<uint32_t>(end + 16 * config.warpgroups);
}

}  // namespace

std::string emit_gpu_variant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config) {
  return Emitter(lowered, options, config).variant_text();
}

GpuKernel emit_gpu_forward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config) {
  const Emitter emitter(lowered, options, config);
  const bool is_sm90 = config.skeleton == GpuSkeleton::kSm90;
  GpuKernel kernel;
  kernel.name = lowered.ir.name + "_forward";
  kernel.fields = emitter.layout().fields();
  kernel.params_bytes = emitter.layout().bytes();
  kernel.threads = is_sm90 ? 128 * (config.warpgroups + 1) : 32 * config.warpgroups;
  kernel.shared_bytes = is_sm90 ? sm90_shared_bytes(options, config, emitter.redoes()) : sm80_shared_bytes(options, config);
  std::string& text = kernel.source;
  text = header(lowered, program, options);
  for (const char* name : {"types.cuh", "ptx.cuh", is_sm90 ? "ptx_sm90.cuh" : "ptx_sm80.cuh", "math.cuh"}) {
    text += device_source(name);
    text += "\n";
  }
  if (is_sm90) text += wgmma_forward_text(options, config) + "\n";
  text += emitter.variant_text() + "\n";
  text += device_source(is_sm90 ? "sm90_forward.cuh" : "sm80_forward.cuh");
  text += fmt::format("static_assert(Layout<Config>::kBytes {} {});\n", is_sm90 ? "+ 1024 <=" : "==", kernel.shared_bytes);
  text += fmt::format(
      "\nextern \"C\" __global__ __launch_bounds__({}, 1) void {}(GRID_CONSTANT const Params p) {{\n  attention_forward_{}<Config, "
      "Variant>(p);\n}}\n",
      kernel.threads, kernel.name, is_sm90 ? "sm90" : "sm80");
  if (is_sm90 && emitter.is_searched()) {
    kernel.extents_name = lowered.ir.name + "_extents";
    kernel.extent_bytes = emitter.extent_bytes();
    text += fmt::format(
        "\nextern \"C\" __global__ __launch_bounds__(128, 1) void {}(GRID_CONSTANT const Params p) {{\n  column_extents_sm90<Config, "
        "Variant>(p);\n}}\n",
        kernel.extents_name);
  }
  return kernel;
}

}  // namespace attune::codegen
