// What this machine offers to Attune.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attune {

struct LibraryReport {
  bool found = false;
  std::string path;     // or what was tried
  std::string version;  // "13.0", "" if unknown
};

struct DoctorReport {
  std::string attune_version, llvm_version;
  std::string cpu;                        // LLVM's name for the host
  std::vector<std::string> cpu_features;  // those that matter: avx2, fma, f16c, avx512f, ...
  int cores = 0;                          // that this process may use
  LibraryReport driver, nvrtc;            // looked up with dlopen, nothing is linked
  std::vector<std::string> gpus;          // "NVIDIA H100 80GB HBM3, sm_90, 132 SMs, 79 GiB"
  std::string cache_folder;
  bool cache_usable = false;
  std::string cache_problem;  // why not
  int64_t cache_entries = 0, cache_bytes = 0, cache_limit_bytes = 0;
};

DoctorReport doctor();

}  // namespace attune
