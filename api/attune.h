// Attune: attention variants described by a few lines of text, compiled to fused forward and backward kernels.
//
//   attune::Variant variant = attune::compile(text);
//   attune::Plan plan = variant.plan({.batch = 1, .heads = 8, .kv_heads = 8, .q_len = 512, .k_len = 512, .head_dim = 64, .v_dim = 64});
//   plan.forward({.q = q, .k = k, .v = v, .out = out});
//
// Language: docs/language.md. Errors: ProgramError for a wrong program (all its diagnostics), ArgumentError for a wrong call,
// EnvironmentError when the machine fails. No header of LLVM, CUDA or fmt is needed to use this one.
#pragma once

#include <cstdint>
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

// A tensor in the caller's memory. Strides are in elements; empty means contiguous. Null data means "not given".
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
  DType dtype = DType::kF32;              // of q, k, v and out: f32, f16 or bf16; arithmetic is f32
  std::map<std::string, Scalar> scalars;  // run-time scalar parameters; those not named take their defaults
  std::map<std::string, Tensor> tensors;  // tensor parameters and `grad` scalars (one f32); must outlive the plan's calls
  const int32_t* cu_q = nullptr;          // packed: batch + 1 offsets, cu[0] = 0, not decreasing; both or neither
  const int32_t* cu_k = nullptr;
};

// Tensors of one call. q, out, dout, dq are [batch, q_len, heads, dim], k, v, dk, dv are [batch, k_len, kv_heads, dim]; packed: [total,
// heads, dim]. Any strides with a contiguous last dimension. lse is f32 [batch, heads, q_len] (packed: [heads, total_q]), natural log,
// optional.
struct ForwardTensors {
  Tensor q, k, v, out, lse;
};
struct BackwardTensors {
  Tensor q, k, v, out, lse, dout;             // out and lse: softmax only; lse as the forward pass gave it
  Tensor dq, dk, dv;                          // written; any may be left out
  std::map<std::string, Tensor> param_grads;  // written (not added to): f32, the shape of the bound parameter
};

// A program for fixed shapes and parameters. Calls are safe from several threads.
class Plan {
 public:
  ~Plan();
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;

  void forward(const ForwardTensors& tensors) const;
  // Same bits for any number of threads.
  void backward(const BackwardTensors& tensors) const;
  // Throws ArgumentError if a call since the last check met a data-dependent index outside its tensor (it was clamped).
  void check() const;

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

  struct Impl;
  explicit Variant(std::shared_ptr<const Impl> impl);

 private:
  friend struct VariantAccess;  // other sources of the library
  std::shared_ptr<const Impl> impl_;
};

Variant compile(std::string_view text, const CompileOptions& options = {});

}  // namespace attune
