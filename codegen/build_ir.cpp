#include "codegen/build_ir.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/expr_typer.h"
#include "codegen/verify.h"

namespace attune::codegen {
namespace {

using dsl::ElementType;
using dsl::Expr;
using dsl::ExprId;
using dsl::ExprKind;
using dsl::ParamDecl;
using dsl::Statement;
using dsl::StatementKind;

bool is_float(ElementType type) {
  return value_type(type) == Type::kF32;
}

bool is_scalar_type(ElementType type) {
  return type == ElementType::kF32 || type == ElementType::kI32 || type == ElementType::kBool;
}

// Whether a number of the host is a value of the type.
bool holds(Type type, double number) {
  switch (type) {
    case Type::kBool:
      return number == 0 || number == 1;
    case Type::kI32:
      return number >= -2147483648.0 && number <= 2147483647.0 && number == std::trunc(number);
    default:
      return !std::isnan(number);
  }
}

class Builder {
 public:
  Builder(const dsl::Program& program, dsl::Diagnostics& diagnostics, const BuildOptions& options)
      : program_(program), diagnostics_(diagnostics), options_(options), typer_(program, diagnostics, options, ir_) {}

  std::optional<Ir> build() {
    ir_.name = program_.name;
    for (const ParamDecl& decl : program_.params) param(decl);
    check_constants_are_params();
    for (const Statement& statement : program_.statements) {
      if (statement.kind == StatementKind::kLet || statement.kind == StatementKind::kScore) typer_.announce(statement.name);
    }
    for (const Statement& statement : program_.statements) this->statement(statement);
    for (StatementKind kind : {StatementKind::kScore, StatementKind::kWeights}) {
      if (!seen_[static_cast<int>(kind)]) {
        const std::string_view missing = kind == StatementKind::kScore ? "score" : "weights";
        diagnostics_.error(program_.name_range, fmt::format("attention '{}' has no '{} = ...'", program_.name, missing));
      }
    }
    if (!diagnostics_.ok()) return std::nullopt;
    if (ir_.mask == kNoValue) ir_.mask = ir_.graph.constant(Type::kBool, 1);
    verify(ir_);
    return std::move(ir_);
  }

 private:
  // True if the name may be given to a parameter or let.
  bool check_name(const std::string& name, dsl::SourceRange range) {
    std::string problem;
    if (ExprTyper::is_symbol(name)) problem = "is a symbol of the language";
    if (ExprTyper::is_keyword(name)) problem = "is a keyword of the language";
    if (typer_.is_declared(name)) problem = "is already defined";
    if (problem.empty()) return true;
    diagnostics_.error(range, fmt::format("'{}' {}: expected another name", name, problem));
    return false;
  }

  void param(const ParamDecl& decl) {
    const bool has_name = check_name(decl.name, decl.name_range);
    check_type(decl);
    Param param;
    param.name = decl.name;
    param.element = decl.type;
    param.is_tensor = decl.is_tensor;
    param.is_const = decl.is_const;
    param.is_grad = decl.is_grad;
    param.range = decl.name_range;
    for (ExprId dim : decl.dims) param.dims.push_back(typer_.value_as(dim, Place::kDim, Type::kI32));
    if (!decl.is_tensor && decl.is_const) {
      param.default_value = const_value(decl);
    } else if (!decl.is_tensor && decl.default_value) {
      param.default_value = typer_.value_as(*decl.default_value, Place::kDefault, value_type(decl.type));
    }
    const auto index = static_cast<int>(ir_.params.size());
    ValueId value = kNoValue;
    if (decl.is_const) value = param.default_value;
    if (!decl.is_const && !decl.is_tensor) value = ir_.graph.param(value_type(decl.type), index);
    ir_.params.push_back(std::move(param));
    if (has_name) typer_.declare_param(index, value);
  }

  void check_type(const ParamDecl& decl) {
    if (decl.is_const && decl.is_grad)
      diagnostics_.error(decl.type_range, "a const parameter has no gradient: expected const or grad, found both");
    if (decl.is_grad && !is_float(decl.type)) diagnostics_.error(decl.type_range, "only f32, f16 and bf16 parameters have a gradient");
    if (!decl.is_tensor && !is_scalar_type(decl.type)) diagnostics_.error(decl.type_range, "a scalar parameter is f32, i32 or bool");
    if (decl.is_tensor && decl.is_const) diagnostics_.error(decl.type_range, "a tensor parameter cannot be const");
    if (decl.is_tensor && decl.default_value) {
      diagnostics_.error(program_.expr(*decl.default_value).range, "a tensor parameter has no default");
    }
  }

