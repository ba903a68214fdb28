// attune run FILE: one forward pass, and with --dout one backward pass, on arrays in .npy files.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/device.h"
#include "cli/npy.h"
#include "cli/output_files.h"
#include "cli/progress.h"
#include "cli/tensors.h"

namespace attune::cli {
namespace {

struct RunArguments {
  std::string file, q, k, v, out, lse, cu_q, cu_k, dout, dq, dk, dv, dtype = "f32", device = "auto", accuracy = "fast";
  std::vector<std::string> params, constants, grads;
  int threads = 0;
  bool deterministic = false;

  bool packed() const { return !cu_q.empty(); }
  bool backward() const { return !dout.empty(); }
};

// Arrays of one run.
struct Arrays {
  Buffer q, k, v, out, lse, dout, dq, dk, dv;
  std::optional<Buffer> cu_q, cu_k;
  Bindings bindings;
  std::map<std::string, Buffer> param_grads;
};

struct Timing {
  double compile_ms = 0, forward_ms = 0;
  std::optional<double> backward_ms;
  std::string kernel;  // GPU
};

// Pairs of positions over all sequences and heads, masked ones included.
struct Work {
  Shape shape;
  double pairs = 0;

  double forward_flops() const { return 2 * pairs * static_cast<double>(shape.head_dim + shape.v_dim); }
  // S again, dQ and dK over head_dim; dP and dV over v_dim.
  double backward_flops() const { return 2 * pairs * static_cast<double>(3 * shape.head_dim + 2 * shape.v_dim); }
};

void check_combinations(const RunArguments& arguments) {
  check_device(arguments.device);
  parse_accuracy(arguments.accuracy);
  if (arguments.cu_q.empty() != arguments.cu_k.empty()) {
    throw UsageError(fmt::format("{}: expected --cu-q and --cu-k together", arguments.cu_q.empty() ? "--cu-k" : "--cu-q"));
  }
  const std::pair<const char*, bool> gradients[] = {{"--dq", !arguments.dq.empty()},
                                                    {"--dk", !arguments.dk.empty()},
                                                    {"--dv", !arguments.dv.empty()},
                                                    {"--grad", !arguments.grads.empty()}};
  bool any = false;
  for (auto [option, given] : gradients) {
    if (given && !arguments.backward())
      throw UsageError(fmt::format("{}: a gradient needs the gradient of the output: expected --dout too", option));
    any = any || given;
  }
  if (arguments.backward() && !any) throw UsageError("--dout: expected at least one of --dq, --dk, --dv and --grad to write");
  if (arguments.deterministic && !arguments.backward()) {
    throw UsageError("--deterministic: only the backward pass can be anything else: expected --dout too");
  }
  if (arguments.threads < 0) throw UsageError(fmt::format("--threads: expected 0 (all cores) or more, found {}", arguments.threads));
}

// Every file of the run, before any is read: wrong names show at once.
void name_files(const RunArguments& arguments, OutputFiles& files) {
  const std::pair<const char*, const std::string*> inputs[] = {
      {"FILE", &arguments.file},   {"--q", &arguments.q},       {"--k", &arguments.k},      {"--v", &arguments.v},
      {"--cu-q", &arguments.cu_q}, {"--cu-k", &arguments.cu_k}, {"--dout", &arguments.dout}};
  for (auto [option, path] : inputs) {
    if (!path->empty()) files.add_input(option, *path);
  }
  for (const auto& [name, text] : parse_assignments("--param", arguments.params)) {
    if (text.ends_with(".npy")) files.add_input("--param " + name, text);
  }
  const std::pair<const char*, const std::string*> outputs[] = {
      {"--out", &arguments.out}, {"--lse", &arguments.lse}, {"--dq", &arguments.dq}, {"--dk", &arguments.dk}, {"--dv", &arguments.dv}};
  for (auto [option, path] : outputs) {
    if (!path->empty()) files.add(option, *path);
  }
  for (const auto& [name, path] : parse_assignments("--grad", arguments.grads)) files.add("--grad " + name, path);
}

// Sizes of an array's shape by name, each against what is known of it: an unknown one is filled in, another value is an error.
class ShapeMatcher {
 public:
  ShapeMatcher(std::string option, const std::string& path, const Buffer& buffer)
      : option_(std::move(option)), path_(path), shape_(buffer.shape) {}

  struct Dim {
    const char* name;
    int64_t* size;      // 0: not known yet
    const char* known;  // the argument that it comes from
  };

