#include <cmath>
#include <limits>
#include <random>

#include "dsl/printer.h"
#include "dsl_util.h"

namespace attune::dsl {
namespace {

TEST(PrintDecimal, IsTheShortestFormThatReadsBack) {
  EXPECT_EQ(print_decimal(0), "0.0");
  EXPECT_EQ(print_decimal(-0.0), "-0.0");
  EXPECT_EQ(print_decimal(0.1), "0.1");
  EXPECT_EQ(print_decimal(1), "1.0");
  EXPECT_EQ(print_decimal(50), "50.0");
  EXPECT_EQ(print_decimal(0.001), "0.001");
  EXPECT_EQ(print_decimal(1e-5), "1e-5");
  EXPECT_EQ(print_decimal(1e-30), "1e-30");
  EXPECT_EQ(print_decimal(1e5), "1e5");
  EXPECT_EQ(print_decimal(1e30), "1e30");
  EXPECT_EQ(print_decimal(1.5e30), "1.5e30");
  EXPECT_EQ(print_decimal(123456.75), "123456.75");
  EXPECT_EQ(print_decimal(-2.5e-7), "-2.5e-7");
  EXPECT_EQ(print_decimal(static_cast<double>(0.1F)), "0.10000000149011612");
  EXPECT_EQ(print_decimal(INFINITY), "inf");
  EXPECT_EQ(print_decimal(-INFINITY), "-inf");
}

TEST(PrintDecimal, ReadsBackForRandomValues) {
  std::mt19937_64 random(20240611);  // fixed: a failure is the same each time
  std::uniform_real_distribution<double> exponent(-149, 127.9);
  for (int i = 0; i < 2000; ++i) {
    const double value = std::exp2(exponent(random));
    const std::string text = print_decimal(value);
    const Program program = parsed_expression(text);
    ASSERT_EQ(program.exprs.size(), 1U) << text;
    ASSERT_EQ(program.exprs[0].kind, ExprKind::kDecimal) << text;
    ASSERT_EQ(program.exprs[0].decimal, value) << text;
  }
}

// Text -> text.
void expect_printed(const std::string& text, const std::string& expected) {
  const std::string printed = print(parsed(text));
  EXPECT_EQ(printed, expected);
  EXPECT_EQ(print(parsed(printed)), printed);
}

TEST(Printer, HasFixedSpacingAndNoComments) {
  expect_printed(
      "# a comment\nattention   a(x:f32=1,y :const  i32= 2*3-1 ,\n  t:grad f16 [ heads,2*y-1 ])\n{\n# more\nlet z=x*2;score=qk+z   # "
      "end\n\n"
      "mask=k_pos<=q_pos\nweights=softmax( score,sink=0 )*2}",
      "attention a(x: f32 = 1, y: const i32 = 2 * 3 - 1, t: grad f16[heads, 2 * y - 1]) {\n"
      "  let z = x * 2\n"
      "  score   = qk + z\n"
      "  mask    = k_pos <= q_pos\n"
      "  weights = softmax(score, sink = 0) * 2\n"
      "}\n");
  expect_printed("attention a(){}", "attention a() {\n}\n");
  expect_printed("attention a(x: grad const bool = true) { }", "attention a(x: const grad bool = true) {\n}\n");
}

TEST(Printer, PrintsTheProgramsOfTheDocumentation) {
  expect_printed(
      "attention capped(cap: f32 = 50, window: const i32 = 4096, slopes: grad f32[heads], sinks: grad f32[heads]) {\n"
      "  let distance = q_pos - k_pos\n"
      "  let soft     = cap * tanh(qk * rsqrt(head_dim) / cap)\n"
      "  score   = soft - slopes[h] * distance\n"
      "  mask    = distance >= 0 and distance < window\n"
      "  weights = softmax(score, sink = sinks[h])\n"
      "}\n",
      "attention capped(cap: f32 = 50, window: const i32 = 4096, slopes: grad f32[heads], sinks: grad f32[heads]) {\n"
      "  let distance = q_pos - k_pos\n"
      "  let soft = cap * tanh(qk * rsqrt(head_dim) / cap)\n"
      "  score   = soft - slopes[h] * distance\n"
      "  mask    = distance >= 0 and distance < window\n"
      "  weights = softmax(score, sink = sinks[h])\n"
      "}\n");
}

TEST(Printer, LeavesOutBracketsThatSayNothing) {
  EXPECT_EQ(printed_expression("((a + b)) + (c * d)"), "a + b + c * d");
  EXPECT_EQ(printed_expression("a - (b - c) - (d)"), "a - (b - c) - d");
  EXPECT_EQ(printed_expression("(a ** b) ** (c ** d)"), "(a ** b) ** c ** d");
  EXPECT_EQ(printed_expression("(-a) ** (-b)"), "(-a) ** -b");
  EXPECT_EQ(printed_expression("-(a ** b)"), "-a ** b");
  EXPECT_EQ(printed_expression("-(-(a))"), "--a");
  EXPECT_EQ(printed_expression("not (not (a == b))"), "not not a == b");
  EXPECT_EQ(printed_expression("(not a) and (b or c)"), "not a and (b or c)");
  EXPECT_EQ(printed_expression("(a < b) == (not c)"), "(a < b) == (not c)");
  EXPECT_EQ(printed_expression("where((a), (b + 1), t[(i), (j)])"), "where(a, b + 1, t[i, j])");
}

TEST(Printer, PrintsLiterals) {
  EXPECT_EQ(printed_expression("007"), "7");
  EXPECT_EQ(printed_expression("1.50"), "1.5");
  EXPECT_EQ(printed_expression("1E3"), "1000.0");
  EXPECT_EQ(printed_expression("1e-3"), "0.001");
  EXPECT_EQ(printed_expression("-inf"), "-inf");
  EXPECT_EQ(printed_expression("true"), "true");
  EXPECT_EQ(printed_expression("false"), "false");
  EXPECT_EQ(printed_expression("-2147483648"), "-2147483648");
  EXPECT_EQ(printed_expression("(-2147483648) ** 2"), "(-2147483648) ** 2");
}

// Expressions of all operators, as text with all brackets and some that say nothing.
class RandomExpression {
 public:
  explicit RandomExpression(uint64_t seed) : random_(seed) {}

