// attune completion SHELL: a completion script, made from the commands and options themselves, so that it never falls behind them.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"

namespace attune::cli {
namespace {

// What can follow an option, read from the name of its type: "f32|f16", "FILE.npy", "NAME=VALUE|FILE.npy".
struct Value {
  bool flag = false, assignment = false;
  std::vector<std::string> choices;
  std::string extension;  // of files; "" for none
};

Value value_of(const CLI::Option& option) {
  Value value;
  std::string type = option.get_type_name();
  value.flag = option.get_expected_max() == 0 || type.empty();
  value.assignment = type.starts_with("NAME=");
  size_t file = type.find("FILE.");
  if (file != std::string::npos) value.extension = type.substr(file + 5);
  if (value.assignment || !value.extension.empty() || type.find('|') == std::string::npos) return value;
  for (size_t begin = 0; begin <= type.size();) {
    size_t end = std::min(type.find('|', begin), type.size());
    value.choices.push_back(type.substr(begin, end - begin));
    begin = end + 1;
  }
  return value;
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::vector<const CLI::Option*> named_options(const CLI::App& command) {
  return command.get_options([](const CLI::Option* option) { return !option->get_lnames().empty(); });
}

const CLI::Option* positional(const CLI::App& command) {
  auto options = command.get_options([](const CLI::Option* option) { return option->get_positional(); });
  return options.empty() ? nullptr : options.front();
}

std::string long_name(const CLI::Option& option) {
  return "--" + option.get_lnames().front();
}

// Help text that no shell takes for syntax.
std::string plain(std::string_view help) {
  std::string result;
  for (char c : help) {
    if (c == '`' || c == '\'' || c == '"' || c == '\\' || c == '$') continue;
    result += c == '[' ? '(' : c == ']' ? ')' : c == ':' ? ',' : c;
  }
  return result;
}

std::string joined_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : named_options(command)) names.push_back(long_name(*option));
  return fmt::format("{}", fmt::join(names, " "));
}

// --- bash ---

std::string bash_action(const Value& value) {
  if (!value.choices.empty()) return fmt::format("_attune_words \"{}\"", fmt::join(value.choices, " "));
  if (value.assignment && !value.extension.empty()) return fmt::format("[[ $assigned ]] && _attune_files {}", value.extension);
  if (!value.extension.empty()) return fmt::format("_attune_files {}", value.extension);
  return ":";
}

constexpr const char* kBashStart = R"(# bash completion of attune; use: source <(attune completion bash)
_attune_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }
_attune_files() {
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -X "!*.$1" -- "$cur"; compgen -d -- "$cur")
}
_attune() {
  local cur=${COMP_WORDS[COMP_CWORD]} at=$COMP_CWORD option assigned=
  COMPREPLY=()
  # bash makes '=' a word of its own: --dtype=f16, --param NAME=FILE.npy
  if [[ $cur == "=" ]]; then cur= at=$((at + 1)); fi
  option=${COMP_WORDS[at - 1]}
  if [[ $option == "=" ]] && ((at >= 3)); then
    option=${COMP_WORDS[at - 2]}
    if [[ $option != --* ]]; then option=${COMP_WORDS[at - 3]} assigned=1; fi
  fi
)";

std::string bash_script(const CLI::App& app) {
  std::string script = kBashStart;
  std::vector<std::string> names;
  std::string options, words;
  for (const CLI::App* command : commands_of(app)) {
    names.push_back(command->get_name());
    for (const CLI::Option* option : named_options(*command)) {
      Value value = value_of(*option);
      if (value.flag) continue;
      fmt::format_to(std::back_inserter(options), "    {}:{}) {}; return ;;\n", command->get_name(), long_name(*option),
                     bash_action(value));
    }
    const CLI::Option* first = positional(*command);
    fmt::format_to(std::back_inserter(words), "    {}) if [[ $cur == -* ]]; then _attune_words \"{}\"; else {}; fi ;;\n",
                   command->get_name(), joined_names(*command), first ? bash_action(value_of(*first)) : ":");
  }
  fmt::format_to(std::back_inserter(script), "  if ((COMP_CWORD == 1)); then _attune_words \"{} {}\"; return; fi\n", fmt::join(names, " "),
                 joined_names(app));
  fmt::format_to(std::back_inserter(script),
                 "  case \"${{COMP_WORDS[1]}}:$option\" in\n{}  esac\n  case \"${{COMP_WORDS[1]}}\" in\n{}  esac\n}}\n", options, words);
  return script + "complete -F _attune attune\n";
}

// --- zsh ---

