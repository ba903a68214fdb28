// A forward and a backward pass of a case through the library on some device, from host data to host results.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "run_case.h"
#include "tests/gpu/forward_call.h"

namespace attune::numeric {

struct WantedGradients {
  bool dq = true, dk = true, dv = true, params = true;
};

class BackwardCall : public ForwardCall {
 public:
  // As ForwardCall. The workspace of backward calls is the test's own.
  BackwardCall(const Variant& variant, const Case& c, const codegen::Ir& ir, const ProblemData& data, const PlanOptions& options);

  // Fills the results, and what lies beside them, with what no call writes.
  void poison(void* stream) const;
  // Behind a forward pass: poisons the results, then enqueues the call.
  void run_backward(void* stream, WantedGradients wanted = {}) const;
  void enqueue_backward(void* stream, WantedGradients wanted = {}) const;
  // Waits, reads what was wanted, and throws std::runtime_error if memory beside it, or a result that was not wanted, was written. `out` is
  // what the backward pass was given.
  CallResult backward_result(void* stream, WantedGradients wanted = {});

 private:
  struct Result {
    std::string name;
    DeviceTensor* tensor;
    std::vector<uint8_t> poison;
  };
  Result& add_result(std::string name, DeviceTensor& tensor);
  static bool is_wanted(const WantedGradients& wanted, size_t result);

  const codegen::Ir& ir_;
  DeviceTensor* dout_ = nullptr;
  std::vector<Result> results_;      // dq, dk, dv, then gradients of parameters
  std::vector<size_t> grad_params_;  // theirs
  runtime::GpuBuffer workspace_;
};

}  // namespace attune::numeric
