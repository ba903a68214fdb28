#include "api/settings.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "runtime/log.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value && std::string_view(value) != "0";
}

std::string_view dump_folder() {
  const char* folder = std::getenv("ATTUNE_DUMP");
  return folder ? folder : "";
}

}  // namespace

bool always_compiles() {
  return is_set("ATTUNE_ALWAYS_COMPILE");
}

bool has_large_tiles() {
  return is_set("ATTUNE_LARGE_TILES");
}

bool disables_jit() {
  return is_set("ATTUNE_DISABLE_JIT");
}

bool has_dump_folder() {
  return !dump_folder().empty();
}

void dump(const std::string& file_name, std::string_view content) {
  const fs::path folder(dump_folder());
  std::error_code error;
  fs::create_directories(folder, error);
  const fs::path path = folder / file_name;
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.close();
  if (!file) runtime::log(fmt::format("ATTUNE_DUMP: cannot write '{}'", path.string()));
}

}  // namespace attune
