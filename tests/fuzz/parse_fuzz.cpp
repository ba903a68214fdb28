// Any bytes as a program: the parser must report or accept them, what it accepts must survive printing, and build_ir must report or accept
// that.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

#include "codegen/build_ir.h"
#include "dsl/diagnostics.h"
#include "dsl/parser.h"
#include "dsl/printer.h"

namespace {

using attune::dsl::Diagnostics;
using attune::dsl::Program;

void require(bool holds, const char* what, const std::string& text) {
  if (holds) return;
  std::fprintf(stderr, "%s\n%s\n", what, text.c_str());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  Diagnostics diagnostics("fuzz.attn", text);
  const std::optional<Program> program = attune::dsl::parse(diagnostics);
  require(program.has_value() == diagnostics.ok(), "a program and errors, or neither", text);
  diagnostics.render();
  diagnostics.render_json();
  if (!program) return 0;

  const std::string printed = attune::dsl::print(*program);
  Diagnostics reprinted("printed.attn", printed);
  const std::optional<Program> again = attune::dsl::parse(reprinted);
  require(again.has_value(), "printed text does not parse", printed);
  require(attune::dsl::print(*again) == printed, "printed text is printed differently", printed);

  const auto ir = attune::codegen::build_ir(*program, diagnostics);
  require(ir.has_value() == diagnostics.ok(), "an IR and errors, or neither", text);
  diagnostics.render();
  return 0;
}