std::string zsh_action(const Value& value) {
  if (!value.choices.empty()) return fmt::format("({})", fmt::join(value.choices, " "));
  if (value.assignment) return value.extension.empty() ? " " : fmt::format("_attune_assignment {}", value.extension);
  if (!value.extension.empty()) return fmt::format("_files -g \"*.{}\"", value.extension);
  return " ";
}

std::string zsh_script(const CLI::App& app) {
  std::string script =
      "#compdef attune\n# zsh completion of attune; use: source <(attune completion zsh), or save it as _attune in a folder of $fpath\n"
      "_attune_assignment() { compset -P '*=' && _files -g \"*.$1\" }\n"
      "_attune() {\n  local -a commands\n  commands=(\n";
  std::string cases;
  for (const CLI::App* command : commands_of(app)) {
    fmt::format_to(std::back_inserter(script), "    '{}:{}'\n", command->get_name(), plain(command->get_description()));
    fmt::format_to(std::back_inserter(cases), "    {}) _arguments", command->get_name());
    for (const CLI::Option* option : named_options(*command)) {
      Value value = value_of(*option);
      fmt::format_to(std::back_inserter(cases), " \\\n      '{}{}{}[{}]", value.assignment ? "*" : "", long_name(*option),
                     value.flag ? "" : "=", plain(option->get_description()));
      if (!value.flag) fmt::format_to(std::back_inserter(cases), ":{}:{}", plain(option->get_type_name()), zsh_action(value));
      cases += '\'';
    }
    if (const CLI::Option* first = positional(*command)) {
      fmt::format_to(std::back_inserter(cases), " \\\n      '*:{}:{}'", plain(first->get_description()), zsh_action(value_of(*first)));
    }
    cases += " ;;\n";
  }
  script +=
      "  )\n  if (( CURRENT == 2 )); then _describe command commands; return; fi\n  local command=$words[2]\n"
      "  shift words\n  (( CURRENT-- ))\n  case $command in\n" +
      cases + "  esac\n}\n";
  return script + "if [[ $funcstack[1] == _attune ]]; then _attune \"$@\"; else compdef _attune attune; fi\n";
}

// --- fish ---

std::string fish_action(const Value& value) {
  if (value.flag) return "";
  if (!value.choices.empty()) return fmt::format(" -x -a '{}'", fmt::join(value.choices, " "));
  if (value.assignment) return " -r -F";  // fish completes paths behind '=' by itself
  if (!value.extension.empty()) return fmt::format(" -x -a '(__fish_complete_suffix .{})'", value.extension);
  return " -x";
}

std::string fish_script(const CLI::App& app) {
  std::string script = "# fish completion of attune; use: attune completion fish | source\ncomplete -c attune -f\n";
  for (const CLI::App* command : commands_of(app)) {
    fmt::format_to(std::back_inserter(script), "complete -c attune -n __fish_use_subcommand -a {} -d '{}'\n", command->get_name(),
                   plain(command->get_description()));
    std::string start = fmt::format("complete -c attune -n '__fish_seen_subcommand_from {}'", command->get_name());
    for (const CLI::Option* option : named_options(*command)) {
      fmt::format_to(std::back_inserter(script), "{} -l {}{} -d '{}'\n", start, option->get_lnames().front(),
                     fish_action(value_of(*option)), plain(option->get_description()));
    }
    if (const CLI::Option* first = positional(*command)) {
      Value value = value_of(*first);
      std::string words = value.choices.empty() ? fmt::format("(__fish_complete_suffix .{})", value.extension)
                                                : fmt::format("{}", fmt::join(value.choices, " "));
      fmt::format_to(std::back_inserter(script), "{} -a '{}'\n", start, words);
    }
  }
  return script;
}

std::string script_for(const std::string& shell, const CLI::App& app) {
  if (shell == "bash") return bash_script(app);
  if (shell == "zsh") return zsh_script(app);
  if (shell == "fish") return fish_script(app);
  throw UsageError(fmt::format("expected bash, zsh or fish, found '{}'", shell));
}

}  // namespace

void add_completion(CLI::App& app, Outcome&) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a completion script for a shell");
  command->add_option("shell", *shell, "Shell")->required()->type_name("bash|zsh|fish");
  command->footer(
      "Examples:\n  source <(attune completion bash)\n  attune completion zsh > ~/.zfunc/_attune\n"
      "  attune completion fish > ~/.config/fish/completions/attune.fish\n");
  command->callback([shell, &app] { print(script_for(*shell, app)); });
}

}  // namespace attune::cli