  // The constant that a const parameter stands for: the caller's, else the default.
  ValueId const_value(const ParamDecl& decl) {
    const Type type = value_type(decl.type);
    if (const auto given = options_.constants.find(decl.name); given != options_.constants.end()) {
      if (holds(type, given->second)) return ir_.graph.constant(type, given->second);
      diagnostics_.error(decl.name_range,
                         fmt::format("const parameter '{}': expected a value of {}, found {}", decl.name, type_name(type), given->second));
      return kNoValue;
    }
    if (!decl.default_value) {
      diagnostics_.error(decl.name_range, fmt::format("const parameter '{}' has neither a value nor a default", decl.name));
      return kNoValue;
    }
    const ValueId value = typer_.value_as(*decl.default_value, Place::kConstDefault, type);
    if (value == kNoValue) return kNoValue;
    const double number = constant_value(ir_.graph, value).value();
    if (holds(type, number)) return ir_.graph.constant(type, number);
    diagnostics_.error(program_.expr(*decl.default_value).range, fmt::format("the default of '{}' is not a number", decl.name));
    return kNoValue;
  }

  void check_constants_are_params() {
    std::vector<std::string> names;
    for (const Param& param : ir_.params) {
      if (param.is_const) names.push_back(param.name);
    }
    for (const auto& [name, value] : options_.constants) {
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      const std::string nearest = dsl::nearest_name(name, names);
      diagnostics_.error(program_.name_range, fmt::format("'{}' is given a value, but is no const parameter of '{}'", name, program_.name),
                         nearest.empty() ? "" : fmt::format("did you mean '{}'?", nearest));
    }
  }

  void statement(const Statement& statement) {
    typer_.take_uses();
    if (statement.kind == StatementKind::kLet) {
      const bool has_name = check_name(statement.name, statement.name_range);
      const ValueId value = typer_.value(statement.value, Place::kLet);
      if (has_name) typer_.declare_value(statement.name, value, typer_.take_uses());
      return;
    }
    if (std::exchange(seen_[static_cast<int>(statement.kind)], true)) {
      diagnostics_.error(statement.name_range, fmt::format("'{}' is assigned twice", statement.name));
      return;
    }
    switch (statement.kind) {
      case StatementKind::kScore: {
        ir_.score = typer_.value_as(statement.value, Place::kScore, Type::kF32);
        Uses uses;  // what the score depends on is its own affair
        uses[static_cast<size_t>(Tracked::kScore)] = "score";
        typer_.declare_value("score", ir_.score, uses);
        return;
      }
      case StatementKind::kMask:
        ir_.mask = typer_.value_as(statement.value, Place::kMask, Type::kBool);
        return;
      default:
        weights(statement.value);
    }
  }

  // softmax(score [, sink = EXPR]) with factors to its right, or a pointwise expression.
  void weights(ExprId root) {
    std::vector<ExprId> factors;  // from the outermost product inward
    ExprId leftmost = root;
    while (is_product(program_.expr(leftmost))) {
      factors.push_back(leftmost);
      leftmost = program_.expr(leftmost).args[0];
    }
    const Expr& head = program_.expr(leftmost);
    if (head.kind != ExprKind::kCall || head.text != "softmax") {
      ir_.weight_kind = WeightKind::kPointwise;
      ir_.weight = typer_.value_as(root, Place::kWeights, Type::kF32);
      return;
    }
    ir_.weight_kind = WeightKind::kSoftmax;
    softmax(head);
    for (auto product = factors.rbegin(); product != factors.rend(); ++product) multiply_factor(program_.expr(*product));
  }

  static bool is_product(const Expr& e) { return e.kind == ExprKind::kBinary && (e.text == "*" || e.text == "/"); }

  void softmax(const Expr& e) {
    const bool has_sink = e.args.size() == 2 && e.named_sink;
    if (e.args.size() != 1 && !has_sink) {
      diagnostics_.error(e.range, fmt::format("expected softmax(score) or softmax(score, sink = EXPR), found {} arguments", e.args.size()));
      return;
    }
    const Expr& argument = program_.expr(e.args[0]);
    if (argument.kind != ExprKind::kName || argument.text != "score") {
      diagnostics_.error(argument.range, "softmax takes the name 'score': expected 'score'", "write the expression into 'score = ...'");
    } else {
      typer_.value(e.args[0], Place::kWeights);  // it must have its statement before
    }
    if (has_sink) ir_.sink = typer_.value_as(e.args[1], Place::kSink, Type::kF32);
  }

  void multiply_factor(const Expr& product) {
    const dsl::SourceRange range = program_.expr(product.args[1]).range;
    const ValueId right = typer_.value_as(product.args[1], Place::kWeights, Type::kF32);
    if (right == kNoValue) return;
    const bool divides = product.text == "/";
    if (ir_.factor == kNoValue && !divides) {
      ir_.factor = right;
      return;
    }
    const ValueId left = ir_.factor == kNoValue ? ir_.graph.constant(Type::kF32, 1) : ir_.factor;
    ir_.factor = typer_.op(divides ? Op::k_div : Op::k_mul, product.text, {left, right}, {range, range}, product.range);
  }

  const dsl::Program& program_;
  dsl::Diagnostics& diagnostics_;
  const BuildOptions& options_;
  Ir ir_;
  ExprTyper typer_;
  bool seen_[4] = {};  // by StatementKind
};

}  // namespace

std::optional<Ir> build_ir(const dsl::Program& program, dsl::Diagnostics& diagnostics, const BuildOptions& options) {
  return Builder(program, diagnostics, options).build();
}

}  // namespace attune::codegen
