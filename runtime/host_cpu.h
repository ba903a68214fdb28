// The processor that kernels are compiled for, and how much of the machine this process may use.
#pragma once

#include <string>
#include <string_view>

namespace attune::runtime {

// As LLVM names them.
struct HostCpu {
  std::string name;      // "znver3"
  std::string features;  // "+avx2,+fma,-sse4a,...", sorted; empty: what the name implies
};

// The host. The environment variable ATTUNE_CPU = x86-64 | x86-64-v3 | x86-64-v4 | native limits it to a level (for tests). Throws
// EnvironmentError for another value, or for a level that the host lacks.
HostCpu host_cpu();
HostCpu native_cpu();
bool has_feature(const HostCpu& cpu, std::string_view feature);  // has_feature(native_cpu(), "avx2")

// Cores that this process may use at once: the affinity mask, cut by a cgroup's CPU quota; at least 1.
int available_cores();

// Cores by the text of cgroup v2's cpu.max, "200000 100000" or "max 100000", rounded up; 0 if it sets no limit.
int cores_of_quota(std::string_view cpu_max);

}  // namespace attune::runtime
