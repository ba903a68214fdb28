#include "codegen/cuda_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "codegen/eval/interpreter.h"
#include "codegen/index_bounds.h"
#include "codegen/op_table.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

constexpr size_t kMaxInline = 90;  // longer texts get a line of their own

std::string constant_text(const Node& node) {
  switch (node.type) {
    case Type::kBool:
      return node.number != 0 ? "true" : "false";
    case Type::kI32:
      if (node.number == std::numeric_limits<int32_t>::min()) return "(-2147483647 - 1)";
      return node.number < 0 ? fmt::format("({})", static_cast<int32_t>(node.number))
                             : fmt::format("{}", static_cast<int32_t>(node.number));
    default:
      break;
  }
  const std::string type = node.type == Type::kF64 ? "double(" : "";
  if (std::isinf(node.number)) return fmt::format("{}{}kInfinity{}", type, node.number < 0 ? "-" : "", type.empty() ? "" : ")");
  std::string text = node.type == Type::kF32 ? fmt::format("{}", static_cast<float>(node.number)) : fmt::format("{}", node.number);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  if (node.type == Type::kF32) text += "f";
  return std::signbit(node.number) ? "(" + text + ")" : text;
}

std::string symbol_text(Symbol symbol) {
  switch (symbol) {
    case Symbol::kB:
      return "u.b";
    case Symbol::kH:
      return "u.h";
    case Symbol::kKvH:
      return "u.kv_h";
    case Symbol::kBatch:
      return "p.batch";
    case Symbol::kHeads:
      return "p.heads";
    case Symbol::kKvHeads:
      return "p.kv_heads";
    case Symbol::kQLen:
      return "u.q_len";
    case Symbol::kKLen:
      return "u.k_len";
    case Symbol::kHeadDim:
      return "Config::kHeadDim";
    case Symbol::kVDim:
      return "Config::kVDim";
    default:
      return std::string(symbol_name(symbol));
  }
}

std::string_view load_text(dsl::ElementType element) {
  switch (element) {
    case dsl::ElementType::kF16:
      return "load_f16";
    case dsl::ElementType::kBF16:
      return "load_bf16";
    case dsl::ElementType::kI32:
      return "load_i32";
    case dsl::ElementType::kU8:
    case dsl::ElementType::kBool:
      return "load_u8";
    default:
      return "load_f32";
  }
}

// The outermost brackets say nothing where a text stands alone.
std::string unbracketed(const std::string& text) {
  if (text.size() < 2 || text.front() != '(' || text.back() != ')') return text;
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    depth += text[i] == '(' ? 1 : text[i] == ')' ? -1 : 0;
    if (depth == 0 && i + 1 < text.size()) return text;
  }
  return text.substr(1, text.size() - 2);
}

}  // namespace

std::string CudaValues::type_text(Type type) {
  switch (type) {
    case Type::kBool:
      return "bool";
    case Type::kI32:
      return "int";
    case Type::kF64:
      return "double";
    default:
      return "float";
  }
}

// What costs nothing: constants, symbols, scalars among the arguments. Scalars of `grad` lie in device memory, and defaults of packed
// sequences are computed.
bool CudaValues::is_leaf(const Node& node) const {
  if (node.op == Op::k_param) return !ir_.params[node.index].is_grad && !has_own_default(node.index);
  return node.op == Op::k_constant || node.op == Op::k_symbol;
}

bool CudaValues::has_own_default(int param) const {
  return packed_ && ir_.params[param].default_value != kNoValue;
}

CudaValues::CudaValues(const Ir& ir, const Graph& graph, bool packed, std::span<const ValueId> element_roots)
    : ir_(ir), graph_(graph), packed_(packed), rates_(assign_rates(graph)) {
  const std::vector<bool> needed = reachable(graph, element_roots);
  std::vector<bool> is_member(graph.size(), false);
  const auto mark = [&](ValueId id) { is_member[id] = is_member[id] || !is_leaf(graph_[id]); };
  for (ValueId id : element_roots) {
    if (rate(id) != Rate::kElement) mark(id);
  }
  for (ValueId id = 0; id < graph.size(); ++id) {
    if (!needed[id]) continue;
    for (ValueId operand : graph[id].operands) {
      if (is_slower(rate(operand), rate(id))) mark(operand);
    }
  }
  for (ValueId id = 0; id < graph.size(); ++id) {
    if (!is_member[id]) continue;
    (rate(id) == Rate::kUniform ? uniform_ : rate(id) == Rate::kRow ? row_ : column_).push_back(id);
  }
}

const std::vector<ValueId>& CudaValues::members(CudaScope scope) const {
  return scope == CudaScope::kUniform ? uniform_ : scope == CudaScope::kRow ? row_ : column_;
}

std::string CudaValues::members_text(CudaScope scope) const {
  std::map<std::string, std::string> names;  // by type
  for (ValueId id : members(scope)) {
    std::string& text = names[type_text(graph_[id].type)];
    text += fmt::format("{}v{}", text.empty() ? "" : ", ", id);
  }
  std::string text;
  for (const auto& [type, list] : names) text += fmt::format("    {} {};\n", type, list);
  return text;
}

