// Syntax tree -> typed IR: names, types and the rules of docs/language.md.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "codegen/ir.h"
#include "dsl/ast.h"
#include "dsl/diagnostics.h"

namespace attune::codegen {

struct BuildOptions {
  std::map<std::string, double> constants;  // values of const parameters; those not named take their defaults. bool: 0 or 1
  std::optional<int> head_dim, v_dim;       // where given, the symbols become constants
};

// All errors of the program go to `diagnostics`, each at the exact expression; nullopt exactly if there are any. In the result lets are
// inlined (shared), q_pos and k_pos expanded, const parameters constants. The result passes verify().
std::optional<Ir> build_ir(const dsl::Program& program, dsl::Diagnostics& diagnostics, const BuildOptions& options = {});

}  // namespace attune::codegen
