// attune fmt FILE...: programs in canonical form. Canonical text has no comments, so --write asks before it drops them.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "cli/output_files.h"

namespace attune::cli {
namespace {

struct FmtArguments {
  std::vector<std::string> files, constants;
  bool check = false, write = false, drop_comments = false;
};

// The language has no strings: every '#' starts a comment.
bool has_comments(std::string_view text) {
  return text.find('#') != std::string_view::npos;
}

std::string_view trim_right(std::string_view line) {
  size_t end = line.find_last_not_of(" \t\r");
  return line.substr(0, end == std::string_view::npos ? 0 : end + 1);
}

// Without comments, and without the blank lines and blanks at line ends that they leave.
std::string without_comments(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    line = trim_right(line.substr(0, line.find('#')));
    if (!line.empty()) result.append(line).append("\n");
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return result;
}

bool is_canonical(const std::string& text, const std::string& canonical) {
  return has_comments(text) ? without_comments(text) == without_comments(canonical) : text == canonical;
}

void format_file(const FmtArguments& arguments, const CompileOptions& options, const std::string& path, Outcome& outcome) {
  std::string text = read_program(path);
  std::string canonical = compile_program(text, options).canonical();
  if (!canonical.ends_with('\n')) canonical += '\n';
  bool same = is_canonical(text, canonical);
  if (arguments.check) {
    if (same) return;
    fmt::print(stderr, "{}: not in canonical form (attune fmt shows it)\n", path);
    outcome.exit_code = std::max(outcome.exit_code, kExitProgram);
  } else if (!arguments.write) {
    print(canonical);
  } else if (text != canonical && !(same && !arguments.drop_comments)) {
    if (has_comments(text) && !arguments.drop_comments) {
      throw UsageError(
          fmt::format("--write: '{}' has comments, which canonical text does not keep; --drop-comments overwrites them", path));
    }
    OutputFiles outputs;
    outputs.add("--write", path);
    outputs.write_text("--write", canonical);
    outputs.commit();
  }
}

void format_files(const FmtArguments& arguments, Outcome& outcome) {
  if (arguments.check && arguments.write) throw UsageError("--check and --write: expected one of them");
  if (arguments.drop_comments && !arguments.write) throw UsageError("--drop-comments: expected together with --write");
  CompileOptions options{.constants = parse_constants(arguments.constants)};
  for (const std::string& path : arguments.files) {
    options.file_name = path;
    try {
      format_file(arguments, options, path, outcome);
    } catch (const ProgramError& error) {
      fmt::print(stderr, "{}", error.what());
      outcome.exit_code = std::max(outcome.exit_code, kExitProgram);
    } catch (const UsageError& error) {
      fmt::print(stderr, "attune fmt: error: {}\n", error.what());
      outcome.exit_code = kExitUsage;
    }
  }
}

}  // namespace

Command fmt_command(Outcome& outcome) {
  auto arguments = std::make_shared<FmtArguments>();
  return {"fmt",
          "Print programs in canonical form (without their comments)",
          {{"files", &arguments->files, "Programs", kProgramFile, true},
           {"--const", &arguments->constants, "Value of a `const` parameter; repeatable", kAssignment},
           {"--check", &arguments->check, "Print nothing, exit with 1 if a file is not in canonical form (comments aside)"},
           {"--write", &arguments->write, "Overwrite the files; those with comments are refused"},
           {"--drop-comments", &arguments->drop_comments, "With --write: overwrite files with comments too"}},
          "Examples:\n  attune fmt flash.attn\n  attune fmt --check examples/*.attn\n  attune fmt --write flash.attn\n",
          [arguments, &outcome] { format_files(*arguments, outcome); }};
}

}  // namespace attune::cli
