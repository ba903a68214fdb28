#include "codegen/expr_typer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "codegen/eval/interpreter.h"
#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

using dsl::Expr;
using dsl::ExprId;
using dsl::ExprKind;
using dsl::SourceRange;

constexpr std::array<std::string_view, kTrackedCount> kTrackedNames = {"qk", "score", "k_idx"};
constexpr std::array<std::string_view, 19> kKeywords = {"attention", "let", "score", "mask",  "weights", "const", "grad",
                                                        "f32",       "f16", "bf16",  "i32",   "u8",      "bool",  "and",
                                                        "or",        "not", "true",  "false", "inf"};
// The language's symbols that are not one Symbol.
constexpr std::array<std::string_view, 2> kPositions = {"q_pos", "k_pos"};
constexpr auto kFirstSize = Symbol::kBatch;
constexpr auto kLastUserSymbol = Symbol::kQk;

std::string_view place_name(Place place) {
  switch (place) {
    case Place::kLet:
      return "a let";
    case Place::kScore:
      return "score";
    case Place::kMask:
      return "mask";
    case Place::kWeights:
      return "weights";
    case Place::kSink:
      return "sink";
    case Place::kDim:
      return "a dim";
    case Place::kDefault:
      return "a default";
    case Place::kConstDefault:
      return "the default of a const parameter";
  }
  return "?";
}

bool is_signature(Place place) {
  return place == Place::kDim || place == Place::kDefault || place == Place::kConstDefault;
}

bool forbids(Place place, Tracked tracked) {
  switch (place) {
    case Place::kMask:
      return tracked == Tracked::kQk || tracked == Tracked::kScore;
    case Place::kWeights:
      return tracked == Tracked::kQk;
    case Place::kSink:
      return true;
    default:
      return false;
  }
}

std::optional<Symbol> find_symbol(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(kLastUserSymbol); ++i) {
    if (symbol_name(static_cast<Symbol>(i)) == name) return static_cast<Symbol>(i);
  }
  return std::nullopt;
}

bool is_size(Symbol symbol) {
  return symbol >= kFirstSize && symbol <= Symbol::kVDim;
}

std::vector<std::string> all_functions() {
  std::vector<std::string> names = function_names();
  names.emplace_back("softmax");
  return names;
}

bool is_function(std::string_view name) {
  return name == "softmax" || find_function(name).has_value();
}

// Nothing behind the errors that are printed: a hostile file may have thousands of unknown names, and of known ones.
std::string did_you_mean(const dsl::Diagnostics& diagnostics, std::string_view name, const std::vector<std::string>& candidates) {
  if (diagnostics.errors().size() >= dsl::Diagnostics::kMaxPrinted) return "";
  const std::string nearest = dsl::nearest_name(name, candidates);
  return nearest.empty() ? "" : fmt::format("did you mean '{}'?", nearest);
}

std::string conversion_note(bool expects_bool, bool expects_number, Type found) {
  if (expects_bool) return "compare it, for example with != 0";
  if (found == Type::kBool && expects_number) return "use f32(...) or i32(...) to convert";
  return found == Type::kF32 ? "use i32(...) to convert" : "";
}

// How operands fit an operator: as they are, or with i32 converted to f32.
struct Typing {
  bool to_f32;
};

std::optional<Typing> typing(const OpInfo& row, std::vector<Type> types) {
  const auto as_f32 = [&types] {
    std::vector<Type> converted = types;
    std::replace(converted.begin(), converted.end(), Type::kI32, Type::kF32);
    return converted;
  };
  const bool is_mixed = std::find(types.begin(), types.end(), Type::kF32) != types.end();
  if (!is_mixed && row.type(types)) return Typing{false};
  if (row.type(as_f32())) return Typing{true};
  return std::nullopt;
}

std::string joined(const std::vector<Type>& types, std::string_view separator) {
  std::string text;
  for (Type type : types) text += fmt::format("{}{}", text.empty() ? "" : separator, type_name(type));
  return text;
}

