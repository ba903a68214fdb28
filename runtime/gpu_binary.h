// Machine code of a GpuSource: out of the cache, or compiled once, however many threads and processes ask for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/kernel_plan.h"
#include "runtime/nvrtc.h"
#include "runtime/object_cache.h"

namespace attune::runtime {

struct GpuBinary {
  CacheKey key;
  std::string cubin;
  std::vector<GpuResources> kernels;  // by name
  std::vector<std::string> warnings;  // ptxas's
};

// Source text, arch, flags, NVRTC's version and build. Throws EnvironmentError if there is no NVRTC.
CacheKey gpu_binary_key(const GpuSource& source);

// What the cache has; null if it has nothing. Never compiles.
std::shared_ptr<const GpuBinary> stored_gpu_binary(const GpuSource& source, const ObjectCache& cache);

struct GpuBinaryOptions {
  bool always_compile = false;  // also what the cache has; the new code is stored
  std::stop_token cancel;       // a thread that waits for the same source and is not cancelled itself compiles it then
};

// While one process compiles, others that ask for the same source wait for it, up to a minute. Throws what compile_gpu throws.
std::shared_ptr<const GpuBinary> get_gpu_binary(const GpuSource& source, const ObjectCache& cache, const GpuBinaryOptions& options = {});

// Those of all sources of a plan, in order; what has to be compiled is compiled at once, each source on a thread of its own. Throws the
// first source's error.
std::vector<std::shared_ptr<const GpuBinary>> get_gpu_binaries(const GpuPlan& plan, const ObjectCache& cache,
                                                               const GpuBinaryOptions& options = {});

}  // namespace attune::runtime
