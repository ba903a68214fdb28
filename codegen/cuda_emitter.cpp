#include "codegen/cuda_emitter.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "codegen/cuda_backward_variant.h"
#include "codegen/cuda_forward_variant.h"
#include "codegen/cuda_params.h"
#include "codegen/device_sources.h"
#include "codegen/feeds.h"
#include "codegen/float_distances.h"
#include "codegen/print_ir.h"
#include "codegen/wgmma_text.h"
#include "runtime/error.h"

namespace attune::codegen {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kSideThreads = 128;  // of a CTA of the kernels around the main one

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

// Sizes for which the planner takes such a config: batch, q_len, k_len, heads, kv_heads.
std::string_view typical_sizes(const Lowered& lowered, const GpuConfig& config, bool is_backward) {
  if (config.splits == 0) {
    // Rows of a bias that the copy engine cannot read.
    const bool reads_itself = config.skeleton == GpuSkeleton::kSm90 && !is_backward && config.fed_tensors.empty() &&
                              !pair_reads(lowered.ir.graph, pair_roots(lowered)).empty();
    return reads_itself ? "1,4096,4097,16,16" : "1,4096,4096,16,16";
  }
  if (config.key_warps > 1) return config.tile_heads > 1 ? "1,1,4096,8,2" : "1,1,4096,8,8";
  return config.tile_heads > 1 ? "1,32,4096,8,2" : "1,512,512,8,8";
}

// The program and the command that makes the file again, as a comment.
std::string header(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config,
                   bool is_backward) {
  const Ir& ir = lowered.ir;
  std::string text = fmt::format("// {}, {}, {}, {}, head_dim {}", ir.name, is_backward ? "backward" : "forward", options.arch,
                                 dtype_text(options.dtype), options.head_dim);
  if (options.v_dim != options.head_dim) text += fmt::format(", v_dim {}", options.v_dim);
  text += "\n//\n";
  for (size_t at = 0; at < program.size();) {
    const size_t end = std::min(program.find('\n', at), program.size());
    text += end == at ? "//\n" : "//   " + program.substr(at, end - at) + "\n";
    at = end + 1;
  }
  text += fmt::format("//\n// attune explain {}.attn --emit cuda{} --arch {} --dtype {} --shape {},{},{}", ir.name,
                      is_backward ? options.deterministic ? " --backward --deterministic" : " --backward" : "", options.arch,
                      dtype_text(options.dtype), typical_sizes(lowered, config, is_backward), options.head_dim, options.v_dim);
  for (const Param& param : ir.params) {
    if (param.is_const) text += fmt::format(" --const {}={}", param.name, print_expr(ir, param.default_value));
  }
  return text + "\n\n";
}

// The constants of a Config.
class ConfigText {
 public:
  void add(std::string_view type, std::string_view name, auto value, std::string_view meaning) {
    const std::string line = fmt::format("  static constexpr {} {} = {};", type, name, value);
    text_ += meaning.empty() ? line + "\n" : fmt::format("{:<44}  // {}\n", line, meaning);
  }
  void add_dims(const GpuKernelOptions& options) {
    add("int", "kHeadDim", options.head_dim, "");
    add("int", "kVDim", options.v_dim, "");
  }
  std::string finish(const GpuKernelOptions& options) {
    add("bool", "kFast", options.accuracy == Accuracy::kFast, "accuracy");
    add("bool", "kPacked", options.packed, "sequences by cu_q and cu_k");
    return fmt::format("struct Config {{\n{}  using Element = {};\n}};\n", text_, options.dtype == dsl::ElementType::kF16 ? "F16" : "BF16");
  }

