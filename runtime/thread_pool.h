// A fixed set of worker threads for loops over independent tasks.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace attune::runtime {

class ThreadPool {
 public:
  // `workers` counts the caller of parallel_for, which takes part: one fewer threads are started. 0: available_cores().
  explicit ThreadPool(int workers = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // One for the process, of available_cores() workers.
  static ThreadPool& shared();

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls fn(index, worker) once for each index in [0, count) and returns when all are done. Indices are started in order. No two calls
  // that run at the same time within one parallel_for have the same worker, which lies in [0, size()). Several callers at once share the
  // threads; a call from within a task of any pool runs on the calling thread alone. After an exception no further index is
  // started, and the first exception caught is thrown here.
  void parallel_for(int64_t count, const std::function<void(int64_t index, int worker)>& fn);

 private:
  struct Job;
  void work(int worker);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Job*> jobs_;  // that still have indices to start, oldest first
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace attune::runtime
