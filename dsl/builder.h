// The C++ builder of the language: expressions as values, with the operators and functions of docs/language.md, that make the same program
// as its text. The text stays what counts: a built program is printed and parsed, so that its diagnostics point into that text.
//
//   using namespace attune::dsl::build;
//   Attention a("flash_sigmoid");
//   Value bias = a.param("bias", f32, -log(k_len));
//   a.score(qk * rsqrt(head_dim) + bias);
//   a.mask(k_pos <= q_pos);
//   a.weights(sigmoid(score));
//   Built built = a.build();
//
// What C++ spells differently: `//` is floor_div(a, b), `**` is pow(a, b), t[i, j] is t(i, j); `and`, `or` and `not` are C++ too.
// Parameters: f32, constant(i32), grad(f32), and tensors a.tensor("slopes", grad(f32), {heads}).
//
// Errors: std::invalid_argument for a name that is none and for a NaN literal. All others are diagnostics of the built program.
#pragma once

#include <concepts>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "dsl/ast.h"
#include "dsl/diagnostics.h"
#include "dsl/precedence.h"

namespace attune::dsl::build {

// An expression. Its text grows with every use: what is used often is named by Attention::let. Text behind the limit on a program's size is
// dropped, and the program is refused for its size.
class Value {
 public:
  template <std::integral Number>
  Value(Number number)
      : Value(std::is_same_v<Number, bool> ? (number ? "true" : "false") : std::to_string(number), level_of(number < Number{})) {}
  Value(double number);
  Value(float number);  // of 0.1f the literal 0.1
  Value(std::string text, Level level);

  const std::string& text() const { return text_; }
  // As an operand that may bind as loosely as `loosest`: in brackets if it binds looser.
  std::string operand(Level loosest) const;

 private:
  static Level level_of(bool is_negative) { return is_negative ? Level::kMinus : Level::kPrimary; }

  std::string text_;
  Level level_ = Level::kPrimary;
};

Value binary(std::string_view op, const Value& left, const Value& right);
Value unary(std::string_view op, const Value& operand);
Value call(std::string_view function, const std::vector<Value>& args);

// The type of a parameter. f32 and i32 are also the functions of these names.
class TypeName {
 public:
  explicit TypeName(std::string text) : text_(std::move(text)) {}
  const std::string& text() const { return text_; }
  Value operator()(const Value& x) const { return call(text_, {x}); }

 private:
  std::string text_;
};

inline const TypeName f32("f32"), f16("f16"), bf16("bf16"), i32("i32"), u8("u8"), boolean("bool");
inline TypeName constant(const TypeName& type) {
  return TypeName("const " + type.text());
}
inline TypeName grad(const TypeName& type) {
  return TypeName("grad " + type.text());
}

// A tensor parameter: t(i, j), or t[i].
class Tensor {
 public:
  explicit Tensor(std::string name) : name_(std::move(name)) {}
  Value read(const std::vector<Value>& indices) const;
  template <std::convertible_to<Value>... Index>
  Value operator()(const Index&... indices) const {
    return read({Value(indices)...});
  }
  Value operator[](const Value& index) const { return read({index}); }

 private:
  std::string name_;
};

// A program that was built, or why it could not be.
struct Built {
  Diagnostics diagnostics;
  std::optional<Program> program;
};

class Attention {
 public:
  explicit Attention(std::string name);

  Value param(const std::string& name, const TypeName& type, const std::optional<Value>& default_value = std::nullopt);
  Tensor tensor(const std::string& name, const TypeName& type, const std::vector<Value>& dims);
  Value let(const std::string& name, const Value& value);
  void score(const Value& value) { statement("score", value); }
  void mask(const Value& value) { statement("mask", value); }
  void weights(const Value& value) { statement("weights", value); }

  // The program's canonical text; as it was built if it has errors.
  std::string text() const;
  Built build() const;

 private:
  void declare(const std::string& name, const std::string& declaration);
  void statement(const std::string& target, const Value& value);
  std::string raw_text() const;

