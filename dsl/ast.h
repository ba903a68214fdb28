// The syntax tree of one attention variant. Expressions live in one arena and refer to each other by index, so that no tree, however
// deep, is walked by destructors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dsl/diagnostics.h"

namespace attune::dsl {

using ExprId = uint32_t;

enum class ExprKind : uint8_t {
  kInteger,  // `integer`
  kDecimal,  // `decimal`
  kBool,     // `integer` is 0 or 1
  kInf,
  kName,    // `text`
  kUnary,   // `text` is "-" or "not"; args[0]
  kBinary,  // `text` is the operator as written: "+", "//", "and", "==", ...; args[0], args[1]
  kCall,    // `text` is the function's name; args; sink of softmax(score, sink = EXPR) is args[1], with named_sink set
  kIndex,   // `text` is the tensor's name; args are the indices
};

struct Expr {
  ExprKind kind = ExprKind::kInteger;
  SourceRange range;       // the whole expression
  SourceRange name_range;  // of `text`: the operator, the name, the function or the tensor
  std::string text;
  double decimal = 0;
  int32_t integer = 0;
  bool named_sink = false;
  std::vector<ExprId> args;
};

enum class ElementType : uint8_t { kF32, kF16, kBF16, kI32, kU8, kBool };

struct ParamDecl {
  std::string name;
  SourceRange name_range;
  SourceRange type_range;
  bool is_const = false;
  bool is_grad = false;
  ElementType type = ElementType::kF32;
  bool is_tensor = false;
  std::vector<ExprId> dims;  // of a tensor
  std::optional<ExprId> default_value;
};

enum class StatementKind : uint8_t { kLet, kScore, kMask, kWeights };

struct Statement {
  StatementKind kind = StatementKind::kLet;
  std::string name;  // of a let; else "score", "mask", "weights"
  SourceRange name_range;
  ExprId value = 0;
};

struct Program {
  std::string name;
  SourceRange name_range;
  std::vector<ParamDecl> params;
  std::vector<Statement> statements;
  std::vector<Expr> exprs;  // the arena

  const Expr& expr(ExprId id) const { return exprs[id]; }
};

}  // namespace attune::dsl
