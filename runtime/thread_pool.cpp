#include "runtime/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <exception>

#include "runtime/host_cpu.h"

namespace attune::runtime {
namespace {

thread_local bool in_task = false;

}  // namespace

struct ThreadPool::Job {
  Job(const std::function<void(int64_t, int)>& function, int64_t size) : fn(function), count(size) {}

  const std::function<void(int64_t, int)>& fn;
  const int64_t count;
  std::atomic<int64_t> next{0};
  // Guarded by the pool's mutex:
  int active = 0;  // pool threads inside
  std::condition_variable done;
  std::exception_ptr error;

  bool has_more() const { return next.load(std::memory_order_relaxed) < count; }

  // Runs indices until none is left. Returns the exception of a failed one.
  std::exception_ptr run(int worker) {
    in_task = true;
    std::exception_ptr failure;
    try {
      for (int64_t index = next.fetch_add(1); index < count; index = next.fetch_add(1)) fn(index, worker);
    } catch (...) {
      failure = std::current_exception();
      next.store(count);
    }
    in_task = false;
    return failure;
  }
};

ThreadPool::ThreadPool(int workers) {
  if (workers <= 0) workers = available_cores();
  for (int worker = 1; worker < workers; ++worker) threads_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

ThreadPool& ThreadPool::shared() {
  // Never destroyed: a thread of the caller may still use it while the process exits.
  static auto* pool = new ThreadPool();
  return *pool;
}

void ThreadPool::work(int worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    const auto open = std::find_if(jobs_.begin(), jobs_.end(), [](const Job* job) { return job->has_more(); });
    if (open == jobs_.end()) {
      jobs_.clear();  // all are started; their callers wait for `active` alone
      continue;
    }
    Job& job = **open;
    ++job.active;
    lock.unlock();
    const std::exception_ptr failure = job.run(worker);
    lock.lock();
    if (failure && !job.error) job.error = failure;
    if (--job.active == 0) job.done.notify_one();
  }
}

void ThreadPool::parallel_for(int64_t count, const std::function<void(int64_t index, int worker)>& fn) {
  if (in_task || threads_.empty() || count <= 1) {
    for (int64_t index = 0; index < count; ++index) fn(index, 0);
    return;
  }
  Job job(fn, count);
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(&job);
  }
  wake_.notify_all();
  const std::exception_ptr failure = job.run(0);
  std::unique_lock lock(mutex_);
  std::erase(jobs_, &job);  // no thread enters it from here on
  job.done.wait(lock, [&job] { return job.active == 0; });
  if (failure && !job.error) job.error = failure;
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace attune::runtime
