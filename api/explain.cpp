#include "api/explain.h"

#include <fmt/format.h>

#include "api/gpu_kernels.h"
#include "api/tensors.h"
#include "api/variant_impl.h"
#include "codegen/cuda_emitter.h"
#include "codegen/gpu_planner.h"
#include "codegen/llvm_emitter.h"
#include "codegen/print_ir.h"
#include "dsl/printer.h"
#include "runtime/host_cpu.h"
#include "runtime/nvrtc.h"

namespace attune {
namespace {

// The tree as indented s-expressions: an operator with its operands below it.
class TreePrinter {
 public:
  explicit TreePrinter(const dsl::Program& program) : program_(program) {}

  std::string print() {
    text_ = fmt::format("(attention {}", program_.name);
    for (const dsl::ParamDecl& param : program_.params) print_param(param);
    for (const dsl::Statement& statement : program_.statements) {
      open(1, statement.kind == dsl::StatementKind::kLet ? "let " + statement.name : statement.name);
      print_expr(statement.value, 2);
      text_ += ')';
    }
    return text_ + ")\n";
  }

 private:
  void open(int depth, std::string_view head) { text_ += fmt::format("\n{:{}}({}", "", 2 * depth, head); }

  void print_param(const dsl::ParamDecl& param) {
    static constexpr std::string_view kTypes[] = {"f32", "f16", "bf16", "i32", "u8", "bool"};
    open(1, fmt::format("param {} {}{}{}", param.name, param.is_const ? "const " : "", param.is_grad ? "grad " : "",
                        kTypes[static_cast<size_t>(param.type)]));
    if (param.is_tensor) {
      open(2, "dims");
      for (dsl::ExprId dim : param.dims) print_expr(dim, 3);
      text_ += ')';
    }
    if (param.default_value) {
      open(2, "default");
      print_expr(*param.default_value, 3);
      text_ += ')';
    }
    text_ += ')';
  }

  void print_expr(dsl::ExprId id, int depth) {
    const dsl::Expr& e = program_.expr(id);
    if (e.args.empty() && e.kind != dsl::ExprKind::kCall) {
      text_ += fmt::format("\n{:{}}{}", "", 2 * depth, dsl::print(program_, id));
      return;
    }
    static constexpr std::string_view kKinds[] = {"", "", "", "", "", "", "", "call ", "index "};
    open(depth, fmt::format("{}{}{}", kKinds[static_cast<size_t>(e.kind)], e.text, e.named_sink ? " sink" : ""));
    for (dsl::ExprId arg : e.args) print_expr(arg, depth + 1);
    text_ += ')';
  }

  const dsl::Program& program_;
  std::string text_;
};

// With head dims as symbols where the program allows it: only the default of a const parameter may need to know them.
codegen::Ir typed_for_reading(const dsl::Program& program, const std::string& text, const ExplainOptions& options) {
  const std::map<std::string, double> constants = numbers_of(options.compile.constants);
  try {
    return type_program(program, options.compile.file_name, text, constants, 0, 0);
  } catch (const ProgramError&) {
    return type_program(program, options.compile.file_name, text, constants, static_cast<int>(options.shape.head_dim),
                        static_cast<int>(options.shape.v_dim));
  }
}

std::string explain_llvm(const dsl::Program& program, const std::string& text, const ExplainOptions& options) {
  codegen::CpuKernelOptions kernel;
  kernel.dtype = element_of(options.dtype);
  kernel.head_dim = static_cast<int>(options.shape.head_dim);
  kernel.v_dim = static_cast<int>(options.shape.v_dim);
  const codegen::Lowered lowered = codegen::lower(
      type_program(program, options.compile.file_name, text, numbers_of(options.compile.constants), kernel.head_dim, kernel.v_dim));
  const runtime::HostCpu cpu = runtime::host_cpu();
  const codegen::CpuTarget target = {cpu.name, cpu.features};
  std::string forward = codegen::print_cpu_kernel(lowered, kernel, target);
  kernel.pass = runtime::CpuPass::kBackward;
  return forward + "\n" + codegen::print_cpu_kernel(lowered, kernel, target);
}

codegen::GpuProblem contiguous_problem(const Shape& shape) {
  codegen::GpuProblem problem;
  problem.batch = static_cast<int32_t>(shape.batch);
  problem.heads = static_cast<int32_t>(shape.heads);
  problem.kv_heads = static_cast<int32_t>(shape.kv_heads);
  problem.q_len = static_cast<int32_t>(shape.q_len);
  problem.k_len = static_cast<int32_t>(shape.k_len);
  const auto strides = [](int64_t len, int64_t heads, int64_t dim) { return codegen::GpuStrides{len * heads * dim, heads * dim, dim}; };
  problem.q = strides(shape.q_len, shape.heads, shape.head_dim);
  problem.k = strides(shape.k_len, shape.kv_heads, shape.head_dim);
  problem.v = strides(shape.k_len, shape.kv_heads, shape.v_dim);
  problem.out = problem.dout = strides(shape.q_len, shape.heads, shape.v_dim);
  problem.dq = problem.q;
  problem.dk = problem.k;
  problem.dv = problem.v;
  return problem;
}

// The kernels of contiguous tensors.
struct GpuPassKernel {
  GpuPass pass;
  codegen::Lowered lowered;
  codegen::GpuKernelOptions options;
  codegen::GpuConfig config;
  codegen::GpuKernel kernel;

