#include "api/kernels.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string_view>

#include "api/code_hash.h"
#include "api/settings.h"
#include "codegen/print_ir.h"
#include "runtime/cpu_kernel_io.h"
#include "runtime/error.h"
#include "runtime/log.h"
#include "runtime/single_flight.h"

namespace attune {
namespace {

std::string_view pass_name(runtime::CpuPass pass) {
  return pass == runtime::CpuPass::kForward ? "forward" : "backward";
}

void dump_stages(const KernelRequest& request, const codegen::Lowered& lowered) {
  if (!has_dump_folder()) return;
  const std::string name = fmt::format("{}_{}_{}", lowered.ir.name, pass_name(request.options.pass), request.key().hex().substr(0, 8));
  dump(name + ".ir", codegen::print_ir(lowered.ir) + "\n" + codegen::print_backward(lowered) + "\n" + codegen::print_rates(lowered) + "\n" +
                         codegen::print_bounds(lowered));
  dump(name + ".ll", codegen::print_cpu_kernel(lowered, request.options, request.target));
}

std::shared_ptr<const Kernel> link(runtime::CpuKernel kernel) {
  runtime::LinkedObject code(kernel.object, kernel.symbol);
  kernel.object.clear();
  return std::make_shared<const Kernel>(Kernel{std::move(kernel), std::move(code)});
}

std::optional<runtime::CpuKernel> stored_kernel(const runtime::ObjectCache& cache, const runtime::CacheKey& key) {
  if (always_compiles()) return std::nullopt;
  const std::optional<std::string> bytes = cache.load(key);
  return bytes ? runtime::cpu_kernel_from_bytes(*bytes) : std::nullopt;
}

std::shared_ptr<const Kernel> make_kernel(const KernelRequest& request, const runtime::CacheKey& key,
                                          const std::function<const codegen::Lowered&()>& lowered) {
  const runtime::ObjectCache cache = open_object_cache();
  if (std::optional<runtime::CpuKernel> stored = stored_kernel(cache, key)) return link(std::move(*stored));
  if (request.forbid_jit) fail_forbidden(fmt::format("the {} pass of '{}'", pass_name(request.options.pass), lowered().ir.name), cache);
  dump_stages(request, lowered());
  runtime::CpuKernel kernel = codegen::emit_cpu_kernel(lowered(), request.options, request.target);
  runtime::log(fmt::format("compiled {}, {} bytes", kernel.symbol, kernel.object.size()));
  cache.store(key, runtime::to_bytes(kernel));
  return link(std::move(kernel));
}

}  // namespace

void fail_forbidden(const std::string& kernel, const runtime::ObjectCache& cache) {
  throw EnvironmentError(
      fmt::format("{} is not in the cache '{}', and compiling is forbidden (forbid_jit, ATTUNE_DISABLE_JIT)", kernel, cache.folder().path));
}

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
