#include "api/gpu_kernels.h"

#include <fmt/format.h>

#include "api/kernels.h"
#include "api/settings.h"
#include "api/tensors.h"
#include "codegen/cuda_emitter.h"

namespace attune {
namespace {

codegen::GpuKernel emit(const codegen::Lowered& lowered, const std::string& canonical, GpuPass pass,
                        const codegen::GpuKernelOptions& options, const codegen::GpuConfig& config) {
  return pass == GpuPass::kForward ? codegen::emit_gpu_forward(lowered, canonical, options, config)
                                   : codegen::emit_gpu_backward(lowered, canonical, options, config);
}

// All that a kernel depends on: kernels are known by this text.
std::string tile_text(GpuPass pass, const codegen::GpuConfig& config) {
  const bool is_sm90 = config.skeleton == codegen::GpuSkeleton::kSm90;
  if (pass == GpuPass::kBackward) {
    std::string text = fmt::format("{} backward {}x{}x{}", is_sm90 ? "sm90" : "sm80", config.block_m, config.block_n, config.stages);
    if (config.persistent) text += ", persistent";
    if (config.sums) text += ", sums over pairs";
    if (!config.fed_tensors.empty()) text += ", fed";
    for (const int param : config.fed_tensors) text += fmt::format(" t{}", param);
    return text;
  }
  std::string text = fmt::format("{} {}x{}x{}", is_sm90 ? "sm90" : "sm80", config.forward_rows(), config.block_n, config.stages);
  if (is_sm90 && config.buffers_q != 3) text += fmt::format(", {} tile{} of Q", config.buffers_q, config.buffers_q == 1 ? "" : "s");
  if (config.stale) text += ", stale softmax";
  if (config.feed_stages > 0) text += fmt::format(", {} stages of fed", config.feed_stages);
  for (const int param : config.fed_tensors) text += fmt::format(" t{}", param);
  if (config.feeds_columns) text += " keys";
  if (config.feeds_tables) text += " tables";
  if (config.quick) text += ", quick";
  return text;
}

}  // namespace

std::string gpu_config_text(GpuPass pass, const codegen::GpuConfig& config) {
  std::string text = tile_text(pass, config);
  if (config.splits > 1) text += fmt::format(", {} splits", config.splits);
  if (config.tile_heads > 1) text += fmt::format(", {} heads a tile", config.tile_heads);
  return text;
}

std::string gpu_kernel_text(GpuPass pass, const codegen::GpuKernelOptions& options, const codegen::GpuConfig& config) {
  return fmt::format("{}, {}, head_dim {}, v_dim {}, {}{}{}{}{}{}{}", options.arch, dtype_name(dtype_of(options.dtype)), options.head_dim,
                     options.v_dim, tile_text(pass, config), config.splits > 0 ? ", splits" : "",
                     config.tile_heads > 1 ? ", heads of a key head a tile" : "", options.packed ? ", packed" : "",
                     options.accuracy == codegen::Accuracy::kHigh ? ", high accuracy" : "", options.far_positions ? ", far positions" : "",
                     pass == GpuPass::kBackward && options.deterministic ? ", deterministic" : "");
}

std::shared_ptr<const GpuKernelCode> get_gpu_kernel(const codegen::Lowered& lowered, const std::string& canonical, GpuPass pass,
                                                    const codegen::GpuKernelOptions& options, const codegen::GpuConfig& config,
                                                    bool forbid_jit, std::stop_token cancel) {
  auto code = std::make_shared<GpuKernelCode>();
  code->kernel = emit(lowered, canonical, pass, options, config);
  const runtime::GpuSource source = {code->kernel.source, options.arch};
  const runtime::ObjectCache cache = open_object_cache();
  std::string dump_name;
  if (has_dump_folder()) {
    dump_name = fmt::format("{}_{}", code->kernel.name, runtime::gpu_binary_key(source).hex().substr(0, 8));
    dump(dump_name + ".cu", source.text);
  }
  if (forbid_jit) {
    code->binary = runtime::stored_gpu_binary(source, cache);
    if (!code->binary) fail_forbidden(fmt::format("kernel '{}' ({})", code->kernel.name, gpu_kernel_text(pass, options, config)), cache);
  } else {
    code->binary = runtime::get_gpu_binary(source, cache, {always_compiles(), std::move(cancel)});
  }
  if (has_dump_folder()) dump(dump_name + ".cubin", code->binary->cubin);
  return code;
}

std::shared_ptr<const GpuKernelCode> stored_gpu_kernel(const codegen::Lowered& lowered, const std::string& canonical, GpuPass pass,
                                                       const codegen::GpuKernelOptions& options, const codegen::GpuConfig& config) {
  auto code = std::make_shared<GpuKernelCode>();
  code->kernel = emit(lowered, canonical, pass, options, config);
  if (!always_compiles()) code->binary = runtime::stored_gpu_binary({code->kernel.source, options.arch}, open_object_cache());
  return code;
}

}  // namespace attune