// "name -> path"; the middle of a long path is left out, so that a chain of lets costs no more than its text.
std::string path_by(const std::string& name, const std::string& path) {
  constexpr size_t kMaxPath = 200;
  if (path == name) return name;
  if (path.size() <= kMaxPath) return fmt::format("{} -> {}", name, path);
  return fmt::format("{} -> ...{}", name, path.substr(path.rfind(" -> ")));
}

constexpr std::array<Type, 3> kUserTypes = {Type::kBool, Type::kI32, Type::kF32};

std::string plural(size_t count, std::string_view noun) {
  if (count == 1) return fmt::format("1 {}", noun);
  return noun == "index" ? fmt::format("{} indices", count) : fmt::format("{} {}s", count, noun);
}

}  // namespace

ExprTyper::ExprTyper(const dsl::Program& program, dsl::Diagnostics& diagnostics, const BuildOptions& options, Ir& ir)
    : program_(program), diagnostics_(diagnostics), options_(options), ir_(ir) {}

bool ExprTyper::is_symbol(std::string_view name) {
  return find_symbol(name) || std::find(kPositions.begin(), kPositions.end(), name) != kPositions.end();
}

bool ExprTyper::is_keyword(std::string_view name) {
  return std::find(kKeywords.begin(), kKeywords.end(), name) != kKeywords.end();
}

ValueId ExprTyper::error(SourceRange range, std::string message, std::string note) {
  diagnostics_.error(range, std::move(message), std::move(note));
  return kNoValue;
}

Uses ExprTyper::take_uses() {
  return std::exchange(uses_, Uses{});
}

void ExprTyper::declare_param(int index, ValueId scalar_value) {
  const Param& param = ir_.params[index];
  names_[param.name] = {param.is_tensor ? Binding::Kind::kTensor : Binding::Kind::kScalar, index, scalar_value, {}};
}

void ExprTyper::declare_value(const std::string& name, ValueId value, Uses uses) {
  names_[name] = {Binding::Kind::kValue, -1, value, std::move(uses)};
}

ValueId ExprTyper::value(ExprId expr, Place place) {
  const Expr& e = program_.expr(expr);
  switch (e.kind) {
    case ExprKind::kName:
      return name(e, place);
    case ExprKind::kUnary:
      return unary(e, place);
    case ExprKind::kBinary:
      return e.text == "**" ? power(e, place) : binary(e, place);
    case ExprKind::kCall:
      return call(e, place);
    case ExprKind::kIndex:
      return index(e, place);
    default:
      return literal(e);
  }
}

ValueId ExprTyper::converted(ValueId value, SourceRange range, Type expected) {
  if (value == kNoValue) return kNoValue;
  const Type found = ir_.graph[value].type;
  if (found == expected) return value;
  if (found == Type::kI32 && expected == Type::kF32) return ir_.graph.op(Op::k_to_f32, {value});
  return error(range, fmt::format("expected {}, found {}", type_name(expected), type_name(found)),
               conversion_note(expected == Type::kBool, expected != Type::kBool, found));
}

ValueId ExprTyper::value_as(ExprId expr, Place place, Type expected) {
  return converted(value(expr, place), program_.expr(expr).range, expected);
}

ValueId ExprTyper::literal(const Expr& e) {
  switch (e.kind) {
    case ExprKind::kInteger:
      return ir_.graph.constant(Type::kI32, e.integer);
    case ExprKind::kDecimal:
      return ir_.graph.constant(Type::kF32, e.decimal);
    case ExprKind::kBool:
      return ir_.graph.constant(Type::kBool, e.integer);
    default:
      return ir_.graph.constant(Type::kF32, INFINITY);
  }
}

ValueId ExprTyper::size(Symbol symbol) {
  if (symbol == Symbol::kHeadDim && options_.head_dim) return ir_.graph.constant(Type::kI32, *options_.head_dim);
  if (symbol == Symbol::kVDim && options_.v_dim) return ir_.graph.constant(Type::kI32, *options_.v_dim);
  return ir_.graph.symbol(symbol);
}