  std::string name_;
  std::string params_;
  std::string statements_;
};

inline Value symbol(std::string_view name) {
  return Value(std::string(name), Level::kPrimary);
}

inline const Value b = symbol("b"), h = symbol("h"), kv_h = symbol("kv_h"), q_idx = symbol("q_idx"), k_idx = symbol("k_idx");
inline const Value q_pos = symbol("q_pos"), k_pos = symbol("k_pos");
inline const Value batch = symbol("batch"), heads = symbol("heads"), kv_heads = symbol("kv_heads"), q_len = symbol("q_len"),
                   k_len = symbol("k_len"), head_dim = symbol("head_dim"), v_dim = symbol("v_dim");
inline const Value qk = symbol("qk"), score = symbol("score"), inf = symbol("inf");

inline Value operator+(const Value& x, const Value& y) {
  return binary("+", x, y);
}
inline Value operator-(const Value& x, const Value& y) {
  return binary("-", x, y);
}
inline Value operator*(const Value& x, const Value& y) {
  return binary("*", x, y);
}
inline Value operator/(const Value& x, const Value& y) {
  return binary("/", x, y);
}
inline Value operator%(const Value& x, const Value& y) {
  return binary("%", x, y);
}
inline Value operator==(const Value& x, const Value& y) {
  return binary("==", x, y);
}
inline Value operator!=(const Value& x, const Value& y) {
  return binary("!=", x, y);
}
inline Value operator<(const Value& x, const Value& y) {
  return binary("<", x, y);
}
inline Value operator<=(const Value& x, const Value& y) {
  return binary("<=", x, y);
}
inline Value operator>(const Value& x, const Value& y) {
  return binary(">", x, y);
}
inline Value operator>=(const Value& x, const Value& y) {
  return binary(">=", x, y);
}
inline Value operator&&(const Value& x, const Value& y) {
  return binary("and", x, y);
}
inline Value operator||(const Value& x, const Value& y) {
  return binary("or", x, y);
}
inline Value operator!(const Value& x) {
  return unary("not", x);
}
inline Value operator-(const Value& x) {
  return unary("-", x);
}
inline Value floor_div(const Value& x, const Value& y) {
  return binary("//", x, y);
}
inline Value pow(const Value& x, const Value& y) {
  return binary("**", x, y);
}

inline Value exp(const Value& x) {
  return call("exp", {x});
}
inline Value exp2(const Value& x) {
  return call("exp2", {x});
}
inline Value log(const Value& x) {
  return call("log", {x});
}
inline Value log2(const Value& x) {
  return call("log2", {x});
}
inline Value sqrt(const Value& x) {
  return call("sqrt", {x});
}
inline Value rsqrt(const Value& x) {
  return call("rsqrt", {x});
}
inline Value tanh(const Value& x) {
  return call("tanh", {x});
}
inline Value sigmoid(const Value& x) {
  return call("sigmoid", {x});
}
inline Value relu(const Value& x) {
  return call("relu", {x});
}
inline Value gelu(const Value& x) {
  return call("gelu", {x});
}
inline Value silu(const Value& x) {
  return call("silu", {x});
}
inline Value softplus(const Value& x) {
  return call("softplus", {x});
}
inline Value erf(const Value& x) {
  return call("erf", {x});
}
inline Value sin(const Value& x) {
  return call("sin", {x});
}
inline Value cos(const Value& x) {
  return call("cos", {x});
}
inline Value abs(const Value& x) {
  return call("abs", {x});
}
inline Value floor(const Value& x) {
  return call("floor", {x});
}
inline Value min(const Value& x, const Value& y) {
  return call("min", {x, y});
}
inline Value max(const Value& x, const Value& y) {
  return call("max", {x, y});
}
inline Value clamp(const Value& x, const Value& low, const Value& high) {
  return call("clamp", {x, low, high});
}
inline Value where(const Value& condition, const Value& x, const Value& y) {
  return call("where", {condition, x, y});
}
inline Value bit(const Value& x, const Value& i) {
  return call("bit", {x, i});
}
inline Value random(const Value& seed) {
  return call("random", {seed});
}
inline Value softmax(const Value& x) {
  return call("softmax", {x});
}
Value softmax(const Value& x, const Value& sink);

}  // namespace attune::dsl::build
