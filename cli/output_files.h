// The files that a command writes: whole or not at all. Each is first written under a temporary name in its own folder; commit() renames
// them together, and without it the destructor removes what was written.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace attune::cli {

class OutputFiles {
 public:
  OutputFiles() = default;
  OutputFiles(const OutputFiles&) = delete;
  OutputFiles& operator=(const OutputFiles&) = delete;
  ~OutputFiles();

  // Names a file that is read; no output may be the same file.
  void add_input(const std::string& option, const std::string& path);
  // Names a file that will be written. Throws UsageError, naming the option, if its folder is missing or not writable, if it is something
  // else than a file, or the same file as an input or another output.
  void add(const std::string& option, const std::string& path);

  // Calls writer(temporary path) for the output of that option. Throws UsageError if the temporary file cannot be made.
  void write(const std::string& option, const std::function<void(const std::string& path)>& writer);
  void write_text(const std::string& option, std::string_view text);

  // Gives all written files their names. A rename that fails throws UsageError; the renames before it stand.
  void commit();

 private:
  struct File {
    std::string option, given;  // as on the command line
    std::string path;           // absolute, links followed
    std::string temporary;      // "" until written
    bool is_output = false;
  };
  void check_unique(const File& file) const;

  std::vector<File> files_;
};

}  // namespace attune::cli
