// The commands as data: main.cpp makes CLI11's application of them, completion.cpp scripts for shells. CLI11's header takes long to compile
// and stands in main.cpp alone.
//
// Mistakes leave run() as UsageError, ProgramError, ArgumentError or EnvironmentError.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "cli/arguments.h"

namespace attune::cli {

struct Argument {
  std::string name;                                                          // "--out"; without dashes it is one by its place
  std::variant<bool*, int*, std::string*, std::vector<std::string>*> value;  // bool: a flag; vector: repeatable
  std::string help;
  std::string type = {};  // what its value looks like, "" for flags
  bool required = false;
  std::string group = {};  // heading in the help; "": that of all options

  bool by_place() const { return !name.starts_with('-'); }
};

// What the arguments' values point to is kept alive by `run`.
struct Command {
  std::string name, help;
  std::vector<Argument> arguments;
  std::string footer;
  std::function<void()> run;
};

// The result of a command goes to `outcome`, which must outlive it.
Command check_command(Outcome& outcome);
Command fmt_command(Outcome& outcome);
Command explain_command();
Command run_command(Outcome& outcome);
Command doctor_command(Outcome& outcome);
// Of `commands` as they are when it runs.
Command completion_command(const std::vector<Command>& commands);

}  // namespace attune::cli
