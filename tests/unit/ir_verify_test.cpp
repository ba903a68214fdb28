#include <gtest/gtest.h>

#include "codegen/verify.h"

namespace attune::codegen {
namespace {

// softmax of score = qk; one tensor t: f32[heads] and one scalar s: f32.
Ir small_ir() {
  Ir ir;
  ir.name = "small";
  Param tensor;
  tensor.name = "t";
  tensor.is_tensor = true;
  tensor.dims = {ir.graph.symbol(Symbol::kHeads)};  // %0
  Param scalar;
  scalar.name = "s";
  ir.params = {tensor, scalar};
  ir.score = ir.graph.symbol(Symbol::kQk);      // %1
  ir.mask = ir.graph.constant(Type::kBool, 1);  // %2
  return ir;
}

std::string message_of(const Ir& ir, std::vector<ValueId> more_roots = {}) {
  try {
    verify(ir, more_roots);
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

// The message about `node`, which is added as one more root.
std::string message_about(Ir ir, const Node& node) {
  const ValueId id = ir.graph.add(node);
  return message_of(ir, {id});
}

Node node(Op op, Type type, std::vector<ValueId> operands = {}, double number = 0, int32_t index = 0) {
  Node result;
  result.op = op;
  result.type = type;
  result.operands = std::move(operands);
  result.number = number;
  result.index = index;
  return result;
}

TEST(Verify, AcceptsASoundIr) {
  EXPECT_EQ(message_of(small_ir()), "nothing was thrown");
}

TEST(Verify, RootsThatAreMissing) {
  Ir ir = small_ir();
  ir.score = kNoValue;
  EXPECT_EQ(message_of(ir), "small: there is no score");
  ir = small_ir();
  ir.mask = kNoValue;
  EXPECT_EQ(message_of(ir), "small: there is no mask");
  ir = small_ir();
  ir.weight_kind = WeightKind::kPointwise;
  EXPECT_EQ(message_of(ir), "small: there is no weight");
  ir = small_ir();
  EXPECT_EQ(message_of(ir, {kNoValue}), "small: there is no a root");
}

TEST(Verify, RootsThatDoNotExistOrHaveTheWrongType) {
  Ir ir = small_ir();
  ir.score = 99;
  EXPECT_EQ(message_of(ir), "small: score is %99, which does not exist");
  ir = small_ir();
  ir.score = ir.mask;
  EXPECT_EQ(message_of(ir), "small: %2 = constant of type bool: score must be f32");
  ir = small_ir();
  ir.mask = ir.score;
  EXPECT_EQ(message_of(ir), "small: %1 = symbol of type f32: mask must be bool");
  ir = small_ir();
  ir.sink = ir.mask;
  EXPECT_EQ(message_of(ir), "small: %2 = constant of type bool: sink must be f32");
  ir = small_ir();
  ir.factor = 0;
  EXPECT_EQ(message_of(ir), "small: %0 = symbol of type i32: factor must be f32");
  ir = small_ir();
  ir.params[0].dims = {ir.score};
  EXPECT_EQ(message_of(ir), "small: %1 = symbol of type f32: a dim must be i32");
  ir = small_ir();
  ir.params[0].dims = {kNoValue};
  EXPECT_EQ(message_of(ir), "small: there is no a dim");
  ir = small_ir();
  ir.params[1].default_value = 0;
  EXPECT_EQ(message_of(ir), "small: %0 = symbol of type i32: a default must be f32");
}

TEST(Verify, Constants) {
  EXPECT_EQ(message_about(small_ir(), node(Op::k_constant, Type::kBool, {}, 2)), "small: %3 = constant of type bool: 2 is not of the type");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_constant, Type::kI32, {}, 0.5)),
            "small: %3 = constant of type i32: 0.5 is not of the type");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_constant, Type::kI32, {}, 2147483648.0)),
            "small: %3 = constant of type i32: 2147483648 is not of the type");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_constant, Type::kI32, {}, -2147483648.0)), "nothing was thrown");
}

TEST(Verify, Symbols) {
  EXPECT_EQ(message_about(small_ir(), node(Op::k_symbol, Type::kI32, {}, 0, 99)), "small: %3 = symbol of type i32: no such symbol");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_symbol, Type::kI32, {}, 0, -1)), "small: %3 = symbol of type i32: no such symbol");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_symbol, Type::kF32, {}, 0, static_cast<int>(Symbol::kH))),
            "small: %3 = symbol of type f32: not the type of the symbol");
}

TEST(Verify, Parameters) {
  EXPECT_EQ(message_about(small_ir(), node(Op::k_param, Type::kF32, {}, 0, 2)), "small: %3 = param of type f32: no such parameter");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_param, Type::kF32, {}, 0, -1)), "small: %3 = param of type f32: no such parameter");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_param, Type::kF32, {}, 0, 0)),
            "small: %3 = param of type f32: a scalar is a param, a tensor is read");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_read, Type::kF32, {}, 0, 1)),
            "small: %3 = read of type f32: a scalar is a param, a tensor is read");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_param, Type::kI32, {}, 0, 1)), "small: %3 = param of type i32: not the type of 's'");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_read, Type::kI32, {0}, 0, 0)), "small: %3 = read of type i32: not the type of 't'");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_read, Type::kF32, {0, 0}, 0, 0)), "small: %3 = read of type f32: 't' has rank 1");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_read, Type::kF32, {1}, 0, 0)), "small: %3 = read of type f32: an index must be i32");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_read, Type::kF32, {0}, 0, 0)), "nothing was thrown");
  Ir ir = small_ir();
  ir.params[1].is_const = true;
  EXPECT_EQ(message_about(ir, node(Op::k_param, Type::kF32, {}, 0, 1)), "small: %3 = param of type f32: const parameters are constants");
}

TEST(Verify, Operators) {
  EXPECT_EQ(message_about(small_ir(), node(Op::k_add, Type::kF32, {1})), "small: %3 = add of type f32: it takes 2 operands, not 1");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_exp, Type::kF32, {1, 1})), "small: %3 = exp of type f32: it takes 1 operands, not 2");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_add, Type::kI32, {1, 1})),
            "small: %3 = add of type i32: not the type of its operands' result");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_add, Type::kF32, {0, 1})),
            "small: %3 = add of type f32: not the type of its operands' result");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_pow, Type::kF32, {1, 1})), "small: %3 = pow of type f32: the exponent is not a constant");
  EXPECT_EQ(message_about(small_ir(), node(Op::k_ipow, Type::kI32, {0, 0})),
            "small: %3 = ipow of type i32: the exponent is not a constant");
  Ir ir = small_ir();
  const ValueId negative = ir.graph.constant(Type::kI32, -1);
  EXPECT_EQ(message_about(ir, node(Op::k_ipow, Type::kI32, {0, negative})), "small: %4 = ipow of type i32: the exponent is negative");
}

TEST(Verify, NamesTheFirstBrokenNodeThatIsNeeded) {
  Ir ir = small_ir();
  ir.graph.add(node(Op::k_constant, Type::kBool, {}, 7));  // %3, which nothing needs
  EXPECT_EQ(message_of(ir), "nothing was thrown");
  const ValueId broken = ir.graph.add(node(Op::k_add, Type::kF32, {1}));
  const ValueId user = ir.graph.add(node(Op::k_neg, Type::kF32, {broken}));
  EXPECT_EQ(message_of(ir, {user}), "small: %4 = add of type f32: it takes 2 operands, not 1");
}

}  // namespace
}  // namespace attune::codegen