  std::string text(int depth) {
    static const std::string kBinary[] = {"or", "and", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "//", "%", "**"};
    static const std::string kLeaves[] = {"a", "qk", "3", "0.25", "1e-7", "inf", "true", "(-2147483648)", "(x)", "t[i, j]"};
    if (depth == 0) return kLeaves[below(10)];
    switch (below(8)) {
      case 0:
        return "(-" + text(depth - 1) + ")";
      case 1:
        return "(not " + text(depth - 1) + ")";
      case 2:
        return "where(" + text(depth - 1) + ", " + text(depth - 2 < 0 ? 0 : depth - 2) + ", 1)";
      default: {
        const std::string left = text(below(depth));
        return "(" + left + " " + kBinary[below(15)] + " " + text(depth - 1) + ")";
      }
    }
  }

 private:
  int below(int count) { return static_cast<int>(random_() % static_cast<uint64_t>(count)); }

  std::mt19937_64 random_;
};

TEST(Printer, KeepsTheTreeOfRandomExpressions) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    const std::string text = RandomExpression(seed).text(6);
    const std::string printed = printed_expression(text);
    ASSERT_EQ(tree_of(printed), tree_of(text)) << "seed " << seed;
    ASSERT_EQ(printed_expression(printed), printed) << "seed " << seed;
    ASSERT_LE(printed.size(), text.size()) << "seed " << seed;
  }
}

// No pair of brackets can be left out without a change of the tree.
TEST(Printer, ItsBracketsAreMinimal) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const std::string printed = printed_expression(RandomExpression(seed).text(4));
    const std::string expected = tree_of(printed);
    for (size_t open = 0; open < printed.size(); ++open) {
      const bool is_call = open > 0 && std::isalnum(static_cast<unsigned char>(printed[open - 1])) != 0;
      if (printed[open] != '(' || is_call) continue;
      size_t close = open;
      for (int depth = 0; depth > 0 || close == open; ++close) depth += printed[close] == '(' ? 1 : printed[close] == ')' ? -1 : 0;
      std::string without = printed;
      without.erase(close - 1, 1).erase(open, 1);
      Diagnostics diagnostics("t.attn", program_of(without));
      const std::optional<Program> program = parse(diagnostics);
      if (program) {
        ASSERT_NE(tree(*program, program->statements[0].value), expected) << printed << "\n" << without << "\nseed " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace attune::dsl
