// One making of the same thing at a time: threads that ask for a key while another makes it wait for that one's result.
#pragma once

#include <future>
#include <map>
#include <memory>
#include <mutex>

namespace attune::runtime {

// Values live as long as somebody holds them; a key whose value is gone is made again.
template <typename Key, typename Value>
class SingleFlight {
 public:
  using Pointer = std::shared_ptr<const Value>;

  // The value of the key, by `make()` -> Pointer where there is none. If it throws, every caller that waits for it gets the exception, and
  // the next one tries again.
  template <typename Make>
  Pointer get(const Key& key, const Make& make) {
    std::unique_lock lock(mutex_);
    if (const auto known = values_.find(key); known != values_.end()) {
      if (Pointer value = known->second.lock()) return value;
    }
    if (const auto flight = flights_.find(key); flight != flights_.end()) {
      const std::shared_future<Pointer> result = flight->second;
      lock.unlock();
      return result.get();
    }
    std::promise<Pointer> promise;
    flights_.emplace(key, promise.get_future().share());
    lock.unlock();
    try {
      Pointer value = make();
      land(key, value);
      promise.set_value(value);
      return value;
    } catch (...) {
      land(key, nullptr);
      promise.set_exception(std::current_exception());
      throw;
    }
  }

 private:
  void land(const Key& key, const Pointer& value) {
    const std::lock_guard lock(mutex_);
    flights_.erase(key);
    std::erase_if(values_, [](const auto& entry) { return entry.second.expired(); });
    if (value) values_.insert_or_assign(key, value);
  }

  std::mutex mutex_;
  std::map<Key, std::weak_ptr<const Value>> values_;
  std::map<Key, std::shared_future<Pointer>> flights_;
};

}  // namespace attune::runtime
