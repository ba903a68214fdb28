#include "codegen/cuda_variant.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numbers>
#include <utility>

#include "codegen/cuda_function.h"
#include "codegen/eval/interpreter.h"
#include "codegen/feeds.h"
#include "codegen/fold_scale.h"
#include "codegen/index_bounds.h"
#include "codegen/rates.h"
#include "codegen/simplify.h"

namespace attune::codegen {
namespace {

// What a function whose reads clamp indices starts with.
std::string declared_outside(const CudaWriter& writer) {
  return writer.clamps() ? "    bool outside = false;\n" : "";
}

}  // namespace

CudaVariant::CudaVariant(const Lowered& lowered, const GpuKernelOptions& options)
    : ir_(lowered.ir), bounds_(lowered.bounds), packed_(options.packed) {
  if (!is_softmax()) find_sigmoid();
}

void CudaVariant::find_sigmoid() {
  Graph& graph = ir_.graph;
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
ValueId CudaVariant::without_qk(ValueId root) {
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

void CudaVariant::place_values(CudaRoots roots, ValueId weight) {
  for (const ValueId id : {exponent2_, half_, center_, has_mask() ? ir_.mask : kNoValue}) {
    if (id != kNoValue) roots.element.push_back(id);
  }
  if (is_searched()) roots.bounds.insert(roots.bounds.end(), {bounds_.may_keep, bounds_.all_kept});
  roots_ = std::move(roots);
  values_.emplace(ir_, packed_, roots_);
  for (const auto& [root, prefix] : {std::pair(exponent2_, ""), std::pair(half_, "half_")}) {
    if (root != kNoValue) values_->name_line(root, prefix);
  }
  values_->name_line(weight, is_sigmoid() ? "plain_" : "");
}

size_t CudaVariant::extent_bytes(Rate rate) const {
  return 4 * std::max<size_t>(1, values_->extents(rate).size());
}

bool CudaVariant::has_index_flag() const {
  std::vector<ValueId> all = roots_.element;
  all.insert(all.end(), roots_.row.begin(), roots_.row.end());
  const std::vector<bool> needed = reachable(ir_.graph, all);
  for (ValueId id = 0; id < ir_.graph.size(); ++id) {
    const Node& node = ir_.graph[id];
    if (!needed[id] || node.op != Op::k_read) continue;
    if (std::any_of(node.operands.begin(), node.operands.end(), [&](ValueId index) { return is_data_dependent(ir_.graph, index); }))
      return true;
  }
  return false;
}

std::string CudaVariant::kinds_text() const {
  const char* weight = is_softmax() ? "kSoftmax" : is_sigmoid() ? "kSigmoid" : "kGeneral";
  const char* mask = !has_mask() ? "kAll" : is_searched() ? "kSearch" : "kRange";
  return fmt::format("  static constexpr Weight kWeight = Weight::{};\n  static constexpr Mask kMask = Mask::{};\n", weight, mask);
}

std::string CudaVariant::uniform_text() const {
  const std::vector<ValueId>& members = values_->members(CudaScope::kUniform);
  CudaWriter writer(*values_, CudaScope::kUniform, CudaGuard::kNever, members);
  for (ValueId id : members) writer.assign("u", id);
  std::string text =
      "  struct Uniform {\n    int b, h, kv_h, q_len, k_len, first_q, first_k;\n" + values_->members_text(CudaScope::kUniform);
  text += "  };\n";
  std::string body = cuda_line(
      4, fmt::format("Uniform u = {{b, h, h / (p.heads / p.kv_heads), {}}};",
                     packed_ ? "p.cu_q[b + 1] - p.cu_q[b], p.cu_k[b + 1] - p.cu_k[b], p.cu_q[b], p.cu_k[b]" : "p.q_len, p.k_len, 0, 0"));
  body += declared_outside(writer) + writer.take_statements();
  if (writer.clamps()) body += "    raise(outside, p.index_flag);\n";
  return text + cuda_function("Uniform uniform(const Params& p, int b, int h)", body + "    return u;\n");
}

std::string CudaVariant::row_text(ValueId sink2) const {
  const std::vector<ValueId>& members = values_->members(CudaScope::kRow);
  std::vector<ValueId> all = members;
  if (sink2 != kNoValue) all.push_back(sink2);
  CudaWriter writer(*values_, CudaScope::kRow, CudaGuard::kByTemplate, all);
  for (ValueId id : members) writer.assign("row", id);
  std::string struct_members = values_->members_text(CudaScope::kRow), sink;
  if (sink2 != kNoValue) {
    struct_members += "    float sink2;\n";
    sink = fmt::format("    row.sink2 = {};\n", writer.value(sink2));
  }
  std::string body = "    Row row;\n" + declared_outside(writer) + writer.take_statements() + sink;
  if (values_->may_clamp(CudaScope::kRow)) {
    body += "    row.outside = outside;\n";
  } else if (writer.clamps()) {
    body += "    raise(outside, p.index_flag);\n";  // the sink's
  }
  body = struct_members.empty() ? "    return {};\n" : body + "    return row;\n";
  return cuda_struct("Row", struct_members) + cuda_function(fmt::format("Row row(int q_idx, {})", kOfCall), body, true);
}

std::string CudaVariant::column_text() const {
  const std::vector<ValueId>& members = values_->members(CudaScope::kColumn);
  CudaWriter writer(*values_, CudaScope::kColumn, CudaGuard::kByTemplate, members);
  for (ValueId id : members) writer.assign("column", id);
  std::string body = "    Column column;\n" + declared_outside(writer) + writer.take_statements();
  if (writer.clamps()) body += "    column.outside = outside;\n";
  body = members.empty() ? "    return {};\n" : body + "    return column;\n";
  return cuda_struct("Column", values_->members_text(CudaScope::kColumn)) +
         cuda_function(fmt::format("Column column(int k_idx, {})", kOfCall), body, true);
}

// `carries`: also what the row and the column clamped.
std::string CudaVariant::outside_text(const CudaWriter& writer, bool carries) const {
  std::vector<std::string> outside;
  if (writer.clamps()) outside.emplace_back("outside");
  if (carries && values_->may_clamp(CudaScope::kRow)) outside.emplace_back("row.outside");
  if (carries && values_->may_clamp(CudaScope::kColumn)) outside.emplace_back("column.outside");
  return outside.size() <= 1 ? fmt::format("{}", fmt::join(outside, "")) : fmt::format("({})", fmt::join(outside, " || "));
}

std::string CudaVariant::statements_text(CudaWriter& writer) const {
  return declared_outside(writer) + writer.take_statements();
}

// The flag is raised for pairs that count: kept, and of a row that there is.
std::string CudaVariant::raise_text(const std::string& outside) const {
  return outside.empty() ? "" : cuda_line(4, fmt::format("raise({} && keeps && q_idx < u.q_len, p.index_flag);", outside));
}

std::string CudaVariant::element_text(std::string_view name, ValueId root, bool carries, std::string_view arguments, bool is_near) const {
  std::map<ValueId, std::string> given;
  for (const ValueId id : of_pairs_) given[id] = "column." + values_->name(id);
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kByTemplate, std::array{root}, given);
  writer.use_tables(tables_);
  if (is_near) writer.use_near_forms();
  const std::string value = writer.value(root), raised = raise_text(outside_text(writer, carries));
  std::string body = statements_text(writer);
  if (raised.empty()) {
    body += cuda_return(value);
  } else {
    body += cuda_line(4, fmt::format("const float {} = {};", name, value)) + raised + cuda_return(std::string(name));
  }
  return cuda_function(fmt::format("float {}({}{}{})", name, arguments, arguments.empty() ? "" : ", ",
                                   of_pairs_.empty() && tables_.empty() ? kOfPair : kOfFedPair),
                       body, true);
}

int CudaVariant::tile_bytes(ValueId read, int block_n) const {
  return pair_tile_bytes(ir_.params[static_cast<size_t>(ir_.graph[read].index)].element, block_n);
}

int CudaVariant::pair_bytes(int block_n) const {
  int bytes = 0;
  for (const ValueId read : of_pairs_) bytes += tile_bytes(read, block_n);
  return bytes;
}

std::string_view CudaVariant::pair_element(ValueId read) const {
  const dsl::ElementType element = ir_.params[static_cast<size_t>(ir_.graph[read].index)].element;
  return element == dsl::ElementType::kF32 ? "float" : element == dsl::ElementType::kF16 ? "F16" : "BF16";
}

std::string CudaVariant::pair_members_text() const {
  std::vector<std::string> names;
  for (const ValueId read : of_pairs_) names.push_back(values_->name(read));
  return names.empty() ? "" : cuda_line(4, fmt::format("float {};", fmt::join(names, ", ")));
}

std::string CudaVariant::load_pairs_text(int block_n) const {
  if (of_pairs_.empty()) return "";
  std::vector<ValueId> indices;
  for (const ValueId read : of_pairs_) {
    const std::vector<ValueId>& operands = ir_.graph[read].operands;
    indices.insert(indices.end(), operands.begin(), operands.end());
  }
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, indices);
  std::string load;
  int offset = 0;
  for (const ValueId id : of_pairs_) {
    const Node& node = ir_.graph[id];
    const Param& param = ir_.params[static_cast<size_t>(node.index)];
    const size_t uniform = node.operands.size() - 2;
    // From the last index on; of broadcast dims the first place is the only one.
    std::string places = fmt::format("{}, {}", writer.value(node.operands[uniform + 1]), writer.value(node.operands[uniform]));
    for (size_t axis = uniform; axis-- > 0;)
      places += fmt::format(", p.t_{}_stride[{}] != 0 ? {} : 0", param.name, axis, writer.value(node.operands[axis]));
    for (size_t axis = uniform; axis < 2; ++axis) places += ", 0";
    load += cuda_line(4, fmt::format("PairTile<{}, Config::kBlockN>::load(to + {}, &p.t_{}_map, barrier, {});",
                                     param.element == dsl::ElementType::kF32 ? 4 : 2, offset, param.name, places));
    offset += tile_bytes(id, block_n);
  }
  return cuda_function("void load_pairs(u32 to, u32 barrier, int q_idx, int k_idx, const Params& p, const Uniform& u)",
                       writer.take_statements() + load);
}

std::string CudaVariant::sigmoid_text() const {
  if (!is_sigmoid()) return "";
  return element_text("exponent2", exponent2_, true) + element_text("half", half_, true) + center_text();
}

std::string CudaVariant::center_text() const {
  std::string value = "-kInfinity", statements;
  if (center_ != kNoValue) {
    CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{center_});
    value = writer.value(center_);
    statements = writer.take_statements();
  }
  return "  // The sigmoid's argument at qk = 0; -inf if that depends on the pair.\n" +
         cuda_function(fmt::format("float center({})", kOfCall), statements + cuda_return(value));
}

