// Programs for the tests of the IR.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>

#include "codegen/build_ir.h"
#include "dsl/parser.h"

namespace attune::codegen {

// The typed program; throws its errors.
inline Ir typed(const std::string& text, const BuildOptions& options = {}) {
  dsl::Diagnostics diagnostics("test.attn", text);
  const std::optional<dsl::Program> program = dsl::parse(diagnostics);
  std::optional<Ir> ir = program ? build_ir(*program, diagnostics, options) : std::nullopt;
  if (!ir) throw std::runtime_error(diagnostics.render());
  return std::move(*ir);
}

// What is printed for a program with errors; "" for one without.
inline std::string errors_of(const std::string& text, const BuildOptions& options = {}) {
  dsl::Diagnostics diagnostics("test.attn", text);
  const std::optional<dsl::Program> program = dsl::parse(diagnostics);
  if (program) (void)build_ir(*program, diagnostics, options);
  return diagnostics.render();
}

}  // namespace attune::codegen