  void match(const std::vector<Dim>& dims, const char* rank_hint) const {
    std::string layout, expected;
    bool fits = shape_.size() == dims.size();
    for (size_t i = 0; i < dims.size(); ++i) {
      const Dim& dim = dims[i];
      bool known = dim.known != nullptr;
      layout += (i ? ", " : "") + std::string(dim.name);
      expected += (i ? ", " : "") + (known ? fmt::format("{} {} (of {})", dim.name, *dim.size, dim.known) : std::string(dim.name));
      fits = fits && (!known || shape_[i] == *dim.size);
    }
    if (shape_.size() != dims.size()) {
      throw UsageError(fmt::format("{}: {}: found shape {}, expected {} dimensions [{}]{}", option_, path_, npy::shape_text(shape_),
                                   dims.size(), layout, rank_hint));
    }
    if (!fits) throw UsageError(fmt::format("{}: {}: found shape {}, expected [{}]", option_, path_, npy::shape_text(shape_), expected));
    for (size_t i = 0; i < dims.size(); ++i) *dims[i].size = shape_[i];
  }

 private:
  std::string option_;
  const std::string& path_;
  const std::vector<int64_t>& shape_;
};

int64_t longest(const Buffer& offsets) {
  const auto* values = reinterpret_cast<const int32_t*>(offsets.data.data());
  int64_t result = 0;
  for (int64_t i = 1; i < offsets.shape[0]; ++i) result = std::max<int64_t>(result, values[i] - values[i - 1]);
  return result;
}

int32_t last_offset(const Buffer& offsets) {
  return reinterpret_cast<const int32_t*>(offsets.data.data())[offsets.shape[0] - 1];
}

void check_heads(const Shape& shape, const RunArguments& arguments) {
  if (shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0) return;
  throw UsageError(
      fmt::format("--k: {}: found {} kv_heads, expected a divisor of the {} heads of --q", arguments.k, shape.kv_heads, shape.heads));
}

Work match_batched(const RunArguments& arguments, const Arrays& arrays) {
  constexpr const char* kHint = "; packed sequences [total, heads, dim] need --cu-q and --cu-k";
  Shape shape;
  ShapeMatcher("--q", arguments.q, arrays.q)
      .match({{"batch", &shape.batch, nullptr},
              {"q_len", &shape.q_len, nullptr},
              {"heads", &shape.heads, nullptr},
              {"head_dim", &shape.head_dim, nullptr}},
             kHint);
  ShapeMatcher("--k", arguments.k, arrays.k)
      .match({{"batch", &shape.batch, "--q"},
              {"k_len", &shape.k_len, nullptr},
              {"kv_heads", &shape.kv_heads, nullptr},
              {"head_dim", &shape.head_dim, "--q"}},
             kHint);
  check_heads(shape, arguments);
  ShapeMatcher("--v", arguments.v, arrays.v)
      .match({{"batch", &shape.batch, "--q"},
              {"k_len", &shape.k_len, "--k"},
              {"kv_heads", &shape.kv_heads, "--k"},
              {"v_dim", &shape.v_dim, nullptr}},
             kHint);
  if (arguments.backward()) {
    ShapeMatcher("--dout", arguments.dout, arrays.dout)
        .match({{"batch", &shape.batch, "--q"},
                {"q_len", &shape.q_len, "--q"},
                {"heads", &shape.heads, "--q"},
                {"v_dim", &shape.v_dim, "--v"}},
               kHint);
  }
  double pairs = static_cast<double>(shape.batch) * static_cast<double>(shape.heads) * static_cast<double>(shape.q_len) *
                 static_cast<double>(shape.k_len);
  return {shape, pairs};
}

Work match_packed(const RunArguments& arguments, const Arrays& arrays) {
  constexpr const char* kHint = ", for --cu-q and --cu-k are given";
  Shape shape;
  int64_t total_q = last_offset(*arrays.cu_q), total_k = last_offset(*arrays.cu_k);
  if (arrays.cu_q->shape != arrays.cu_k->shape) {
    throw UsageError(fmt::format("--cu-k: {}: found shape {}, expected {} as --cu-q", arguments.cu_k, npy::shape_text(arrays.cu_k->shape),
                                 npy::shape_text(arrays.cu_q->shape)));
  }
  shape.batch = arrays.cu_q->shape[0] - 1;
  shape.q_len = longest(*arrays.cu_q);
  shape.k_len = longest(*arrays.cu_k);
  ShapeMatcher("--q", arguments.q, arrays.q)
      .match({{"total_q", &total_q, "--cu-q"}, {"heads", &shape.heads, nullptr}, {"head_dim", &shape.head_dim, nullptr}}, kHint);
  ShapeMatcher("--k", arguments.k, arrays.k)
      .match({{"total_k", &total_k, "--cu-k"}, {"kv_heads", &shape.kv_heads, nullptr}, {"head_dim", &shape.head_dim, "--q"}}, kHint);
  check_heads(shape, arguments);
  ShapeMatcher("--v", arguments.v, arrays.v)
      .match({{"total_k", &total_k, "--cu-k"}, {"kv_heads", &shape.kv_heads, "--k"}, {"v_dim", &shape.v_dim, nullptr}}, kHint);
  if (arguments.backward()) {
    ShapeMatcher("--dout", arguments.dout, arrays.dout)
        .match({{"total_q", &total_q, "--cu-q"}, {"heads", &shape.heads, "--q"}, {"v_dim", &shape.v_dim, "--v"}}, kHint);
  }
  double pairs = 0;
  const auto* cu_q = reinterpret_cast<const int32_t*>(arrays.cu_q->data.data());
  const auto* cu_k = reinterpret_cast<const int32_t*>(arrays.cu_k->data.data());
  for (int64_t b = 0; b < shape.batch; ++b)
    pairs += static_cast<double>(cu_q[b + 1] - cu_q[b]) * static_cast<double>(cu_k[b + 1] - cu_k[b]);
  return {shape, pairs * static_cast<double>(shape.heads)};
}

void read_inputs(const RunArguments& arguments, DType dtype, Arrays& arrays) {
  arrays.q = read_floats("--q", arguments.q, dtype);
  arrays.k = read_floats("--k", arguments.k, dtype);
  arrays.v = read_floats("--v", arguments.v, dtype);
  if (arguments.backward()) arrays.dout = read_floats("--dout", arguments.dout, dtype);
  if (!arguments.packed()) return;
  arrays.cu_q = read_offsets("--cu-q", arguments.cu_q);
  arrays.cu_k = read_offsets("--cu-k", arguments.cu_k);
}

// Gradients of parameters, by name, in the shape of what is bound. A `grad` scalar that takes its default has one element.
void make_param_grads(const RunArguments& arguments, const Variant& variant, Arrays& arrays) {
  for (const auto& [name, path] : parse_assignments("--grad", arguments.grads)) {
    const ParamInfo& param = find_param("--grad", variant, name);
    if (!param.is_grad) throw UsageError(fmt::format("--grad {0}: '{1}' has no gradient: declare it as `grad`", name, param.declaration));
    auto bound = arrays.bindings.buffers.find(name);
    std::vector<int64_t> shape;
    if (bound != arrays.bindings.buffers.end()) shape = bound->second.shape;
    arrays.param_grads.emplace(name, make_buffer(DType::kF32, std::move(shape)));
  }
}

void make_outputs(const RunArguments& arguments, const Variant& variant, const Shape& shape, DType dtype, Arrays& arrays) {
  std::vector<int64_t> out_shape = arrays.q.shape;
  out_shape.back() = shape.v_dim;
  arrays.out = make_buffer(dtype, std::move(out_shape));
  if (!arguments.lse.empty() || (arguments.backward() && variant.is_softmax())) {
    std::vector<int64_t> lse_shape =
        arguments.packed() ? std::vector{shape.heads, arrays.q.shape[0]} : std::vector{shape.batch, shape.heads, shape.q_len};
    arrays.lse = make_buffer(DType::kF32, std::move(lse_shape));
  }
  if (!arguments.dq.empty()) arrays.dq = make_buffer(dtype, arrays.q.shape);
  if (!arguments.dk.empty()) arrays.dk = make_buffer(dtype, arrays.k.shape);
  if (!arguments.dv.empty()) arrays.dv = make_buffer(dtype, arrays.v.shape);
}

// A buffer that was not made is "not given".
Tensor optional_tensor(Buffer& buffer) {
  return buffer.shape.empty() && buffer.data.empty() ? Tensor{} : buffer.tensor();
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// The fastest of three calls, for the first one may load caches and compile; a call that takes over a second is made once.
template <typename Call>
double fastest_ms(const Call& call) {
  double fastest = 0;
  for (int i = 0; i < 3; ++i) {
    auto start = std::chrono::steady_clock::now();
    call();
    double ms = milliseconds_since(start);
    fastest = i == 0 ? ms : std::min(fastest, ms);
    if (ms > 1000) break;
  }
  return fastest;
}

PlanOptions plan_options(const RunArguments& arguments, DType dtype, const Device& device, Arrays& arrays) {
  PlanOptions options;
  options.dtype = dtype;
  options.device = device;
  options.accuracy = parse_accuracy(arguments.accuracy);
  options.deterministic = arguments.deterministic;
  arrays.bindings.apply(options);
  if (arguments.packed()) {
    options.cu_q = reinterpret_cast<const int32_t*>(arrays.cu_q->data.data());
    options.cu_k = reinterpret_cast<const int32_t*>(arrays.cu_k->data.data());
  }
  return options;
}

// `place` makes the tensor of an array that there is.
template <typename Place>
ForwardTensors forward_tensors(Arrays& arrays, const Place& place) {
  ForwardTensors tensors;
  tensors.q = place(arrays.q);
  tensors.k = place(arrays.k);
  tensors.v = place(arrays.v);
  tensors.out = place(arrays.out);
  tensors.lse = place(arrays.lse);
  return tensors;
}

template <typename Place>
BackwardTensors backward_tensors(const Variant& variant, const ForwardTensors& forward, Arrays& arrays, const Place& place) {
  BackwardTensors tensors;
  tensors.q = forward.q;
  tensors.k = forward.k;
  tensors.v = forward.v;
  if (variant.is_softmax()) tensors.out = forward.out;
  tensors.lse = forward.lse;
  tensors.dout = place(arrays.dout);
  tensors.dq = place(arrays.dq);
  tensors.dk = place(arrays.dk);
  tensors.dv = place(arrays.dv);
  for (auto& [name, buffer] : arrays.param_grads) tensors.param_grads[name] = place(buffer);
  return tensors;
}

Timing execute_on_gpu(const RunArguments& arguments, const Variant& variant, const Shape& shape, PlanOptions options, Arrays& arrays) {
  Timing timing;
  GpuArrays on_gpu(options.device);
  for (auto& [name, buffer] : arrays.bindings.buffers) options.tensors[name] = on_gpu.upload(buffer);
  options.backward = arguments.backward();
  auto start = std::chrono::steady_clock::now();
  std::optional<Progress> progress(std::in_place, "attune: compiling");
  Plan plan = variant.plan(shape, options);
  timing.compile_ms = milliseconds_since(start);
  const std::string description = plan.describe();
  timing.kernel = description.substr(std::min(description.find(", ") + 2, description.size()));

  const auto upload = [&](Buffer& buffer) { return buffer.data.empty() ? optional_tensor(buffer) : on_gpu.upload(buffer); };
  const auto download = [&](const Tensor& tensor, Buffer& buffer) {
    if (!buffer.data.empty()) on_gpu.download(tensor, buffer);
  };
  progress.emplace("attune: forward");
  const ForwardTensors forward = forward_tensors(arrays, upload);
  timing.forward_ms = gpu_median_ms(options.device, [&] { plan.forward(forward); });
  download(forward.out, arrays.out);
  download(forward.lse, arrays.lse);
  if (arguments.backward()) {
    progress.emplace("attune: backward");
    const BackwardTensors tensors = backward_tensors(variant, forward, arrays, upload);
    timing.backward_ms = gpu_median_ms(options.device, [&] { plan.backward(tensors); });
    download(tensors.dq, arrays.dq);
    download(tensors.dk, arrays.dk);
    download(tensors.dv, arrays.dv);
    for (auto& [name, buffer] : arrays.param_grads) download(tensors.param_grads.at(name), buffer);
  }
  plan.check();
  return timing;
}

Timing execute(const RunArguments& arguments, const Variant& variant, const Shape& shape, const PlanOptions& options, Arrays& arrays) {
  Timing timing;
  auto start = std::chrono::steady_clock::now();
  std::optional<Progress> progress(std::in_place, "attune: compiling");
  Plan plan = variant.plan(shape, options);
  timing.compile_ms = milliseconds_since(start);

  progress.emplace("attune: forward");
  const ForwardTensors forward = forward_tensors(arrays, optional_tensor);
  timing.forward_ms = fastest_ms([&] { plan.forward(forward); });
  if (arguments.backward()) {
    const BackwardTensors tensors = backward_tensors(variant, forward, arrays, optional_tensor);
    progress.emplace("attune: backward");
    timing.backward_ms = fastest_ms([&] { plan.backward(tensors); });
  }
  plan.check();
  return timing;
}

void write_outputs(const RunArguments& arguments, const Arrays& arrays, OutputFiles& files) {
  auto write = [&](const std::string& option, const Buffer& buffer) {
    files.write(option, [&](const std::string& path) { write_floats(path, buffer); });
  };
  write("--out", arrays.out);
  if (!arguments.lse.empty()) write("--lse", arrays.lse);
  if (!arguments.dq.empty()) write("--dq", arrays.dq);
  if (!arguments.dk.empty()) write("--dk", arrays.dk);
  if (!arguments.dv.empty()) write("--dv", arrays.dv);
  for (const auto& [name, buffer] : arrays.param_grads) write("--grad " + name, buffer);
  files.commit();
}

double gflops(double flops, double ms) {
  return ms > 0 ? flops / (ms * 1e6) : 0;
}

void report_json(const Variant& variant, const RunArguments& arguments, const Device& device, const Work& work, const Timing& timing) {
  nlohmann::ordered_json json;
  json["program"] = variant.name();
  json["shape"] = {{"batch", work.shape.batch}, {"q_len", work.shape.q_len},       {"k_len", work.shape.k_len},
                   {"heads", work.shape.heads}, {"kv_heads", work.shape.kv_heads}, {"head_dim", work.shape.head_dim},
                   {"v_dim", work.shape.v_dim}};
  json["packed"] = arguments.packed();
  json["dtype"] = arguments.dtype;
  json["device"] = device_text(device);
  if (device.kind == Device::kCuda) {
    json["gpu"] = gpu_name(device);
    json["kernel"] = timing.kernel;
  }
  json["compile_ms"] = timing.compile_ms;
  json["forward_ms"] = timing.forward_ms;
  json["forward_gflops"] = gflops(work.forward_flops(), timing.forward_ms);
  if (timing.backward_ms) {
    json["backward_ms"] = *timing.backward_ms;
    json["backward_gflops"] = gflops(work.backward_flops(), *timing.backward_ms);
  }
  print(json.dump(2) + "\n");
}

void report_text(const Variant& variant, const RunArguments& arguments, const Device& device, const Work& work, const Timing& timing) {
  const Shape& shape = work.shape;
  print(fmt::format("program   {}\n", variant.name()));
  print(fmt::format("shape     batch {}, q_len {}, k_len {}, heads {}, kv_heads {}, head_dim {}, v_dim {}{}\n", shape.batch, shape.q_len,
                    shape.k_len, shape.heads, shape.kv_heads, shape.head_dim, shape.v_dim, arguments.packed() ? ", packed" : ""));
  print(fmt::format("dtype     {}\ndevice    {}", arguments.dtype, device_text(device)));
  print(device.kind == Device::kCuda ? fmt::format(", {}\nkernel    {}\n", gpu_name(device), timing.kernel) : "\n");
  print(fmt::format("compile   {:10.3f} ms\n", timing.compile_ms));
  auto line = [](const char* name, double ms, double flops) {
    print(fmt::format("{:<10}{:10.3f} ms {:10.2f} GFLOP/s\n", name, ms, gflops(flops, ms)));
  };
  line("forward", timing.forward_ms, work.forward_flops());
  if (timing.backward_ms) line("backward", *timing.backward_ms, work.backward_flops());
}

void run(const RunArguments& arguments, const Outcome& outcome) {
  DType dtype = parse_dtype(arguments.dtype);
  check_combinations(arguments);
  OutputFiles files;
  name_files(arguments, files);

  CompileOptions options{.file_name = arguments.file, .constants = parse_constants(arguments.constants), .threads = arguments.threads};
  Variant variant = compile_program(read_program(arguments.file), options);
  if (!arguments.lse.empty() && !variant.is_softmax()) {
    throw UsageError(fmt::format("--lse: the weights of '{}' are pointwise, only softmax has an lse", variant.name()));
  }
  Arrays arrays;
  arrays.bindings = bind_params(variant, arguments.params);
  check_all_bound(variant, arrays.bindings);
  make_param_grads(arguments, variant, arrays);
  read_inputs(arguments, dtype, arrays);
  Work work = arguments.packed() ? match_packed(arguments, arrays) : match_batched(arguments, arrays);
  make_outputs(arguments, variant, work.shape, dtype, arrays);
  const Device device = choose_device(arguments.device, dtype, work.shape);
  const PlanOptions plan = plan_options(arguments, dtype, device, arrays);
  Timing timing = device.kind == Device::kCuda ? execute_on_gpu(arguments, variant, work.shape, plan, arrays)
                                               : execute(arguments, variant, work.shape, plan, arrays);
  write_outputs(arguments, arrays, files);
  if (outcome.json) {
    report_json(variant, arguments, device, work, timing);
  } else {
    report_text(variant, arguments, device, work, timing);
  }
}

std::vector<Argument> arguments_of(RunArguments& to, Outcome& outcome) {
  const std::string inputs = "Inputs", outputs = "Outputs";
  return {
      {"file", &to.file, "Program", kProgramFile, true},
      {"--q", &to.q, "Queries [batch, q_len, heads, head_dim], f32 or f16", kArrayFile, true, inputs},
      {"--k", &to.k, "Keys [batch, k_len, kv_heads, head_dim]", kArrayFile, true, inputs},
      {"--v", &to.v, "Values [batch, k_len, kv_heads, v_dim]", kArrayFile, true, inputs},
      {"--cu-q", &to.cu_q, "Packed sequences: i32 offsets [batch + 1] of the queries; q is [total, heads, head_dim]", kArrayFile, false,
       inputs},
      {"--cu-k", &to.cu_k, "The same of the keys and values", kArrayFile, false, inputs},
      {"--param", &to.params, "Value of a run-time parameter, a file for a tensor; repeatable", kParamAssignment, false, inputs},
      {"--const", &to.constants, "Value of a `const` parameter; repeatable", kAssignment, false, inputs},
      {"--dout", &to.dout, "Gradient of the output; asks for the backward pass", kArrayFile, false, inputs},
      {"--out", &to.out, "Output [batch, q_len, heads, v_dim], f32", kArrayFile, true, outputs},
      {"--lse", &to.lse, "Natural log of the denominators [batch, heads, q_len], f32; softmax only", kArrayFile, false, outputs},
      {"--dq", &to.dq, "Gradient of q", kArrayFile, false, outputs},
      {"--dk", &to.dk, "Gradient of k", kArrayFile, false, outputs},
      {"--dv", &to.dv, "Gradient of v", kArrayFile, false, outputs},
      {"--grad", &to.grads, "Gradient of a `grad` parameter; repeatable", kArrayAssignment, false, outputs},
      {"--dtype", &to.dtype, "Type that q, k, v and out are computed in (default: f32)", kDTypes},
      {"--device", &to.device, "Where to run, cuda:N for GPU N (default: auto, a GPU for f16 and bf16 if there is one)", kDevices},
      {"--accuracy", &to.accuracy, "On a GPU: `fast` may use approximations that pass a gate (default: fast)", kAccuracies},
      {"--deterministic", &to.deterministic, "On a GPU: gradients with the same bits from run to run, as the CPU's always are"},
      {"--threads", &to.threads, "CPU threads (default: one for each core)", "N"},
      {"--json", &outcome.json, "Print the report (or a wrong program's diagnostics) as JSON"},
  };
}

}  // namespace

Command run_command(Outcome& outcome) {
  auto arguments = std::make_shared<RunArguments>();
  return {
      "run", "Run a program on arrays in .npy files", arguments_of(*arguments, outcome),
      "Outputs are f32 and are written whole or not at all. Times are those of the fastest of three passes (of one, where it takes over a\n"
      "second), on a GPU the median of up to 50 after the first; GFLOP/s count all pairs of positions, masked ones included.\n"
      "Examples:\n"
      "  attune run flash.attn --q q.npy --k k.npy --v v.npy --out o.npy\n"
      "  attune run alibi.attn --q q.npy --k k.npy --v v.npy --param slopes=slopes.npy --out o.npy --lse lse.npy\n"
      "  attune run sigmoid.attn --q q.npy --k k.npy --v v.npy --param bias=-3.5 --dtype bf16 --out o.npy\n"
      "      --dout do.npy --dq dq.npy --dk dk.npy --dv dv.npy --grad bias=dbias.npy\n"
      "  attune run flash.attn --q q.npy --k k.npy --v v.npy --dtype bf16 --device cuda --out o.npy\n",
      [arguments, &outcome] { run(*arguments, outcome); }};
}

}  // namespace attune::cli