  runtime::GpuSource source() const { return {kernel.source, options.arch}; }
};

GpuPassKernel gpu_pass_kernel(const dsl::Program& program, const std::string& text, const ExplainOptions& options) {
  GpuPassKernel made;
  made.pass = options.backward ? GpuPass::kBackward : GpuPass::kForward;
  made.options.arch = options.arch;
  made.options.dtype = element_of(options.dtype);
  made.options.head_dim = static_cast<int>(options.shape.head_dim);
  made.options.v_dim = static_cast<int>(options.shape.v_dim);
  made.options.accuracy = options.accuracy == Accuracy::kHigh ? codegen::Accuracy::kHigh : codegen::Accuracy::kFast;
  made.options.deterministic = options.deterministic;
  made.lowered = codegen::lower(type_program(program, options.compile.file_name, text, numbers_of(options.compile.constants),
                                             made.options.head_dim, made.options.v_dim));
  const codegen::GpuProblem problem = contiguous_problem(options.shape);
  if (options.backward) {
    made.config = codegen::default_backward_config(made.lowered, made.options, problem);
    made.kernel = codegen::emit_gpu_backward(made.lowered, dsl::print(program), made.options, made.config);
  } else {
    made.config = codegen::default_config(made.lowered, made.options, problem);
    made.kernel = codegen::emit_gpu_forward(made.lowered, dsl::print(program), made.options, made.config);
  }
  return made;
}

// Its launches, with no parameter bound.
runtime::GpuPlan gpu_launches(const GpuPassKernel& made, const Shape& shape) {
  codegen::GpuProblem problem = contiguous_problem(shape);
  for (const codegen::Param& param : made.lowered.ir.params) {
    codegen::GpuParamBinding& binding = problem.params.emplace_back();
    binding.strides.resize(param.dims.size());
    binding.dims.resize(param.dims.size());
    binding.grad_strides.resize(param.dims.size());
    binding.grad_sizes.resize(param.dims.size());
  }
  return made.pass == GpuPass::kForward ? codegen::plan_gpu_forward(made.lowered, made.kernel, made.options, made.config, problem)
                                        : codegen::plan_gpu_backward(made.lowered, made.kernel, made.options, made.config, problem);
}

std::string explain_ptx(const GpuPassKernel& made) {
  runtime::GpuCompileOptions options;
  options.want_ptx = true;
  return runtime::compile_gpu(made.source(), options).ptx;
}

}  // namespace

std::string explain(std::string_view text, Stage stage, const ExplainOptions& options) {
  const std::string source(text);
  const dsl::Program program = parse_program(options.compile.file_name, source);
  codegen::Ir ir = typed_for_reading(program, source, options);
  switch (stage) {
    case Stage::kAst:
      return TreePrinter(program).print();
    case Stage::kIr:
      return codegen::print_ir(ir);
    case Stage::kGrad:
      return codegen::print_backward(codegen::lower(std::move(ir)));
    case Stage::kRates:
      return codegen::print_rates(codegen::lower(std::move(ir)));
    case Stage::kBounds:
      return codegen::print_bounds(codegen::lower(std::move(ir)));
    case Stage::kCuda:
      return gpu_pass_kernel(program, source, options).kernel.source;
    case Stage::kPtx:
      return explain_ptx(gpu_pass_kernel(program, source, options));
    default:
      return explain_llvm(program, source, options);
  }
}

GpuResourceReport gpu_resources(std::string_view text, const ExplainOptions& options) {
  const std::string source(text);
  const GpuPassKernel made = gpu_pass_kernel(parse_program(options.compile.file_name, source), source, options);
  const runtime::CompiledGpu compiled = runtime::compile_gpu(made.source());
  GpuResourceReport report;
  report.config = gpu_kernel_text(made.pass, made.options, made.config);
  report.compile_seconds = compiled.seconds;
  report.warnings = compiled.warnings;
  for (const runtime::GpuLaunch& launch : gpu_launches(made, options.shape).launches) {
    KernelResources& kernel = report.kernels.emplace_back();
    kernel.kernel = launch.kernel;
    kernel.threads = static_cast<int>(launch.block[0]);
    kernel.shared_bytes = launch.shared_bytes;
    for (const runtime::GpuResources& found : compiled.kernels) {
      if (found.kernel != launch.kernel) continue;
      kernel.registers = found.registers;
      kernel.stack_bytes = found.stack_bytes;
      kernel.spill_store_bytes = found.spill_store_bytes;
      kernel.spill_load_bytes = found.spill_load_bytes;
      kernel.shared_bytes += found.shared_bytes;
    }
  }
  return report;
}

}  // namespace attune
