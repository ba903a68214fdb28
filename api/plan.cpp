#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "api/gpu_backward.h"
#include "api/gpu_forward.h"
#include "api/plan_impl.h"
#include "api/tensors.h"
#include "runtime/cpu_executor.h"
#include "runtime/error.h"
#include "runtime/host_cpu.h"

namespace attune {
namespace {

using runtime::CpuArgs;
using runtime::CpuSequence;

codegen::CpuKernelOptions kernel_options(const Shape& shape, DType dtype, runtime::CpuPass pass, bool want_param_grads) {
  codegen::CpuKernelOptions options;
  options.dtype = element_of(dtype);
  options.head_dim = static_cast<int>(shape.head_dim);
  options.v_dim = static_cast<int>(shape.v_dim);
  options.pass = pass;
  options.want_param_grads = want_param_grads;
  return options;
}

bool has_grad_params(const Variant::Impl& variant) {
  return std::any_of(variant.params.begin(), variant.params.end(), [](const ParamInfo& param) { return param.is_grad; });
}

void copy_strides(int64_t (&to)[3], const RowTensor& from) {
  std::copy(std::begin(from.strides), std::end(from.strides), std::begin(to));
}

}  // namespace

BoundProgram bind_program(const std::shared_ptr<const Variant::Impl>& variant, const Shape& shape, const PlanOptions& options,
                          Needed needed) {
  BoundProgram bound;
  bound.variant = variant;
  bound.problem = std::make_unique<const Problem>(check_problem(shape, options.cu_q, options.cu_k));
  if (options.dtype == DType::kI32 || options.dtype == DType::kU8) {
    throw ArgumentError(fmt::format("dtype is {}, expected f32, f16 or bf16", dtype_name(options.dtype)));
  }
  if (options.device.kind == Device::kCuda) check_gpu_options(shape, options);
  bound.typed = bound.variant->typed(static_cast<int>(shape.head_dim), static_cast<int>(shape.v_dim));
  const codegen::Ir& ir = bound.typed->ir();
  const std::vector<bool> flags =
      needed == Needed::kMask ? params_of_roots(ir, std::array{ir.mask}) : std::vector<bool>(ir.params.size(), needed == Needed::kAll);
  bound.parameters = std::make_unique<const Parameters>(ir, *bound.problem, options, flags);
  return bound;
}

struct Plan::Impl {
  Impl(BoundProgram program, const PlanOptions& options)
      : bound(std::move(program)),
        shape(bound.problem->shape),
        dtype(options.dtype),
        q_rule(rule("q", true, shape.head_dim, Access::kRead)),
        k_rule(rule("k", false, shape.head_dim, Access::kRead)),
        v_rule(rule("v", false, shape.v_dim, Access::kRead)),
        out_rule(rule("out", true, shape.v_dim, Access::kWrite)),
        lse_rule(make_lse_rule(Access::kWrite)),
        stored_out_rule(rule("out", true, shape.v_dim, Access::kRead)),
        stored_lse_rule(make_lse_rule(Access::kRead)),
        dout_rule(rule("dout", true, shape.v_dim, Access::kRead)),
        dq_rule(rule("dq", true, shape.head_dim, Access::kWrite)),
        dk_rule(rule("dk", false, shape.head_dim, Access::kWrite)),
        dv_rule(rule("dv", false, shape.v_dim, Access::kWrite)) {
    if (options.device.kind == Device::kCuda) {
      gpu_arguments = std::make_unique<const GpuArguments>(bound, options);
      gpu = std::make_unique<const GpuForward>(*gpu_arguments, options.tiered);
      if (options.backward) gpu_backward().compile();
    } else {
      forward_kernel = kernel(runtime::CpuPass::kForward, false);
      if (options.backward) backward_kernel(has_grad_params(*bound.variant));
    }
  }

  std::shared_ptr<const Kernel> kernel(runtime::CpuPass pass, bool want_param_grads) const {
    return bound.variant->kernel(*bound.typed, kernel_options(shape, dtype, pass, want_param_grads));
  }

  // Compiled by the first call that needs it.
  std::shared_ptr<const Kernel> backward_kernel(bool want_param_grads) const {
    {
      const std::lock_guard lock(mutex);
      if (backward_kernels[want_param_grads]) return backward_kernels[want_param_grads];
    }
    std::shared_ptr<const Kernel> made = kernel(runtime::CpuPass::kBackward, want_param_grads);
    const std::lock_guard lock(mutex);
    return backward_kernels[want_param_grads] = std::move(made);
  }

  // Made by the first call that needs it.
  const GpuBackward& gpu_backward() const {
    const std::lock_guard lock(mutex);
    if (!gpu_backward_) gpu_backward_ = std::make_unique<const GpuBackward>(*gpu_arguments);
    return *gpu_backward_;
  }

