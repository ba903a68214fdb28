// What a dlopen'd CUDA driver and NVRTC say about themselves. Nothing of CUDA is linked, and no context is made.
#pragma once

#include <string>
#include <vector>

namespace attune::runtime {

struct FoundLibrary {
  bool found = false;
  std::string path;     // of the file, or what was tried
  std::string version;  // "13.0"; empty if it did not say
};

struct GpuReport {
  FoundLibrary driver, nvrtc;
  std::vector<std::string> gpus;  // "NVIDIA H100 80GB HBM3, sm_90, 132 SMs, 79 GiB"
};

// NVRTC is looked for as by open_nvrtc_library (nvrtc.h). Never throws.
GpuReport report_gpus();

}  // namespace attune::runtime