bool ExprTyper::use(const Expr& e, Place place, Tracked tracked, const std::string& path) {
  const auto i = static_cast<size_t>(tracked);
  if (uses_[i].empty()) uses_[i] = path;
  if (!forbids(place, tracked)) return true;
  error(e.name_range, fmt::format("{} may not depend on '{}'", place_name(place), kTrackedNames[i]),
        path == kTrackedNames[i] ? "" : fmt::format("it does by {}", path));
  return false;
}

bool ExprTyper::use_all(const Expr& e, Place place, const std::string& name, const Uses& uses) {
  bool is_allowed = true;
  for (size_t i = 0; i < kTrackedCount && is_allowed; ++i) {
    if (!uses[i].empty()) {
      is_allowed = use(e, place, static_cast<Tracked>(i), path_by(name, uses[i]));
    }
  }
  return is_allowed;
}

ValueId ExprTyper::symbol(const Expr& e, Place place) {
  Graph& graph = ir_.graph;
  const std::optional<Symbol> symbol = find_symbol(e.text);
  if (is_signature(place)) {
    if (!symbol || !is_size(*symbol)) {
      return error(e.name_range, fmt::format("{} may use sizes, not '{}'", place_name(place), e.text));
    }
    if (place == Place::kConstDefault) {
      const bool is_given = (symbol == Symbol::kHeadDim && options_.head_dim) || (symbol == Symbol::kVDim && options_.v_dim);
      if (!is_given)
        return error(e.name_range,
                     fmt::format("{} needs '{}', which is not known when the program is compiled", place_name(place), e.text));
    }
  }
  if (symbol == Symbol::kQk && !use(e, place, Tracked::kQk, "qk")) return kNoValue;
  if (symbol == Symbol::kKIdx && !use(e, place, Tracked::kKIdx, "k_idx")) return kNoValue;
  if (symbol) return is_size(*symbol) ? size(*symbol) : graph.symbol(*symbol);
  if (e.text == "k_pos") return use(e, place, Tracked::kKIdx, "k_pos") ? graph.symbol(Symbol::kKIdx) : kNoValue;
  const ValueId end = graph.op(Op::k_add, {graph.symbol(Symbol::kQIdx), graph.symbol(Symbol::kKLen)});
  return graph.op(Op::k_sub, {end, graph.symbol(Symbol::kQLen)});
}

std::vector<std::string> ExprTyper::visible_names(Place place) const {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(kLastUserSymbol); ++i) {
    if (!is_signature(place) || is_size(static_cast<Symbol>(i))) names.emplace_back(symbol_name(static_cast<Symbol>(i)));
  }
  if (!is_signature(place)) names.insert(names.end(), kPositions.begin(), kPositions.end());
  for (const auto& [name, binding] : names_) names.push_back(name);
  return names;
}

ValueId ExprTyper::unknown_name(const Expr& e, Place place) {
  if (later_.contains(e.text)) return error(e.name_range, fmt::format("'{}' is used before the end of its statement", e.text));
  if (e.text == "score") return error(e.name_range, "'score' has no statement before this one");
  if (is_function(e.text))
    return error(e.name_range, fmt::format("'{}' is a function: expected a call", e.text), fmt::format("{}(...)", e.text));
  if (is_keyword(e.text)) return error(e.name_range, fmt::format("expected a value, found '{}'", e.text));
  return error(e.name_range, fmt::format("unknown name '{}'", e.text), did_you_mean(diagnostics_, e.text, visible_names(place)));
}

ValueId ExprTyper::name(const Expr& e, Place place) {
  if (is_symbol(e.text)) return symbol(e, place);
  const auto found = names_.find(e.text);
  if (found == names_.end()) return unknown_name(e, place);
  const auto& [name, binding] = *found;
  if (binding.kind == Binding::Kind::kTensor) {
    const size_t rank = ir_.params[binding.param].dims.size();
    return error(e.name_range, fmt::format("'{}' is a tensor: expected {}", name, plural(rank, "index")), fmt::format("{}[...]", name));
  }
  if (is_signature(place) && binding.kind == Binding::Kind::kScalar && !ir_.params[binding.param].is_const) {
    return error(e.name_range, fmt::format("{} may use sizes and const parameters; '{}' is a run-time parameter", place_name(place), name));
  }
  if (!use_all(e, place, name, binding.uses)) return kNoValue;
  return binding.value;
}

