// attune completion SHELL: a completion script, made from the commands and options themselves, so that it never falls behind them.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
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

Value value_of(const Argument& argument) {
  Value value;
  const std::string& type = argument.type;
  value.flag = std::holds_alternative<bool*>(argument.value);
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

// What every command takes first.
const Argument kHelp = {"--help", static_cast<bool*>(nullptr), "Print this help and exit"};

std::vector<Argument> named_options(const Command& command) {
  std::vector<Argument> options = {kHelp};
  std::copy_if(command.arguments.begin(), command.arguments.end(), std::back_inserter(options),
               [](const Argument& argument) { return !argument.by_place(); });
  return options;
}

const Argument* positional(const Command& command) {
  auto found =
      std::find_if(command.arguments.begin(), command.arguments.end(), [](const Argument& argument) { return argument.by_place(); });
  return found == command.arguments.end() ? nullptr : &*found;
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

std::string joined_names(const Command& command) {
  std::vector<std::string> names;
  for (const Argument& option : named_options(command)) names.push_back(option.name);
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

std::string bash_script(const std::vector<Command>& commands) {
  std::string script = kBashStart;
  std::vector<std::string> names;
  std::string options, words;
  for (const Command& command : commands) {
    names.push_back(command.name);
    for (const Argument& option : named_options(command)) {
      Value value = value_of(option);
      if (value.flag) continue;
      fmt::format_to(std::back_inserter(options), "    {}:{}) {}; return ;;\n", command.name, option.name, bash_action(value));
    }
    const Argument* first = positional(command);
    fmt::format_to(std::back_inserter(words), "    {}) if [[ $cur == -* ]]; then _attune_words \"{}\"; else {}; fi ;;\n", command.name,
                   joined_names(command), first ? bash_action(value_of(*first)) : ":");
  }
  fmt::format_to(std::back_inserter(script), "  if ((COMP_CWORD == 1)); then _attune_words \"{} {}\"; return; fi\n", fmt::join(names, " "),
                 "--version --help");
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

std::string zsh_script(const std::vector<Command>& commands) {
  std::string script =
      "#compdef attune\n# zsh completion of attune; use: source <(attune completion zsh), or save it as _attune in a folder of $fpath\n"
      "_attune_assignment() { compset -P '*=' && _files -g \"*.$1\" }\n"
      "_attune() {\n  local -a commands\n  commands=(\n";
  std::string cases;
  for (const Command& command : commands) {
    fmt::format_to(std::back_inserter(script), "    '{}:{}'\n", command.name, plain(command.help));
    fmt::format_to(std::back_inserter(cases), "    {}) _arguments", command.name);
    for (const Argument& option : named_options(command)) {
      Value value = value_of(option);
      fmt::format_to(std::back_inserter(cases), " \\\n      '{}{}{}[{}]", value.assignment ? "*" : "", option.name, value.flag ? "" : "=",
                     plain(option.help));
      if (!value.flag) fmt::format_to(std::back_inserter(cases), ":{}:{}", plain(option.type), zsh_action(value));
      cases += '\'';
    }
    if (const Argument* first = positional(command)) {
      fmt::format_to(std::back_inserter(cases), " \\\n      '*:{}:{}'", plain(first->help), zsh_action(value_of(*first)));
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

std::string fish_script(const std::vector<Command>& commands) {
  std::string script = "# fish completion of attune; use: attune completion fish | source\ncomplete -c attune -f\n";
  for (const Command& command : commands) {
    fmt::format_to(std::back_inserter(script), "complete -c attune -n __fish_use_subcommand -a {} -d '{}'\n", command.name,
                   plain(command.help));
    std::string start = fmt::format("complete -c attune -n '__fish_seen_subcommand_from {}'", command.name);
    for (const Argument& option : named_options(command)) {
      fmt::format_to(std::back_inserter(script), "{} -l {}{} -d '{}'\n", start, option.name.substr(2), fish_action(value_of(option)),
                     plain(option.help));
    }
    if (const Argument* first = positional(command)) {
      Value value = value_of(*first);
      std::string words = value.choices.empty() ? fmt::format("(__fish_complete_suffix .{})", value.extension)
                                                : fmt::format("{}", fmt::join(value.choices, " "));
      fmt::format_to(std::back_inserter(script), "{} -a '{}'\n", start, words);
    }
  }
  return script;
}

std::string script_for(const std::string& shell, const std::vector<Command>& commands) {
  if (shell == "bash") return bash_script(commands);
  if (shell == "zsh") return zsh_script(commands);
  if (shell == "fish") return fish_script(commands);
  throw UsageError(fmt::format("expected bash, zsh or fish, found '{}'", shell));
}

}  // namespace

Command completion_command(const std::vector<Command>& commands) {
  auto shell = std::make_shared<std::string>();
  return {"completion",
          "Print a completion script for a shell",
          {{"shell", shell.get(), "Shell", "bash|zsh|fish", true}},
          "Examples:\n  source <(attune completion bash)\n  attune completion zsh > ~/.zfunc/_attune\n"
          "  attune completion fish > ~/.config/fish/completions/attune.fish\n",
          [shell, &commands] { print(script_for(*shell, commands)); }};
}

}  // namespace attune::cli
