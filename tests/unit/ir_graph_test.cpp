#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "codegen/eval/defaults.h"
#include "codegen/eval/interpreter.h"
#include "codegen/expr_builder.h"
#include "codegen/ir.h"

namespace attune::codegen {
namespace {

// The message of the std::logic_error that `action` throws.
template <typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Graph, EqualNodesAreOne) {
  Graph graph;
  const ValueId qk = graph.symbol(Symbol::kQk);
  const ValueId two = graph.constant(Type::kF32, 2);
  const ValueId product = graph.op(Op::k_mul, {qk, two});
  EXPECT_EQ(graph.size(), 3u);
  EXPECT_EQ(graph.symbol(Symbol::kQk), qk);
  EXPECT_EQ(graph.constant(Type::kF32, 2), two);
  EXPECT_EQ(graph.op(Op::k_mul, {qk, two}), product);
  EXPECT_EQ(graph.size(), 3u);
}

TEST(Graph, DifferentNodesAreNot) {
  Graph graph;
  const ValueId qk = graph.symbol(Symbol::kQk);
  const ValueId two = graph.constant(Type::kF32, 2);
  EXPECT_NE(graph.constant(Type::kI32, 2), two);
  EXPECT_NE(graph.constant(Type::kF32, 3), two);
  EXPECT_NE(graph.op(Op::k_mul, {qk, two}), graph.op(Op::k_mul, {two, qk}));
  EXPECT_NE(graph.op(Op::k_mul, {qk, two}), graph.op(Op::k_add, {qk, two}));
  EXPECT_NE(graph.param(Type::kF32, 0), graph.param(Type::kF32, 1));
  const ValueId h = graph.symbol(Symbol::kH), b = graph.symbol(Symbol::kB);
  EXPECT_NE(graph.read(Type::kF32, 0, {h}), graph.read(Type::kF32, 1, {h}));
  EXPECT_NE(graph.read(Type::kF32, 0, {h}), graph.read(Type::kF32, 0, {b}));
  EXPECT_NE(graph.read(Type::kF32, 0, {}), graph.param(Type::kF32, 0));
}

TEST(Graph, ZerosOfDifferentSignDiffer) {
  Graph graph;
  const ValueId positive = graph.constant(Type::kF32, 0.0);
  const ValueId negative = graph.constant(Type::kF32, -0.0);
  EXPECT_NE(positive, negative);
  EXPECT_EQ(graph.constant(Type::kF32, -0.0), negative);
  EXPECT_TRUE(std::signbit(graph[negative].number));
  EXPECT_FALSE(std::signbit(graph[positive].number));
}

TEST(Graph, ConstantsAreRoundedToF32) {
  Graph graph;
  EXPECT_EQ(graph[graph.constant(Type::kF32, 0.1)].number, static_cast<double>(0.1f));
  EXPECT_EQ(graph[graph.constant(Type::kF64, 0.1)].number, 0.1);
  EXPECT_EQ(graph[graph.constant(Type::kF32, 1e300)].number, INFINITY);
  EXPECT_EQ(graph[graph.constant(Type::kF32, -1e300)].number, -INFINITY);
  EXPECT_EQ(graph[graph.constant(Type::kF32, -INFINITY)].number, -INFINITY);
  EXPECT_EQ(graph.constant(Type::kF32, 0.1), graph.constant(Type::kF32, static_cast<double>(0.1f)));
}

TEST(Graph, ManyNodesKeepTheirIds) {
  Graph graph;
  std::vector<ValueId> ids;
  for (int i = 0; i < 5000; ++i) ids.push_back(graph.constant(Type::kI32, i));
  for (int i = 0; i < 5000; ++i) EXPECT_EQ(graph.constant(Type::kI32, i), ids[i]);
  EXPECT_EQ(graph.size(), 5000u);
}

TEST(Graph, RefusesWhatIsNoNode) {
  Graph graph;
  const ValueId qk = graph.symbol(Symbol::kQk);
  const ValueId h = graph.symbol(Symbol::kH);
  EXPECT_EQ(message_of([&] { graph.constant(Type::kF32, std::numeric_limits<double>::quiet_NaN()); }), "a NaN constant");
  EXPECT_EQ(message_of([&] { graph.op(Op::k_add, {qk, h}); }), "add does not take (f32, i32)");
  EXPECT_EQ(message_of([&] { graph.op(Op::k_add, {qk}); }), "add does not take (f32)");
  EXPECT_EQ(message_of([&] { graph.op(Op::k_symbol, {}); }), "symbol does not take ()");
  EXPECT_EQ(message_of([&] { graph.read(Type::kF32, 0, {7}); }), "operand %7 of a read does not exist");
}

TEST(Graph, NamesOfTypesAndSymbols) {
  EXPECT_EQ(type_name(Type::kBool), "bool");
  EXPECT_EQ(type_name(Type::kF64), "f64");
  EXPECT_EQ(symbol_name(Symbol::kB), "b");
  EXPECT_EQ(symbol_name(Symbol::kKvHeads), "kv_heads");
  EXPECT_EQ(symbol_name(Symbol::kVDim), "v_dim");
  EXPECT_EQ(symbol_name(Symbol::kQk), "qk");
  EXPECT_EQ(symbol_name(Symbol::kDelta), "delta");
  EXPECT_EQ(symbol_name(Symbol::kLastK), "last_k");
  EXPECT_EQ(symbol_type(Symbol::kKIdx), Type::kI32);
  EXPECT_EQ(symbol_type(Symbol::kLse2), Type::kF32);
  EXPECT_EQ(symbol_type(Symbol::kFirstQ), Type::kI32);
  EXPECT_EQ(rate_name(Rate::kColumn), "column");
}

TEST(Ex, StructuralZerosVanish) {
  Graph graph;
  const Ex x = symbol(graph, Symbol::kQk);
  const Ex zero;
  EXPECT_EQ((x + zero).id, x.id);
  EXPECT_EQ((zero + x).id, x.id);
  EXPECT_EQ((x - zero).id, x.id);
  EXPECT_EQ((zero - x).id, (-x).id);
  EXPECT_TRUE((x * zero).is_zero());
  EXPECT_TRUE((zero * 3.0).is_zero());
  EXPECT_TRUE((zero / x).is_zero());
  EXPECT_TRUE((-zero).is_zero());
  EXPECT_TRUE(where(x > 0, zero, zero).is_zero());
  EXPECT_EQ(where(x > 0, x, zero).id, where(x > 0, x, constant(graph, Type::kF32, 0)).id);
  EXPECT_EQ(message_of([&] { (void)(x / zero); }), "division by a structural zero");
  EXPECT_EQ(message_of([&] { (void)(zero + 1.0); }), "a number beside a structural zero has no type");
}

TEST(Interpreter, EvaluatesOnlyWhatTheRootsNeed) {
  Graph graph;
  const ValueId h = graph.symbol(Symbol::kH);  // has no value below
  const ValueId three = graph.constant(Type::kI32, 3);
  const ValueId sum = graph.op(Op::k_add, {h, three});
  const ValueId nine = graph.op(Op::k_mul, {three, three});
  EXPECT_EQ(constant_value(graph, nine), 9);
  EXPECT_EQ(constant_value(graph, sum), std::nullopt);
  const std::vector<bool> needed = reachable(graph, std::vector{nine});
  EXPECT_EQ(needed, (std::vector<bool>{false, true, false, true}));
  EXPECT_EQ(message_of([&] { Interpreter(graph, {sum})(Env()); }), "no value for 'h'");
}

TEST(Interpreter, RoundsToF32WhenAsked) {
  Graph graph;
  const ValueId tenth = graph.constant(Type::kF32, 0.1);
  const ValueId product = graph.op(Op::k_mul, {tenth, tenth});
  const double exact = static_cast<double>(0.1f) * static_cast<double>(0.1f);
  EXPECT_EQ(Interpreter(graph, {product})(Env())[0], exact);
  EXPECT_EQ(Interpreter(graph, {product}, Precision::kF32)(Env())[0], static_cast<double>(static_cast<float>(exact)));
}

TEST(Defaults, SizesByName) {
  const Sizes sizes = {2, 4, 3, 5, 6, 7, 8};
  EXPECT_EQ(size_of(sizes, Symbol::kBatch), 2);
  EXPECT_EQ(size_of(sizes, Symbol::kHeads), 4);
  EXPECT_EQ(size_of(sizes, Symbol::kKvHeads), 3);
  EXPECT_EQ(size_of(sizes, Symbol::kQLen), 5);
  EXPECT_EQ(size_of(sizes, Symbol::kKLen), 6);
  EXPECT_EQ(size_of(sizes, Symbol::kHeadDim), 7);
  EXPECT_EQ(size_of(sizes, Symbol::kVDim), 8);
  EXPECT_EQ(message_of([&] { size_of(sizes, Symbol::kQk); }), "'qk' is not a size");
}

}  // namespace
}  // namespace attune::codegen
