// Gradients of parameters over tasks that run in any order, with sums in one order.
//
// Small gradients (kPrivateBytes in all) get a zeroed copy for each chain of tasks, added to the total in the order of the chains. Larger
// ones are written directly; tasks that might touch the same element then belong to one chain and run one after the other.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/cpu_executor.h"

namespace attune::runtime {

class GradientSums {
 public:
  static constexpr int64_t kPrivateBytes = 256 * 1024;

  // Sets everything that is written directly to zero. `gradients` must outlive this.
  GradientSums(std::span<const CpuParamGradient> gradients, int param_count);

  // Which indices tell tasks that never touch the same directly written element; a chain is a maximal set of tasks that agree in all of
  // them. All true if nothing is written directly: then any task may be its own chain.
  bool by_b() const { return by_b_; }
  bool by_h() const { return by_h_; }
  bool by_q() const { return by_q_; }

  // Where one chain adds.
  struct Chain {
    std::vector<CpuTensor> params;  // CpuArgs::param_grads
    std::vector<float> copy;
  };
  Chain start() const;
  // Chains are numbered from 0 without gaps; each is finished once, from any thread.
  void finish(int64_t number, Chain chain);
  // After the last chain: writes the private totals to their places.
  void write() const;

 private:
  struct Private {
    const CpuParamGradient* gradient;
    int64_t offset, size;  // in the copy
  };

  std::vector<CpuTensor> direct_;  // by parameter; null data where private or not wanted
  std::vector<Private> private_;
  int64_t copy_size_ = 0;
  bool by_b_ = true, by_h_ = true, by_q_ = true;

  std::mutex mutex_;
  int64_t next_ = 0;                               // the chain to be added next
  std::map<int64_t, std::vector<float>> waiting_;  // finished out of turn
  std::vector<double> total_;
};

}  // namespace attune::runtime
