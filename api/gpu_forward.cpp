#include "api/gpu_forward.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/error.h"
#include "runtime/log.h"

namespace attune {
namespace {

using codegen::GpuTensorIndex;

bool has_field(const codegen::GpuKernel& kernel, std::string_view name) {
  return std::any_of(kernel.fields.begin(), kernel.fields.end(), [&](const codegen::GpuField& field) { return field.name == name; });
}

}  // namespace

void warm_up_gpu_forward(const BoundProgram& bound, const PlanOptions& options) {
  if (!has_rows(*bound.problem)) return;
  const codegen::GpuKernelOptions kernel = gpu_kernel_options(bound, options);
  const codegen::GpuProblem problem = gpu_problem(*bound.problem, options.device.ordinal);
  bound.variant->gpu_kernel(*bound.typed, GpuPass::kForward, kernel, codegen::default_config(bound.typed->lowered(), kernel, problem));
}

GpuForward::GpuForward(const GpuArguments& arguments, bool tiered)
    : arguments_(arguments), tiered_(tiered), is_empty_(!has_rows(*arguments.bound().problem)) {
  if (is_empty_) return;
  const codegen::GpuProblem& problem = arguments.problem();
  contiguous_ = {problem.q, problem.k, problem.v, problem.out, problem.lse};
  launchers_.push_back(make(contiguous_));
  has_index_flag_ = launchers_.front()->has_index_flag;
  workspace_bytes_ = launchers_.front()->workspace_bytes;
  workspace_ = runtime::GpuBuffer(arguments.device(), workspace_bytes_);
  workspace_.zero();
  runtime::synchronize(arguments.device(), nullptr);
}

codegen::GpuProblem GpuForward::problem_of(const Layout& layout) const {
  codegen::GpuProblem problem = arguments_.problem();
  problem.q = layout.q;
  problem.k = layout.k;
  problem.v = layout.v;
  problem.out = layout.out;
  problem.lse = layout.lse;
  problem.aligned = layout.aligned;
  return problem;
}

runtime::GpuPlan GpuForward::plan_of(const Tier& tier, const Layout& layout) const {
  return codegen::plan_gpu_forward(arguments_.bound().typed->lowered(), tier.code->kernel, arguments_.options(), tier.config,
                                   problem_of(layout));
}

// The tier's code is there.
void GpuForward::load(Tier& tier, const Layout& layout) const {
  tier.executor = std::make_unique<runtime::GpuExecutor>(plan_of(tier, layout), std::span(&tier.code->binary, 1), arguments_.device());
}

std::unique_ptr<GpuForward::Launcher> GpuForward::make(const Layout& layout) const {
  const BoundProgram& bound = arguments_.bound();
  const codegen::GpuKernelOptions& options = arguments_.options();
  auto made = std::make_unique<Launcher>();
  made->layout = layout;
  Tier& tuned = made->tuned;
  tuned.config = codegen::default_config(bound.typed->lowered(), options, problem_of(layout));
  if (tiered_) tuned.code = bound.variant->stored_gpu_kernel(*bound.typed, GpuPass::kForward, options, tuned.config);
  if (!tiered_ || (bound.variant->forbid_jit && !tuned.code->binary)) {
    tuned.code = bound.variant->gpu_kernel(*bound.typed, GpuPass::kForward, options, tuned.config);
  }
  made->workspace_bytes = plan_of(tuned, layout).workspace_bytes;
  made->has_index_flag = has_field(tuned.code->kernel, "index_flag");
  if (tuned.code->binary) {
    load(tuned, layout);
    made->current = &tuned;
    return made;
  }
  start_tuning(*made);
  Tier& quick = made->quick;
  quick.config = codegen::quick_config();
  quick.code = bound.variant->gpu_kernel(*bound.typed, GpuPass::kForward, options, quick.config);
  load(quick, layout);
  made->workspace_bytes = std::max(made->workspace_bytes, quick.executor->workspace_bytes());
  const Tier* none = nullptr;
  made->current.compare_exchange_strong(none, &quick);  // the tuned one may be there already
  return made;
}

// Its errors are for wait_until_tuned(): calls go on with the quick kernel.
void GpuForward::start_tuning(Launcher& launcher) const {
  std::packaged_task<void(std::stop_token)> task([this, &launcher](const std::stop_token& cancel) {
    const BoundProgram& bound = arguments_.bound();
    try {
      Tier& tuned = launcher.tuned;
      tuned.code = bound.variant->gpu_kernel(*bound.typed, GpuPass::kForward, arguments_.options(), tuned.config, cancel);
      load(tuned, launcher.layout);
      launcher.current = &tuned;
    } catch (const std::exception& error) {
      if (!cancel.stop_requested()) runtime::log(fmt::format("a tiered plan stays with its quick kernel: {}", error.what()));
      throw;
    }
  });
  launcher.tuning = task.get_future().share();
  launcher.thread = std::jthread(std::move(task));
}

GpuForward::Layout GpuForward::layout_of(const Tensors& tensors) const {
  Layout layout;
  layout.q = arguments_.query_strides(tensors.q, contiguous_.q);
  layout.k = arguments_.key_strides(tensors.k, contiguous_.k);
  layout.v = arguments_.key_strides(tensors.v, contiguous_.v);
  layout.out = arguments_.query_strides(tensors.out, contiguous_.out);
  layout.lse = arguments_.lse_strides(tensors.lse);
  layout.aligned = is_vector_aligned(tensors.q.data) && is_vector_aligned(tensors.k.data) && is_vector_aligned(tensors.v.data) &&
                   is_vector_aligned(tensors.out.data);
  return layout;
}

const GpuForward::Launcher& GpuForward::launcher(const Layout& layout) const {
  const std::lock_guard lock(mutex_);
  for (const auto& known : launchers_) {
    if (known->layout == layout) return *known;
  }
  return *launchers_.emplace_back(make(layout));
}

void GpuForward::run(const Tensors& tensors, void* stream, void* workspace) const {
  if (is_empty_) return;
  const Tier& tier = *launcher(layout_of(tensors)).current.load();
  std::vector<void*> addresses = arguments_.addresses();
  addresses[GpuTensorIndex::kQ] = tensors.q.data;
  addresses[GpuTensorIndex::kK] = tensors.k.data;
  addresses[GpuTensorIndex::kV] = tensors.v.data;
  addresses[GpuTensorIndex::kOut] = tensors.out.data;
  addresses[GpuTensorIndex::kLse] = tensors.lse.data;
  tier.executor->run(stream, addresses, workspace ? workspace : workspace_.data());
}

std::string GpuForward::describe() const {
  if (is_empty_) return fmt::format("cuda:{}, no rows", arguments_.device());
  const Launcher& first = *launchers_.front();
  std::string text = fmt::format("cuda:{}, {}", arguments_.device(), gpu_config_text(GpuPass::kForward, first.tuned.config));
  if (first.quick.executor) text += fmt::format(", at first {}", gpu_config_text(GpuPass::kForward, first.quick.config));
  return text;
}

bool GpuForward::take_index_flag() const {
  return has_index_flag_ && arguments_.take_index_flag();
}

bool GpuForward::is_tuned() const {
  const std::lock_guard lock(mutex_);
  return std::all_of(launchers_.begin(), launchers_.end(), [](const auto& launcher) { return launcher->current == &launcher->tuned; });
}

void GpuForward::wait_until_tuned() const {
  std::vector<std::shared_future<void>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& launcher : launchers_) {
      if (launcher->tuning.valid()) all.push_back(launcher->tuning);
    }
  }
  for (const std::shared_future<void>& tuning : all) tuning.get();
}

}  // namespace attune