bool ExprTyper::values_of(const Expr& e, Place place, std::vector<ValueId>& values, std::vector<SourceRange>& ranges) {
  bool ok = true;
  for (ExprId arg : e.args) {
    values.push_back(value(arg, place));
    ranges.push_back(program_.expr(arg).range);
    ok = ok && values.back() != kNoValue;
  }
  return ok;
}

ValueId ExprTyper::op(Op op, std::string_view spelling, std::vector<ValueId> operands, const std::vector<SourceRange>& ranges,
                      SourceRange whole) {
  const OpInfo& row = info(op);
  std::vector<Type> types;
  for (ValueId operand : operands) types.push_back(ir_.graph[operand].type);
  if (const auto result = typing(row, types)) {
    for (ValueId& operand : operands) {
      if (result->to_f32 && ir_.graph[operand].type == Type::kI32) operand = ir_.graph.op(Op::k_to_f32, {operand});
    }
    return ir_.graph.op(op, std::move(operands));
  }
  // The operand to blame: the last one by whose type alone the others would fit.
  for (size_t i = types.size(); i-- > 0;) {
    std::vector<Type> expected;
    for (Type type : kUserTypes) {
      std::vector<Type> changed = types;
      changed[i] = type;
      if (typing(row, changed)) expected.push_back(type);
    }
    if (expected.empty()) continue;
    const bool expects_bool = expected.size() == 1 && expected[0] == Type::kBool;
    const bool expects_number = std::find(expected.begin(), expected.end(), Type::kF32) != expected.end();
    const std::string where = types.size() == 1 || row.spelled != Spelled::kCall ? fmt::format("operand of '{}'", spelling)
                                                                                 : fmt::format("argument {} of '{}'", i + 1, spelling);
    return error(ranges[i], fmt::format("{}: expected {}, found {}", where, joined(expected, " or "), type_name(types[i])),
                 conversion_note(expects_bool, expects_number, types[i]));
  }
  std::vector<Type> expected;
  for (Type type : kUserTypes) {
    if (typing(row, std::vector<Type>(types.size(), type))) expected.push_back(type);
  }
  return error(whole, fmt::format("operands of '{}': expected {}, found {}", spelling, joined(expected, " or "), joined(types, " and ")));
}

ValueId ExprTyper::unary(const Expr& e, Place place) {
  std::vector<ValueId> values;
  std::vector<SourceRange> ranges;
  if (!values_of(e, place, values, ranges)) return kNoValue;
  return op(*find_operator(e.text, 1), e.text, std::move(values), ranges, e.range);
}

ValueId ExprTyper::binary(const Expr& e, Place place) {
  std::vector<ValueId> values;
  std::vector<SourceRange> ranges;
  if (!values_of(e, place, values, ranges)) return kNoValue;
  return op(*find_operator(e.text, 2), e.text, std::move(values), ranges, e.range);
}

ValueId ExprTyper::power(const Expr& e, Place place) {
  std::vector<ValueId> values;
  std::vector<SourceRange> ranges;
  if (!values_of(e, place, values, ranges)) return kNoValue;
  const Type type = ir_.graph[values[1]].type;
  const std::optional<double> exponent = constant_value(ir_.graph, values[1]);
  if (!exponent)
    return error(ranges[1], "the exponent of '**' must be a constant", "for a positive base, exp2(exponent * log2(base)) is the same");
  if (std::isnan(*exponent)) return error(ranges[1], "the exponent of '**' is not a number");
  const bool is_integer = ir_.graph[values[0]].type == Type::kI32 && type == Type::kI32 && *exponent >= 0;
  if (type != Type::kBool) values[1] = ir_.graph.constant(is_integer ? Type::kI32 : Type::kF32, *exponent);
  return op(is_integer ? Op::k_ipow : Op::k_pow, e.text, std::move(values), ranges, e.range);
}

