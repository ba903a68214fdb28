#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "codegen/eval/interpreter.h"
#include "codegen/fold_bounds.h"

namespace attune::codegen {
namespace {

class FoldTest : public testing::Test {
 protected:
  Ex number(double value) { return constant(graph_, Type::kF64, value); }
  Ex truth(bool value) { return constant(graph_, Type::kBool, value); }
  Ex index(Symbol symbol) { return apply(Op::k_to_f64, {codegen::symbol(graph_, symbol)}); }
  Ex scalar() { return apply(Op::k_to_f64, {Ex{&graph_, graph_.param(Type::kI32, 0)}}); }
  Ex real() { return apply(Op::k_to_f64, {Ex{&graph_, graph_.param(Type::kF32, 1)}}); }
  Ex flag() { return {&graph_, graph_.param(Type::kBool, 2)}; }
  Ex nan() { return number(INFINITY) - number(INFINITY); }

  void folds_to(Ex x, Ex expected) { EXPECT_EQ(fold_(x).id, expected.id); }
  void stays(Ex x) { folds_to(x, x); }

  Graph graph_;
  BoundFolder fold_{graph_};
};

TEST_F(FoldTest, Constants) {
  folds_to(number(2) * number(3) + number(1), number(7));
  folds_to(apply(Op::k_to_f64, {constant(graph_, Type::kI32, 5)}), number(5));
  folds_to(apply(Op::k_f64_to_i32, {number(5.5)}), constant(graph_, Type::kI32, 5));
  folds_to(number(1) < number(2), truth(true));
}

TEST_F(FoldTest, Identities) {
  const Ex x = scalar();
  folds_to(x + 0.0, x);
  folds_to(x * 1.0, x);
  folds_to(x - x, number(0));
  folds_to(-(-x), x);
  folds_to(floor(x), x);
  folds_to(min(min(x, real()), real()), min(x, real()));
  stays(floor(real()));
  stays(real() - real());  // it may be NaN
  stays(floor(x * 0.5));
}

TEST_F(FoldTest, RangesOfIndicesDecide) {
  const Ex distance = index(Symbol::kQIdx) + index(Symbol::kKLen) - index(Symbol::kQLen) - index(Symbol::kKIdx);
  folds_to(distance >= -2147483648.0 && distance <= 2147483647.0, truth(true));
  folds_to(max(index(Symbol::kKLen), 0.0), index(Symbol::kKLen));
  folds_to(apply(Op::k_abs, {index(Symbol::kQIdx)}), index(Symbol::kQIdx));
  stays(distance + scalar() <= 2147483647.0);
  stays(max(distance, 0.0));
}

TEST_F(FoldTest, Logic) {
  const Ex x = flag();
  folds_to(x && truth(true), x);
  folds_to(x && truth(false), truth(false));
  folds_to(truth(false) || x, x);
  folds_to(!!x, x);
  folds_to(where(x, truth(true), truth(false)), x);
  folds_to(where(x, truth(true), scalar() < 1), x || scalar() < 1);
  folds_to(where(x, number(3), number(3)), number(3));
  folds_to(!(scalar() < 1), number(1) <= scalar());
  stays(!(real() < 1));  // true for NaN
}

TEST_F(FoldTest, NanDecidesComparisons) {
  folds_to(nan() < scalar(), truth(false));
  folds_to(apply(Op::k_ne, {scalar(), nan() + 1.0}), truth(true));
  folds_to(min(nan(), scalar()), nan());
  folds_to(apply(Op::k_f64_to_i32, {nan()}), constant(graph_, Type::kI32, 0));
}

// Values do not change.
TEST(Fold, RandomExpressionsKeepTheirValues) {
  class Leaves : public Env {
   public:
    double symbol(Symbol symbol) const override { return symbol == Symbol::kKLen ? k_len : 3; }
    double param(int index) const override { return index == 0 ? n : x; }
    double k_len = 0, n = 0, x = 0;
  };
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    std::mt19937 rng(seed);
    const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
    Graph graph;
    std::vector<Ex> numbers, truths;
    const auto to_f64 = [&](ValueId id) { return apply(Op::k_to_f64, {Ex{&graph, id}}); };
    numbers = {to_f64(graph.symbol(Symbol::kKLen)), to_f64(graph.param(Type::kI32, 0)), to_f64(graph.param(Type::kF32, 1))};
    for (double value : {0.0, 1.0, -1.0, 2.5, -2147483648.0, 2147483647.0, double(INFINITY), -double(INFINITY)}) {
      numbers.push_back(constant(graph, Type::kF64, value));
    }
    truths = {constant(graph, Type::kBool, 0), constant(graph, Type::kBool, 1)};
    const auto x = [&] { return numbers[draw(0, static_cast<int>(numbers.size()) - 1)]; };
    const auto c = [&] { return truths[draw(0, static_cast<int>(truths.size()) - 1)]; };
    for (int i = 0; i < 25; ++i) {
      constexpr Op kBinary[] = {Op::k_add, Op::k_sub, Op::k_mul, Op::k_div, Op::k_min, Op::k_max};
      constexpr Op kCompare[] = {Op::k_lt, Op::k_le, Op::k_gt, Op::k_ge, Op::k_eq, Op::k_ne};
      constexpr Op kUnary[] = {Op::k_neg, Op::k_abs, Op::k_floor};
      switch (draw(0, 7)) {
        case 0:
        case 1:
        case 2:
          numbers.push_back(apply(kBinary[draw(0, 5)], {x(), x()}));
          break;
        case 3:
          numbers.push_back(apply(kUnary[draw(0, 2)], {x()}));
          break;
        case 4:
          numbers.push_back(where(c(), x(), x()));
          break;
        case 5:
          truths.push_back(apply(kCompare[draw(0, 5)], {x(), x()}));
          break;
        case 6:
          truths.push_back(draw(0, 1) ? c() && c() : c() || c());
          break;
        default:
          truths.push_back(draw(0, 1) ? !c() : where(c(), c(), c()));
      }
    }
    BoundFolder fold(graph);
    const Ex number = numbers.back(), truth = truths.back();
    const std::vector<ValueId> roots = {number.id, truth.id, fold(number).id, fold(truth).id};
    Interpreter interpreter(graph, roots);
    for (int round = 0; round < 20; ++round) {
      Leaves leaves;
      leaves.k_len = draw(0, 1) ? draw(0, 5) : 1e9;
      leaves.n = draw(0, 2) ? draw(-5, 5) : draw(0, 1) ? 2147483647.0 : -2147483648.0;
      leaves.x = draw(0, 3) ? draw(-5, 5) * 0.5 : draw(0, 1) ? INFINITY : NAN;
      const std::span<const double> values = interpreter(leaves);
      ASSERT_TRUE(values[0] == values[2] || (std::isnan(values[0]) && std::isnan(values[2])))
          << "seed " << seed << ": " << values[0] << " became " << values[2];
      ASSERT_EQ(values[1], values[3]) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace attune::codegen
