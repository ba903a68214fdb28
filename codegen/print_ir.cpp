#include "codegen/print_ir.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/op_table.h"
#include "codegen/rates.h"

namespace attune::codegen {
namespace {

constexpr size_t kMaxColumns = 140;
constexpr size_t kMaxLength = 1200;  // of an expression, about
constexpr std::array<Rate, 4> kRates = {Rate::kUniform, Rate::kRow, Rate::kColumn, Rate::kElement};

// How tightly a text binds, as in docs/language.md.
enum Level { kOr = 1, kAnd, kNot, kCompare, kSum, kProduct, kMinus, kPower, kAtom };

struct Text {
  std::string text;
  Level level = kAtom;
};

std::string_view element_name(dsl::ElementType type) {
  switch (type) {
    case dsl::ElementType::kF32:
      return "f32";
    case dsl::ElementType::kF16:
      return "f16";
    case dsl::ElementType::kBF16:
      return "bf16";
    case dsl::ElementType::kI32:
      return "i32";
    case dsl::ElementType::kU8:
      return "u8";
    case dsl::ElementType::kBool:
      return "bool";
  }
  return "?";
}

Level level_of(Op op) {
  switch (op) {
    case Op::k_or:
      return kOr;
    case Op::k_and:
      return kAnd;
    case Op::k_not:
      return kNot;
    case Op::k_eq:
    case Op::k_ne:
    case Op::k_lt:
    case Op::k_le:
    case Op::k_gt:
    case Op::k_ge:
      return kCompare;
    case Op::k_add:
    case Op::k_sub:
      return kSum;
    case Op::k_mul:
    case Op::k_div:
    case Op::k_floor_div:
    case Op::k_mod:
      return kProduct;
    case Op::k_neg:
      return kMinus;
    case Op::k_pow:
    case Op::k_ipow:
      return kPower;
    default:
      return kAtom;
  }
}

// Shortest decimal that reads back to the same f32 or f64.
std::string float_text(Type type, double number) {
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  std::string text = type == Type::kF32 ? fmt::format("{}", static_cast<float>(number)) : fmt::format("{}", number);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

Text constant_text(const Node& node) {
  if (node.type == Type::kBool) return {node.number != 0 ? "true" : "false", kAtom};
  const Level level = std::signbit(node.number) ? kMinus : kAtom;
  if (node.type == Type::kI32) return {fmt::format("{}", static_cast<int32_t>(node.number)), level};
  return {float_text(node.type, node.number), level};
}

std::string bracketed(const Text& text, Level least) {
  return text.level < least ? fmt::format("({})", text.text) : text.text;
}

std::string joined(const std::vector<Text>& texts, size_t count) {
  std::string result;
  for (size_t i = 0; i < count; ++i) result += (i == 0 ? "" : ", ") + texts[i].text;
  return result;
}

// random(seed) of the language; the compiler's has the counter too.
bool has_usual_counter(const Ir& ir, const Node& node) {
  constexpr std::array<Symbol, 4> kCounter = {Symbol::kB, Symbol::kH, Symbol::kQIdx, Symbol::kKIdx};
  for (size_t i = 0; i < kCounter.size(); ++i) {
    const Node& operand = ir.graph[node.operands[i + 1]];
    if (operand.op != Op::k_symbol || operand.index != static_cast<int>(kCounter[i])) return false;
  }
  return true;
}

Text node_text(const Ir& ir, const Node& node, const std::vector<Text>& x) {
  switch (node.op) {
    case Op::k_constant:
      return constant_text(node);
    case Op::k_symbol:
      return {std::string(symbol_name(static_cast<Symbol>(node.index))), kAtom};
    case Op::k_param:
      return {ir.params[node.index].name, kAtom};
    case Op::k_read:
      return {fmt::format("{}[{}]", ir.params[node.index].name, joined(x, x.size())), kAtom};
    case Op::k_random:
      return {fmt::format("random({})", joined(x, has_usual_counter(ir, node) ? 1 : x.size())), kAtom};
    case Op::k_not:
      return {"not " + bracketed(x[0], kNot), kNot};
    case Op::k_neg:
      return {"-" + bracketed(x[0], kPower), kMinus};
    case Op::k_pow:
    case Op::k_ipow:
      return {fmt::format("{} ** {}", bracketed(x[0], kAtom), bracketed(x[1], kMinus)), kPower};
    default:
      break;
  }
  const OpInfo& row = info(node.op);
  if (row.spelled != Spelled::kOperator) {
    return {fmt::format("{}({})", row.spelling.empty() ? row.name : row.spelling, joined(x, x.size())), kAtom};
  }
  // Operators associate to the left; comparisons do not chain.
  const Level level = level_of(node.op);
  const auto above = static_cast<Level>(level + 1);
  return {fmt::format("{} {} {}", bracketed(x[0], level == kCompare ? above : level), row.spelling, bracketed(x[1], above)), level};
}

bool is_leaf(const Node& node) {
  return node.op == Op::k_constant || node.op == Op::k_symbol || node.op == Op::k_param;
}

// A long line is broken at blanks; what follows is indented further.
std::string wrapped(std::string line, size_t indent) {
  std::string result;
  line.insert(0, indent, ' ');
  while (line.size() > kMaxColumns) {
    const size_t start = line.find_first_not_of(' ');
    size_t blank = line.rfind(' ', kMaxColumns);
    if (blank == std::string::npos || blank < start) blank = line.find(' ', kMaxColumns);
    if (blank == std::string::npos) break;
    result += line.substr(0, blank) + "\n";
    line.replace(0, blank + 1, std::string(indent + 4, ' '));
  }
  return result + line + "\n";
}

struct Root {
  std::string label;  // what stands before the expression: "score = "
  ValueId id;
  ValueId target = kNoValue;  // a read that the expression is added to: "each row: sinks[h] += "
};

// Roots and what they share, as lines.
class Listing {
 public:
  // With rates, a value that is slower than a user of it gets a line of its own too.
  Listing(const Ir& ir, std::vector<Root> roots, const std::vector<Rate>* rates = nullptr)
      : ir_(ir),
        roots_(std::move(roots)),
        rates_(rates),
        uses_(ir.graph.size(), 0),
        is_named_(ir.graph.size(), false),
        texts_(ir.graph.size()) {
    std::erase_if(roots_, [](const Root& root) { return root.id == kNoValue; });
    find_order();
  }

  std::string lines(size_t indent) {
    std::vector<ValueId> named;
    for (const std::vector<ValueId>& order : orders_) append_named(order, named);
    number(named);
    std::string result;
    for (size_t i = 0; i < roots_.size(); ++i) {
      for (ValueId id : orders_[i]) result += render(id, indent);
      result += root_line(roots_[i], indent);
    }
    return result;
  }

  // A paragraph for each rate that occurs.
  std::string lines_by_rate(size_t indent) {
    std::vector<ValueId> all, named;
    for (const std::vector<ValueId>& order : orders_) append_named(order, all);
    for (Rate rate : kRates) {
      for (ValueId id : all) {
        if ((*rates_)[id] == rate) named.push_back(id);
      }
    }
    number(named);
    std::array<std::string, kRates.size()> groups;
    for (size_t i = 0; i < roots_.size(); ++i) {
      for (ValueId id : orders_[i]) groups[group(id)] += render(id, indent + 2);
      groups[group(roots_[i].id)] += root_line(roots_[i], indent + 2);
    }
    std::string result;
    for (Rate rate : kRates) {
      const std::string& lines = groups[static_cast<size_t>(rate)];
      if (!lines.empty()) result += fmt::format("{:{}}{}\n{}", "", indent, rate_name(rate), lines);
    }
    return result;
  }

 private:
  // What each root needs beyond the roots before it, operands first.
  void find_order() {
    std::vector<bool> is_seen(ir_.graph.size(), false);
    for (const Root& root : roots_) {
      std::vector<ValueId>& order = orders_.emplace_back();
      if (root.target != kNoValue) {
        for (ValueId index : ir_.graph[root.target].operands) append_order(index, is_seen, order);
      }
      append_order(root.id, is_seen, order);
    }
    choose_named();
  }

  // Values that have several uses or would make a line too long, leaves aside.
  void choose_named() {
    std::vector<size_t> lengths(ir_.graph.size(), 0);  // about; in characters
    for (const std::vector<ValueId>& order : orders_) {
      for (ValueId id : order) {
        for (ValueId operand : ir_.graph[id].operands) lengths[id] += is_named_[operand] ? 0 : lengths[operand];
        lengths[id] += 8;
        is_named_[id] = !is_leaf(ir_.graph[id]) && (is_named_[id] || uses_[id] > 1 || lengths[id] > kMaxLength);
      }
    }
  }

  // Depth first, without recursion: lets can make chains of any length.
  void append_order(ValueId root, std::vector<bool>& is_seen, std::vector<ValueId>& order) {
    std::vector<std::pair<ValueId, size_t>> path;  // a value and which operand is next
    const auto enter = [&](ValueId id) {
      ++uses_[id];
      if (!is_seen[id]) path.emplace_back(id, 0);
      is_seen[id] = true;
    };
    enter(root);
    while (!path.empty()) {
      const auto [id, next] = path.back();
      const std::vector<ValueId>& operands = ir_.graph[id].operands;
      if (next == operands.size()) {
        order.push_back(id);
        path.pop_back();
        continue;
      }
      ++path.back().second;
      if (rates_ && (*rates_)[operands[next]] != (*rates_)[id]) is_named_[operands[next]] = true;
      enter(operands[next]);
    }
  }

  void append_named(const std::vector<ValueId>& order, std::vector<ValueId>& named) const {
    for (ValueId id : order) {
      if (is_named_[id]) named.push_back(id);
    }
  }

  void number(const std::vector<ValueId>& named) {
    numbers_.assign(ir_.graph.size(), 0);
    for (size_t i = 0; i < named.size(); ++i) numbers_[named[i]] = i + 1;
  }

  size_t group(ValueId id) const { return static_cast<size_t>((*rates_)[id]); }

  Text expression(ValueId id) const {
    std::vector<Text> operands;
    for (ValueId operand : ir_.graph[id].operands) operands.push_back(texts_[operand]);
    return node_text(ir_, ir_.graph[id], operands);
  }

  std::string root_line(const Root& root, size_t indent) const {
    const std::string target = root.target == kNoValue ? "" : expression(root.target).text + " += ";
    return wrapped(root.label + target + texts_[root.id].text, indent);
  }

  // The line of a value that has one, else "".
  std::string render(ValueId id, size_t indent) {
    Text text = expression(id);
    if (!is_named_[id]) {
      texts_[id] = std::move(text);
      return "";
    }
    texts_[id] = {fmt::format("%{}", numbers_[id]), kAtom};
    return wrapped(fmt::format("%{} = {}", numbers_[id], text.text), indent);
  }

  const Ir& ir_;
  std::vector<Root> roots_;
  const std::vector<Rate>* rates_;
  std::vector<std::vector<ValueId>> orders_;  // by root
  std::vector<int> uses_;
  std::vector<bool> is_named_;
  std::vector<size_t> numbers_;
  std::vector<Text> texts_;
};

std::string param_text(const Ir& ir, const Param& param) {
  std::string text = fmt::format("param {}: {}{}{}", param.name, param.is_const ? "const " : "", param.is_grad ? "grad " : "",
                                 element_name(param.element));
  if (param.is_tensor) {
    std::string dims;
    for (ValueId dim : param.dims) dims += (dims.empty() ? "" : ", ") + print_expr(ir, dim);
    text += fmt::format("[{}]", dims);
  }
  if (param.default_value != kNoValue) text += fmt::format(" = {}", print_expr(ir, param.default_value));
  return wrapped(std::move(text), 0);
}

bool is_softmax(const Ir& ir) {
  return ir.weight_kind == WeightKind::kSoftmax;
}

std::vector<Root> forward_roots(const Lowered& lowered) {
  const Ir& ir = lowered.ir;
  if (!is_softmax(ir)) return {{"mask = ", ir.mask}, {"weight = ", ir.weight}};
  return {{"mask = ", ir.mask}, {"score2 = ", lowered.score2}, {"sink = ", ir.sink}, {"factor = ", ir.factor}};
}

std::vector<Root> backward_roots(const Lowered& lowered) {
  const Backward& backward = lowered.backward;
  std::vector<Root> roots = {{"weight = ", backward.weight}, {"dqk = ", backward.dqk}};
  for (const ParamGradient& gradient : backward.params) {
    roots.push_back({"each pair: ", gradient.per_element, gradient.read});
    roots.push_back({"each row: ", gradient.per_row, gradient.read});
  }
  return roots;
}

std::string_view kind_name(MaskBounds::Kind kind) {
  switch (kind) {
    case MaskBounds::Kind::kAll:
      return "all";
    case MaskBounds::Kind::kRange:
      return "range";
    case MaskBounds::Kind::kTileMap:
      return "tile map";
  }
  return "?";
}

}  // namespace

std::string print_expr(const Ir& ir, ValueId id) {
  std::vector<Text> texts(id + 1);
  const std::vector<bool> needed = reachable(ir.graph, std::span(&id, 1));
  for (ValueId i = 0; i <= id; ++i) {
    if (!needed[i]) continue;
    std::vector<Text> operands;
    for (ValueId operand : ir.graph[i].operands) operands.push_back(texts[operand]);
    texts[i] = node_text(ir, ir.graph[i], operands);
  }
  return texts[id].text;
}

std::string print_roots(const Ir& ir, std::span<const std::pair<std::string, ValueId>> roots) {
  std::vector<Root> labelled;
  for (const auto& [name, id] : roots) labelled.push_back({name + " = ", id});
  return Listing(ir, std::move(labelled)).lines(0);
}

std::string print_ir(const Ir& ir) {
  std::string text = fmt::format("attention {}\n", ir.name);
  for (const Param& param : ir.params) text += param_text(ir, param);
  if (!is_softmax(ir)) return text + Listing(ir, {{"score = ", ir.score}, {"mask = ", ir.mask}, {"weights = ", ir.weight}}).lines(0);
  text += Listing(ir, {{"score = ", ir.score}, {"mask = ", ir.mask}, {"sink = ", ir.sink}, {"factor = ", ir.factor}}).lines(0);
  return text + fmt::format("weights = softmax(score{}){}\n", ir.sink == kNoValue ? "" : ", sink = sink",
                            ir.factor == kNoValue ? "" : " * factor");
}

std::string print_backward(const Lowered& lowered) {
  return Listing(lowered.ir, backward_roots(lowered)).lines(0) +
         fmt::format("uses delta: {}\n", lowered.backward.uses_delta ? "yes" : "no");
}

std::string print_rates(const Lowered& lowered) {
  return "forward\n" + Listing(lowered.ir, forward_roots(lowered), &lowered.rates).lines_by_rate(2) + "backward\n" +
         Listing(lowered.ir, backward_roots(lowered), &lowered.rates).lines_by_rate(2);
}

std::string print_bounds(const Lowered& lowered) {
  const MaskBounds& bounds = lowered.bounds;
  std::vector<Root> roots = {{"may keep = ", bounds.may_keep}, {"all kept = ", bounds.all_kept}};
  const auto add_range = [&roots](const std::string& name, const IndexRange& range) {
    roots.push_back({name + " begin = ", range.begin});
    roots.push_back({name + " end = ", range.end});
  };
  add_range("kept keys", bounds.kept_keys);
  add_range("full keys", bounds.full_keys);
  add_range("kept queries", bounds.kept_queries);
  add_range("full queries", bounds.full_queries);
  return fmt::format("kind: {}\n", kind_name(bounds.kind)) + Listing(lowered.ir, std::move(roots)).lines(0);
}

}  // namespace attune::codegen
