#include "dsl_util.h"

namespace attune::dsl {
namespace {

struct Case {
  std::string text, tree;
};

class Precedence : public testing::TestWithParam<Case> {};

TEST_P(Precedence, IsThatOfTheLanguage) {
  EXPECT_EQ(tree_of(GetParam().text), GetParam().tree) << GetParam().text;
}

// The brackets that are left when it is printed do not change the tree.
TEST_P(Precedence, SurvivesPrinting) {
  EXPECT_EQ(tree_of(printed_expression(GetParam().text)), GetParam().tree) << GetParam().text;
}

const Case kCases[] = {
    // Each level against the next one, on both sides.
    {"a or b and c", "(or a (and b c))"},
    {"a and b or c", "(or (and a b) c)"},
    {"(a or b) and c", "(and (or a b) c)"},
    {"not a and b", "(and (not a) b)"},
    {"a and not b", "(and a (not b))"},
    {"a or not b", "(or a (not b))"},
    {"not (a and b)", "(not (and a b))"},
    {"not a == b", "(not (== a b))"},
    {"not not a < b", "(not (not (< a b)))"},
    {"(not a) == b", "(== (not a) b)"},
    {"a == (not b)", "(== a (not b))"},
    {"a < b + c", "(< a (+ b c))"},
    {"a - b >= c", "(>= (- a b) c)"},
    {"(a < b) + c", "(+ (< a b) c)"},
    {"a + b * c", "(+ a (* b c))"},
    {"a * b + c", "(+ (* a b) c)"},
    {"(a + b) * c", "(* (+ a b) c)"},
    {"-a * b", "(* (- a) b)"},
    {"a * -b", "(* a (- b))"},
    {"-(a * b)", "(- (* a b))"},
    {"-a + b", "(+ (- a) b)"},
    {"a - -b", "(- a (- b))"},
    {"--a", "(- (- a))"},
    {"-x ** 2", "(- (** x 2))"},
    {"(-x) ** 2", "(** (- x) 2)"},
    {"x ** -2", "(** x (- 2))"},
    {"x ** -y ** 2", "(** x (- (** y 2)))"},
    {"a * b ** c", "(* a (** b c))"},
    {"a ** b * c", "(* (** a b) c)"},
    {"a ** (b * c)", "(** a (* b c))"},
    {"t[i] ** 2", "(** t[i] 2)"},
    {"f(x) ** 2", "(** f(x) 2)"},
    // Associativity.
    {"a or b or c", "(or (or a b) c)"},
    {"a or (b or c)", "(or a (or b c))"},
    {"a and b and c", "(and (and a b) c)"},
    {"a and (b and c)", "(and a (and b c))"},
    {"a - b - c", "(- (- a b) c)"},
    {"a - (b - c)", "(- a (- b c))"},
    {"a - b + c", "(+ (- a b) c)"},
    {"a - (b + c)", "(- a (+ b c))"},
    {"a / b / c", "(/ (/ a b) c)"},
    {"a / (b / c)", "(/ a (/ b c))"},
    {"a * b / c // d % e", "(% (// (/ (* a b) c) d) e)"},
    {"a % (b // c)", "(% a (// b c))"},
    {"a ** b ** c", "(** a (** b c))"},
    {"(a ** b) ** c", "(** (** a b) c)"},
    {"(a == b) == c", "(== (== a b) c)"},
    {"a == (b == c)", "(== a (== b c))"},
    {"(a < b) != (c > d)", "(!= (< a b) (> c d))"},
    // The smallest i32 is a literal, not a minus and its digits.
    {"-2147483648", "-2147483648"},
    {"-2147483647", "(- 2147483647)"},
    {"--2147483648", "(- -2147483648)"},
    {"1 - -2147483648", "(- 1 -2147483648)"},
    {"(-2147483648) ** 2", "(** -2147483648 2)"},
    {"2 ** -2147483648", "(** 2 -2147483648)"},
};

INSTANTIATE_TEST_SUITE_P(Table, Precedence, testing::ValuesIn(kCases));

}  // namespace
}  // namespace attune::dsl
