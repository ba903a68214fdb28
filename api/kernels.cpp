#include "api/kernels.h"

#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

#include "api/code_hash.h"
#include "codegen/print_ir.h"
#include "runtime/cpu_kernel_io.h"
#include "runtime/log.h"
#include "runtime/single_flight.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value && std::string_view(value) != "0";
}

std::string_view pass_name(runtime::CpuPass pass) {
  return pass == runtime::CpuPass::kForward ? "forward" : "backward";
}

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) runtime::log(fmt::format("ATTUNE_DUMP: cannot write '{}'", path.string()));
}

void dump(const KernelRequest& request, const codegen::Lowered& lowered) {
  const char* folder = std::getenv("ATTUNE_DUMP");
  if (!folder || !*folder) return;
  std::error_code error;
  fs::create_directories(folder, error);
  const std::string name = fmt::format("{}_{}_{}", lowered.ir.name, pass_name(request.options.pass), request.key().hex().substr(0, 8));
  write_file(fs::path(folder) / (name + ".ir"), codegen::print_ir(lowered.ir) + "\n" + codegen::print_backward(lowered) + "\n" +
                                                    codegen::print_rates(lowered) + "\n" + codegen::print_bounds(lowered));
  write_file(fs::path(folder) / (name + ".ll"), codegen::print_cpu_kernel(lowered, request.options, request.target));
}

std::shared_ptr<const Kernel> link(runtime::CpuKernel kernel) {
  runtime::LinkedObject code(kernel.object, kernel.symbol);
  kernel.object.clear();
  return std::make_shared<const Kernel>(Kernel{std::move(kernel), std::move(code)});
}

std::optional<runtime::CpuKernel> stored_kernel(const runtime::ObjectCache& cache, const runtime::CacheKey& key) {
  if (is_set("ATTUNE_ALWAYS_COMPILE")) return std::nullopt;
  const std::optional<std::string> bytes = cache.load(key);
  return bytes ? runtime::cpu_kernel_from_bytes(*bytes) : std::nullopt;
}

std::shared_ptr<const Kernel> make_kernel(const KernelRequest& request, const runtime::CacheKey& key,
                                          const std::function<const codegen::Lowered&()>& lowered) {
  const runtime::ObjectCache cache = open_object_cache();
  if (std::optional<runtime::CpuKernel> stored = stored_kernel(cache, key)) return link(std::move(*stored));
  dump(request, lowered());
  runtime::CpuKernel kernel = codegen::emit_cpu_kernel(lowered(), request.options, request.target);
  runtime::log(fmt::format("compiled {}, {} bytes", kernel.symbol, kernel.object.size()));
  cache.store(key, runtime::to_bytes(kernel));
  return link(std::move(kernel));
}

}  // namespace

std::string attune_version() {
  return ATTUNE_VERSION;
}

runtime::ObjectCache open_object_cache() {
  return {runtime::open_cache_folder(ATTUNE_VERSION), runtime::ObjectCache::limit_from_environment()};
}

runtime::CacheKey KernelRequest::key() const {
  const std::string settings = fmt::format("{} d{} v{} {} grads {}", static_cast<int>(options.dtype), options.head_dim, options.v_dim,
                                           pass_name(options.pass), options.want_param_grads);
  const std::string llvm = codegen::llvm_version();
  const std::array<std::string_view, 9> parts = {"cpu kernel",    ATTUNE_VERSION, kAttuneCodeHash, llvm,    target.cpu,
                                                 target.features, program,        constants,       settings};
  return runtime::cache_key(parts);
}

std::shared_ptr<const Kernel> get_kernel(const KernelRequest& request, const std::function<const codegen::Lowered&()>& lowered) {
  // Never destroyed: a plan may be made while the process exits.
  static auto* kernels = new runtime::SingleFlight<runtime::CacheKey, Kernel>();
  const runtime::CacheKey key = request.key();
  return kernels->get(key, [&] { return make_kernel(request, key, lowered); });
}

}  // namespace attune
