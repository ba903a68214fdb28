#include "codegen/cuda_emitter.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "codegen/cuda_params.h"
#include "codegen/cuda_variant.h"
#include "codegen/device_sources.h"
#include "codegen/print_ir.h"
#include "codegen/wgmma_text.h"
#include "runtime/error.h"

namespace attune::codegen {
namespace {

constexpr int kMaxHeadDim = 256;

std::string_view dtype_text(dsl::ElementType dtype) {
  return dtype == dsl::ElementType::kF16 ? "f16" : dtype == dsl::ElementType::kBF16 ? "bf16" : "f32";
}

const GpuKernelOptions& checked(const GpuKernelOptions& options) {
  if (options.dtype != dsl::ElementType::kF16 && options.dtype != dsl::ElementType::kBF16) {
    throw ArgumentError(fmt::format("dtype is {}, expected f16 or bf16 on a GPU: its matrix units have no f32", dtype_text(options.dtype)));
  }
  for (const auto& [name, dim] : {std::pair("head_dim", options.head_dim), std::pair("v_dim", options.v_dim)}) {
    if (dim < 1 || dim > kMaxHeadDim) {
      throw ArgumentError(
          fmt::format("{} is {}, expected 1..{} on a GPU: a tile of more does not fit into its registers", name, dim, kMaxHeadDim));
    }
  }
  return options;
}

int ceil_to(int value, int unit) {
  return (value + unit - 1) / unit * unit;
}

// The program and the command that makes the file again, as a comment.
std::string header(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options) {
  const Ir& ir = lowered.ir;
  std::string text = fmt::format("// {}, forward, {}, {}, head_dim {}", ir.name, options.arch, dtype_text(options.dtype), options.head_dim);
  if (options.v_dim != options.head_dim) text += fmt::format(", v_dim {}", options.v_dim);
  text += "\n//\n";
  for (size_t at = 0; at < program.size();) {
    const size_t end = std::min(program.find('\n', at), program.size());
    text += end == at ? "//\n" : "//   " + program.substr(at, end - at) + "\n";
    at = end + 1;
  }
  text += fmt::format("//\n// attune explain {}.attn --emit cuda --arch {} --dtype {} --shape 1,512,512,8,8,{},{}", ir.name, options.arch,
                      dtype_text(options.dtype), options.head_dim, options.v_dim);
  for (const Param& param : ir.params) {
    if (param.is_const) text += fmt::format(" --const {}={}", param.name, print_expr(ir, param.default_value));
  }
  return text + "\n\n";
}

std::string config_text(const GpuKernelOptions& options, const GpuConfig& config, bool redoes) {
  std::string text = "struct Config {\n";
  const auto add = [&text](std::string_view type, std::string_view name, auto value, std::string_view meaning) {
    const std::string line = fmt::format("  static constexpr {} {} = {};", type, name, value);
    text += meaning.empty() ? line + "\n" : fmt::format("{:<44}  // {}\n", line, meaning);
  };
  add("int", "kHeadDim", options.head_dim, "");
  add("int", "kVDim", options.v_dim, "");
  add("int", "kColumnsO", ceil_to(options.v_dim, 16), "columns of the accumulator");
  add("int", "kBlockN", config.block_n, "key columns of a tile");
  add("int", "kStages", config.stages, "depth of the K and V rings");
  if (config.skeleton == GpuSkeleton::kSm90) {
    add("int", "kWarpgroups", config.warpgroups, "of 64 query rows each");
    add("int", "kBuffersQ", config.buffers_q, "tiles of Q in shared memory");
    add("bool", "kStale", config.stale, "softmax: stale reference instead of exact online maxima");
    add("bool", "kRedoes", redoes, "tiles may be computed again");
  } else {
    add("int", "kWarps", config.warpgroups, "of 16 query rows each");
    add("bool", "kQuick", config.quick, "compiled in half the time");
  }
  add("bool", "kFast", options.accuracy == Accuracy::kFast, "accuracy");
  add("bool", "kPacked", options.packed, "sequences by cu_q and cu_k");
  return text + fmt::format("  using Element = {};\n}};\n", options.dtype == dsl::ElementType::kF16 ? "F16" : "BF16");
}

std::string kernel_text(std::string_view name, int threads, std::string_view function) {
  return fmt::format("\nextern \"C\" __global__ __launch_bounds__({}, 1) void {}(GRID_CONSTANT const Params p) {{\n", threads, name) +
         fmt::format("  {}<Config, Variant>(p);\n}}\n", function);
}

// What Layout in sm90_forward.cuh adds up to; the kernel asserts that it fits.
uint32_t sm90_shared_bytes(const GpuKernelOptions& options, const GpuConfig& config, bool redoes) {
  const int chunks_q = (options.head_dim + 63) / 64, chunks_v = (options.v_dim + 63) / 64;
  const int q = config.buffers_q * config.warpgroups * 64 * std::max(chunks_q, chunks_v) * 128;
  const int kv = config.stages * config.block_n * (chunks_q + chunks_v) * 128;
  constexpr int kAlignment = 1024, kSmall = 1024, kRedo = 16 * 256;
  return static_cast<uint32_t>(ceil_to(q + kv + kAlignment + kSmall + (redoes ? kRedo : 0), 128));
}

// What Layout in sm80_forward.cuh adds up to; the kernel asserts it.
uint32_t sm80_shared_bytes(const GpuKernelOptions& options, const GpuConfig& config) {
  const int columns_k = ceil_to(options.head_dim, 16), columns_v = ceil_to(options.v_dim, 16);
  const int bytes_k = config.block_n * 2 * columns_k, bytes_v = config.block_n * 2 * columns_v, rows = config.block_m();
  const bool keeps_q = !config.quick && columns_k / 4 + columns_v / 2 + config.block_n / 2 <= 144;
  const int q = config.stages * bytes_k + (keeps_q ? config.stages - 1 : config.stages) * bytes_v;
  const int end = std::max({config.stages * (bytes_k + bytes_v), q + rows * 2 * columns_k, rows * 2 * columns_v});
  return static_cast<uint32_t>(end + 16 * config.warpgroups);
}

// What is generated of one kernel.
class Generated {
 public:
  Generated(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
      : options_(options),
        config_(config),
        variant_(lowered, checked(options), config),
        params_(forward_params(lowered.ir, {.skeleton = config.skeleton,
                                            .packed = options.packed,
                                            .has_extents = variant_.is_searched(),
                                            .has_index_flag = variant_.has_index_flag()})) {
    kernel_.name = lowered.ir.name + "_forward";
    kernel_.fields = params_.fields();
    kernel_.params_bytes = params_.bytes();
    kernel_.threads = is_sm90() ? 128 * (config.warpgroups + 1) : 32 * config.warpgroups;
    kernel_.shared_bytes = is_sm90() ? sm90_shared_bytes(options, config, redoes()) : sm80_shared_bytes(options, config);
    if (is_sm90() && variant_.is_searched()) {
      kernel_.extents_name = lowered.ir.name + "_extents";
      kernel_.extent_bytes = variant_.extent_bytes();
    }
  }

  bool is_sm90() const { return config_.skeleton == GpuSkeleton::kSm90; }
  // Whether a tile may need more care than it gets at first.
  bool redoes() const { return config_.stale || (variant_.is_sigmoid() && options_.accuracy == Accuracy::kFast); }
  const GpuKernel& kernel() const { return kernel_; }
  std::string structs() const { return config_text(options_, config_, redoes()) + "\n" + params_.text() + "\n" + variant_.text(); }
  std::string kernels(std::string_view function) const {
    std::string text = kernel_text(kernel_.name, kernel_.threads, function);
    if (!kernel_.extents_name.empty()) text += kernel_text(kernel_.extents_name, 128, "column_extents_sm90");
    return text;
  }

 private:
  const GpuKernelOptions& options_;
  const GpuConfig& config_;
  const ForwardVariant variant_;
  const ParamsLayout params_;
  GpuKernel kernel_;
};

GpuSkeletonText own_skeleton(const GpuKernelOptions& options, const GpuConfig& config) {
  GpuSkeletonText skeleton;
  if (config.skeleton == GpuSkeleton::kSm90) {
    skeleton.vocabulary = std::string(device_source("ptx_sm90.cuh")) + "\n" + wgmma_forward_text(options, config);
    skeleton.text = device_source("sm90_forward.cuh");
    skeleton.function = "attention_forward_sm90";
  } else {
    skeleton.vocabulary = device_source("ptx_sm80.cuh");
    skeleton.text = device_source("sm80_forward.cuh");
    skeleton.function = "attention_forward_sm80";
  }
  return skeleton;
}

std::string file_text(const Generated& generated, const std::string& header, const GpuSkeletonText& skeleton) {
  std::string text = header;
  for (const char* name : {"types.cuh", "ptx.cuh", "math.cuh"}) text += std::string(device_source(name)) + "\n";
  text += skeleton.vocabulary + "\n" + generated.structs() + "\n" + skeleton.text;
  return text;
}

}  // namespace

std::string emit_gpu_variant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config) {
  const Generated generated(lowered, options, config);
  return generated.structs() + generated.kernels(generated.is_sm90() ? "attention_forward_sm90" : "attention_forward_sm80");
}

GpuKernel emit_gpu_forward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config) {
  const Generated generated(lowered, options, config);
  const GpuSkeletonText skeleton = own_skeleton(options, config);
  GpuKernel kernel = generated.kernel();
  kernel.source = file_text(generated, header(lowered, program, options), skeleton);
  kernel.source +=
      fmt::format("static_assert(Layout<Config>::kBytes {} {});\n", generated.is_sm90() ? "+ 1024 <=" : "==", kernel.shared_bytes);
  kernel.source += generated.kernels(skeleton.function);
  return kernel;
}

GpuKernel emit_gpu_forward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config,
                           const GpuSkeletonText& skeleton) {
  const Generated generated(lowered, options, config);
  GpuKernel kernel = generated.kernel();
  kernel.source = file_text(generated, header(lowered, program, options), skeleton) + generated.kernels(skeleton.function);
  return kernel;
}

}  // namespace attune::codegen
