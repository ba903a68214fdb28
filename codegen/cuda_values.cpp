#include "codegen/cuda_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numbers>

#include "codegen/eval/interpreter.h"
#include "codegen/index_bounds.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

// Names that the functions of a Variant and its structs have already.
constexpr std::array kReserved = {"b",       "h",      "kv_h",    "q_len", "k_len", "first_q",   "first_k", "last_q",
                                  "last_k",  "sink2",  "outside", "p",     "u",     "row",       "column",  "rows",
                                  "columns", "extent", "qk",      "q_idx", "k_idx", "keeps",     "first",   "last",
                                  "weight",  "dp",     "lse2",    "delta", "dqk",   "gradients", "counts"};
constexpr int kCheapOps = 2;

// Functions get lse2 and delta as arguments, so that what comes of them is of a pair.
std::vector<Rate> rates_of(const Graph& graph) {
  std::vector<Rate> rates = assign_rates(graph);
  for (ValueId id = 0; id < graph.size(); ++id) {
    const Node& node = graph[id];
    if (node.op == Op::k_symbol) {
      const auto symbol = static_cast<Symbol>(node.index);
      if (symbol == Symbol::kLse2 || symbol == Symbol::kDelta) rates[id] = Rate::kElement;
    } else if (node.op != Op::k_tile_min && node.op != Op::k_tile_max) {
      for (ValueId operand : node.operands) rates[id] = join(rates[id], rates[operand]);
    }
  }
  return rates;
}

}  // namespace

CudaValues::CudaValues(const Ir& ir, bool packed, const CudaRoots& roots)
    : ir_(ir), packed_(packed), rates_(rates_of(ir.graph)), whole_(whole_ranges(ir.graph)), taken_(kReserved.begin(), kReserved.end()) {
  find_extents(roots.bounds);
  find_members(roots);
}

// What costs nothing: constants, symbols, scalars among the arguments.
bool CudaValues::is_leaf(ValueId id) const {
  const Node& node = graph()[id];
  if (node.op == Op::k_param) return !ir_.params[node.index].is_grad && !has_own_default(node);
  return node.op == Op::k_constant || node.op == Op::k_symbol;
}

// Whether the kernel itself evaluates the default: where lengths differ from sequence to sequence, or the scalar is not in memory.
bool CudaValues::has_own_default(const Node& node) const {
  if (node.op != Op::k_param) return false;
  const Param& param = ir_.params[node.index];
  return (packed_ || param.is_grad) && param.default_value != kNoValue;
}

// A sum of a few leaves is no slower than a register that holds it.
bool CudaValues::is_cheap(ValueId id, int depth) const {
  const Node& node = graph()[id];
  if (is_leaf(id)) return true;
  if (node.type != Type::kI32 || depth == kCheapOps || (node.op != Op::k_add && node.op != Op::k_sub && node.op != Op::k_neg)) return false;
  return std::all_of(node.operands.begin(), node.operands.end(), [&](ValueId operand) { return is_cheap(operand, depth + 1); });
}

std::vector<ValueId> CudaValues::operands(ValueId id) const {
  const Node& node = graph()[id];
  if (node.op == Op::k_tile_min || node.op == Op::k_tile_max) return {};
  if (has_own_default(node)) return {ir_.params[node.index].default_value};
  const auto division = whole_division(id);
  return division ? std::vector{division->dividend} : node.operands;
}

void CudaValues::mark(ValueId id, std::vector<bool>& is_member) const {
  if (!is_cheap(id)) is_member[id] = true;
}

void CudaValues::find_members(const CudaRoots& roots) {
  std::vector<bool> is_member(graph().size(), false);
  std::vector<ValueId> all = roots.element;
  all.insert(all.end(), roots.row.begin(), roots.row.end());
  const std::vector<bool> needed = reachable(graph(), all);
  for (ValueId id : roots.element) {
    if (rate(id) != Rate::kElement) mark(id, is_member);
  }
  for (ValueId id : roots.row) {
    if (rate(id) == Rate::kUniform) mark(id, is_member);
  }
  for (ValueId id = 0; id < graph().size(); ++id) {
    if (!needed[id]) continue;
    for (ValueId operand : graph()[id].operands) {
      if (is_slower(rate(operand), rate(id))) mark(operand, is_member);
    }
  }
  // Of what tiles need, only what is slow to get: arithmetic on sizes is as quickly done again.
  std::vector<ValueId> of_tiles = roots.bounds;
  for (const std::vector<ValueId>* extents : {&row_extents_, &column_extents_}) {
    for (ValueId id : *extents) of_tiles.push_back(graph()[id].operands[0]);
  }
  const std::vector<bool> needed_by_tiles = reachable(graph(), of_tiles);
  for (ValueId id = 0; id < graph().size(); ++id) {
    const bool is_input = graph()[id].op == Op::k_read || graph()[id].op == Op::k_param;
    if (needed_by_tiles[id] && is_input && rate(id) == Rate::kUniform) mark(id, is_member);
  }
  for (ValueId id = 0; id < graph().size(); ++id) {
    if (!is_member[id]) continue;
    (rate(id) == Rate::kUniform ? uniform_ : rate(id) == Rate::kRow ? row_ : column_).push_back(id);
  }
}

void CudaValues::find_extents(const std::vector<ValueId>& roots) {
  const std::vector<bool> needed = reachable(graph(), roots);
  for (ValueId id = 0; id < graph().size(); ++id) {
    const Node& node = graph()[id];
    if (!needed[id] || (node.op != Op::k_tile_min && node.op != Op::k_tile_max)) continue;
    (rate(node.operands[0]) == Rate::kRow ? row_extents_ : column_extents_).push_back(id);
  }
}

