#include "cli/output_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "cli/arguments.h"

namespace attune::cli {
namespace {

namespace fs = std::filesystem;

std::string errno_text() {
  return std::strerror(errno);
}

std::string resolved(const std::string& path) {
  std::error_code error;
  fs::path result = fs::weakly_canonical(fs::absolute(path, error), error);
  return error ? path : result.string();
}

// What a new file gets: the permissions of the one that it replaces, or those that open() would give.
mode_t permissions(const std::string& path) {
  struct stat status{};
  if (stat(path.c_str(), &status) == 0) return status.st_mode & 0777;
  mode_t mask = umask(0);
  umask(mask);
  return 0666 & ~mask;
}

}  // namespace

OutputFiles::~OutputFiles() {
  for (const File& file : files_) {
    if (!file.temporary.empty()) unlink(file.temporary.c_str());
  }
}

void OutputFiles::check_unique(const File& file) const {
  for (const File& other : files_) {
    if (other.path != file.path || (!other.is_output && !file.is_output)) continue;
    if (other.is_output) throw UsageError(file.option + ": '" + file.given + "' is already the output of " + other.option);
    throw UsageError(file.option + ": '" + file.given + "' is also the input of " + other.option + "; name another file");
  }
}

void OutputFiles::add_input(const std::string& option, const std::string& path) {
  File file{option, path, resolved(path), {}, false};
  check_unique(file);
  files_.push_back(std::move(file));
}

void OutputFiles::add(const std::string& option, const std::string& path) {
  if (path.empty()) throw UsageError(option + ": expected a file name, found ''");
  File file{option, path, resolved(path), {}, true};
  std::string folder = fs::path(file.path).parent_path().string();
  std::error_code error;
  fs::file_status status = fs::status(file.path, error);
  if (fs::is_directory(status)) throw UsageError(option + ": '" + path + "' is a folder, expected a file name");
  // A rename would replace a device such as /dev/null.
  if (fs::exists(status) && !fs::is_regular_file(status))
    throw UsageError(option + ": '" + path + "' is a device or pipe, expected a file name");
  if (!fs::is_directory(folder, error)) throw UsageError(option + ": cannot write '" + path + "': no folder '" + folder + "'");
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    throw UsageError(option + ": cannot write '" + path + "': folder '" + folder + "': " + errno_text());
  check_unique(file);
  files_.push_back(std::move(file));
}

void OutputFiles::write(const std::string& option, const std::function<void(const std::string& path)>& writer) {
  for (File& file : files_) {
    if (!file.is_output || file.option != option) continue;
    std::string name = (fs::path(file.path).parent_path() / ".attune-XXXXXX").string();
    int descriptor = mkstemp(name.data());
    if (descriptor < 0) throw UsageError(option + ": cannot write '" + file.given + "': " + errno_text());
    file.temporary = name;
    bool prepared = fchmod(descriptor, permissions(file.path)) == 0;
    try {
      writer(name);
    } catch (const std::exception& problem) {
      close(descriptor);
      throw UsageError(option + ": cannot write '" + file.given + "': " + problem.what());
    }
    // Synchronised before it gets its name, so that a crash leaves the old file or the new one.
    bool synced = fsync(descriptor) == 0;
    bool closed = close(descriptor) == 0;
    if (!prepared || !synced || !closed) throw UsageError(option + ": cannot write '" + file.given + "': " + errno_text());
    return;
  }
  throw std::logic_error("OutputFiles::write: no output " + option);
}

void OutputFiles::write_text(const std::string& option, std::string_view text) {
  write(option, [&](const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "wb");
    bool written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
    bool closed = file && std::fclose(file) == 0;
    if (!written || !closed) throw UsageError(errno_text());
  });
}

void OutputFiles::commit() {
  for (File& file : files_) {
    if (file.temporary.empty()) continue;
    if (std::rename(file.temporary.c_str(), file.path.c_str()) != 0) {
      throw UsageError(file.option + ": cannot write '" + file.given + "': " + errno_text());
    }
    file.temporary.clear();
  }
}

}  // namespace attune::cli
