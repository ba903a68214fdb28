// One process at a time does the work of a cache key. The lock lives in a file of the cache folder and dies with the process that holds it.
#pragma once

#include <chrono>
#include <stop_token>
#include <string>

#include "runtime/object_cache.h"

namespace attune::runtime {

class KeyLock {
 public:
  // Waits while another process holds the key's lock; no longer than `patience`, and not after a stop is asked for. Then, and where the
  // folder is not usable or cannot be written to, this goes on without a lock: work is done twice, never not at all.
  KeyLock(const CacheFolder& folder, const CacheKey& key, const std::stop_token& cancel = {},
          std::chrono::milliseconds patience = kPatience);
  ~KeyLock();
  KeyLock(const KeyLock&) = delete;
  KeyLock& operator=(const KeyLock&) = delete;

  bool is_held() const { return descriptor_ >= 0; }

  static constexpr std::chrono::milliseconds kPatience{60000};

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace attune::runtime