void CudaValues::name_line(ValueId root, const std::string& prefix) {
  const std::vector<bool> needed = reachable(graph(), std::span(&root, 1));
  const auto is_member = [&](ValueId id) { return std::find(uniform_.begin(), uniform_.end(), id) != uniform_.end(); };
  const auto is_qk = [&](ValueId id) { return graph()[id].op == Op::k_symbol && static_cast<Symbol>(graph()[id].index) == Symbol::kQk; };
  const auto name_operand = [&](const Node& node, const auto& is_line, const char* name) {
    for (size_t i = 0; i < 2; ++i) {
      const ValueId other = node.operands[1 - i];
      if (is_line(node.operands[i]) && is_member(other) && !names_.count(other)) takes_name(other, prefix + name);
    }
  };
  const auto is_product = [&](ValueId id) {
    const Node& node = graph()[id];
    return node.op == Op::k_mul && (is_qk(node.operands[0]) || is_qk(node.operands[1]));
  };
  for (ValueId id = 0; id <= root; ++id) {
    const Node& node = graph()[id];
    if (!needed[id]) continue;
    if (node.op == Op::k_mul) name_operand(node, is_qk, "scale");
    if (node.op == Op::k_add) name_operand(node, is_product, "bias");
  }
}

bool CudaValues::takes_name(ValueId id, std::string name) const {
  if (!taken_.insert(name).second) return false;
  names_[id] = std::move(name);
  return true;
}

// The parameter that a value is log2(e) times, or null: what enters the exp2 domain.
const Param* CudaValues::scaled_param(const Node& node) const {
  if (node.op != Op::k_mul) return nullptr;
  for (size_t i = 0; i < 2; ++i) {
    const Node &factor = graph()[node.operands[i]], &of = graph()[node.operands[1 - i]];
    const bool is_log2e = factor.op == Op::k_constant && static_cast<float>(factor.number) == std::numbers::log2e_v<float>;
    if (is_log2e && (of.op == Op::k_param || of.op == Op::k_read)) return &ir_.params[of.index];
  }
  return nullptr;
}

// Reads have the name of their tensor and the last index, NAME2 is log2(e) * NAME; others are numbered as they come.
const std::string& CudaValues::name(ValueId id) const {
  if (const auto known = names_.find(id); known != names_.end()) return known->second;
  const Node& node = graph()[id];
  if (node.op == Op::k_read || node.op == Op::k_param) {
    const Node* last = node.operands.empty() ? nullptr : &graph()[node.operands.back()];
    const bool is_symbol = last && last->op == Op::k_symbol;
    const std::string_view suffix = is_symbol ? symbol_name(static_cast<Symbol>(last->index)) : "value";
    if (takes_name(id, fmt::format("{}_{}", ir_.params[node.index].name, suffix))) return names_[id];
  }
  if (node.op == Op::k_tile_min || node.op == Op::k_tile_max) {
    const std::string of = name(node.operands[0]);
    if (takes_name(id, (node.op == Op::k_tile_min ? "least_" : "greatest_") + of)) return names_[id];
  }
  if (const Param* param = scaled_param(node)) {
    if (takes_name(id, param->name + "2")) return names_[id];
  }
  while (!takes_name(id, fmt::format("v{}", ++numbered_))) {
  }
  return names_[id];
}

std::string_view CudaValues::type_text(ValueId id) const {
  switch (graph()[id].type) {
    case Type::kBool:
      return "bool";
    case Type::kI32:
      return "int";
    case Type::kF32:
      return "float";
    default:
      return !whole_[id] ? "double" : whole_[id]->fits_i32() ? "int" : "i64";
  }
}

const std::vector<ValueId>& CudaValues::members(CudaScope scope) const {
  return scope == CudaScope::kUniform ? uniform_ : scope == CudaScope::kRow ? row_ : column_;
}

bool CudaValues::may_clamp(CudaScope scope) const {
  const Rate own = scope == CudaScope::kUniform ? Rate::kUniform : scope == CudaScope::kRow ? Rate::kRow : Rate::kColumn;
  const std::vector<bool> needed = reachable(graph(), members(scope));
  for (ValueId id = 0; id < graph().size(); ++id) {
    const Node& node = graph()[id];
    if (!needed[id] || node.op != Op::k_read || rate(id) != own) continue;
    if (std::any_of(node.operands.begin(), node.operands.end(), [&](ValueId index) { return is_data_dependent(graph(), index); }))
      return true;
  }
  return false;
}

std::string CudaValues::members_text(CudaScope scope) const {
  std::map<std::string_view, std::string> lists;
  for (ValueId id : members(scope)) {
    std::string& list = lists[type_text(id)];
    list += (list.empty() ? "" : ", ") + name(id);
  }
  std::string text;
  for (const auto& [type, list] : lists) text += cuda_line(4, fmt::format("{} {};", type, list));
  if (scope != CudaScope::kUniform && may_clamp(scope)) text += "    bool outside;  // an index that depends on data was clamped\n";
  return text;
}

std::string cuda_line(int indent, const std::string& text) {
  constexpr size_t kMaxColumns = 140;
  std::string line = std::string(static_cast<size_t>(indent), ' ') + text, result;
  while (line.size() > kMaxColumns) {
    const size_t start = line.find_first_not_of(' ');
    const size_t comma = line.rfind(", ", kMaxColumns - 2);
    size_t blank = comma != std::string::npos && comma > start + kMaxColumns / 2 ? comma + 1 : line.rfind(' ', kMaxColumns);
    if (blank == std::string::npos || blank < start) blank = line.find(' ', start);
    if (blank == std::string::npos) break;
    result += line.substr(0, blank) + "\n";
    line.replace(0, blank + 1, std::string(static_cast<size_t>(indent) + 4, ' '));
  }
  return result + line + "\n";
}

}  // namespace attune::codegen
