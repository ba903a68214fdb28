// The part of host_cpu.h that asks LLVM.
#include <llvm/ADT/StringMap.h>
#include <llvm/ADT/StringRef.h>
#include <llvm/TargetParser/Host.h>

#include <map>

#include "runtime/host_cpu.h"

namespace attune::runtime {
namespace {

HostCpu ask_llvm() {
  HostCpu cpu;
  cpu.name = llvm::sys::getHostCPUName().str();
  std::map<std::string, bool> sorted;  // the text is part of cache keys
  for (const auto& feature : llvm::sys::getHostCPUFeatures()) sorted[feature.getKey().str()] = feature.getValue();
  for (const auto& [name, present] : sorted) {
    if (!cpu.features.empty()) cpu.features += ',';
    cpu.features += (present ? '+' : '-') + name;
  }
  return cpu;
}

}  // namespace

HostCpu native_cpu() {
  static const HostCpu cpu = ask_llvm();  // CPUID is slow in virtual machines
  return cpu;
}

}  // namespace attune::runtime
