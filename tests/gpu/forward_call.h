// One forward pass of a case through the library on some device, from host data to host results.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "api/attune.h"
#include "guarded_tensor.h"
#include "random_data.h"
#include "runtime/gpu_memory.h"

namespace attune::numeric {

// A tensor on the device, and its image on the host, whose poison and gaps it has too.
class DeviceTensor {
 public:
  // On a GPU `aligned` tensors begin at a multiple of 16 bytes, others certainly not.
  DeviceTensor(const Device& device, DType dtype, std::vector<int64_t> shape, const Layout& layout, bool aligned);

  Tensor tensor() const;
  GuardedTensor& host() { return host_; }
  void upload(void* stream) const;
  void download(void* stream) const;

 private:
  GuardedTensor host_;
  runtime::GpuBuffer buffer_;  // empty on the CPU
  size_t shift_ = 0;           // where the image begins in it
};

class ForwardCall {
 public:
  // `c.strided`: by the seed with strides of multiples of 8 elements, or any, at any address.
  ForwardCall(const Variant& variant, const Case& c, const codegen::Ir& ir, const ProblemData& data, const PlanOptions& options);

  // Poisons the results, then enqueues the call. On the CPU there is no stream.
  void run(void* stream);
  void enqueue(void* stream, void* workspace = nullptr) const;
  // Waits, reads the results, and throws std::runtime_error if memory beside them was written.
  struct Result {
    std::vector<double> out, lse;  // as ReferenceResult has them
  };
  Result result(void* stream);
  std::vector<uint8_t> bytes_of_out(void* stream);  // gaps included

  const Plan& plan() const { return *plan_; }

 protected:
  DeviceTensor& add(DType dtype, std::vector<int64_t> shape, bool keeps_last_dim, std::vector<bool> is_repeated = {});
  DeviceTensor& rows(bool of_queries, int dim);
  void wait(void* stream) const;

  const Case& case_;
  const ProblemData& data_;
  Device device_;
  std::list<DeviceTensor> tensors_;
  DeviceTensor *q_ = nullptr, *k_ = nullptr, *v_ = nullptr, *out_ = nullptr, *lse_ = nullptr;  // lse: softmax only

 private:
  std::vector<uint8_t> poison_out_, poison_lse_;
  std::unique_ptr<Plan> plan_;
};

}  // namespace attune::numeric