  TensorRule rule(const char* name, bool of_queries, int64_t dim, Access access) const {
    TensorRule rule;
    rule.what = fmt::format("tensor '{}'", name);
    rule.dtype = dtype;
    rule.access = access;
    rule.rows = true;
    const int64_t heads = of_queries ? shape.heads : shape.kv_heads;
    if (bound.problem->packed) {
      rule.shape = {of_queries ? bound.problem->total_q : bound.problem->total_k, heads, dim};
    } else {
      rule.shape = {shape.batch, of_queries ? shape.q_len : shape.k_len, heads, dim};
    }
    return rule;
  }

  RowTensor rows(const TensorRule& rule, const Tensor& tensor) const {
    check_tensor(rule, tensor);
    return rows_of(tensor, bound.problem->packed);
  }
  // f32 [batch, heads, q_len], packed [heads, total_q]
  TensorRule make_lse_rule(Access access) const {
    TensorRule rule;
    rule.what = "tensor 'lse'";
    rule.access = access;
    if (bound.problem->packed) {
      rule.shape = {shape.heads, bound.problem->total_q};
    } else {
      rule.shape = {shape.batch, shape.heads, shape.q_len};
    }
    return rule;
  }

  // Its rows are single numbers.
  RowTensor lse(const TensorRule& rule, const Tensor& tensor) const {
    check_tensor(rule, tensor);
    RowTensor rows;
    rows.data = static_cast<char*>(tensor.data);
    rows.element_bytes = sizeof(float);
    if (tensor.shape.empty()) return rows;
    const std::vector<int64_t> strides = strides_of(tensor);
    const size_t rank = strides.size();
    rows.strides[0] = rank == 3 ? strides[0] : 0;
    rows.strides[1] = strides[rank - 1];  // along the length
    rows.strides[2] = strides[rank - 2];
    return rows;
  }

  void refuse_lse(const Tensor& tensor) const {
    if (bound.variant->is_softmax || !tensor.data) return;
    throw ArgumentError(fmt::format("tensor 'lse': '{}' has pointwise weights, which have no lse", bound.variant->program.name));
  }

  struct Views {
    RowTensor q, k, v, out, lse, dout, dq, dk, dv;
  };

  std::vector<CpuSequence> sequences(const Views& views) const {
    const Problem& problem = *bound.problem;
    std::vector<CpuSequence> result(problem.sequences.size());
    for (size_t i = 0; i < result.size(); ++i) {
      const Problem::Sequence& own = problem.sequences[i];
      CpuSequence& s = result[i];
      s.first_b = problem.packed ? static_cast<int32_t>(i) : 0;
      s.end_b = problem.packed ? s.first_b + 1 : static_cast<int32_t>(shape.batch);
      CpuArgs& args = s.args;
      args.q = views.q.from(own.first_query);
      args.k = views.k.from(own.first_key);
      args.v = views.v.from(own.first_key);
      args.out = views.out.from(own.first_query);
      args.lse = static_cast<float*>(views.lse.from(own.first_query));
      args.dout = views.dout.from(own.first_query);
      args.dq = views.dq.from(own.first_query);
      copy_strides(args.q_stride, views.q);
      copy_strides(args.k_stride, views.k);
      copy_strides(args.v_stride, views.v);
      copy_strides(args.out_stride, views.out);
      copy_strides(args.dout_stride, views.dout);
      copy_strides(args.dq_stride, views.dq);
      // The kernel's order is [batch, head, len].
      args.lse_stride[0] = views.lse.strides[0];
      args.lse_stride[1] = views.lse.strides[2];
      args.lse_stride[2] = views.lse.strides[1];
      const codegen::Sizes sizes = problem.sizes(problem.lengths[own.lengths]);
      args.batch = sizes.batch;
      args.heads = sizes.heads;
      args.kv_heads = sizes.kv_heads;
      args.q_len = sizes.q_len;
      args.k_len = sizes.k_len;
      args.head_dim = sizes.head_dim;
      args.v_dim = sizes.v_dim;
      args.params = bound.parameters->tensors(own.lengths);
      args.param_dims = bound.parameters->dims();
      args.index_flag = &index_flag;
      s.dk = gradient(views.dk, own.first_key);
      s.dv = gradient(views.dv, own.first_key);
    }
    return result;
  }

  runtime::CpuGradient gradient(const RowTensor& rows, int64_t first_key) const {
    runtime::CpuGradient gradient;
    gradient.data = rows.from(first_key);
    gradient.type = float_type_of(dtype);
    copy_strides(gradient.strides, rows);
    return gradient;
  }

