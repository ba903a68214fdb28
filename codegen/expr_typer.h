// Names and types of expressions: the part of build_ir that turns one expression of the syntax tree into graph values.
#pragma once

#include <array>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "codegen/build_ir.h"
#include "codegen/ir.h"
#include "dsl/ast.h"
#include "dsl/diagnostics.h"

namespace attune::codegen {

// What an expression stands for; it decides which names may be used.
enum class Place : uint8_t { kLet, kScore, kMask, kWeights, kSink, kDim, kDefault, kConstDefault };

// What some places may not depend on, also not through a let.
enum class Tracked : uint8_t { kQk, kScore, kKIdx };
inline constexpr size_t kTrackedCount = 3;
// For each, how a value depends on it: "" not at all, else the names on the way, "soft -> raw -> qk".
using Uses = std::array<std::string, kTrackedCount>;

class ExprTyper {
 public:
  ExprTyper(const dsl::Program& program, dsl::Diagnostics& diagnostics, const BuildOptions& options, Ir& ir);

  // The value of an expression, or kNoValue if it has errors; they have been reported.
  ValueId value(dsl::ExprId expr, Place place);
  // The same as a value of `expected`: i32 converts to f32, anything else is an error at the expression.
  ValueId value_as(dsl::ExprId expr, Place place, Type expected);
  ValueId converted(ValueId value, dsl::SourceRange range, Type expected);
  // An operator on values, i32 converted to f32 where needed; the error is located on the operands or on `whole`.
  ValueId op(Op op, std::string_view spelling, std::vector<ValueId> operands, const std::vector<dsl::SourceRange>& ranges,
             dsl::SourceRange whole);

  // What was used by calls of value() since the last call of this.
  Uses take_uses();

  // Scope. A value of kNoValue is a name whose definition has errors: using it is no further error.
  void declare_param(int index, ValueId scalar_value);
  void declare_value(const std::string& name, ValueId value, Uses uses);
  void announce(const std::string& name) { later_.insert(name); }  // a let or the score, visible after its statement
  bool is_declared(const std::string& name) const { return names_.contains(name); }

  // The names that the language keeps for itself.
  static bool is_symbol(std::string_view name);
  static bool is_keyword(std::string_view name);

 private:
  struct Binding {
    enum class Kind : uint8_t { kScalar, kTensor, kValue } kind = Kind::kValue;
    int param = -1;
    ValueId value = kNoValue;
    Uses uses;
  };

  ValueId literal(const dsl::Expr& e);
  ValueId name(const dsl::Expr& e, Place place);
  ValueId symbol(const dsl::Expr& e, Place place);
  ValueId unary(const dsl::Expr& e, Place place);
  ValueId binary(const dsl::Expr& e, Place place);
  ValueId power(const dsl::Expr& e, Place place);
  ValueId call(const dsl::Expr& e, Place place);
  ValueId index(const dsl::Expr& e, Place place);

  ValueId size(Symbol symbol);
  // Notes the use; an error, and false, if the place forbids it.
  bool use(const dsl::Expr& e, Place place, Tracked tracked, const std::string& path);
  bool use_all(const dsl::Expr& e, Place place, const std::string& name, const Uses& uses);
  bool values_of(const dsl::Expr& e, Place place, std::vector<ValueId>& values, std::vector<dsl::SourceRange>& ranges);
  ValueId unknown_name(const dsl::Expr& e, Place place);
  void unknown_function(const dsl::Expr& e);
  std::vector<std::string> visible_names(Place place) const;
  ValueId error(dsl::SourceRange range, std::string message, std::string note = {});

  const dsl::Program& program_;
  dsl::Diagnostics& diagnostics_;
  const BuildOptions& options_;
  Ir& ir_;
  std::map<std::string, Binding, std::less<>> names_;
  std::set<std::string, std::less<>> later_;
  Uses uses_;
};

}  // namespace attune::codegen
