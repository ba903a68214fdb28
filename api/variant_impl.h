// What stands behind attune::Variant. Inner part of the library.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "api/attune.h"
#include "api/gpu_kernels.h"
#include "api/kernels.h"
#include "codegen/ir.h"
#include "codegen/lower.h"
#include "dsl/ast.h"
#include "runtime/object_cache.h"
#include "runtime/thread_pool.h"

namespace attune {

// The program typed for one pair of head dims.
class TypedProgram {
 public:
  explicit TypedProgram(codegen::Ir ir) : ir_(std::move(ir)) {}

  const codegen::Ir& ir() const { return ir_; }
  // Made when it is first asked for: a plan whose kernels are in the cache does without.
  const codegen::Lowered& lowered() const {
    std::call_once(once_, [this] { lowered_ = codegen::lower(ir_); });
    return lowered_;
  }

 private:
  codegen::Ir ir_;
  mutable std::once_flag once_;
  mutable codegen::Lowered lowered_;
};

struct Variant::Impl {
  std::string file_name, text;
  dsl::Program program;
  std::string canonical;
  std::map<std::string, double> constants;
  std::vector<ParamInfo> params;
  bool is_softmax = false;
  bool forbid_jit = false;
  std::unique_ptr<runtime::ThreadPool> own_pool;  // null: the process's

  runtime::ThreadPool& pool() const { return own_pool ? *own_pool : runtime::ThreadPool::shared(); }

  // Throws ProgramError.
  std::shared_ptr<const TypedProgram> typed(int head_dim, int v_dim) const;
  // Compiled, from the cache, or the one that an earlier plan of this variant took.
  std::shared_ptr<const Kernel> kernel(const TypedProgram& typed, const codegen::CpuKernelOptions& options) const;
  std::shared_ptr<const GpuKernelCode> gpu_kernel(const TypedProgram& typed, GpuPass pass, const codegen::GpuKernelOptions& options,
                                                  const codegen::GpuConfig& config, std::stop_token cancel = {}) const;
  // Never compiles; without machine code where there is none.
  std::shared_ptr<const GpuKernelCode> stored_gpu_kernel(const TypedProgram& typed, GpuPass pass, const codegen::GpuKernelOptions& options,
                                                         const codegen::GpuConfig& config) const;

  std::shared_ptr<const GpuKernelCode> known_gpu_kernel(const std::string& key) const;

  mutable std::mutex mutex;
  mutable std::map<std::pair<int, int>, std::shared_ptr<const TypedProgram>> typed_programs;
  mutable std::map<runtime::CacheKey, std::shared_ptr<const Kernel>> kernels;       // kept for later plans
  mutable std::map<std::string, std::shared_ptr<const GpuKernelCode>> gpu_kernels;  // by options and config
};

// The program's syntax tree; throws ProgramError.
dsl::Program parse_program(const std::string& file_name, const std::string& text);
// Typed by `head_dim` and `v_dim`, 0: not known; throws ProgramError.
codegen::Ir type_program(const dsl::Program& program, const std::string& file_name, const std::string& text,
                         const std::map<std::string, double>& constants, int head_dim, int v_dim);
std::map<std::string, double> numbers_of(const std::map<std::string, Scalar>& constants);

// Gives other files of the library the inside of a Variant.
struct VariantAccess {
  static const std::shared_ptr<const Variant::Impl>& impl(const Variant& variant) { return variant.impl_; }
};

}  // namespace attune