std::string CudaVariant::keep_text() const {
  CudaWriter writer(*values_, CudaScope::kElement, CudaGuard::kAlways, std::array{ir_.mask});
  const std::string value = writer.value(ir_.mask);
  std::string body = declared_outside(writer) + writer.take_statements();
  if (writer.clamps()) {
    body += cuda_line(4, fmt::format("const bool keeps = {};", value)) +
            "    raise(outside && keeps && q_idx < u.q_len, p.index_flag);\n    return keeps;\n";
  } else {
    body += cuda_return(value);
  }
  return cuda_function("bool keep(int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column)", body);
}

std::string CudaVariant::range_text(std::string_view name, std::string_view tile, const IndexRange& range) const {
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{range.begin, range.end});
  const std::string begin = writer.value(range.begin), end = writer.value(range.end);
  return cuda_function(fmt::format("KeyRange {0}(int first_{1}, int last_{1}, {2})", name, tile, kOfCall),
                       writer.take_statements() + cuda_return(fmt::format("{{{}, {}}}", begin, end)));
}

// The least and greatest of per-row or per-column values over a tile, by one warp.
std::string CudaVariant::extent_text(Rate rate) const {
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
    // Loads do not wait for each other: behind the end the last element counts again.
    body += fmt::format(
        "    for (int first = first_{0} + static_cast<int>(threadIdx.x) % kWarp; first <= last_{0}; first += 4 * kWarp) {{\n"
        "#pragma unroll\n"
        "      for (int i = 0; i < 4; ++i) {{\n"
        "        const int {0}_idx = min(first + i * kWarp, last_{0});\n",
        index);
    body += cuda_indented(cuda_indented(writer.take_statements() + fold)) + "      }\n    }\n" + finish;
  }
  if (writer.clamps()) body += "    raise(outside, p.index_flag);\n";
  return cuda_struct(type, members) +
         cuda_function(fmt::format("{0} {1}_extent(int first_{2}, int last_{2}, {3})", type, is_row ? "row" : "column", index, kOfCall),
                       body + "    return extent;\n");
}

std::string CudaVariant::classify_text() const {
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{bounds_.may_keep, bounds_.all_kept});
  const std::string may_keep = writer.value(bounds_.may_keep), all_kept = writer.value(bounds_.all_kept);
  return cuda_function(
      fmt::format("TileClass classify(const RowExtent& rows, const ColumnExtent& columns, int first_q, int last_q, int first_k, "
                  "int last_k, {})",
                  kOfCall),
      writer.take_statements() + cuda_line(4, fmt::format("if (!({})) return TileClass::kSkip;", may_keep)) +
          cuda_return(fmt::format("{} ? TileClass::kFull : TileClass::kPartial", all_kept)));
}

std::string CudaVariant::stored_text(Rate rate, std::string_view name, std::string_view member, std::string_view blocks) const {
  const char* type = rate == Rate::kRow ? "RowExtent" : "ColumnExtent";
  return cuda_function(
      fmt::format("{}* {}(const Params& p, int b, int h)", type, name),
      fmt::format("    const int blocks = {};\n    return static_cast<{}*>({}) + (static_cast<i64>(b) * p.heads + h) * blocks;\n", blocks,
                  type, member));
}

}  // namespace attune::codegen
