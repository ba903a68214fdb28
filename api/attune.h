// Attune: attention variants described by a few lines of text, compiled to fused kernels for the CPU and for NVIDIA GPUs.
//
//   attune::Variant variant = attune::compile(text);
//   attune::Plan plan = variant.plan({.batch = 1, .heads = 8, .kv_heads = 8, .q_len = 512, .k_len = 512, .head_dim = 64, .v_dim = 64});
//   plan.forward({.q = q, .k = k, .v = v, .out = out});
//
// Language: docs/language.md. Errors: ProgramError for a wrong program (all its diagnostics), ArgumentError for a wrong call,
// EnvironmentError when the machine fails. No header of LLVM, CUDA or fmt is needed to use this one.
#pragma once

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace attune {

class ArgumentError;     // runtime/error.h
class EnvironmentError;  // runtime/error.h

class ProgramError : public std::runtime_error {
 public:
  ProgramError(const std::string& rendered, std::string json) : std::runtime_error(rendered), json_(std::move(json)) {}
  const std::string& json() const { return json_; }  // the same diagnostics for programs

 private:
  std::string json_;
};

enum class DType : uint8_t { kF32, kF16, kBF16, kI32, kU8 };
std::string_view dtype_name(DType dtype);  // "f32", ...
size_t dtype_size(DType dtype);            // bytes of an element

// Where a plan runs.
struct Device {
  enum Kind : uint8_t { kCpu, kCuda };
  Kind kind = kCpu;
  int ordinal = 0;  // kCuda: the driver's number of the GPU
};

// On a GPU `fast` may use approximations that keep the error of the output within 1.5x of the exact maths in the same dtype, `high` within
// 1.1x. The CPU is always as exact as f32.
enum class Accuracy : uint8_t { kFast, kHigh };

// A tensor in memory of the plan's device. Strides are in elements; empty means contiguous. Null data means "not given".
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

using Scalar = std::variant<double, int64_t, bool>;

// Sizes of one problem. Packed sequences: batch is the number of sequences, q_len and k_len the longest ones.
struct Shape {
  int64_t batch = 0, heads = 0, kv_heads = 0, q_len = 0, k_len = 0, head_dim = 0, v_dim = 0;
};

struct CompileOptions {
  std::string file_name = "<text>";         // for diagnostics
  std::map<std::string, Scalar> constants;  // values of `const` parameters; those not named take their defaults
  int threads = 0;                          // CPU worker threads, 0: one for each core that this process may use
  bool forbid_jit = false;                  // a kernel that is not in the cache is an EnvironmentError; also by $ATTUNE_DISABLE_JIT
};

struct ParamInfo {
  std::string name;
  std::string declaration;  // as the program has it: "slopes: grad f32[heads]"
  bool is_tensor = false, is_const = false, is_grad = false, has_default = false;
  DType dtype = DType::kF32;  // bool: kU8
  bool is_bool = false;
};

// What a plan needs to know beside the shape.
struct PlanOptions {
  DType dtype = DType::kF32;  // of q, k, v and out: f32 (CPU), f16 or bf16; sums are f32
  Device device;
  Accuracy accuracy = Accuracy::kFast;
  std::map<std::string, Scalar> scalars;  // run-time scalar parameters; those not named take their defaults
  std::map<std::string, Tensor> tensors;  // tensor parameters and `grad` scalars (one f32); must outlive the plan's calls
  const int32_t* cu_q = nullptr;          // packed: batch + 1 offsets on the host, cu[0] = 0, not decreasing; both or neither
  const int32_t* cu_k = nullptr;
  // GPU: where the tuned forward kernel is not in the cache, plan() returns with one that compiles in a fraction of the time and is as
  // exact; the tuned one is compiled in the background, and calls that begin after that take it. A captured graph keeps the kernel that it
  // was captured with. If the background fails, calls go on as they are; Plan::wait_until_tuned has the error.
  bool tiered = false;
  bool backward = false;  // plan() compiles the backward pass too; otherwise the first call of it does
  // The backward pass has the same bits from call to call on one GPU, gradients of parameters included; these take 104 bytes an element in
  // its workspace. Without it sums come in any order, and their last bits differ. The CPU's always has.
  bool deterministic = false;
};

// Tensors of one call. q, out, dout, dq are [batch, q_len, heads, dim], k, v, dk, dv are [batch, k_len, kv_heads, dim]; packed: [total,
// heads, dim]. Any strides with a contiguous last dimension. lse is f32 [batch, heads, q_len] (packed: [heads, total_q]), natural log,
// optional.
struct ForwardTensors {
  Tensor q, k, v, out, lse;
  // A GPU's, ignored on the CPU. The stream is the driver's handle, null the default stream. The workspace has workspace_bytes(), is a
  // multiple of 16, zero before its first call, and serves one call at a time; null is the plan's own.
  void* stream = nullptr;
  void* workspace = nullptr;
};
struct BackwardTensors {
  Tensor q, k, v, out, lse, dout;             // out and lse: softmax only; lse as the forward pass gave it
  Tensor dq, dk, dv;                          // written; any may be left out
  std::map<std::string, Tensor> param_grads;  // written (not added to): f32, the shape of the bound parameter, any strides
  // As in ForwardTensors, the workspace of backward_workspace_bytes(), and not the one of a forward pass.
  void* stream = nullptr;
  void* workspace = nullptr;
};

// A program for fixed shapes and parameters. Calls are safe from several threads, on a GPU each with its own workspace.
class Plan {
 public:
  ~Plan();
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;

  // On a GPU the call is enqueued, and neither waits nor allocates, so that a graph can capture it; only the first call with strides or
  // addresses that are not multiples of 16 bytes may have to compile another kernel.
  void forward(const ForwardTensors& tensors) const;
  // On the CPU the same bits for any number of threads; on a GPU sums of dq and of gradients of parameters differ in their last bits from
  // call to call, unless PlanOptions say `deterministic`. There it is enqueued as forward() is; a call that a graph captures needs
  // `backward` of PlanOptions or an earlier call, and a workspace: the first call without one allocates the plan's own.
  void backward(const BackwardTensors& tensors) const;
  // Throws ArgumentError if a call since the last check met a data-dependent index outside its tensor (it was clamped). Waits for the GPU.
  void check() const;

  // A tiered plan: whether calls run tuned kernels by now; and wait for that, or throw what stopped their compilation (EnvironmentError).
  // Another plan's are tuned from the start. A plan that is destroyed before cancels the compilation.
  bool is_tuned() const;
  void wait_until_tuned() const;

  size_t workspace_bytes() const;           // of device memory for forward(), 0 on the CPU
  size_t backward_workspace_bytes() const;  // for backward(); compiles nothing
  std::string describe() const;             // "cuda:0, sm90 128x128x2, stale softmax"; "cpu, znver4, 16 threads"

  struct Impl;
  explicit Plan(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

// A compiled program. Cheap to copy.
class Variant {
 public:
  const std::string& name() const;
  const std::vector<ParamInfo>& params() const;
  bool is_softmax() const;        // has an lse
  std::string canonical() const;  // canonical text of the program

  // Checks shapes, parameters, indices; compiles (or takes from a cache) what is missing.
  Plan plan(const Shape& shape, const PlanOptions& options = {}) const;
  // The same on a thread of its own; what `options` points to stays until it is done. The future's destructor waits.
  std::future<Plan> plan_async(const Shape& shape, const PlanOptions& options = {}) const;
  // Puts the kernels of such plans into the cache: forward and, if `options` say so, backward. Parameters may be missing, lengths may be
  // any.
  void warm_up(const Shape& shape, const PlanOptions& options = {}) const;

  struct Impl;
  explicit Variant(std::shared_ptr<const Impl> impl);

 private:
  friend struct VariantAccess;  // other sources of the library
  std::shared_ptr<const Impl> impl_;
};

Variant compile(std::string_view text, const CompileOptions& options = {});

}  // namespace attune
