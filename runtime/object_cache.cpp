#include "runtime/object_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "runtime/log.h"

namespace attune::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".kernel";
constexpr std::string_view kTemporary = ".tmp";
constexpr char kMagic[8] = {'a', 't', 't', 'u', 'n', 'e', '0', '1'};
constexpr std::chrono::hours kAbandoned{1};  // a temporary file of that age has no writer any more

struct Header {
  char magic[8];
  uint64_t key_high, key_low;
  uint64_t size;
  uint64_t checksum;  // XXH3-64 of the payload
};

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool is_open() const { return descriptor_ >= 0; }
  int get() const { return descriptor_; }

  bool read_all(std::string& bytes) const {
    struct stat status;
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    bytes.resize(static_cast<size_t>(status.st_size));
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = ::read(descriptor_, bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      done += static_cast<size_t>(n);
    }
    return true;
  }

  bool write_all(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::write(descriptor_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }

 private:
  int descriptor_;
};

Header header_of(const CacheKey& key, std::string_view bytes) {
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.key_high = key.high;
  header.key_low = key.low;
  header.size = bytes.size();
  header.checksum = XXH3_64bits(bytes.data(), bytes.size());
  return header;
}

// The payload of a whole file, if it is what was stored under the key.
std::optional<std::string> payload_of(const CacheKey& key, std::string file) {
  if (file.size() < sizeof(Header)) return std::nullopt;
  const Header expected = header_of(key, std::string_view(file).substr(sizeof(Header)));
  if (std::memcmp(file.data(), &expected, sizeof(Header)) != 0) return std::nullopt;
  file.erase(0, sizeof(Header));
  return file;
}

std::string temporary_path(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  return fmt::format("{}.{}.{}{}", path, getpid(), counter.fetch_add(1), kTemporary);
}

struct Entry {
  fs::path path;
  int64_t bytes = 0;
  fs::file_time_type used;
};

// All entries; temporary files that nobody will finish are deleted on the way if asked for.
std::vector<Entry> list(const std::string& folder, bool delete_abandoned) {
  std::vector<Entry> entries;
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    // The file may vanish at any time: another process evicts too.
    std::error_code gone;
    const auto used = it->last_write_time(gone);
    if (gone) continue;
    const std::string extension = it->path().extension().string();
    if (extension == kTemporary && delete_abandoned && now - used > kAbandoned) fs::remove(it->path(), gone);
    if (extension != kSuffix) continue;
    const auto bytes = static_cast<int64_t>(it->file_size(gone));
    if (!gone) entries.push_back({it->path(), bytes, used});
  }
  return entries;
}

}  // namespace

std::string CacheKey::hex() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

CacheKey cache_key(std::span<const std::string_view> parts) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), &XXH3_freeState);
  XXH3_128bits_reset(state.get());
  for (std::string_view part : parts) {
    const uint64_t length = part.size();
    XXH3_128bits_update(state.get(), &length, sizeof(length));
    XXH3_128bits_update(state.get(), part.data(), part.size());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return {hash.high64, hash.low64};
}

ObjectCache::ObjectCache(CacheFolder folder, int64_t limit_bytes) : folder_(std::move(folder)), limit_bytes_(limit_bytes) {}

int64_t ObjectCache::limit_from_environment() {
  const char* value = std::getenv("ATTUNE_CACHE_LIMIT_MB");
  if (!value || !*value) return kDefaultLimitBytes;
  constexpr int64_t kMostMib = int64_t{1} << 40;
  int64_t mib = 0;
  const char* end = value + std::strlen(value);
  const auto [stop, error] = std::from_chars(value, end, mib);
  if (error == std::errc() && stop == end && mib >= 0 && mib <= kMostMib) return mib << 20;
  log_once(fmt::format("ATTUNE_CACHE_LIMIT_MB: expected a number of MiB, found '{}'", value));
  return kDefaultLimitBytes;
}

std::string ObjectCache::path_of(const CacheKey& key) const {
  return fmt::format("{}/{}{}", folder_.path, key.hex(), kSuffix);
}

std::optional<std::string> ObjectCache::load(const CacheKey& key) const {
  if (!folder_.usable()) return std::nullopt;
  const std::string path = path_of(key);
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.is_open()) return std::nullopt;
  std::string bytes;
  if (!file.read_all(bytes)) return std::nullopt;
  std::optional<std::string> payload = payload_of(key, std::move(bytes));
  if (!payload) {
    log(fmt::format("deleting a damaged cache entry: {}", path));
    ::unlink(path.c_str());
    return std::nullopt;
  }
  futimens(file.get(), nullptr);  // used now: eviction goes by this time
  return payload;
}

void ObjectCache::store(const CacheKey& key, std::string_view bytes) const {
  const Header header = header_of(key, bytes);
  if (!folder_.usable() || static_cast<int64_t>(sizeof(header) + bytes.size()) > limit_bytes_) return;
  const std::string path = path_of(key);
  const std::string temporary = temporary_path(path);
  bool written = false;
  {
    const File file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file.is_open()) {
      log_once(fmt::format("cannot write to the kernel cache '{}': {}", folder_.path, std::strerror(errno)));
      return;
    }
    written = file.write_all({reinterpret_cast<const char*>(&header), sizeof(header)}) && file.write_all(bytes) && fsync(file.get()) == 0;
  }
  if (!written || ::rename(temporary.c_str(), path.c_str()) != 0) {
    log_once(fmt::format("cannot write to the kernel cache '{}': {}", folder_.path, std::strerror(errno)));
    ::unlink(temporary.c_str());
    return;
  }
  evict(path);
}

void ObjectCache::evict(const std::string& newest) const {
  std::vector<Entry> entries = list(folder_.path, true);
  int64_t bytes = 0;
  for (const Entry& entry : entries) bytes += entry.bytes;
  if (bytes <= limit_bytes_) return;
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.used != b.used ? a.used < b.used : a.path < b.path; });
  for (const Entry& entry : entries) {
    if (bytes <= limit_bytes_) return;
    if (entry.path == newest) continue;
    std::error_code gone;
    fs::remove(entry.path, gone);
    bytes -= entry.bytes;
  }
}

CacheStats ObjectCache::stats() const {
  CacheStats stats;
  stats.limit_bytes = limit_bytes_;
  if (!folder_.usable()) return stats;
  for (const Entry& entry : list(folder_.path, false)) {
    ++stats.entries;
    stats.bytes += entry.bytes;
  }
  return stats;
}

}  // namespace attune::runtime
