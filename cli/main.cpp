// The command line `attune`. Exit codes: 0 fine, 1 the program is wrong, 2 the command or the environment is wrong.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <variant>
#include <vector>

#include "cli/commands.h"
#include "runtime/error.h"

namespace {

using namespace attune::cli;

std::vector<Command> all_commands(Outcome& outcome, const std::vector<Command>& commands) {
  return {check_command(outcome), fmt_command(outcome),    explain_command(),
          run_command(outcome),   doctor_command(outcome), completion_command(commands)};
}

CLI::Option* add_value(CLI::App& app, const Argument& argument, bool* value) {
  return app.add_flag(argument.name, *value, argument.help);
}
CLI::Option* add_value(CLI::App& app, const Argument& argument, std::vector<std::string>* value) {
  CLI::Option* option = app.add_option(argument.name, *value, argument.help)->type_name(argument.type);
  return argument.by_place() ? option : option->allow_extra_args(false);
}
template <typename T>
CLI::Option* add_value(CLI::App& app, const Argument& argument, T* value) {
  return app.add_option(argument.name, *value, argument.help)->type_name(argument.type);
}

void add_commands(CLI::App& app, const std::vector<Command>& commands) {
  app.name("attune");
  app.set_version_flag("--version", "attune " ATTUNE_VERSION, "Print the version and exit");
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  for (const Command& command : commands) {
    CLI::App* added = app.add_subcommand(command.name, command.help);
    for (const Argument& argument : command.arguments) {
      CLI::Option* option = std::visit([&](auto* value) { return add_value(*added, argument, value); }, argument.value);
      option->required(argument.required);
      if (!argument.group.empty()) option->group(argument.group);
    }
    added->footer(command.footer);
    added->callback(command.run);
  }
  app.footer(
      "Examples:\n  attune check flash.attn\n  attune explain flash.attn --emit grad\n"
      "  attune run flash.attn --q q.npy --k k.npy --v v.npy --out o.npy\n\n`attune COMMAND --help` tells more of one command.\n"
      "Exit codes: 0 fine, 1 the program is wrong, 2 the command or the environment is wrong.\n");
}

// "attune run" once a command is known.
std::string command_name(const CLI::App& app) {
  auto parsed = app.get_subcommands();
  return parsed.empty() ? "attune" : "attune " + parsed.front()->get_name();
}

// For arguments that nothing takes: the nearest option, or the nearest command.
std::string suggestion(const CLI::App& app) {
  auto parsed = app.get_subcommands();
  const CLI::App& scope = parsed.empty() ? app : *parsed.front();
  std::vector<std::string> names;
  for (const CLI::Option* option : scope.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  if (parsed.empty()) {
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) names.push_back(command->get_name());
  }
  for (const std::string& argument : app.remaining(true)) {
    std::string text = did_you_mean(argument.substr(0, argument.find('=')), names);
    if (!text.empty()) return text;
  }
  return "";
}

int parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);  // --help, --version
  std::string message = error.what();
  if (app.get_subcommands().empty()) {
    std::vector<std::string> rest = app.remaining();
    message = rest.empty() ? "expected a command" : fmt::format("unknown command '{}'", rest.front());
  }
  fmt::print(stderr, "{0}: error: {1}{2}\nrun '{0} --help' for the arguments\n", command_name(app), message, suggestion(app));
  return kExitUsage;
}

int parse_and_run(int argc, char** argv) {
  Outcome outcome;
  std::vector<Command> commands;
  commands = all_commands(outcome, commands);
  CLI::App app("Attention kernels from a few lines of text: check, explain and run programs (docs/language.md)");
  add_commands(app, commands);
  try {
    app.parse(argc, argv);
    return outcome.exit_code;
  } catch (const CLI::ParseError& error) {
    return parse_error(app, error);
  } catch (const attune::ProgramError& error) {
    if (outcome.json) {
      print(error.json() + "\n");
    } else {
      fmt::print(stderr, "{}", error.what());
    }
    return kExitProgram;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "{}: error: out of memory\n", command_name(app));
  } catch (const attune::ArgumentError& error) {
    fmt::print(stderr, "{}: error: {}\n", command_name(app), error.what());
  } catch (const attune::EnvironmentError& error) {
    fmt::print(stderr, "{}: error: {}\n", command_name(app), error.what());
  } catch (const UsageError& error) {
    fmt::print(stderr, "{}: error: {}\n", command_name(app), error.what());
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: internal error, please report it: {}\n", command_name(app), error.what());
  }
  return kExitUsage;
}

}  // namespace

int main(int argc, char** argv) {
  int exit_code = parse_and_run(argc, argv);
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    fmt::print(stderr, "attune: error: cannot write to standard output: {}\n", std::strerror(errno));
    return kExitUsage;
  }
  return exit_code;
}