void CudaValues::find_extents(std::span<const ValueId> roots) {
  const std::vector<bool> needed = reachable(graph_, roots);
  for (ValueId id = 0; id < graph_.size(); ++id) {
    const Node& node = graph_[id];
    if (!needed[id] || (node.op != Op::k_tile_min && node.op != Op::k_tile_max)) continue;
    (rate(node.operands[0]) == Rate::kRow ? row_extents_ : column_extents_).push_back(id);
  }
}

class CudaBodyWriter {
 public:
  CudaBodyWriter(const CudaValues& values, CudaScope scope, CudaGuard guard) : values_(values), scope_(scope), guard_(guard) {
    for (const CudaScope of : {CudaScope::kUniform, CudaScope::kRow, CudaScope::kColumn}) {
      if (!sees(of)) continue;
      const char* owner = of == CudaScope::kUniform ? "u" : of == CudaScope::kRow ? "row" : "column";
      for (ValueId id : values.members(of)) text_[id] = fmt::format("{}.v{}", owner, id);
    }
  }

  CudaValues::Body write(std::span<const ValueId> roots) {
    count_uses(roots);
    CudaValues::Body body;
    for (ValueId root : roots) body.roots.push_back(unbracketed(get(root)));
    body.statements = std::move(statements_);
    return body;
  }

 private:
  const Graph& graph() const { return values_.graph_; }

  bool sees(CudaScope of) const {
    if (scope_ == CudaScope::kBounds || scope_ == CudaScope::kUniform) return false;
    return of == CudaScope::kUniform || scope_ == CudaScope::kElement;
  }

  // Operands have smaller ids than their users, so one sweep downwards meets every user first. What is a member has no operands here.
  void count_uses(std::span<const ValueId> roots) {
    for (ValueId root : roots) ++uses_[root];
    for (auto it = uses_.rbegin(); it != uses_.rend(); ++it) {
      if (text_.count(it->first)) continue;
      const Node& node = graph()[it->first];
      if (node.op == Op::k_tile_min || node.op == Op::k_tile_max) continue;
      for (ValueId operand : node.operands) ++uses_[operand];
    }
  }

  std::string get(ValueId id) {
    if (const auto known = text_.find(id); known != text_.end()) return known->second;
    std::string text = make(id);
    if (!values_.is_leaf(graph()[id]) && (uses_[id] > 1 || text.size() > kMaxInline)) {
      statements_ += fmt::format("    const {} v{} = {};\n", CudaValues::type_text(graph()[id].type), id, unbracketed(text));
      text = fmt::format("v{}", id);
    }
    return text_[id] = std::move(text);
  }

  std::string make(ValueId id) {
    const Node& node = graph()[id];
    switch (node.op) {
      case Op::k_constant:
        return constant_text(node);
      case Op::k_symbol:
        return symbol_text(static_cast<Symbol>(node.index));
      case Op::k_param:
        return param_text(node);
      case Op::k_read:
        return read_text(node);
      case Op::k_tile_min:
      case Op::k_tile_max:
        return fmt::format("double({}.v{})", values_.rate(node.operands[0]) == Rate::kRow ? "rows" : "columns", id);
      default:
        break;
    }
    std::string text(info(node.op).cuda);
    for (size_t i = 0; i < node.operands.size(); ++i) {
      const std::string place = fmt::format("${}", i), operand = get(node.operands[i]);
      for (size_t at = text.find(place); at != std::string::npos; at = text.find(place, at + operand.size())) {
        text.replace(at, place.size(), operand);
      }
    }
    return text;
  }

  std::string param_text(const Node& node) {
    const Param& param = values_.ir_.params[node.index];
    if (param.is_grad) return "*p.p_" + param.name;
    const std::string text = node.type == Type::kBool ? fmt::format("(p.p_{} != 0)", param.name) : "p.p_" + param.name;
    if (!values_.has_own_default(node.index)) return text;
    ++uses_[param.default_value];
    return fmt::format("(p.p_{}_given ? {} : {})", param.name, text, get(param.default_value));
  }

  std::string read_text(const Node& node) {
    const Param& param = values_.ir_.params[node.index];
    std::string address;
    for (size_t axis = 0; axis < node.operands.size(); ++axis) {
      const ValueId index = node.operands[axis];
      const std::string text = unbracketed(get(index)), dim = fmt::format("p.t_{}_dim[{}]", param.name, axis);
      std::string safe;
      if (is_data_dependent(graph(), index)) {
        safe = fmt::format("clamped({}, {}, {}, p.index_flag)", text, dim, scope_ == CudaScope::kElement ? "keeps" : "true");
      } else {
        const char* guarded = guard_ == CudaGuard::kNever ? "false" : guard_ == CudaGuard::kAlways ? "true" : "kGuarded";
        safe = fmt::format("inside<{}>({}, {})", guarded, text, dim);
      }
      address += fmt::format(" + {} * p.t_{}_stride[{}]", safe, param.name, axis);
    }
    return fmt::format("{}(p.t_{}{})", load_text(param.element), param.name, address);
  }

  const CudaValues& values_;
  const CudaScope scope_;
  const CudaGuard guard_;
  std::map<ValueId, std::string> text_;
  std::map<ValueId, int> uses_;
  std::string statements_;
};

CudaValues::Body CudaValues::body(std::span<const ValueId> roots, CudaScope scope, CudaGuard guard) const {
  return CudaBodyWriter(*this, scope, guard).write(roots);
}

}  // namespace attune::codegen
