#include "tests/gpu/backward_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace attune::numeric {
namespace {

enum : size_t { kDQ, kDK, kDV, kParams };

}  // namespace

BackwardCall::BackwardCall(const Variant& variant, const Case& c, const codegen::Ir& ir, const ProblemData& data,
                           const PlanOptions& options)
    : ForwardCall(variant, c, ir, data, options), ir_(ir) {
  dout_ = &rows(true, data.sizes.v_dim);
  dout_->host().write(data.dout);
  dout_->upload(nullptr);
  results_.reserve(kParams + ir.params.size());
  add_result("dq", rows(true, data.sizes.head_dim));
  add_result("dk", rows(false, data.sizes.head_dim));
  add_result("dv", rows(false, data.sizes.v_dim));
  for (size_t i = 0; i < ir.params.size(); ++i) {
    if (!ir.params[i].is_grad) continue;
    std::vector<int64_t> dims;
    if (data.tensor_params[i]) dims = data.tensor_params[i]->dims;
    add_result(fmt::format("gradient of '{}'", ir.params[i].name), add(DType::kF32, dims, false));
    grad_params_.push_back(i);
  }
  if (const size_t bytes = plan().backward_workspace_bytes(); bytes > 0) {
    workspace_ = runtime::GpuBuffer(device_.ordinal, bytes);
    workspace_.zero();
  }
  wait(nullptr);
}

BackwardCall::Result& BackwardCall::add_result(std::string name, DeviceTensor& tensor) {
  const std::span<uint8_t> memory = tensor.host().memory();
  return results_.emplace_back(Result{std::move(name), &tensor, {memory.begin(), memory.end()}});
}

bool BackwardCall::is_wanted(const WantedGradients& wanted, size_t result) {
  switch (result) {
    case kDQ:
      return wanted.dq;
    case kDK:
      return wanted.dk;
    case kDV:
      return wanted.dv;
    default:
      return wanted.params;
  }
}

void BackwardCall::enqueue_backward(void* stream, WantedGradients wanted) const {
  BackwardTensors tensors;
  tensors.q = q_->tensor();
  tensors.k = k_->tensor();
  tensors.v = v_->tensor();
  if (lse_) {
    tensors.out = out_->tensor();
    tensors.lse = lse_->tensor();
  }
  tensors.dout = dout_->tensor();
  if (wanted.dq) tensors.dq = results_[kDQ].tensor->tensor();
  if (wanted.dk) tensors.dk = results_[kDK].tensor->tensor();
  if (wanted.dv) tensors.dv = results_[kDV].tensor->tensor();
  for (size_t i = 0; wanted.params && i < grad_params_.size(); ++i) {
    tensors.param_grads[ir_.params[grad_params_[i]].name] = results_[kParams + i].tensor->tensor();
  }
  tensors.stream = stream;
  tensors.workspace = workspace_.data();
  plan().backward(tensors);
}

void BackwardCall::poison(void* stream) const {
  for (const Result& result : results_) {
    std::copy(result.poison.begin(), result.poison.end(), result.tensor->host().memory().begin());
    result.tensor->upload(stream);
  }
}

void BackwardCall::run_backward(void* stream, WantedGradients wanted) const {
  poison(stream);
  enqueue_backward(stream, wanted);
}

CallResult BackwardCall::backward_result(void* stream, WantedGradients wanted) {
  for (const Result& result : results_) result.tensor->download(stream);
  out_->download(stream);
  wait(stream);
  CallResult values;
  values.out = out_->host().read();
  values.param_grads.resize(ir_.params.size());
  for (size_t i = 0; i < results_.size(); ++i) {
    GuardedTensor& host = results_[i].tensor->host();
    if (!host.is_intact()) throw std::runtime_error(fmt::format("{}: memory beside the elements was written", results_[i].name));
    if (!is_wanted(wanted, i)) {
      if (!std::equal(results_[i].poison.begin(), results_[i].poison.end(), host.memory().begin())) {
        throw std::runtime_error(fmt::format("{}: was written, but not wanted", results_[i].name));
      }
      continue;
    }
    std::vector<double>& to = i == kDQ   ? values.dq
                              : i == kDK ? values.dk
                              : i == kDV ? values.dv
                                         : values.param_grads[grad_params_[i - kParams]];
    to = host.read();
  }
  return values;
}

}  // namespace attune::numeric
