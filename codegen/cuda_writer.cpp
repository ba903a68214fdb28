#include "codegen/cuda_writer.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

#include "codegen/index_bounds.h"
#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

constexpr size_t kMaxInline = 70;   // longer texts get a line of their own
constexpr double kMaxPower = 16.0;  // greater exponents go by logarithms

CudaText number(std::string text) {
  const bool is_negative = text.front() == '-';
  return {std::move(text), is_negative ? CudaLevel::kUnary : CudaLevel::kAtom};
}

// Shortest decimal that reads back to the same value.
CudaText floating_number(Type type, double value) {
  const bool is_f32 = type == Type::kF32;
  if (std::isinf(value)) return number(fmt::format("{}{}", value < 0 ? "-" : "", is_f32 ? "kInfinity" : "double(kInfinity)"));
  std::string text = is_f32 ? fmt::format("{}", static_cast<float>(value)) : fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return number(is_f32 ? text + "f" : text);
}

CudaText whole_number(double value) {
  if (value == std::numeric_limits<int32_t>::min()) return {"-2147483647 - 1", CudaLevel::kSum};
  return number(fmt::format("{}{}", static_cast<int64_t>(value), std::abs(value) > std::numeric_limits<int32_t>::max() ? "ll" : ""));
}

std::string symbol_text(Symbol symbol) {
  switch (symbol) {
    case Symbol::kB:
    case Symbol::kH:
    case Symbol::kKvH:
    case Symbol::kQLen:
    case Symbol::kKLen:
      return fmt::format("u.{}", symbol_name(symbol));
    case Symbol::kBatch:
    case Symbol::kHeads:
    case Symbol::kKvHeads:
      return fmt::format("p.{}", symbol_name(symbol));
    case Symbol::kHeadDim:
      return "Config::kHeadDim";
    case Symbol::kVDim:
      return "Config::kVDim";
    default:
      return std::string(symbol_name(symbol));
  }
}

CudaLevel level_of(Op op) {
  switch (op) {
    case Op::k_where:
      return CudaLevel::kChoice;
    case Op::k_or:
      return CudaLevel::kOr;
    case Op::k_and:
      return CudaLevel::kAnd;
    case Op::k_eq:
    case Op::k_ne:
    case Op::k_lt:
    case Op::k_le:
    case Op::k_gt:
    case Op::k_ge:
      return CudaLevel::kCompare;
    case Op::k_add:
    case Op::k_sub:
      return CudaLevel::kSum;
    case Op::k_mul:
    case Op::k_div:
      return CudaLevel::kProduct;
    case Op::k_neg:
    case Op::k_not:
      return CudaLevel::kUnary;
    default:
      return CudaLevel::kAtom;
  }
}

CudaLevel above(CudaLevel level) {
  return static_cast<CudaLevel>(static_cast<int>(level) + 1);
}

// A form of the operator table with its operands. Forms in brackets are operators; all others take whole expressions, as calls do.
CudaText filled(std::string_view form, const std::vector<CudaText>& operands, Op op) {
  const bool is_operator = form.front() == '(';
  const CudaLevel level = is_operator ? level_of(op) : CudaLevel::kAtom;
  if (is_operator) form = form.substr(1, form.size() - 2);
  CudaText result = {"", level};
  for (size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '$') {
      result.text += form[i];
      continue;
    }
    const auto place = static_cast<size_t>(form[++i] - '0');
    // Sums and products associate to the left; of `or` and `and` together, and of comparisons, brackets say more.
    const bool is_left = place == 0 && (level == CudaLevel::kSum || level == CudaLevel::kProduct || level == CudaLevel::kAnd);
    const CudaLevel least = !is_operator ? CudaLevel::kAny : level == CudaLevel::kOr ? CudaLevel::kCompare : is_left ? level : above(level);
    const bool is_same_or = level == CudaLevel::kOr && place == 0 && operands[0].level == CudaLevel::kOr;
    result.text += operands[place].in(is_same_or ? CudaLevel::kOr : least);
  }
  return result;
}