void ExprTyper::unknown_function(const Expr& e) {
  if (const auto found = names_.find(e.text); found != names_.end() || is_symbol(e.text)) {
    std::string_view kind = "a value";
    if (found != names_.end() && found->second.kind == Binding::Kind::kTensor) kind = "a tensor, read by [...]";
    error(e.name_range, fmt::format("'{}' is {}, not a function", e.text, kind));
    return;
  }
  error(e.name_range, fmt::format("unknown function '{}'", e.text), did_you_mean(diagnostics_, e.text, all_functions()));
}

ValueId ExprTyper::call(const Expr& e, Place place) {
  const bool is_softmax = e.text == "softmax";
  if (is_softmax) {
    return error(e.range, "softmax may stand only as the first factor of 'weights'", "weights = softmax(score) * EXPR");
  }
  std::vector<ValueId> values;
  std::vector<SourceRange> ranges;
  const std::optional<Op> function = find_function(e.text);
  if (!function) unknown_function(e);
  const bool ok = values_of(e, place, values, ranges);
  if (!function) return kNoValue;
  const size_t arity = *function == Op::k_random ? 1 : info(*function).arity;
  if (values.size() != arity) {
    return error(e.range, fmt::format("'{}' takes {}, found {}", e.text, plural(arity, "argument"), values.size()));
  }
  if (e.named_sink) return error(e.range, fmt::format("'{}' has no argument 'sink'", e.text));
  if (!ok) return kNoValue;
  if (*function == Op::k_random) {
    if (is_signature(place))
      return error(e.name_range, fmt::format("{} may not use 'random', which depends on the indices", place_name(place)));
    if (!use(e, place, Tracked::kKIdx, "random")) return kNoValue;
    const ValueId seed = values[0];
    if (ir_.graph[seed].type != Type::kI32) return converted(seed, ranges[0], Type::kI32);
    for (Symbol counter : {Symbol::kB, Symbol::kH, Symbol::kQIdx, Symbol::kKIdx}) values.push_back(ir_.graph.symbol(counter));
  }
  const bool is_conversion = *function == Op::k_to_f32 || *function == Op::k_to_i32;
  const Type target = *function == Op::k_to_f32 ? Type::kF32 : Type::kI32;
  if (is_conversion && ir_.graph[values[0]].type == target) return values[0];
  return op(*function, e.text, std::move(values), ranges, e.range);
}

ValueId ExprTyper::index(const Expr& e, Place place) {
  std::vector<ValueId> indices;
  std::vector<SourceRange> ranges;
  bool ok = values_of(e, place, indices, ranges);
  if (is_signature(place)) return error(e.name_range, fmt::format("{} may not read a tensor", place_name(place)));
  const auto found = names_.find(e.text);
  if (found == names_.end() || found->second.kind != Binding::Kind::kTensor) {
    if (found != names_.end() || is_symbol(e.text) || later_.contains(e.text)) {
      return error(e.name_range, fmt::format("'{}' is not a tensor and takes no index", e.text));
    }
    std::vector<std::string> tensors;
    for (const auto& [name, binding] : names_) {
      if (binding.kind == Binding::Kind::kTensor) tensors.push_back(name);
    }
    return error(e.name_range, fmt::format("unknown tensor '{}'", e.text), did_you_mean(diagnostics_, e.text, tensors));
  }
  const Param& param = ir_.params[found->second.param];
  if (indices.size() != param.dims.size()) {
    return error(e.range,
                 fmt::format("tensor '{}' has {}, found {}", e.text, plural(param.dims.size(), "dim"), plural(indices.size(), "index")));
  }
  for (size_t i = 0; i < indices.size(); ++i) {
    indices[i] = converted(indices[i], ranges[i], Type::kI32);
    ok = ok && indices[i] != kNoValue;
  }
  return ok ? ir_.graph.read(value_type(param.element), found->second.param, std::move(indices)) : kNoValue;
}

}  // namespace attune::codegen