  BoundProgram bound;
  Shape shape;
  DType dtype;
  TensorRule q_rule, k_rule, v_rule, out_rule, lse_rule;
  TensorRule stored_out_rule, stored_lse_rule, dout_rule, dq_rule, dk_rule, dv_rule;  // of the backward pass
  std::unique_ptr<const GpuArguments> gpu_arguments;                                  // null: CPU
  std::unique_ptr<const GpuForward> gpu;                                              // null: CPU
  std::shared_ptr<const Kernel> forward_kernel;                                       // CPU
  mutable std::mutex mutex;
  mutable std::unique_ptr<const GpuBackward> gpu_backward_;
  mutable std::shared_ptr<const Kernel> backward_kernels[2];
  mutable int32_t index_flag = 0;  // kernels set it
};

Plan::Plan(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Plan::~Plan() = default;
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;

Plan Variant::plan(const Shape& shape, const PlanOptions& options) const {
  return Plan(std::make_unique<Plan::Impl>(bind_program(impl_, shape, options), options));
}

std::future<Plan> Variant::plan_async(const Shape& shape, const PlanOptions& options) const {
  return std::async(std::launch::async, [variant = *this, shape, options] { return variant.plan(shape, options); });
}

void Variant::warm_up(const Shape& shape, const PlanOptions& options) const {
  const BoundProgram bound = bind_program(impl_, shape, options, Needed::kNone);
  if (options.device.kind == Device::kCuda) {
    warm_up_gpu_forward(bound, options);
    if (options.backward) warm_up_gpu_backward(bound, options);
    return;
  }
  impl_->kernel(*bound.typed, kernel_options(shape, options.dtype, runtime::CpuPass::kForward, false));
  if (options.backward) {
    impl_->kernel(*bound.typed, kernel_options(shape, options.dtype, runtime::CpuPass::kBackward, has_grad_params(*impl_)));
  }
}

void Plan::forward(const ForwardTensors& tensors) const {
  Impl::Views views;
  views.q = impl_->rows(impl_->q_rule, tensors.q);
  views.k = impl_->rows(impl_->k_rule, tensors.k);
  views.v = impl_->rows(impl_->v_rule, tensors.v);
  views.out = impl_->rows(impl_->out_rule, tensors.out);
  impl_->refuse_lse(tensors.lse);
  if (tensors.lse.data) views.lse = impl_->lse(impl_->lse_rule, tensors.lse);
  if (impl_->gpu) {
    impl_->gpu->run({views.q, views.k, views.v, views.out, views.lse}, tensors.stream, tensors.workspace);
    return;
  }
  const Kernel& kernel = *impl_->forward_kernel;
  const runtime::CpuFunction<runtime::CpuForward> function(kernel.code.function<runtime::CpuForward>(), kernel.info);
  runtime::run_forward(impl_->bound.variant->pool(), function, impl_->sequences(views));
}

void Plan::backward(const BackwardTensors& tensors) const {
  Impl::Views views;
  views.q = impl_->rows(impl_->q_rule, tensors.q);
  views.k = impl_->rows(impl_->k_rule, tensors.k);
  views.v = impl_->rows(impl_->v_rule, tensors.v);
  views.dout = impl_->rows(impl_->dout_rule, tensors.dout);
  impl_->refuse_lse(tensors.lse);
  if (impl_->bound.variant->is_softmax) {
    views.out = impl_->rows(impl_->stored_out_rule, tensors.out);
    views.lse = impl_->lse(impl_->stored_lse_rule, tensors.lse);
  }
  if (tensors.dq.data) views.dq = impl_->rows(impl_->dq_rule, tensors.dq);
  if (tensors.dk.data) views.dk = impl_->rows(impl_->dk_rule, tensors.dk);
  if (tensors.dv.data) views.dv = impl_->rows(impl_->dv_rule, tensors.dv);
  std::vector<runtime::CpuParamGradient> param_grads;
  for (const auto& [name, tensor] : tensors.param_grads) param_grads.push_back(impl_->bound.parameters->gradient(name, tensor));
  if (impl_->gpu) {
    impl_->gpu_backward().run({views.q, views.k, views.v, views.out, views.lse, views.dout, views.dq, views.dk, views.dv, param_grads},
                              tensors.stream, tensors.workspace);
    return;
  }
  const std::shared_ptr<const Kernel> kernel = impl_->backward_kernel(!param_grads.empty());
  const runtime::CpuFunction<runtime::CpuBackward> function(kernel->code.function<runtime::CpuBackward>(), kernel->info);
  runtime::run_backward(impl_->bound.variant->pool(), function, impl_->sequences(views), param_grads,
                        static_cast<int>(impl_->bound.typed->ir().params.size()));
}

void Plan::check() const {
  const bool met = impl_->gpu ? impl_->gpu->take_index_flag() : std::atomic_ref(impl_->index_flag).exchange(0) != 0;
  if (!met) return;
  throw ArgumentError(
      fmt::format("'{}': an index that depends on data was outside its tensor and was clamped", impl_->bound.variant->program.name));
}

size_t Plan::workspace_bytes() const {
  return impl_->gpu ? impl_->gpu->workspace_bytes() : 0;
}

bool Plan::is_tuned() const {
  return !impl_->gpu || impl_->gpu->is_tuned();
}

void Plan::wait_until_tuned() const {
  if (impl_->gpu) impl_->gpu->wait_until_tuned();
}

size_t Plan::backward_workspace_bytes() const {
  return impl_->gpu ? impl_->gpu_backward().workspace_bytes() : 0;
}

std::string Plan::describe() const {
  if (impl_->gpu) return impl_->gpu->describe();
  return fmt::format("cpu, {}, {} threads", runtime::host_cpu().name, impl_->bound.variant->pool().size());
}

}  // namespace attune
