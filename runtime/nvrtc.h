// CUDA C++ to machine code of a GPU by NVRTC, which is found at run time and never linked. Needs no GPU and no driver.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "runtime/kernel_plan.h"
#include "runtime/ptxas_log.h"
#include "runtime/shared_library.h"

namespace attune::runtime {

// Looked for at $ATTUNE_NVRTC, by the loader's path, in Python's packages (nvidia-cuda-nvrtc), then in /usr/local/cuda/lib64. May be not
// open.
SharedLibrary open_nvrtc_library();

// The one that this process uses, from its first use on. Throws EnvironmentError if there is none.
struct NvrtcVersion {
  int major = 0, minor = 0;
  std::string path;      // of the library
  std::string identity;  // "13.0, 109338064 bytes": differs between builds of one version; a part of cache keys
};
const NvrtcVersion& nvrtc_version();

struct GpuCompileOptions {
  bool want_ptx = false;
  std::stop_token cancel;  // asked now and then while NVRTC works
};

struct CompiledGpu {
  std::string cubin;
  std::string ptx;  // if it was wanted
  std::string log;  // NVRTC's and ptxas's
  double seconds = 0;
  std::vector<GpuResources> kernels;  // by name
  std::vector<std::string> warnings;  // ptxas's: spills, setmaxnreg ignored, wgmma serialised
};

// The flags that every source is compiled with, beside its arch; a part of cache keys.
std::string nvrtc_flags();

// Several threads may compile at once. Throws CancelledError, or EnvironmentError: no NVRTC, an arch that it does not know, or a source
// that does not compile, which is our bug, with the log.
CompiledGpu compile_gpu(const GpuSource& source, const GpuCompileOptions& options = {});

// How often this process has called the compiler.
int compile_gpu_count();

}  // namespace attune::runtime