CudaText cast(std::string_view type, const CudaText& text) {
  return {fmt::format("{}({})", type, text.text)};
}

// int < i64 < double; others stand alone.
std::string_view wider(std::string_view x, std::string_view y) {
  for (const std::string_view type : {"double", "i64"}) {
    if (x == type || y == type) return type;
  }
  return x;
}

}  // namespace

std::string_view cuda_load(dsl::ElementType element) {
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

CudaWriter::CudaWriter(const CudaValues& values, CudaScope scope, CudaGuard guard, std::span<const ValueId> roots,
                       const std::map<ValueId, std::string>& given)
    : values_(values), scope_(scope), guard_(guard) {
  for (const CudaScope of : {CudaScope::kUniform, CudaScope::kRow, CudaScope::kColumn}) {
    if (!sees(of)) continue;
    const char* owner = of == CudaScope::kUniform ? "u" : of == CudaScope::kRow ? "row" : "column";
    for (ValueId id : values.members(of)) text_[id] = {fmt::format("{}.{}", owner, values.name(id))};
  }
  for (const auto& [id, name] : given) text_[id] = {name};
  count_uses(roots);
}

bool CudaWriter::sees(CudaScope members) const {
  if (scope_ == CudaScope::kUniform) return false;
  return members == CudaScope::kUniform || scope_ == CudaScope::kElement;
}

void CudaWriter::count_uses(std::span<const ValueId> roots) {
  std::vector<ValueId> open;
  const auto use = [&](ValueId id) {
    if (++uses_[id] == 1 && !text_.count(id)) open.push_back(id);
  };
  for (ValueId root : roots) use(root);
  while (!open.empty()) {
    const ValueId id = open.back();
    open.pop_back();
    for (ValueId operand : values_.operands(id)) use(operand);
  }
}

// Depth first, without recursion: lets can make chains of any length.
void CudaWriter::write(ValueId root, bool names_root) {
  std::vector<ValueId> path = {root};
  while (!path.empty()) {
    const ValueId id = path.back();
    bool is_ready = true;
    for (ValueId operand : values_.operands(id)) {
      if (text_.count(operand)) continue;
      if (is_ready) path.push_back(operand);
      is_ready = false;
    }
    if (!is_ready) continue;
    path.pop_back();
    text_[id] = make(id);
    if (id != root || names_root) name_if_shared(id, id == root);
  }
}

void CudaWriter::name_if_shared(ValueId id, bool is_root) {
  CudaText& text = text_[id];
  const bool is_long = !is_root && text.text.size() > kMaxInline;
  const bool is_word = text.text.find_first_of("( ") == std::string::npos;
  if (values_.is_leaf(id) || is_word || (!is_long && uses_[id] < 2)) return;
  statements_ += cuda_line(4, fmt::format("const {} {} = {};", values_.type_text(id), values_.name(id), text.text));
  text = {values_.name(id)};
}

std::string CudaWriter::value(ValueId id) {
  if (!text_.count(id)) write(id, true);
  return text_[id].text;
}

std::string CudaWriter::gradient_address(ValueId read, std::string_view prefix) {
  const Node& node = graph()[read];
  if (node.op == Op::k_param) return fmt::format("{}{}", prefix, values_.ir().params[node.index].name);
  for (ValueId index : node.operands) value(index);
  return address(node, prefix, node.operands.size());
}

std::string CudaWriter::pair_address(ValueId read, std::string_view prefix) {
  const Node& node = graph()[read];
  for (ValueId index : node.operands) value(index);
  const size_t of_query = node.operands.size() - 2;
  const std::string& name = values_.ir().params[static_cast<size_t>(node.index)].name;
  return fmt::format("place_of_pair({}, {}, {}{}_stride[{}], {}, {}{}_stride[{}])", address(node, prefix, of_query),
                     safe_index(node, of_query), prefix, name, of_query, safe_index(node, of_query + 1), prefix, name, of_query + 1);
}

void CudaWriter::assign(const std::string& owner, ValueId id) {
  if (!text_.count(id)) write(id, false);
  const std::string place = owner + "." + values_.name(id);
  statements_ += cuda_line(4, fmt::format("{} = {};", place, text_[id].text));
  text_[id] = {place};
}

std::string CudaWriter::take_statements() {
  return std::exchange(statements_, {});
}

CudaText CudaWriter::make(ValueId id) {
  const Node& node = graph()[id];
  switch (node.op) {
    case Op::k_constant:
      if (node.type == Type::kBool) return {node.number != 0 ? "true" : "false"};
      if (node.type == Type::kF32 || values_.type_text(id) == "double") return floating_number(node.type, node.number);
      return whole_number(node.number);
    case Op::k_symbol:
      return {symbol_text(static_cast<Symbol>(node.index))};
    case Op::k_param:
      return param(node);
    case Op::k_read:
      return read(id);
    case Op::k_tile_min:
    case Op::k_tile_max: {
      const CudaText text = {fmt::format("{}.{}", values_.rate(node.operands[0]) == Rate::kRow ? "rows" : "columns", values_.name(id))};
      return values_.type_text(id) == "double" ? cast("double", text) : text;
    }
    case Op::k_pow: {
      const double exponent = graph()[node.operands[1]].number;
      if (exponent == std::floor(exponent) && std::abs(exponent) <= kMaxPower) {
        return {fmt::format("power<{}>({})", static_cast<int>(exponent), text_[node.operands[0]].text)};
      }
      break;
    }
    case Op::k_mul:
      // y * (1 - y), of which derivatives of sigmoids are full, is one instruction as y - y * y.
      for (const size_t i : {0, 1}) {
        const ValueId y = node.operands[i];
        const Node& other = graph()[node.operands[1 - i]];
        if (node.type != Type::kF32 || other.op != Op::k_sub || other.operands[1] != y) continue;
        const Node& one = graph()[other.operands[0]];
        if (one.op == Op::k_constant && one.number == 1) return {fmt::format("fmaf(-{0}, {0}, {0})", text_[y].in(CudaLevel::kAtom))};
      }
      break;
    default:
      break;
  }
  return arithmetic(id);
}

CudaText CudaWriter::arithmetic(ValueId id) {
  const Node& node = graph()[id];
  const std::vector<ValueId> operands = values_.operands(id);
  const std::string_view own = values_.type_text(id);
  std::vector<CudaText> texts;
  for (ValueId operand : operands) texts.push_back(text_[operand]);
  if (node.op == Op::k_to_f64) return own == "double" ? cast(own, texts[0]) : texts[0];
  if (node.op == Op::k_f64_to_i32) return values_.type_text(operands[0]) == "int" ? texts[0] : cast("to_i32", texts[0]);

  if (node.op == Op::k_floor && own != "double" && own != "float" && !values_.whole_division(id)) return texts[0];

  // In bounds operands take the widest type among them and the result, which is made narrow again where it is known to be.
  const size_t first = node.op == Op::k_where ? 1 : 0;
  std::string_view common = own;
  if (graph()[node.operands.back()].type == Type::kF64) {
    if (node.type == Type::kBool) common = values_.type_text(operands[first]);
    for (size_t i = first; i < operands.size(); ++i) common = wider(common, values_.type_text(operands[i]));
    for (size_t i = first; i < operands.size(); ++i) {
      if (values_.type_text(operands[i]) != common) texts[i] = cast(common, texts[i]);
    }
  }
  const CudaText text = filled(form(id, common), texts, node.op);
  return node.type == Type::kF64 && common != own ? cast(own, text) : text;
}

// `type`: of the operands.
std::string CudaWriter::form(ValueId id, std::string_view type) const {
  const bool is_whole = type == "int" || type == "i64";
  const Op op = graph()[id].op;
  const bool wraps = values_.wraps(id);
  switch (op) {
    case Op::k_add:
      if (wraps) return "wrapping_add($0, $1)";
      break;
    case Op::k_sub:
      if (wraps) return "wrapping_sub($0, $1)";
      break;
    case Op::k_mul:
      if (wraps) return "wrapping_mul($0, $1)";
      break;
    case Op::k_neg:
      if (wraps) return "wrapping_sub(0, $0)";
      break;
    case Op::k_min:
      if (is_whole) return "min($0, $1)";
      break;
    case Op::k_max:
      if (is_whole) return "max($0, $1)";
      break;
    case Op::k_clamp:
      if (is_whole) return "min(max($0, $1), $2)";
      break;
    case Op::k_floor:
      if (const auto division = values_.whole_division(id)) {
        return fmt::format("floor_div($0, {}({}))", type, static_cast<int64_t>(division->divisor));
      }
      break;
    default:
      break;
  }
  // By the value's rate, not by where it stands: a mask must be the same for a tile and for its pairs.
  const bool is_rare = values_.rate(id) == Rate::kUniform || values_.rate(id) == Rate::kRow;
  if (uses_near_forms_ && op == Op::k_tanh && !is_rare) return "tanh_near($0, exact, spread)";
  return std::string(is_rare ? info(op).cuda.exact : info(op).cuda.fast);
}

CudaText CudaWriter::param(const Node& node) {
  const Param& param = values_.ir().params[node.index];
  const std::string place = "p.p_" + param.name;
  CudaText given = {place};
  if (param.is_grad) given = {"*" + place, CudaLevel::kUnary};
  if (node.type == Type::kBool) given = {place + " != 0", CudaLevel::kCompare};
  if (!values_.has_own_default(node)) return given;
  const std::string otherwise = text_[param.default_value].in(CudaLevel::kOr);
  return {fmt::format("{} ? {} : {}", param.is_grad ? place : place + "_given", given.text, otherwise), CudaLevel::kChoice};
}

CudaText CudaWriter::read(ValueId id) {
  const Node& node = graph()[id];
  if (const auto table = tables_.find(id); table != tables_.end()) {
    return {fmt::format("{}({}, {})", node.type == Type::kI32 ? "read_table_i32" : "read_table", table->second.from,
                        safe_index(node, table->second.axis))};
  }
  const dsl::ElementType element = values_.ir().params[node.index].element;
  const std::string load = fmt::format("{}({})", cuda_load(element), address(node, "p.t_", node.operands.size()));
  if (node.type == Type::kBool) return {load + " != 0", CudaLevel::kCompare};
  return {load};
}

std::string CudaWriter::safe_index(const Node& node, size_t axis) {
  const ValueId index = node.operands[axis];
  const std::string dim = fmt::format("p.t_{}_dim[{}]", values_.ir().params[node.index].name, axis);
  if (is_data_dependent(graph(), index)) {
    clamps_ = true;
    return fmt::format("clamped({}, {}, outside)", text_[index].text, dim);
  }
  if (values_.rate(index) != Rate::kUniform && guard_ != CudaGuard::kNever) {
    return fmt::format("inside<{}>({}, {})", guard_ == CudaGuard::kAlways ? "true" : "kGuarded", text_[index].text, dim);
  }
  return text_[index].in(CudaLevel::kProduct);  // uniform: the plan has looked at it
}

// Of the element at the first `axes` indices.
std::string CudaWriter::address(const Node& node, std::string_view prefix, size_t axes) {
  const Param& param = values_.ir().params[node.index];
  std::string address = fmt::format("{}{}", prefix, param.name);
  for (size_t axis = 0; axis < axes; ++axis) {
    address += fmt::format(" + {} * {}{}_stride[{}]", safe_index(node, axis), prefix, param.name, axis);
  }
  return address;
}

}  // namespace attune::codegen
