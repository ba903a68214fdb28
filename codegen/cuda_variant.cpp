#include "codegen/cuda_variant.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numbers>
#include <utility>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/fold_scale.h"
#include "codegen/index_bounds.h"
#include "codegen/rates.h"
#include "codegen/simplify.h"

namespace attune::codegen {
namespace {

constexpr std::string_view kOfCall = "const Params& p, const Uniform& u";
constexpr std::string_view kOfPair = "int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column";

// One function of the struct. `body` stands at an indentation of four.
std::string function(std::string_view declared, const std::string& body, bool is_guarded = false) {
  const std::string guarded = is_guarded ? "  template <bool kGuarded>\n" : "";
  return guarded + cuda_line(2, fmt::format("static DEVICE {} {{", declared)) + body + "  }\n";
}

std::string returned(const std::string& value) {
  return cuda_line(4, fmt::format("return {};", value));
}

std::string struct_text(std::string_view name, const std::string& members) {
  return members.empty() ? fmt::format("  struct {} {{}};\n", name) : fmt::format("  struct {} {{\n{}  }};\n", name, members);
}

// What a function whose reads clamp indices starts with.
std::string declared_outside(const CudaWriter& writer) {
  return writer.clamps() ? "    bool outside = false;\n" : "";
}

std::string indented(const std::string& lines) {
  std::string text;
  for (size_t at = 0; at < lines.size();) {
    const size_t end = lines.find('\n', at);
    text += "  " + lines.substr(at, end + 1 - at);
    at = end + 1;
  }
  return text;
}

}  // namespace

ForwardVariant::ForwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
    : options_(options), config_(config), ir_(lowered.ir), bounds_(lowered.bounds), score2_(lowered.score2) {
  find_roots();
  values_.emplace(ir_, options.packed, roots());
  for (const auto& [root, prefix] : {std::pair(score2_, ""), std::pair(exponent2_, ""), std::pair(half_, "half_")}) {
    if (root != kNoValue) values_->name_line(root, prefix);
  }
  if (!is_softmax()) values_->name_line(ir_.weight, exponent2_ == kNoValue ? "" : "plain_");
}

void ForwardVariant::find_roots() {
  Graph& graph = ir_.graph;
  if (is_softmax()) {
    if (ir_.sink != kNoValue) {
      sink2_ = fold_scale(graph, ir_.sink, std::numbers::log2e);
      simplify(graph, std::array{&sink2_});
    }
    if (ir_.factor != kNoValue) factor_of_score_ = reachable(graph, std::array{ir_.factor})[graph.symbol(Symbol::kQk)];
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
ValueId ForwardVariant::without_qk(ValueId root) {
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

CudaRoots ForwardVariant::roots() const {
  CudaRoots roots;
  for (const ValueId id : {score2_, is_softmax() ? ir_.factor : ir_.weight, exponent2_, half_, center_, has_mask() ? ir_.mask : kNoValue}) {
    if (id != kNoValue) roots.element.push_back(id);
  }
  if (sink2_ != kNoValue) roots.row.push_back(sink2_);
  if (is_searched()) {
    roots.bounds = {bounds_.may_keep, bounds_.all_kept};
  } else {
    roots.bounds = {bounds_.kept_keys.begin, bounds_.kept_keys.end, bounds_.full_keys.begin, bounds_.full_keys.end};
  }
  return roots;
}

size_t ForwardVariant::extent_bytes() const {
  return 4 * std::max<size_t>(1, values_->extents(Rate::kColumn).size());
}

bool ForwardVariant::has_index_flag() const {
  std::vector<ValueId> all = roots().element;
  if (sink2_ != kNoValue) all.push_back(sink2_);
  const std::vector<bool> needed = reachable(ir_.graph, all);
  for (ValueId id = 0; id < ir_.graph.size(); ++id) {
    const Node& node = ir_.graph[id];
    if (!needed[id] || node.op != Op::k_read) continue;
    if (std::any_of(node.operands.begin(), node.operands.end(), [&](ValueId index) { return is_data_dependent(ir_.graph, index); }))
      return true;
  }
  return false;
}

std::string ForwardVariant::text() const {
  std::string text = "struct Variant {\n" + constants_text() + "\n" + uniform_text() + row_text() + column_text() + "\n";
  if (is_softmax()) {
    text += element_text("score2", score2_, true);
    if (ir_.factor != kNoValue) text += element_text("factor", ir_.factor, false);
  } else {
    text += element_text("weight", ir_.weight, true);
    if (exponent2_ != kNoValue) text += element_text("exponent2", exponent2_, true) + element_text("half", half_, true) + center_text();
  }
  if (has_mask()) text += keep_text();
  text += "\n";
  if (is_searched()) {
    text += extent_text(Rate::kRow) + extent_text(Rate::kColumn) + classify_text();
    if (config_.skeleton == GpuSkeleton::kSm90) text += stored_extents_text();
  } else {
    text += range_text("kept_keys", bounds_.kept_keys) + range_text("full_keys", bounds_.full_keys);
  }
  return text + "};\n";
}

std::string ForwardVariant::constants_text() const {
  const char* weight = is_softmax() ? "kSoftmax" : exponent2_ != kNoValue ? "kSigmoid" : "kGeneral";
  const char* mask = !has_mask() ? "kAll" : is_searched() ? "kSearch" : "kRange";
  return fmt::format(
      "  static constexpr Weight kWeight = Weight::{};\n  static constexpr Mask kMask = Mask::{};\n"
      "  static constexpr bool kSink = {}, kFactor = {}, kFactorOfScore = {};\n",
      weight, mask, sink2_ != kNoValue, ir_.factor != kNoValue, factor_of_score_);
}

std::string ForwardVariant::uniform_text() const {
  const std::vector<ValueId>& members = values_->members(CudaScope::kUniform);
  CudaWriter writer(*values_, CudaScope::kUniform, CudaGuard::kNever, members);
  for (ValueId id : members) writer.assign("u", id);
  std::string text =
      "  struct Uniform {\n    int b, h, kv_h, q_len, k_len, first_q, first_k;\n" + values_->members_text(CudaScope::kUniform);
  text += "  };\n";
  std::string body = cuda_line(4, fmt::format("Uniform u = {{b, h, h / (p.heads / p.kv_heads), {}}};",
                                              options_.packed ? "p.cu_q[b + 1] - p.cu_q[b], p.cu_k[b + 1] - p.cu_k[b], p.cu_q[b], p.cu_k[b]"
                                                              : "p.q_len, p.k_len, 0, 0"));
  body += declared_outside(writer) + writer.take_statements();
  if (writer.clamps()) body += "    raise(outside, p.index_flag);\n";
  return text + function("Uniform uniform(const Params& p, int b, int h)", body + "    return u;\n");
}

std::string ForwardVariant::row_text() const {
  const std::vector<ValueId>& members = values_->members(CudaScope::kRow);
  std::vector<ValueId> all = members;
  if (sink2_ != kNoValue) all.push_back(sink2_);
  CudaWriter writer(*values_, CudaScope::kRow, CudaGuard::kByTemplate, all);
  for (ValueId id : members) writer.assign("row", id);
  std::string struct_members = values_->members_text(CudaScope::kRow), sink;
  if (sink2_ != kNoValue) {
    struct_members += "    float sink2;\n";
    sink = fmt::format("    row.sink2 = {};\n", writer.value(sink2_));
  }
  std::string body = "    Row row;\n" + declared_outside(writer) + writer.take_statements() + sink;
  if (values_->may_clamp(CudaScope::kRow)) {
    body += "    row.outside = outside;\n";
  } else if (writer.clamps()) {
    body += "    raise(outside, p.index_flag);\n";  // the sink's
  }
  body = struct_members.empty() ? "    return {};\n" : body + "    return row;\n";
  return struct_text("Row", struct_members) + function(fmt::format("Row row(int q_idx, {})", kOfCall), body, true);
}

std::string ForwardVariant::column_text() const {
  const std::vector<ValueId>& members = values_->members(CudaScope::kColumn);
  CudaWriter writer(*values_, CudaScope::kColumn, CudaGuard::kByTemplate, members);
  for (ValueId id : members) writer.assign("column", id);
  std::string body = "    Column column;\n" + declared_outside(writer) + writer.take_statements();
  if (writer.clamps()) body += "    column.outside = outside;\n";
  body = members.empty() ? "    return {};\n" : body + "    return column;\n";
  return struct_text("Column", values_->members_text(CudaScope::kColumn)) +
         function(fmt::format("Column column(int k_idx, {})", kOfCall), body, true);
}

// The flag is raised for pairs that count: kept, and of a row that there is. `carries`: also what the row and the column clamped.
std::string ForwardVariant::element_text(std::string_view name, ValueId root, bool carries) const {
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kByTemplate, std::array{root});
  const std::string value = writer.value(root);
  std::vector<std::string> outside;
  if (writer.clamps()) outside.emplace_back("outside");
  if (carries && values_->may_clamp(CudaScope::kRow)) outside.emplace_back("row.outside");
  if (carries && values_->may_clamp(CudaScope::kColumn)) outside.emplace_back("column.outside");
  std::string body = declared_outside(writer) + writer.take_statements();
  if (outside.empty()) {
    body += returned(value);
  } else {
    body += cuda_line(4, fmt::format("const float {} = {};", name, value));
    const std::string any = outside.size() == 1 ? outside[0] : fmt::format("({})", fmt::join(outside, " || "));
    body += cuda_line(4, fmt::format("raise({} && keeps && q_idx < u.q_len, p.index_flag);", any));
    body += returned(std::string(name));
  }
  return function(fmt::format("float {}(float qk, {}, bool keeps)", name, kOfPair), body, true);
}

std::string ForwardVariant::center_text() const {
  std::string value = "-kInfinity", statements;
  if (center_ != kNoValue) {
    CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{center_});
    value = writer.value(center_);
    statements = writer.take_statements();
  }
  return "  // The sigmoid's argument at qk = 0; -inf if that depends on the pair.\n" +
         function(fmt::format("float center({})", kOfCall), statements + returned(value));
}

std::string ForwardVariant::keep_text() const {
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kAlways, std::array{ir_.mask});
  const std::string value = writer.value(ir_.mask);
  std::string body = declared_outside(writer) + writer.take_statements();
  if (writer.clamps()) {
    body += cuda_line(4, fmt::format("const bool keeps = {};", value)) +
            "    raise(outside && keeps && q_idx < u.q_len, p.index_flag);\n    return keeps;\n";
  } else {
    body += returned(value);
  }
  return function(fmt::format("bool keep({})", kOfPair), body);
}

std::string ForwardVariant::range_text(std::string_view name, const IndexRange& range) const {
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{range.begin, range.end});
  const std::string begin = writer.value(range.begin), end = writer.value(range.end);
  return function(fmt::format("KeyRange {}(int first_q, int last_q, {})", name, kOfCall),
                  writer.take_statements() + returned(fmt::format("{{{}, {}}}", begin, end)));
}

