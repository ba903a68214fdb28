#include <fmt/format.h>

#include "api/attune.h"
#include "api/settings.h"
#include "api/tensors.h"
#include "api/variant_impl.h"
#include "codegen/build_ir.h"
#include "dsl/diagnostics.h"
#include "dsl/parser.h"
#include "dsl/printer.h"
#include "runtime/error.h"
#include "runtime/host_cpu.h"

namespace attune {
namespace {

constexpr int kMaxThreads = 4096;
// A program is checked before its head dims are known, with these in their place.
constexpr int kAnyHeadDim = 64;

[[noreturn]] void fail(const dsl::Diagnostics& diagnostics) {
  throw ProgramError(diagnostics.render(), diagnostics.render_json());
}

std::string_view element_name(dsl::ElementType element) {
  return element == dsl::ElementType::kBool ? "bool" : dtype_name(dtype_of(element));
}

std::string declaration_of(const dsl::Program& program, const dsl::ParamDecl& decl) {
  std::string text = decl.name + ": ";
  if (decl.is_const) text += "const ";
  if (decl.is_grad) text += "grad ";
  text += element_name(decl.type);
  if (decl.is_tensor) {
    std::string dims;
    for (dsl::ExprId dim : decl.dims) dims += (dims.empty() ? "" : ", ") + dsl::print(program, dim);
    text += "[" + dims + "]";
  }
  if (decl.default_value) text += " = " + dsl::print(program, *decl.default_value);
  return text;
}

std::vector<ParamInfo> params_of(const dsl::Program& program) {
  std::vector<ParamInfo> params;
  for (const dsl::ParamDecl& decl : program.params) {
    ParamInfo info;
    info.name = decl.name;
    info.declaration = declaration_of(program, decl);
    info.is_tensor = decl.is_tensor;
    info.is_const = decl.is_const;
    info.is_grad = decl.is_grad;
    info.has_default = decl.default_value.has_value();
    info.dtype = dtype_of(decl.type);
    info.is_bool = decl.type == dsl::ElementType::kBool;
    params.push_back(std::move(info));
  }
  return params;
}

std::string constants_text(const std::map<std::string, double>& constants) {
  std::string text;
  for (const auto& [name, value] : constants) text += fmt::format("{}={:a};", name, value);
  return text;
}

}  // namespace

dsl::Program parse_program(const std::string& file_name, const std::string& text) {
  dsl::Diagnostics diagnostics(file_name, text);
  std::optional<dsl::Program> program = dsl::parse(diagnostics);
  if (!program) fail(diagnostics);
  return std::move(*program);
}

codegen::Ir type_program(const dsl::Program& program, const std::string& file_name, const std::string& text,
                         const std::map<std::string, double>& constants, int head_dim, int v_dim) {
  dsl::Diagnostics diagnostics(file_name, text);
  codegen::BuildOptions options;
  options.constants = constants;
  if (head_dim > 0) options.head_dim = head_dim;
  if (v_dim > 0) options.v_dim = v_dim;
  std::optional<codegen::Ir> ir = codegen::build_ir(program, diagnostics, options);
  if (!ir) fail(diagnostics);
  return std::move(*ir);
}

std::map<std::string, double> numbers_of(const std::map<std::string, Scalar>& constants) {
  std::map<std::string, double> numbers;
  for (const auto& [name, value] : constants) {
    numbers[name] = std::visit([](auto number) { return static_cast<double>(number); }, value);
  }
  return numbers;
}

std::shared_ptr<const TypedProgram> Variant::Impl::typed(int head_dim, int v_dim) const {
  const std::lock_guard lock(mutex);
  std::shared_ptr<const TypedProgram>& place = typed_programs[{head_dim, v_dim}];
  if (!place) place = std::make_shared<const TypedProgram>(type_program(program, file_name, text, constants, head_dim, v_dim));
  return place;
}

std::shared_ptr<const Kernel> Variant::Impl::kernel(const TypedProgram& typed, const codegen::CpuKernelOptions& options) const {
  const runtime::HostCpu cpu = runtime::host_cpu();
  const KernelRequest request = {canonical, constants_text(constants), options, {cpu.name, cpu.features}, forbid_jit};
  std::shared_ptr<const Kernel> kernel = get_kernel(request, [&]() -> const codegen::Lowered& { return typed.lowered(); });
  const std::lock_guard lock(mutex);
  kernels[request.key()] = kernel;
  return kernel;
}

std::shared_ptr<const GpuKernelCode> Variant::Impl::known_gpu_kernel(const std::string& key) const {
  const std::lock_guard lock(mutex);
  const auto known = gpu_kernels.find(key);
  return known == gpu_kernels.end() ? nullptr : known->second;
}

std::shared_ptr<const GpuKernelCode> Variant::Impl::gpu_kernel(const TypedProgram& typed, GpuPass pass,
                                                               const codegen::GpuKernelOptions& options, const codegen::GpuConfig& config,
                                                               std::stop_token cancel) const {
  const std::string key = gpu_kernel_text(pass, options, config);
  if (auto known = known_gpu_kernel(key)) return known;
  std::shared_ptr<const GpuKernelCode> made =
      get_gpu_kernel(typed.lowered(), canonical, pass, options, config, forbid_jit, std::move(cancel));
  const std::lock_guard lock(mutex);
  return gpu_kernels.try_emplace(key, std::move(made)).first->second;
}

std::shared_ptr<const GpuKernelCode> Variant::Impl::stored_gpu_kernel(const TypedProgram& typed, GpuPass pass,
                                                                      const codegen::GpuKernelOptions& options,
                                                                      const codegen::GpuConfig& config) const {
  const std::string key = gpu_kernel_text(pass, options, config);
  if (auto known = known_gpu_kernel(key)) return known;
  std::shared_ptr<const GpuKernelCode> made = attune::stored_gpu_kernel(typed.lowered(), canonical, pass, options, config);
  if (!made->binary) return made;
  const std::lock_guard lock(mutex);
  return gpu_kernels.try_emplace(key, std::move(made)).first->second;
}

Variant::Variant(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

const std::string& Variant::name() const {
  return impl_->program.name;
}

const std::vector<ParamInfo>& Variant::params() const {
  return impl_->params;
}

bool Variant::is_softmax() const {
  return impl_->is_softmax;
}

std::string Variant::canonical() const {
  return impl_->canonical;
}

Variant compile(std::string_view text, const CompileOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    throw ArgumentError(fmt::format("threads is {}, expected 0..{}", options.threads, kMaxThreads));
  }
  auto impl = std::make_shared<Variant::Impl>();
  impl->file_name = options.file_name;
  impl->text = text;
  impl->program = parse_program(impl->file_name, impl->text);
  impl->constants = numbers_of(options.constants);
  const codegen::Ir ir = type_program(impl->program, impl->file_name, impl->text, impl->constants, kAnyHeadDim, kAnyHeadDim);
  impl->is_softmax = ir.weight_kind == codegen::WeightKind::kSoftmax;
  impl->canonical = dsl::print(impl->program);
  impl->params = params_of(impl->program);
  impl->forbid_jit = options.forbid_jit || disables_jit();
  if (options.threads > 0) impl->own_pool = std::make_unique<runtime::ThreadPool>(options.threads);
  return Variant(std::move(impl));
}

}  // namespace attune
