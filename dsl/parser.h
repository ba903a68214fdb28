// Text -> syntax tree, by recursive descent with limited depth. Grammar: docs/language.md.
#pragma once

#include <optional>

#include "dsl/ast.h"
#include "dsl/diagnostics.h"

namespace attune::dsl {

// Parses diagnostics.text(). Errors go to `diagnostics`, all of the file at once; nullopt exactly if there are any. Checks syntax,
// limits and literals; names and types are checked by codegen::build_ir.
std::optional<Program> parse(Diagnostics& diagnostics);

}  // namespace attune::dsl
