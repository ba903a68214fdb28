// Stream capture for tests, by the driver's own functions.
#pragma once

#include <functional>

#include "runtime/cuda_driver.h"
#include "runtime/gpu_device.h"

namespace attune::test {

namespace cuda = runtime::cuda;

// A captured and instantiated graph.
class CudaGraph {
 public:
  CudaGraph(int device, void* stream, const std::function<void()>& work) : device_(device), stream_(static_cast<cuda::Stream>(stream)) {
    const cuda::Driver& driver = cuda::driver();
    const runtime::GpuContextScope scope(device_);
    cuda::call(driver, begin_, "capturing a graph", stream_, cuda::CaptureMode::kGlobal);
    try {
      work();
    } catch (...) {
      end_(stream_, &graph_);
      throw;
    }
    cuda::call(driver, end_, "ending a capture", stream_, &graph_);
    cuda::call(driver, instantiate_, "instantiating a graph", &instance_, graph_, 0ull);
  }
  ~CudaGraph() {
    const runtime::GpuContextScope scope(device_);
    if (instance_) destroy_instance_(instance_);
    if (graph_) destroy_(graph_);
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void launch() const {
    const runtime::GpuContextScope scope(device_);
    cuda::call(cuda::driver(), launch_, "launching a graph", instance_, stream_);
  }

 private:
  const cuda::DriverFunction<cuda::Stream, cuda::CaptureMode> begin_ = cuda::driver().find("cuStreamBeginCapture", 10010);
  const cuda::DriverFunction<cuda::Stream, void**> end_ = cuda::driver().find("cuStreamEndCapture", 10000);
  const cuda::DriverFunction<void**, void*, unsigned long long> instantiate_ = cuda::driver().find("cuGraphInstantiateWithFlags", 11040);
  const cuda::DriverFunction<void*, cuda::Stream> launch_ = cuda::driver().find("cuGraphLaunch", 10000);
  const cuda::DriverFunction<void*> destroy_instance_ = cuda::driver().find("cuGraphExecDestroy", 10000);
  const cuda::DriverFunction<void*> destroy_ = cuda::driver().find("cuGraphDestroy", 10000);

  int device_ = 0;
  cuda::Stream stream_ = nullptr;
  void* graph_ = nullptr;
  void* instance_ = nullptr;
};

}  // namespace attune::test
