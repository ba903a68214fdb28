#include "runtime/cache_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "runtime/log.h"

namespace attune::runtime {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// "" if no variable says where.
fs::path root_folder() {
  if (const std::string own = environment("ATTUNE_CACHE_DIR"); !own.empty()) return own;
  // A relative XDG_CACHE_HOME is to be ignored, says the XDG base directory specification.
  if (const std::string xdg = environment("XDG_CACHE_HOME"); xdg.starts_with('/')) return fs::path(xdg) / "attune";
  if (const std::string home = environment("HOME"); home.starts_with('/')) return fs::path(home) / ".cache" / "attune";
  return {};
}

// Creates the folder and its parents with mode 0700; what exists is left as it is. Returns the problem or "".
std::string create(const fs::path& folder) {
  fs::path part;
  for (const fs::path& name : folder) {
    part /= name;
    if (mkdir(part.c_str(), 0700) == 0) continue;
    const int code = errno;
    struct stat status;
    if (stat(part.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) continue;
    return fmt::format("cannot create '{}': {}", part.string(), std::strerror(code == EEXIST ? ENOTDIR : code));
  }
  return {};
}

std::string check(const fs::path& folder) {
  struct stat status;
  if (stat(folder.c_str(), &status) != 0) return fmt::format("cannot read '{}': {}", folder.string(), std::strerror(errno));
  if (status.st_uid != geteuid()) {
    return fmt::format("'{}' belongs to user {}, expected user {}", folder.string(), status.st_uid, geteuid());
  }
  if (status.st_mode & (S_IWGRP | S_IWOTH)) {
    return fmt::format("'{}' has mode {:04o}: others may write to it, expected 0700", folder.string(), status.st_mode & 07777);
  }
  if (access(folder.c_str(), R_OK | W_OK | X_OK) != 0)
    return fmt::format("cannot write to '{}': {}", folder.string(), std::strerror(errno));
  return {};
}

CacheFolder find(std::string_view version) {
  const fs::path root = root_folder();
  if (root.empty()) return {"", "none of ATTUNE_CACHE_DIR, XDG_CACHE_HOME and HOME is set"};
  std::error_code error;
  const fs::path absolute = fs::absolute(root, error);
  if (error) return {"", fmt::format("cannot resolve '{}': {}", root.string(), error.message())};
  const fs::path folder = absolute / version;
  std::string problem = create(folder);
  if (problem.empty()) problem = check(absolute);
  if (problem.empty()) problem = check(folder);
  return {folder.string(), problem};
}

}  // namespace

CacheFolder open_cache_folder(std::string_view version) {
  CacheFolder folder = find(version);
  if (!folder.usable()) log_once(fmt::format("the kernel cache is off: {}", folder.problem));
  return folder;
}

}  // namespace attune::runtime
