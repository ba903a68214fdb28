// Compiled code kept on disk: bytes by a 128-bit key. Several processes and threads may use one folder at once: an entry is written to a
// temporary file, synced and renamed, and checked whole when it is read. Nothing here throws for trouble with files: what cannot be
// read is a miss, what cannot be written is not kept.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/cache_folder.h"

namespace attune::runtime {

struct CacheKey {
  uint64_t high = 0, low = 0;

  bool operator==(const CacheKey&) const = default;
  auto operator<=>(const CacheKey&) const = default;
  std::string hex() const;  // 32 digits
};

// XXH3-128 over the parts, each preceded by its length: {"ab", "c"} and {"a", "bc"} differ.
CacheKey cache_key(std::span<const std::string_view> parts);

struct CacheStats {
  int64_t entries = 0, bytes = 0;  // on disk now
  int64_t limit_bytes = 0;
};

class ObjectCache {
 public:
  static constexpr int64_t kDefaultLimitBytes = int64_t{512} << 20;

  // An unusable folder makes a cache that keeps nothing. When entries grow beyond the limit, those used longest ago are deleted.
  ObjectCache(CacheFolder folder, int64_t limit_bytes);
  // $ATTUNE_CACHE_LIMIT_MB, in MiB, else the default; a value that is no number >= 0 is logged and ignored.
  static int64_t limit_from_environment();

  // The bytes stored under the key. A damaged file is deleted and is a miss.
  std::optional<std::string> load(const CacheKey& key) const;
  void store(const CacheKey& key, std::string_view bytes) const;

  CacheStats stats() const;
  const CacheFolder& folder() const { return folder_; }

 private:
  std::string path_of(const CacheKey& key) const;
  void evict(const std::string& newest) const;

  CacheFolder folder_;
  int64_t limit_bytes_;
};

}  // namespace attune::runtime
