#include "runtime/host_cpu.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "runtime/error.h"

namespace attune::runtime {
namespace {

// What tells each level from the one below, as far as kernels use it.
const std::vector<std::string_view>* features_of_level(std::string_view level) {
  static const std::vector<std::string_view> kV1 = {};
  static const std::vector<std::string_view> kV3 = {"avx2", "bmi2", "f16c", "fma"};
  static const std::vector<std::string_view> kV4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"};
  if (level == "x86-64") return &kV1;
  if (level == "x86-64-v3") return &kV3;
  if (level == "x86-64-v4") return &kV4;
  return nullptr;
}

int affinity_cores() {
  // More processors than a plain cpu_set_t holds are rare but exist.
  for (int processors = CPU_SETSIZE; processors <= (1 << 20); processors *= 2) {
    cpu_set_t* set = CPU_ALLOC(processors);
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(processors);
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const int cores = known ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (known) return cores;
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The folders of this process in a hierarchy, from its own up to the root: a limit may stand at any.
std::vector<std::string> cgroup_folders(const std::string& mount, std::string path) {
  std::vector<std::string> folders;
  while (!path.empty() && path != "/") {
    folders.push_back(mount + path);
    path.resize(path.rfind('/'));
  }
  folders.push_back(mount);
  return folders;
}

int least(int a, int b) {
  if (a == 0) return b;
  return b == 0 ? a : std::min(a, b);
}

int quota_cores() {
  int cores = 0;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      for (const std::string& folder : cgroup_folders("/sys/fs/cgroup", path)) {
        cores = least(cores, cores_of_quota(first_line(folder + "/cpu.max")));
      }
    } else if (controllers.find(",cpu,") != std::string::npos) {
      for (const std::string& folder : cgroup_folders("/sys/fs/cgroup/cpu", path)) {
        const std::string quota = first_line(folder + "/cpu.cfs_quota_us"), period = first_line(folder + "/cpu.cfs_period_us");
        cores = least(cores, cores_of_quota(quota + " " + period));
      }
    }
  }
  return cores;
}

}  // namespace

HostCpu host_cpu() {
  const char* value = std::getenv("ATTUNE_CPU");
  const std::string level = value ? value : "";
  const HostCpu native = native_cpu();
  if (level.empty() || level == "native") return native;
  const std::vector<std::string_view>* features = features_of_level(level);
  if (!features) {
    throw EnvironmentError(fmt::format("ATTUNE_CPU: expected x86-64, x86-64-v3, x86-64-v4 or native, found '{}'", level));
  }
#if !defined(__x86_64__)
  throw EnvironmentError(fmt::format("ATTUNE_CPU: '{}' is no level of this processor, {}", level, native.name));
#endif
  for (std::string_view feature : *features) {
    if (!has_feature(native, feature)) {
      throw EnvironmentError(fmt::format("ATTUNE_CPU: '{}' needs {}, which this processor, {}, lacks", level, feature, native.name));
    }
  }
  return {level, ""};
}

bool has_feature(const HostCpu& cpu, std::string_view feature) {
  return ("," + cpu.features + ",").find(fmt::format(",+{},", feature)) != std::string::npos;
}

int cores_of_quota(std::string_view cpu_max) {
  std::istringstream words{std::string(cpu_max)};
  std::string quota_text;
  double period = 0;
  if (!(words >> quota_text >> period) || period <= 0) return 0;
  long quota = 0;
  const auto [stop, error] = std::from_chars(quota_text.data(), quota_text.data() + quota_text.size(), quota);
  if (error != std::errc() || quota <= 0) return 0;
  return static_cast<int>(std::min(1048576.0, (static_cast<double>(quota) + period - 1) / period));
}

int available_cores() {
  return std::max(1, least(affinity_cores(), quota_cores()));
}

}  // namespace attune::runtime
