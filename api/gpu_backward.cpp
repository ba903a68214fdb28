#include "api/gpu_backward.h"

#include <fmt/format.h>

#include <stdexcept>

#include "runtime/gpu_device.h"

namespace attune {
namespace {

using codegen::GpuTensorIndex;

constexpr size_t kAlignment = 256;  // of the parts of the workspace

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void warm_up_gpu_backward(const BoundProgram& bound, const PlanOptions& options) {
  const codegen::GpuKernelOptions kernel = gpu_kernel_options(bound, options);
  const codegen::GpuProblem problem = gpu_problem(*bound.problem, options.device.ordinal);
  bound.variant->gpu_kernel(*bound.typed, GpuPass::kBackward, kernel,
                            codegen::default_backward_config(bound.typed->lowered(), kernel, problem));
}

GpuBackward::GpuBackward(const GpuArguments& arguments) : arguments_(arguments), contiguous_(contiguous()) {
  const BoundProgram& bound = arguments.bound();
  config_ = config_of(contiguous_);
  const auto code = bound.variant->stored_gpu_kernel(*bound.typed, GpuPass::kBackward, arguments.options(), config_);
  workspace_bytes_ = other_offset_ = aligned(plan_of(code->kernel, config_, contiguous_).workspace_bytes);
  // The workspace of sm80, which takes all strides, depends on nothing that is emitted.
  codegen::GpuKernel other;
  other.side_threads = code->kernel.side_threads;
  Layout unaligned = contiguous_;
  unaligned.aligned = false;
  const codegen::GpuConfig other_config = config_of(unaligned);
  if (other_config != config_) workspace_bytes_ += aligned(plan_of(other, other_config, unaligned).workspace_bytes);
}

GpuBackward::Layout GpuBackward::contiguous() const {
  const codegen::GpuProblem& problem = arguments_.problem();
  Layout layout;
  layout.q = problem.q;
  layout.k = problem.k;
  layout.v = problem.v;
  layout.out = problem.out;
  layout.lse = problem.lse;
  layout.dout = problem.dout;
  layout.dq = problem.dq;
  layout.dk = problem.dk;
  layout.dv = problem.dv;
  const BoundProgram& bound = arguments_.bound();
  const std::vector<codegen::Param>& params = bound.typed->ir().params;
  for (size_t i = 0; i < params.size(); ++i) {
    Layout::Gradient& gradient = layout.gradients.emplace_back();
    gradient.strides.resize(params[i].dims.size(), 0);
    gradient.sizes.resize(params[i].dims.size(), 1);
    if (!params[i].is_grad || !params[i].is_tensor) continue;
    const std::vector<int64_t> shape = bound.parameters->gradient_shape(static_cast<int>(i));
    for (size_t axis = 0; axis < shape.size(); ++axis) gradient.sizes[axis] = static_cast<int32_t>(shape[axis]);
  }
  return layout;
}

codegen::GpuProblem GpuBackward::problem_of(const Layout& layout) const {
  codegen::GpuProblem problem = arguments_.problem();
  problem.q = layout.q;
  problem.k = layout.k;
  problem.v = layout.v;
  problem.out = layout.out;
  problem.lse = layout.lse;
  problem.dout = layout.dout;
  problem.dq = layout.dq;
  problem.dk = layout.dk;
  problem.dv = layout.dv;
  problem.aligned = layout.aligned;
  problem.wants_dq = layout.wants_dq;
  problem.wants_dk = layout.wants_dk;
  problem.wants_dv = layout.wants_dv;
  for (size_t i = 0; i < layout.gradients.size(); ++i) {
    problem.params[i].grad_strides = layout.gradients[i].strides;
    problem.params[i].grad_sizes = layout.gradients[i].sizes;
  }
  return problem;
}

codegen::GpuConfig GpuBackward::config_of(const Layout& layout) const {
  return codegen::default_backward_config(arguments_.bound().typed->lowered(), arguments_.options(), problem_of(layout));
}

runtime::GpuPlan GpuBackward::plan_of(const codegen::GpuKernel& kernel, const codegen::GpuConfig& config, const Layout& layout) const {
  return codegen::plan_gpu_backward(arguments_.bound().typed->lowered(), kernel, arguments_.options(), config, problem_of(layout));
}

void GpuBackward::compile() const {
  launcher(contiguous_);
}

std::unique_ptr<const GpuBackward::Launcher> GpuBackward::make(const Layout& layout) const {
  const BoundProgram& bound = arguments_.bound();
  const codegen::GpuKernelOptions& options = arguments_.options();
  const codegen::GpuConfig config = config_of(layout);
  auto made = std::make_unique<Launcher>();
  made->layout = layout;
  made->workspace_offset = config == config_ ? 0 : other_offset_;
  made->code = bound.variant->gpu_kernel(*bound.typed, GpuPass::kBackward, options, config);
  made->executor = std::make_unique<runtime::GpuExecutor>(plan_of(made->code->kernel, config, layout), std::span(&made->code->binary, 1),
                                                          arguments_.device());
  if (const size_t end = made->workspace_offset + made->executor->workspace_bytes(); end > workspace_bytes_) {
    throw std::logic_error(
        fmt::format("backward of '{}': a workspace of {} bytes, {} were said", bound.variant->program.name, end, workspace_bytes_));
  }
  return made;
}

GpuBackward::Layout GpuBackward::layout_of(const Tensors& tensors) const {
  Layout layout = contiguous_;
  const auto place = [&](const RowTensor& tensor, bool of_queries, codegen::GpuStrides& strides) {
    if (!tensor.data) return;
    strides = of_queries ? arguments_.query_strides(tensor, strides) : arguments_.key_strides(tensor, strides);
    layout.aligned = layout.aligned && is_vector_aligned(tensor.data);
  };
  place(tensors.q, true, layout.q);
  place(tensors.k, false, layout.k);
  place(tensors.v, false, layout.v);
  place(tensors.out, true, layout.out);
  place(tensors.dout, true, layout.dout);
  place(tensors.dq, true, layout.dq);
  place(tensors.dk, false, layout.dk);
  place(tensors.dv, false, layout.dv);
  layout.lse = arguments_.lse_strides(tensors.lse);
  layout.wants_dq = tensors.dq.data;
  layout.wants_dk = tensors.dk.data;
  layout.wants_dv = tensors.dv.data;
  for (const runtime::CpuParamGradient& gradient : tensors.param_grads) {
    Layout::Gradient& own = layout.gradients[static_cast<size_t>(gradient.param)];
    for (size_t axis = 0; axis < gradient.shape.size(); ++axis) {
      own.sizes[axis] = static_cast<int32_t>(gradient.shape[axis]);
      // Where one element stands for all of a dim.
      own.strides[axis] = gradient.shape[axis] == 1 ? 0 : gradient.strides[axis];
    }
  }
  return layout;
}

const GpuBackward::Launcher& GpuBackward::launcher(const Layout& layout) const {
  const std::lock_guard lock(mutex_);
  for (const auto& known : launchers_) {
    if (known->layout == layout) return *known;
  }
  return *launchers_.emplace_back(make(layout));
}

void* GpuBackward::own_workspace() const {
  const std::lock_guard lock(mutex_);
  if (!workspace_.data() && workspace_bytes_ > 0) {
    runtime::GpuBuffer made(arguments_.device(), workspace_bytes_);
    made.zero();
    runtime::synchronize(arguments_.device(), nullptr);
    workspace_ = std::move(made);
  }
  return workspace_.data();
}

void GpuBackward::run(const Tensors& tensors, void* stream, void* workspace) const {
  const Launcher& chosen = launcher(layout_of(tensors));
  if (!workspace) workspace = own_workspace();
  std::vector<void*> addresses = arguments_.addresses();
  addresses[GpuTensorIndex::kQ] = tensors.q.data;
  addresses[GpuTensorIndex::kK] = tensors.k.data;
  addresses[GpuTensorIndex::kV] = tensors.v.data;
  addresses[GpuTensorIndex::kOut] = tensors.out.data;
  addresses[GpuTensorIndex::kLse] = tensors.lse.data;
  const codegen::Ir& ir = arguments_.bound().typed->ir();
  const auto place = [&](GpuTensorIndex::Backward tensor) { return static_cast<size_t>(GpuTensorIndex::backward(ir, tensor)); };
  const size_t gradients = place(GpuTensorIndex::kGrads);
  addresses.resize(gradients + ir.params.size());
  addresses[place(GpuTensorIndex::kDOut)] = tensors.dout.data;
  addresses[place(GpuTensorIndex::kDQ)] = tensors.dq.data;
  addresses[place(GpuTensorIndex::kDK)] = tensors.dk.data;
  addresses[place(GpuTensorIndex::kDV)] = tensors.dv.data;
  for (const runtime::CpuParamGradient& gradient : tensors.param_grads) {
    if (element_count(gradient.shape) > 0) addresses[gradients + static_cast<size_t>(gradient.param)] = gradient.data;
  }
  chosen.executor->run(stream, addresses, workspace ? static_cast<std::byte*>(workspace) + chosen.workspace_offset : nullptr);
}

}  // namespace attune
