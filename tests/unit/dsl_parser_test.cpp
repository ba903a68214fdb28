#include "dsl/parser.h"
#include "dsl_util.h"

namespace attune::dsl {
namespace {

std::string with_params(const std::string& params) {
  return "attention a(" + params + ") {\n}\n";
}
std::string with_body(const std::string& body) {
  return "attention a() {\n" + body + "\n}\n";
}

// The source text of a range.
std::string at(const std::string& text, SourceRange range) {
  return text.substr(range.begin, range.end - range.begin);
}

TEST(Parser, ReadsTheHeader) {
  const std::string text = "attention my_variant ( ) { }";
  const Program program = parsed(text);
  EXPECT_EQ(program.name, "my_variant");
  EXPECT_EQ(at(text, program.name_range), "my_variant");
  EXPECT_TRUE(program.params.empty());
  EXPECT_TRUE(program.statements.empty());
}

TEST(Parser, NewlinesOutsideOfTheBodyAreBlanks) {
  EXPECT_EQ(print(parsed("\n\nattention\na\n(\nx\n:\nf32\n=\n1\n)\n{\nscore = qk\n}\n\n")),
            "attention a(x: f32 = 1) {\n  score   = qk\n}\n");
}

TEST(Parser, ReadsScalarParameters) {
  const std::string text =
      with_params("a: f32, b: const i32 = 4096, c: grad f32 = -log(k_len), d: bool = true, e: grad const i32, f: const grad f32");
  const Program program = parsed(text);
  ASSERT_EQ(program.params.size(), 6U);
  const ElementType types[] = {ElementType::kF32,  ElementType::kI32, ElementType::kF32,
                               ElementType::kBool, ElementType::kI32, ElementType::kF32};
  const bool is_const[] = {false, true, false, false, true, true};
  const bool is_grad[] = {false, false, true, false, true, true};
  const std::string ranges[] = {"f32", "const i32", "grad f32", "bool", "grad const i32", "const grad f32"};
  const std::string defaults[] = {"", "4096", "-log(k_len)", "true", "", ""};
  for (size_t i = 0; i < 6; ++i) {
    const ParamDecl& param = program.params[i];
    EXPECT_EQ(param.name, std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(at(text, param.name_range), param.name);
    EXPECT_EQ(at(text, param.type_range), ranges[i]);
    EXPECT_EQ(param.type, types[i]) << i;
    EXPECT_EQ(param.is_const, is_const[i]) << i;
    EXPECT_EQ(param.is_grad, is_grad[i]) << i;
    EXPECT_FALSE(param.is_tensor) << i;
    EXPECT_EQ(param.default_value ? print(program, *param.default_value) : "", defaults[i]);
  }
}

TEST(Parser, ReadsTensorParameters) {
  const std::string text =
      with_params("a: f32[heads], b: grad f16 [2 * w - 1, k_len], c: bf16[1], d: i32[1, 2, 3, 4, 5, 6],\n  e: u8[\n1\n]");
  const Program program = parsed(text);
  ASSERT_EQ(program.params.size(), 5U);
  const ElementType types[] = {ElementType::kF32, ElementType::kF16, ElementType::kBF16, ElementType::kI32, ElementType::kU8};
  const size_t ranks[] = {1, 2, 1, 6, 1};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(program.params[i].is_tensor) << i;
    EXPECT_EQ(program.params[i].type, types[i]) << i;
    EXPECT_EQ(program.params[i].dims.size(), ranks[i]) << i;
  }
  EXPECT_TRUE(program.params[1].is_grad);
  EXPECT_EQ(print(program, program.params[1].dims[0]), "2 * w - 1");
  EXPECT_EQ(at(text, program.params[1].type_range), "grad f16 [2 * w - 1, k_len]");
}

// What the types and qualifiers may be together is for build_ir to say.
TEST(Parser, LeavesTheTypesOfScalarsAlone) {
  EXPECT_EQ(errors_of(with_params("a: f16, b: u8 = 1, c: const f32[heads], d: f32[1] = 2")), "");
}

TEST(Parser, RefusesWrongParameters) {
  EXPECT_EQ(messages_of(with_params("x")), "1:14: expected ':', found ')'");
  EXPECT_EQ(messages_of(with_params("x:")), "1:15: expected a type, found ')'");
  EXPECT_EQ(messages_of(with_params("x: y")), "1:16: expected a type, found 'y'");
  EXPECT_EQ(messages_of(with_params("x: f32 f32")), "1:20: expected '=', ',' or ')', found 'f32'");
  EXPECT_EQ(messages_of(with_params("x: f32 =")), "1:21: expected an expression, found ')'");
  EXPECT_EQ(messages_of(with_params("x: f32 = 1 2")), "1:24: expected an operator, ',' or ')', found '2'");
  EXPECT_EQ(messages_of(with_params("x: f32 = a = b")), "1:24: expected an operator, ',' or ')', found '='");
  EXPECT_EQ(messages_of(with_params("x: f32[1 2]")), "1:22: expected an operator, ',' or ']', found '2'");
  EXPECT_EQ(messages_of(with_params("x: grad grad f32")), "1:21: 'grad' is written twice");
  EXPECT_EQ(messages_of(with_params("x: f32,")), "1:20: expected a parameter's name, found ')'");
  EXPECT_EQ(messages_of(with_params("f32: f32")), "1:13: 'f32' is a keyword of the language: expected another name");
  EXPECT_EQ(messages_of(with_params("3: f32")), "1:13: expected a parameter's name, found '3'");
}

TEST(Parser, ReadsStatements) {
  const std::string text = with_body("  let x = 1; let y = x\n  score = qk\n\n  ;; mask = true\n  weights = relu(score) ;");
  const Program program = parsed(text);
  ASSERT_EQ(program.statements.size(), 5U);
  const StatementKind kinds[] = {StatementKind::kLet, StatementKind::kLet, StatementKind::kScore, StatementKind::kMask,
                                 StatementKind::kWeights};
  const std::string names[] = {"x", "y", "score", "mask", "weights"};
  const std::string values[] = {"1", "x", "qk", "true", "relu(score)"};
  for (size_t i = 0; i < 5; ++i) {
    const Statement& statement = program.statements[i];
    EXPECT_EQ(statement.kind, kinds[i]) << i;
    EXPECT_EQ(statement.name, names[i]) << i;
    EXPECT_EQ(at(text, statement.name_range), names[i]) << i;
    EXPECT_EQ(print(program, statement.value), values[i]) << i;
  }
}

TEST(Parser, AnyStatementsInAnyOrderArePut) {
  EXPECT_EQ(errors_of(with_body("  weights = 1\n  score = 2\n  score = 3")), "");
  EXPECT_EQ(errors_of("attention a() { score = qk }"), "");
}

TEST(Parser, NewlinesInBracketsAreBlanks) {
  EXPECT_EQ(tree_of("max(\n a\n,\n b\n)\n"), "max(a b)");
  EXPECT_EQ(tree_of("(a\n+\nb)"), "(+ a b)");
  EXPECT_EQ(tree_of("t\t[\n# comment\ni\n]"), "t[i]");
  EXPECT_EQ(tree_of("softmax(score,\n  sink\n =\n 1)"), "softmax(score 1)");
  EXPECT_EQ(tree_of("(-\n2147483648)"), "-2147483648");
  EXPECT_EQ(tree_of("(-\n2147483647\n**\n2)"), "(- (** 2147483647 2))");
}

TEST(Parser, ANewlineEndsAStatement) {
  EXPECT_EQ(messages_of(with_body("  let x = a +\n    b")), "2:14: expected an expression, found the end of the line");
  EXPECT_EQ(messages_of(with_body("  let x = a\n    + b")), "3:5: expected a statement (let, score, mask or weights), found '+'");
  EXPECT_EQ(messages_of(with_body("  let x =\n    b\n  let = 2")),
            "2:10: expected an expression, found the end of the line\n4:7: expected a name, found '='");
  EXPECT_EQ(messages_of(with_body("  let x = f\n(a)")), "3:1: expected a statement (let, score, mask or weights), found '('");
}

TEST(Parser, LocatesExpressions) {
  const std::string text = program_of("(a + 1) * -f(x, t[i]) ** 2.5");
  const Program program = parsed(text);
  const auto find = [&](ExprKind kind, const std::string& name) {
    for (const Expr& e : program.exprs) {
      if (e.kind == kind && e.text == name) return e;
    }
    ADD_FAILURE() << name;
    return Expr{};
  };
  const Expr product = find(ExprKind::kBinary, "*");
  EXPECT_EQ(at(text, product.range), "(a + 1) * -f(x, t[i]) ** 2.5");
  EXPECT_EQ(at(text, product.name_range), "*");
  EXPECT_EQ(at(text, find(ExprKind::kBinary, "+").range), "a + 1");
  EXPECT_EQ(at(text, find(ExprKind::kUnary, "-").range), "-f(x, t[i]) ** 2.5");
  EXPECT_EQ(at(text, find(ExprKind::kUnary, "-").name_range), "-");
  EXPECT_EQ(at(text, find(ExprKind::kBinary, "**").range), "f(x, t[i]) ** 2.5");
  EXPECT_EQ(at(text, find(ExprKind::kCall, "f").range), "f(x, t[i])");
  EXPECT_EQ(at(text, find(ExprKind::kCall, "f").name_range), "f");
  EXPECT_EQ(at(text, find(ExprKind::kIndex, "t").range), "t[i]");
  EXPECT_EQ(at(text, find(ExprKind::kIndex, "t").name_range), "t");
  EXPECT_EQ(at(text, find(ExprKind::kName, "i").range), "i");
}

TEST(Parser, ReadsLiterals) {
  const auto literal = [](const std::string& text) { return parsed_expression(text).exprs.at(0); };
  EXPECT_EQ(literal("42").kind, ExprKind::kInteger);
  EXPECT_EQ(literal("42").integer, 42);
  EXPECT_EQ(literal("2147483647").integer, 2147483647);
  EXPECT_EQ(literal("-2147483648").integer, -2147483647 - 1);
  EXPECT_EQ(literal("0.5").kind, ExprKind::kDecimal);
  EXPECT_EQ(literal("1e-3").decimal, 1e-3);
  EXPECT_EQ(literal("true").kind, ExprKind::kBool);
  EXPECT_EQ(literal("true").integer, 1);
  EXPECT_EQ(literal("false").integer, 0);
  EXPECT_EQ(literal("inf").kind, ExprKind::kInf);
  EXPECT_EQ(literal("qk").kind, ExprKind::kName);
  EXPECT_EQ(literal("qk").text, "qk");
}

TEST(Parser, TheSmallestIntegerNeedsItsMinus) {
  const std::string message = "integer 2147483648 does not fit i32: expected at most 2147483647";
  EXPECT_EQ(messages_of(program_of("2147483648")), "2:11: " + message);
  EXPECT_EQ(messages_of(program_of("1 - 2147483648")), "2:15: " + message);
  EXPECT_EQ(messages_of(program_of("-(2147483648)")), "2:13: " + message);
  EXPECT_EQ(messages_of(program_of("-2147483648 ** 2")), "2:12: " + message);
}

TEST(Parser, ReadsCallsAndIndices) {
  EXPECT_EQ(tree_of("f()"), "f()");
  EXPECT_EQ(tree_of("f(a)"), "f(a)");
  EXPECT_EQ(tree_of("where(a < b, g(c), t[i, j + 1])"), "where((< a b) g(c) t[i (+ j 1)])");
  EXPECT_EQ(tree_of("f32(a) + i32(b)"), "(+ f32(a) i32(b))");
  // Names with a meaning elsewhere: build_ir knows more of them.
  EXPECT_EQ(tree_of("score + mask + weights + f32"), "(+ (+ (+ score mask) weights) f32)");
}

TEST(Parser, ReadsTheSinkOfSoftmax) {
  const auto call = [](const std::string& text) { return parsed_expression(text).exprs.back(); };
  EXPECT_TRUE(call("softmax(score, sink = a + 1)").named_sink);
  EXPECT_EQ(call("softmax(score, sink = a + 1)").args.size(), 2U);
  EXPECT_FALSE(call("softmax(score)").named_sink);
  EXPECT_FALSE(call("softmax(score, 1)").named_sink);
  EXPECT_EQ(printed_expression("softmax( score,sink=0)"), "softmax(score, sink = 0)");
}

TEST(Parser, OnlySoftmaxNamesAnArgument) {
  EXPECT_EQ(messages_of(program_of("f(a = 1)")), "2:13: 'f' takes no argument by name");
  EXPECT_EQ(messages_of(program_of("f(a, sink = 1)")), "2:16: 'f' takes no argument by name");
  EXPECT_EQ(messages_of(program_of("softmax(score, snik = 1)")), "2:26: softmax has no argument 'snik': expected 'sink'");
  EXPECT_EQ(messages_of(program_of("softmax(sink = 1)")), "2:19: 'sink' is the second argument of softmax");
  EXPECT_EQ(messages_of(program_of("softmax(score, sink = 1, sink = 2)")), "2:36: 'sink' is the second argument of softmax");
  EXPECT_EQ(messages_of(program_of("(a = 1)")), "2:14: expected an operator or ')', found '='");
}

TEST(Parser, ComparisonsDoNotChain) {
  for (const char* chain : {"a < b < c", "a == b == c", "a <= b != c", "a < b < c < d"}) {
    EXPECT_EQ(messages_of(program_of(chain)).substr(5), messages_of(program_of("a < b < c")).substr(5)) << chain;
  }
  EXPECT_EQ(messages_of(program_of("a < b < c")), "2:17: comparisons do not chain: expected 'and' or 'or' between two of them");
}

TEST(Parser, RefusesWrongExpressions) {
  EXPECT_EQ(messages_of(program_of("")), "2:10: expected an expression, found the end of the line");
  EXPECT_EQ(messages_of(program_of("a b")), "2:13: expected an operator or the end of the statement, found 'b'");
  EXPECT_EQ(messages_of(program_of("a == not b")), "2:16: expected an expression, found 'not'");
  EXPECT_EQ(messages_of(program_of("a + let")), "2:15: expected an expression, found 'let'");
  EXPECT_EQ(messages_of(program_of("+a")), "2:11: expected an expression, found '+'");
  EXPECT_EQ(messages_of(program_of("()")), "2:12: expected an expression, found ')'");
  EXPECT_EQ(messages_of(program_of("f(a,)")), "2:15: expected an expression, found ')'");
  EXPECT_EQ(messages_of(program_of("t[a,]")), "2:15: expected an index, found ']'");
  EXPECT_EQ(messages_of(program_of("t[-]")), "2:14: expected an expression, found ']'");
  EXPECT_EQ(messages_of(program_of("(a)(b)")), "2:14: expected an operator or the end of the statement, found '('");
  EXPECT_EQ(messages_of(program_of("{a}")), "2:11: expected an expression, found '{'");
  EXPECT_EQ(messages_of(program_of("true[1]")), "2:15: only a tensor's name takes an index: expected an operator, found '['");
}

TEST(Parser, AMissingLetIsNamed) {
  EXPECT_EQ(errors_of(with_body("  foo = 3")),
            "t.attn:2:3: error: expected let, score, mask or weights, found 'foo'\n"
            "  foo = 3\n"
            "  ^~~ to name a value: let foo = ...\n");
  EXPECT_EQ(errors_of(with_body("  wieghts = 3")),
            "t.attn:2:3: error: expected let, score, mask or weights, found 'wieghts'\n"
            "  wieghts = 3\n"
            "  ^~~~~~~ did you mean 'weights'?\n");
  EXPECT_EQ(errors_of(with_body("  lte x = 3")),
            "t.attn:2:3: error: expected a statement (let, score, mask or weights), found 'lte'\n"
            "  lte x = 3\n"
            "  ^~~ did you mean 'let'?\n");
}

// One mistake is one error, and what stands behind it is still read.
TEST(Parser, GoesOnBehindAMistake) {
  const std::string last = "3:7: expected a name, found '='";
  for (const char* mistake : {"let = 1",
                              "let x 1",
                              "let x = (1",
                              "let x = t[1)",
                              "let x = f(1, 2",
                              "let x = f(1, (2)",
                              "let x = t[i",
                              "let x = 1)",
                              "let x = (1]",
                              "let x = f(t[i)",
                              "let x = (1 2)",
                              "let x = f(,)",
                              "let x = $",
                              "let x = 1.",
                              "foo = 1",
                              "foo",
                              "1",
                              "let x = a < b < c",
                              "let x = (a b (c [d] e))",
                              "let x = {1; let y = 2}",
                              "score 1",
                              "mask == 1",
                              "let and = 1",
                              "let x = \"a b\"",
                              "let x = (a = b)",
                              "= 1",
                              "{}",
                              "let x = f(a = b)",
                              "let x = a[1][2] b"}) {
    const std::string messages = messages_of(with_body("  " + std::string(mistake) + "\n  let = 2"));
    const size_t newline = messages.find('\n');
    EXPECT_EQ(messages.substr(newline == std::string::npos ? 0 : newline + 1), last) << mistake << "\n" << messages;
    EXPECT_NE(newline, std::string::npos) << mistake;
  }
}

TEST(Parser, GoesOnBehindAMistakeInAParameter) {
  const std::string last = "2:2: expected a parameter's name, found '3'";
  for (const char* mistake :
       {"x", "x f32", "x: y", "x: f32 f32", "x: f32 =", "x: f32 = (1 2)", "x: f32[", "x: f32[]", "x: f32[1, , 2]", "x: f32 = $", "f32: f32",
        "x: bool[1]", "x: const", "x: const const i32", "1", "x: f32 = f(a,)", "x: f32 = 1.", "x: f32 = max(1, 2", ""}) {
    const std::string text = "attention a(" + std::string(mistake) + ",\n 3: f32) {\n}\n";
    const std::string messages = messages_of(text);
    if (std::string(mistake).find_first_of("([") != std::string::npos && messages.find("closed") != std::string::npos) continue;
    const size_t newline = messages.find('\n');
    EXPECT_EQ(messages.substr(newline == std::string::npos ? 0 : newline + 1), last) << mistake << "\n" << messages;
  }
}

TEST(Parser, AnUnclosedBracketIsReportedWhereItOpens) {
  EXPECT_EQ(messages_of("attention a(x: f32 {\n  score = qk\n}\n"), "1:12: '(' is never closed: expected ')'");
  EXPECT_EQ(messages_of("attention a(x: f32[heads) {\n}\n"), "1:19: '[' is never closed: expected ']'");
  EXPECT_EQ(messages_of("attention a() {\n  score = qk\n"), "1:15: '{' is never closed: expected '}'");
  EXPECT_EQ(messages_of("attention a("), "1:12: '(' is never closed: expected ')'");
  EXPECT_EQ(messages_of(with_body("  let x = max(a,\n    b\n  let y = 1")), "2:14: '(' is never closed: expected ')'");
  EXPECT_EQ(messages_of(with_body("  let x = max(a,\n    b +\n  score = 1")), "2:14: '(' is never closed: expected ')'");
  EXPECT_EQ(messages_of(with_body("  let x = (a\n  foo * 3\n")), "2:11: '(' is never closed: expected ')'");
}

TEST(Parser, OneAttentionAFile) {
  EXPECT_EQ(messages_of("attention a() {\n}\nattention b() {\n}\n"), "3:1: expected the end of the file, found 'attention'");
  EXPECT_EQ(messages_of("attention a() {\n}\n1"), "3:1: expected the end of the file, found '1'");
  EXPECT_EQ(messages_of(""), "1:1: expected 'attention', found the end of the file");
  EXPECT_EQ(messages_of("attention"), "1:10: expected the attention's name, found the end of the file");
  EXPECT_EQ(messages_of("attention a"), "1:12: expected '(', found the end of the file");
  EXPECT_EQ(messages_of("attention a()"), "1:14: expected '{', found the end of the file");
  EXPECT_EQ(messages_of("attention {}"), "1:11: expected the attention's name, found '{'");
  EXPECT_EQ(messages_of("}"), "1:1: expected 'attention', found '}'");
  EXPECT_EQ(messages_of("attention a() }"), "1:15: expected '{', found '}'");
}

}  // namespace
}  // namespace attune::dsl
