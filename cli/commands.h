// One function for each command: adds it to the application. Its work runs when the command line is parsed; the result goes to `outcome`,
// which must outlive the application. Mistakes leave as UsageError, ProgramError, ArgumentError or EnvironmentError.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/arguments.h"

namespace attune::cli {

void add_check(CLI::App& app, Outcome& outcome);
void add_fmt(CLI::App& app, Outcome& outcome);
void add_explain(CLI::App& app, Outcome& outcome);
void add_run(CLI::App& app, Outcome& outcome);
void add_doctor(CLI::App& app, Outcome& outcome);
void add_completion(CLI::App& app, Outcome& outcome);

}  // namespace attune::cli
