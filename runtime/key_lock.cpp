#include "runtime/key_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace attune::runtime {
namespace {

constexpr std::chrono::milliseconds kPause{3};

// Whoever held the lock before deleted the file: then a lock of it excludes nobody who comes later.
bool is_file_at(int descriptor, const std::string& path) {
  struct stat opened, named;
  return fstat(descriptor, &opened) == 0 && stat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

bool lock_file(int descriptor, const std::stop_token& cancel, std::chrono::steady_clock::time_point deadline) {
  while (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return false;  // a file system without locks
    if (cancel.stop_requested() || std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

}  // namespace

KeyLock::KeyLock(const CacheFolder& folder, const CacheKey& key, const std::stop_token& cancel, std::chrono::milliseconds patience) {
  if (!folder.usable()) return;
  // The cache deletes old files of this ending: what a killed process leaves.
  path_ = fmt::format("{}/{}.lock.tmp", folder.path, key.hex());
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (true) {
    const int opened = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (opened < 0) return;
    const bool locked = lock_file(opened, cancel, deadline);
    if (locked && is_file_at(opened, path_)) {
      descriptor_ = opened;
      return;
    }
    ::close(opened);
    if (!locked) return;
  }
}

KeyLock::~KeyLock() {
  if (descriptor_ < 0) return;
  // Deleted while it is locked: who waits for it sees that, and tries the next file.
  if (is_file_at(descriptor_, path_)) ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace attune::runtime
