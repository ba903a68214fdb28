// attune check FILE...: the diagnostics of programs, nothing is compiled for a shape.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "runtime/error.h"

namespace attune::cli {
namespace {

struct CheckArguments {
  std::vector<std::string> files, constants;
};

// All files are looked at, whatever is wrong with those before.
void check(const CheckArguments& arguments, Outcome& outcome) {
  nlohmann::ordered_json diagnostics = nlohmann::ordered_json::array();
  CompileOptions options{.constants = parse_constants(arguments.constants)};
  bool wrong = false, unusable = false;
  for (const std::string& file : arguments.files) {
    try {
      options.file_name = file;
      Variant variant = compile_program(read_program(file), options);
      if (!outcome.json) print(fmt::format("{}: ok, attention {}\n", file, variant.name()));
    } catch (const ProgramError& error) {
      wrong = true;
      if (outcome.json) {
        for (auto& diagnostic : nlohmann::ordered_json::parse(error.json())) diagnostics.push_back(std::move(diagnostic));
      } else {
        fmt::print(stderr, "{}", error.what());
      }
    } catch (const ArgumentError& error) {
      unusable = true;
      fmt::print(stderr, "attune check: error: {}: {}\n", file, error.what());
    } catch (const UsageError& error) {
      unusable = true;
      fmt::print(stderr, "attune check: error: {}\n", error.what());
    }
  }
  if (outcome.json) print(diagnostics.dump(2) + "\n");
  outcome.exit_code = unusable ? kExitUsage : wrong ? kExitProgram : kExitFine;
}

}  // namespace

Command check_command(Outcome& outcome) {
  auto arguments = std::make_shared<CheckArguments>();
  return {"check",
          "Check programs and print what is wrong with them",
          {{"files", &arguments->files, "Programs", kProgramFile, true},
           {"--const", &arguments->constants, "Value of a `const` parameter; repeatable", kAssignment},
           {"--json", &outcome.json, "Print the diagnostics as a JSON array to standard output"}},
          "Examples:\n  attune check examples/*.attn\n  attune check sliding.attn --const window=1024 --json\n",
          [arguments, &outcome] { check(*arguments, outcome); }};
}

}  // namespace attune::cli