 private:
  std::string text_;
};

std::string forward_config_text(const GpuKernelOptions& options, const GpuConfig& config, bool redoes, int feed_bytes) {
  ConfigText text;
  text.add_dims(options);
  text.add("int", "kColumnsO", ceil_to(options.v_dim, 16), "columns of the accumulator");
  text.add("int", "kBlockN", config.block_n, "key columns of a tile");
  text.add("int", "kStages", config.stages, "depth of the K and V rings");
  if (config.skeleton == GpuSkeleton::kSm90) {
    text.add("int", "kWarpgroups", config.warpgroups, "of 64 query rows each");
    text.add("int", "kBuffersQ", config.buffers_q, "tiles of Q in shared memory");
    text.add("bool", "kStale", config.stale, "softmax: stale reference instead of exact online maxima");
    text.add("bool", "kRedoes", redoes, "tiles may be computed again");
    if (feed_bytes > 0) {
      text.add("int", "kFeedStages", config.feed_stages, "depth of the rings of what feeder warps bring");
      text.add("int", "kFeedBytes", feed_bytes, "of it, of a block of keys and a warpgroup");
    }
  } else {
    text.add("int", "kWarps", config.warpgroups, "of 16 query rows each");
    text.add("int", "kKeyWarps", config.key_warps, "of them with the same rows, each with its own keys");
    text.add("bool", "kPacksHeads", config.tile_heads > 1, "rows are pairs of a query and a head of one key head");
    text.add("bool", "kSplits", config.splits > 0, "CTAs may share the keys of a tile");
    text.add("bool", "kQuick", config.quick, "compiled in half the time");
  }
  return text.finish(options);
}

std::string backward_config_text(const GpuKernelOptions& options, const GpuConfig& config, int feed_bytes) {
  const bool is_sm90 = config.skeleton == GpuSkeleton::kSm90;
  ConfigText text;
  text.add_dims(options);
  text.add("int", "kBlockM", config.block_m, "query rows of a step");
  text.add("int", "kBlockN", config.block_n, "key rows of a CTA");
  text.add("int", "kStages", config.stages, "depth of the Q and dO rings");
  text.add("int", is_sm90 ? "kWarpgroups" : "kWarps", config.warpgroups, is_sm90 ? "of 64 key rows each" : "of 16 key rows each");
  if (is_sm90) {
    text.add("int", "kFeedBytes", feed_bytes, "of tensors by pair, of a step");
    text.add("bool", "kSums", config.sums, "dK has columns for sums over pairs");
    text.add("bool", "kPersistent", config.persistent, "a CTA takes one block of keys after the other");
  }
  text.add("bool", "kDeterministic", options.deterministic, "the same bits from call to call");
  return text.finish(options);
}

std::string kernel_text(std::string_view name, int threads, std::string_view function) {
  return fmt::format("\nextern \"C\" __global__ __launch_bounds__({}, 1) void {}(GRID_CONSTANT const Params p) {{\n", threads, name) +
         fmt::format("  {}<Config, Variant>(p);\n}}\n", function);
}

// What Layout in sm80_forward.cuh adds up to; the kernel asserts it.
uint32_t sm80_shared_bytes(const GpuKernelOptions& options, const GpuConfig& config) {
  const int columns_k = ceil_to(options.head_dim, 16), columns_v = ceil_to(options.v_dim, 16);
  const int bytes_k = config.block_n * 2 * columns_k, bytes_v = config.block_n * 2 * columns_v, rows = config.forward_rows();
  const bool keeps_q = !config.quick && columns_k / 4 + columns_v / 2 + config.block_n / config.key_warps / 2 <= 144;
  const int q = config.stages * bytes_k + (keeps_q ? config.stages - 1 : config.stages) * bytes_v;
  const int parts = (config.warpgroups - config.warpgroups / config.key_warps) * (columns_v / 8 + 1) * 32 * 16;
  const int end = std::max({config.stages * (bytes_k + bytes_v), q + rows * 2 * columns_k, rows * 2 * columns_v + parts});
  return static_cast<uint32_t>(end + 16 * config.warpgroups);
}

// What Layout in sm80_backward.cuh adds up to; the kernel asserts it.
uint32_t sm80_backward_shared_bytes(const GpuKernelOptions& options, const GpuConfig& config) {
  const int columns = ceil_to(options.head_dim, 16) + ceil_to(options.v_dim, 16);
  return static_cast<uint32_t>((16 * config.warpgroups + config.stages * config.block_m) * columns * 2 + 16 * config.warpgroups);
}

Lowered for_gpu(const Lowered& lowered, const GpuKernelOptions& options) {
  return options.far_positions ? lowered : with_float_distances(lowered);
}

// What is generated of the forward kernel.
class GeneratedForward {
 public:
  GeneratedForward(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
      : options_(options),
        config_(config),
        variant_(for_gpu(lowered, checked(options)), options, config),
        params_(forward_params(lowered.ir, {.skeleton = config.skeleton,
                                            .packed = options.packed,
                                            .has_extents = variant_.is_searched(),
                                            .has_index_flag = variant_.has_index_flag(),
                                            .mapped = config.fed_tensors})) {
    kernel_.name = lowered.ir.name + "_forward";
    kernel_.fields = params_.fields();
    kernel_.params_bytes = params_.bytes();
    kernel_.threads = is_sm90() ? 128 * (config.warpgroups + 1) : 32 * config.warpgroups;
    kernel_.part_bytes = is_sm90() ? 0 : static_cast<size_t>(config.forward_rows() / 16 * (ceil_to(options.v_dim, 16) / 8 + 1) * 32 * 16);
    kernel_.shared_bytes = is_sm90() ? static_cast<uint32_t>(sm90_forward_bytes(options, config, redoes(), variant_.feed_bytes()))
                                     : sm80_shared_bytes(options, config);
    if (is_sm90() && variant_.is_searched()) {
      kernel_.extents_name = lowered.ir.name + "_extents";
      kernel_.row_extent_bytes = variant_.row_extent_bytes();
      kernel_.column_extent_bytes = variant_.column_extent_bytes();
    }
  }

  bool is_sm90() const { return config_.skeleton == GpuSkeleton::kSm90; }
  // Whether a tile may need more care than it gets at first.
  bool redoes() const { return config_.stale || (variant_.is_sigmoid() && options_.accuracy == Accuracy::kFast); }
  const GpuKernel& kernel() const { return kernel_; }
  std::string structs() const {
    return forward_config_text(options_, config_, redoes(), variant_.feed_bytes()) + "\n" + params_.text() + "\n" + variant_.text();
  }
  std::string kernels(const GpuSkeletonText& skeleton) const {
    std::string text = kernel_text(kernel_.name, kernel_.threads, skeleton.function);
    if (!kernel_.extents_name.empty()) text += kernel_text(kernel_.extents_name, kSideThreads, "extents_sm90");
    return text;
  }

 private:
  const GpuKernelOptions& options_;
  const GpuConfig& config_;
  const ForwardVariant variant_;
  const ParamsLayout params_;
  GpuKernel kernel_;
};

// What is generated of the backward kernels.
class GeneratedBackward {
 public:
  GeneratedBackward(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
      : options_(options),
        config_(config),
        variant_(for_gpu(lowered, checked(options)), options, config),
        params_(backward_params(lowered.ir, {.skeleton = config.skeleton,
                                             .packed = options.packed,
                                             .has_extents = variant_.is_searched(),
                                             .has_index_flag = variant_.has_index_flag(),
                                             .deterministic = options.deterministic,
                                             .mapped = config.fed_tensors})) {
    const std::string name = lowered.ir.name + "_backward";
    kernel_.fields = params_.fields();
    kernel_.params_bytes = params_.bytes();
    kernel_.side_threads = kSideThreads;
    if (variant_.is_prepared()) kernel_.prepare_name = name + "_prepare";
    if (options.deterministic && variant_.has_gradients()) kernel_.sums_name = name + "_sums";
    if (is_sm90()) {
      kernel_.name = name;
      kernel_.finish_name = name + "_finish";
      kernel_.threads = 128 * (config.warpgroups + 1);
      kernel_.shared_bytes = static_cast<uint32_t>(sm90_backward_bytes(options, config, variant_.feed_bytes()));
      if (variant_.is_searched()) {
        kernel_.extents_name = name + "_extents";
        kernel_.row_extent_bytes = variant_.row_extent_bytes();
        if (options.deterministic) kernel_.column_extent_bytes = variant_.column_extent_bytes();
      }
    } else {
      kernel_.name = name + "_keys";
      kernel_.queries_name = name + "_queries";
      kernel_.threads = 32 * config.warpgroups;
      kernel_.shared_bytes = sm80_backward_shared_bytes(options, config);
    }
  }

  bool is_sm90() const { return config_.skeleton == GpuSkeleton::kSm90; }
  const GpuKernel& kernel() const { return kernel_; }
  std::string structs() const {
    return backward_config_text(options_, config_, variant_.feed_bytes()) + "\n" + params_.text() + "\n" + variant_.text();
  }
  std::string kernels(const GpuSkeletonText& skeleton) const {
    std::string text;
    if (!kernel_.prepare_name.empty()) text += kernel_text(kernel_.prepare_name, kSideThreads, skeleton.prepare);
    if (!kernel_.extents_name.empty()) text += kernel_text(kernel_.extents_name, kSideThreads, "row_extents_sm90");
    text += kernel_text(kernel_.name, kernel_.threads, skeleton.function);
    if (!kernel_.queries_name.empty()) text += kernel_text(kernel_.queries_name, kernel_.threads, skeleton.queries);
    if (!kernel_.finish_name.empty()) text += kernel_text(kernel_.finish_name, kSideThreads, skeleton.finish);
    if (!kernel_.sums_name.empty()) text += kernel_text(kernel_.sums_name, kSideThreads, "attention_backward_sums");
    return text;
  }

 private:
  const GpuKernelOptions& options_;
  const GpuConfig& config_;
  const BackwardVariant variant_;
  const ParamsLayout params_;
  GpuKernel kernel_;
};

std::string vocabulary(std::initializer_list<const char*> names) {
  std::string text;
  for (const char* name : names) text += std::string(device_source(name)) + "\n";
  return text;
}

GpuSkeletonText forward_skeleton(const GpuKernelOptions& options, const GpuConfig& config) {
  GpuSkeletonText skeleton;
  if (config.skeleton == GpuSkeleton::kSm90) {
    skeleton.vocabulary =
        vocabulary({"ptx_sm90.cuh"}) + wgmma_forward_text(options, config) + vocabulary({"sm90_common.cuh", "sm90_feed.cuh"});
    skeleton.text = vocabulary({"sm90_forward_copies.cuh", "sm90_forward.cuh"});
    skeleton.function = "attention_forward_sm90";
  } else {
    skeleton.vocabulary = vocabulary({"ptx_sm80.cuh", "sm80_tiles.cuh"});
    skeleton.text = device_source("sm80_forward.cuh");
    skeleton.function = "attention_forward_sm80";
  }
  return skeleton;
}

// What its kernels are called.
GpuSkeletonText backward_functions(const GpuConfig& config) {
  GpuSkeletonText skeleton;
  skeleton.prepare = "attention_backward_prepare";
  if (config.skeleton == GpuSkeleton::kSm90) {
    skeleton.prepare = "attention_backward_prepare_sm90";
    skeleton.function = "attention_backward_sm90";
    skeleton.finish = "attention_backward_finish";
  } else {
    skeleton.function = "attention_backward_keys_sm80";
    skeleton.queries = "attention_backward_queries_sm80";
  }
  return skeleton;
}

GpuSkeletonText backward_skeleton(const GpuKernelOptions& options, const GpuConfig& config) {
  GpuSkeletonText skeleton = backward_functions(config);
  if (config.skeleton == GpuSkeleton::kSm90) {
    skeleton.vocabulary = vocabulary({"ptx_sm90.cuh"}) + wgmma_backward_text(options, config) +
                          vocabulary({"sm90_common.cuh", "sm90_feed.cuh", "sm90_feed_queries.cuh"});
    skeleton.text = vocabulary({"backward_prepare.cuh", "sm90_turns.cuh", "sm90_backward_copies.cuh", "sm90_backward.cuh"});
  } else {
    skeleton.vocabulary = vocabulary({"ptx_sm80.cuh", "sm80_tiles.cuh"});
    skeleton.text = vocabulary({"backward_prepare.cuh", "sm80_backward.cuh"});
  }
  return skeleton;
}

// `layout`: what its last line asserts of its own shared memory, or nothing.
template <typename Generated>
GpuKernel whole_file(const Generated& generated, const std::string& start, const GpuSkeletonText& skeleton, const std::string& layout) {
  GpuKernel kernel = generated.kernel();
  kernel.source = start + skeleton.vocabulary + "\n" + generated.structs() + "\n" + skeleton.text + layout + generated.kernels(skeleton);
  return kernel;
}

template <typename Generated>
std::string layout_assertion(const Generated& generated) {
  return fmt::format("static_assert(Layout<Config>::kBytes {} {});\n",
                     generated.is_sm90() ? "+ 1024 <=" : "==", generated.kernel().shared_bytes);
}

std::string forward_start(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config) {
  return header(lowered, program, options, config, false) + vocabulary({"types.cuh", "ptx.cuh", "math.cuh"});
}
std::string backward_start(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config) {
  return header(lowered, program, options, config, true) + vocabulary({"types.cuh", "ptx.cuh", "math.cuh", "gradients.cuh"});
}

}  // namespace

std::string emit_gpu_variant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config) {
  const GeneratedForward generated(lowered, options, config);
  GpuSkeletonText skeleton;
  skeleton.function = generated.is_sm90() ? "attention_forward_sm90" : "attention_forward_sm80";
  return generated.structs() + generated.kernels(skeleton);
}

std::string emit_gpu_backward_variant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config) {
  const GeneratedBackward generated(lowered, options, config);
  return generated.structs() + generated.kernels(backward_functions(config));
}

GpuKernel emit_gpu_forward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config) {
  const GeneratedForward generated(lowered, options, config);
  return whole_file(generated, forward_start(lowered, program, options, config), forward_skeleton(options, config),
                    layout_assertion(generated));
}

GpuKernel emit_gpu_forward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config,
                           const GpuSkeletonText& skeleton) {
  return whole_file(GeneratedForward(lowered, options, config), forward_start(lowered, program, options, config), skeleton, "");
}

GpuKernel emit_gpu_backward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config) {
  const GeneratedBackward generated(lowered, options, config);
  return whole_file(generated, backward_start(lowered, program, options, config), backward_skeleton(options, config),
                    layout_assertion(generated));
}

GpuKernel emit_gpu_backward(const Lowered& lowered, const std::string& program, const GpuKernelOptions& options, const GpuConfig& config,
                            const GpuSkeletonText& skeleton) {
  return whole_file(GeneratedBackward(lowered, options, config), backward_start(lowered, program, options, config), skeleton, "");
}

}  // namespace attune::codegen
