#include "codegen/verify.h"

#include <fmt/format.h>

#include <stdexcept>
#include <vector>

#include "codegen/eval/interpreter.h"
#include "codegen/op_table.h"

namespace attune::codegen {
namespace {

class Verifier {
 public:
  explicit Verifier(const Ir& ir) : ir_(ir) {}

  void root(std::string_view name, ValueId id, Type type, bool is_required) {
    if (id == kNoValue) {
      if (is_required) throw std::logic_error(fmt::format("{}: there is no {}", ir_.name, name));
      return;
    }
    if (id >= ir_.graph.size()) throw std::logic_error(fmt::format("{}: {} is %{}, which does not exist", ir_.name, name, id));
    if (ir_.graph[id].type != type) fail(id, fmt::format("{} must be {}", name, type_name(type)));
    roots_.push_back(id);
  }

  void more_roots(std::span<const ValueId> ids) {
    for (ValueId id : ids) root("a root", id, id < ir_.graph.size() ? ir_.graph[id].type : Type::kF32, true);
  }

  void check_nodes() const {
    const std::vector<bool> needed = reachable(ir_.graph, roots_);
    for (ValueId id = 0; id < ir_.graph.size(); ++id) {
      if (needed[id]) check_node(id);
    }
  }

 private:
  [[noreturn]] void fail(ValueId id, std::string_view problem) const {
    const Node& node = ir_.graph[id];
    throw std::logic_error(fmt::format("{}: %{} = {} of type {}: {}", ir_.name, id, info(node.op).name, type_name(node.type), problem));
  }

  void check_node(ValueId id) const {
    const Node& node = ir_.graph[id];
    for (ValueId operand : node.operands) {
      if (operand >= id) fail(id, fmt::format("the operand %{} does not come before it", operand));
    }
    switch (node.op) {
      case Op::k_constant:
        return check_constant(id);
      case Op::k_symbol:
        if (node.index < 0 || node.index >= static_cast<int>(Symbol::kCount)) fail(id, "no such symbol");
        if (node.type != symbol_type(static_cast<Symbol>(node.index))) fail(id, "not the type of the symbol");
        return;
      case Op::k_param:
      case Op::k_read:
        return check_param(id);
      default:
        return check_op(id);
    }
  }

  void check_constant(ValueId id) const {
    const Node& node = ir_.graph[id];
    const double x = node.number;
    const bool fits = node.type == Type::kBool  ? x == 0 || x == 1
                      : node.type == Type::kI32 ? x >= -2147483648.0 && x <= 2147483647.0 && x == static_cast<int32_t>(x)
                                                : true;
    if (!fits) fail(id, fmt::format("{} is not of the type", x));
  }

  void check_param(ValueId id) const {
    const Node& node = ir_.graph[id];
    if (node.index < 0 || node.index >= static_cast<int>(ir_.params.size())) fail(id, "no such parameter");
    const Param& param = ir_.params[node.index];
    if (param.is_const) fail(id, "const parameters are constants");
    if (param.is_tensor != (node.op == Op::k_read)) fail(id, "a scalar is a param, a tensor is read");
    if (node.type != value_type(param.element)) fail(id, fmt::format("not the type of '{}'", param.name));
    if (node.operands.size() != param.dims.size()) fail(id, fmt::format("'{}' has rank {}", param.name, param.dims.size()));
    for (ValueId index : node.operands) {
      if (ir_.graph[index].type != Type::kI32) fail(id, "an index must be i32");
    }
  }

  void check_op(ValueId id) const {
    const Node& node = ir_.graph[id];
    const OpInfo& row = info(node.op);
    std::vector<Type> types;
    for (ValueId operand : node.operands) types.push_back(ir_.graph[operand].type);
    if (static_cast<int>(types.size()) != row.arity) fail(id, fmt::format("it takes {} operands, not {}", row.arity, types.size()));
    if (row.type(types) != node.type) fail(id, "not the type of its operands' result");
    const bool has_exponent = node.op == Op::k_pow || node.op == Op::k_ipow;
    if (has_exponent && ir_.graph[node.operands[1]].op != Op::k_constant) fail(id, "the exponent is not a constant");
    if (node.op == Op::k_ipow && ir_.graph[node.operands[1]].number < 0) fail(id, "the exponent is negative");
  }

  const Ir& ir_;
  std::vector<ValueId> roots_;
};

}  // namespace

void verify(const Ir& ir, std::span<const ValueId> more_roots) {
  Verifier verifier(ir);
  const bool is_softmax = ir.weight_kind == WeightKind::kSoftmax;
  verifier.root("score", ir.score, Type::kF32, true);
  verifier.root("mask", ir.mask, Type::kBool, true);
  verifier.root("weight", ir.weight, Type::kF32, !is_softmax);
  verifier.root("sink", ir.sink, Type::kF32, false);
  verifier.root("factor", ir.factor, Type::kF32, false);
  for (const Param& param : ir.params) {
    for (ValueId dim : param.dims) verifier.root("a dim", dim, Type::kI32, true);
    if (!param.is_tensor) verifier.root("a default", param.default_value, value_type(param.element), false);
  }
  verifier.more_roots(more_roots);
  verifier.check_nodes();
}

}  // namespace attune::codegen
