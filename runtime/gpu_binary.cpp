#include "runtime/gpu_binary.h"

#include <array>
#include <future>
#include <string_view>

#include "runtime/error.h"
#include "runtime/gpu_binary_io.h"
#include "runtime/key_lock.h"
#include "runtime/single_flight.h"

namespace attune::runtime {
namespace {

std::shared_ptr<const GpuBinary> load(const CacheKey& key, const ObjectCache& cache) {
  const std::optional<std::string> bytes = cache.load(key);
  if (!bytes) return nullptr;
  std::optional<GpuBinary> binary = gpu_binary_from_bytes(*bytes);
  if (!binary) return nullptr;
  binary->key = key;
  return std::make_shared<const GpuBinary>(std::move(*binary));
}

std::shared_ptr<const GpuBinary> compile(const CacheKey& key, const GpuSource& source, const ObjectCache& cache, std::stop_token cancel) {
  CompiledGpu compiled = compile_gpu(source, {false, std::move(cancel)});
  auto binary = std::make_shared<const GpuBinary>(
      GpuBinary{key, std::move(compiled.cubin), std::move(compiled.kernels), std::move(compiled.warnings)});
  cache.store(key, to_bytes(*binary));
  return binary;
}

std::shared_ptr<const GpuBinary> make(const CacheKey& key, const GpuSource& source, const ObjectCache& cache,
                                      const GpuBinaryOptions& options) {
  if (options.always_compile) return compile(key, source, cache, options.cancel);
  if (auto stored = load(key, cache)) return stored;
  const KeyLock lock(cache.folder(), key, options.cancel);
  // Whoever held the lock before has stored it.
  if (auto stored = load(key, cache)) return stored;
  return compile(key, source, cache, options.cancel);
}

}  // namespace

CacheKey gpu_binary_key(const GpuSource& source) {
  const std::string flags = nvrtc_flags();
  const std::array<std::string_view, 5> parts = {"gpu binary 1", source.text, source.arch, flags, nvrtc_version().identity};
  return cache_key(parts);
}

std::shared_ptr<const GpuBinary> stored_gpu_binary(const GpuSource& source, const ObjectCache& cache) {
  return load(gpu_binary_key(source), cache);
}

std::shared_ptr<const GpuBinary> get_gpu_binary(const GpuSource& source, const ObjectCache& cache, const GpuBinaryOptions& options) {
  // Never destroyed: a plan may be made while the process exits.
  static auto* binaries = new SingleFlight<CacheKey, GpuBinary>();
  const CacheKey key = gpu_binary_key(source);
  if (options.always_compile) return make(key, source, cache, options);
  while (true) {
    try {
      return binaries->get(key, [&] { return make(key, source, cache, options); });
    } catch (const CancelledError&) {
      if (options.cancel.stop_requested()) throw;
      // Whoever compiled it for both was cancelled.
    }
  }
}

std::vector<std::shared_ptr<const GpuBinary>> get_gpu_binaries(const GpuPlan& plan, const ObjectCache& cache,
                                                               const GpuBinaryOptions& options) {
  // The first on this thread: most plans have one source.
  std::vector<std::future<std::shared_ptr<const GpuBinary>>> made;
  for (size_t i = 0; i < plan.sources.size(); ++i) {
    const auto policy = i == 0 ? std::launch::deferred : std::launch::async;
    made.push_back(std::async(policy, [&, i] { return get_gpu_binary(plan.sources[i], cache, options); }));
  }
  std::vector<std::shared_ptr<const GpuBinary>> binaries;
  for (auto& binary : made) binaries.push_back(binary.get());
  return binaries;
}

}  // namespace attune::runtime