// The least and greatest of per-row or per-column values over a tile, by one warp.
std::string ForwardVariant::extent_text(Rate rate) const {
  const bool is_row = rate == Rate::kRow;
  const char* index = is_row ? "q" : "k";
  std::vector<ValueId> operands;
  for (ValueId id : values_->extents(rate)) operands.push_back(ir_.graph[id].operands[0]);
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kAlways, operands);
  std::string members, start, fold, finish;
  for (ValueId id : values_->extents(rate)) {
    const ValueId operand = ir_.graph[id].operands[0];
    const bool is_int = ir_.graph[operand].type == Type::kI32, is_min = ir_.graph[id].op == Op::k_tile_min;
    const char* first = is_int ? (is_min ? "0x7FFFFFFF" : "-0x7FFFFFFF - 1") : (is_min ? "kInfinity" : "-kInfinity");
    const char* function = is_min ? "min" : "max";
    const std::string& name = values_->name(id);
    members += fmt::format("    {} {};\n", is_int ? "int" : "float", name);
    start += fmt::format("    extent.{} = {};\n", name, first);
    fold += cuda_line(4, fmt::format("extent.{0} = nan_{1}(extent.{0}, {2});", name, function, writer.value(operand)));
    finish += fmt::format("    extent.{0} = warp_{1}(extent.{0});\n", name, function);
  }
  const char* type = is_row ? "RowExtent" : "ColumnExtent";
  std::string body = fmt::format("    {} extent;\n", type) + declared_outside(writer) + start;
  if (!operands.empty()) {
    body += fmt::format(
        "    for (int {0}_idx = first_{0} + static_cast<int>(threadIdx.x) % kWarp; {0}_idx <= last_{0}; {0}_idx += kWarp) {{\n", index);
    body += indented(writer.take_statements() + fold) + "    }\n" + finish;
  }
  if (writer.clamps()) body += "    raise(outside, p.index_flag);\n";
  return struct_text(type, members) +
         function(fmt::format("{0} {1}_extent(int first_{2}, int last_{2}, {3})", type, is_row ? "row" : "column", index, kOfCall),
                  body + "    return extent;\n");
}

std::string ForwardVariant::classify_text() const {
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{bounds_.may_keep, bounds_.all_kept});
  const std::string may_keep = writer.value(bounds_.may_keep), all_kept = writer.value(bounds_.all_kept);
  return function(
      fmt::format("TileClass classify(const RowExtent& rows, const ColumnExtent& columns, int first_q, int last_q, int first_k, "
                  "int last_k, {})",
                  kOfCall),
      writer.take_statements() + cuda_line(4, fmt::format("if (!({})) return TileClass::kSkip;", may_keep)) +
          returned(fmt::format("{} ? TileClass::kFull : TileClass::kPartial", all_kept)));
}

std::string ForwardVariant::stored_extents_text() const {
  return function("ColumnExtent* stored_extents(const Params& p, int b, int h)",
                  "    const int blocks = (p.k_len + Config::kBlockN - 1) / Config::kBlockN;\n"
                  "    return static_cast<ColumnExtent*>(p.extents) + (static_cast<i64>(b) * p.heads + h) * blocks;\n");
}

}  // namespace attune::codegen
