#include "runtime/log.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

namespace attune::runtime {

bool log_enabled() {
  const char* value = std::getenv("ATTUNE_LOG");
  return value && *value && std::string_view(value) != "0";
}

void log(std::string_view message) {
  if (!log_enabled()) return;
  const std::string line = "attune: " + std::string(message) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void log_once(std::string_view message) {
  if (!log_enabled()) return;
  static std::mutex mutex;
  static std::set<std::string, std::less<>> said;
  const std::lock_guard lock(mutex);
  if (said.emplace(message).second) log(message);
}

}  // namespace attune::runtime
