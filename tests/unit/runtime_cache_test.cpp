// cache_folder.h, object_cache.h, cpu_kernel_io.h.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <thread>
#include <vector>

#include "runtime/cpu_kernel_io.h"
#include "runtime/object_cache.h"
#include "tests/unit/runtime_temporary.h"

namespace attune::runtime {
namespace {

namespace fs = std::filesystem;
using test::ScopedVariable;
using test::TemporaryFolder;

CacheKey key_of(int number) {
  const std::string text = fmt::format("key {}", number);
  return cache_key(std::array<std::string_view, 1>{text});
}

ObjectCache cache_in(const TemporaryFolder& folder, int64_t limit = ObjectCache::kDefaultLimitBytes) {
  return {CacheFolder{folder.path().string(), ""}, limit};
}

std::string file_of(const TemporaryFolder& folder, const CacheKey& key) {
  return folder / (key.hex() + ".kernel");
}

mode_t mode_of(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
}

void age(const std::string& path, std::chrono::hours hours) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - hours);
}

int file_count(const TemporaryFolder& folder) {
  return static_cast<int>(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()));
}

struct Variables {
  ScopedVariable own, xdg, home;
  Variables(std::optional<std::string> a, std::optional<std::string> x, std::optional<std::string> h)
      : own("ATTUNE_CACHE_DIR", std::move(a)), xdg("XDG_CACHE_HOME", std::move(x)), home("HOME", std::move(h)) {}
};

TEST(CacheFolder, OwnVariableComesFirst) {
  const TemporaryFolder folder;
  const Variables variables(folder / "own/deep", folder / "xdg", folder / "home");
  const CacheFolder found = open_cache_folder("1.2.3");
  EXPECT_EQ(found.problem, "");
  EXPECT_EQ(found.path, folder / "own/deep/1.2.3");
  EXPECT_EQ(mode_of(folder / "own"), 0700u);
  EXPECT_EQ(mode_of(found.path), 0700u);
  EXPECT_FALSE(fs::exists(folder / "xdg"));
}

TEST(CacheFolder, ThenXdgThenHome) {
  const TemporaryFolder folder;
  {
    const Variables variables(std::nullopt, folder / "xdg", folder / "home");
    EXPECT_EQ(open_cache_folder("1").path, folder / "xdg/attune/1");
  }
  {
    const Variables variables("", "relative/is/ignored", folder / "home");
    EXPECT_EQ(open_cache_folder("1").path, folder / "home/.cache/attune/1");
  }
}

TEST(CacheFolder, OffWithoutAnyVariable) {
  const Variables variables(std::nullopt, std::nullopt, std::nullopt);
  const CacheFolder found = open_cache_folder("1");
  EXPECT_FALSE(found.usable());
  EXPECT_EQ(found.problem, "none of ATTUNE_CACHE_DIR, XDG_CACHE_HOME and HOME is set");
}

TEST(CacheFolder, RefusesWhatOthersMayWrite) {
  const TemporaryFolder folder;
  const Variables variables(folder / "shared", std::nullopt, std::nullopt);
  fs::create_directory(folder / "shared");
  for (mode_t mode : {0770, 0702}) {
    chmod((folder / "shared").c_str(), mode);
    const CacheFolder found = open_cache_folder("1");
    EXPECT_EQ(found.problem, fmt::format("'{}' has mode {:04o}: others may write to it, expected 0700", folder / "shared", mode));
  }
  chmod((folder / "shared").c_str(), 0755);
  EXPECT_EQ(open_cache_folder("1").problem, "");
  chmod((folder / "shared/1").c_str(), 0777);
  EXPECT_EQ(open_cache_folder("1").problem, fmt::format("'{}' has mode 0777: others may write to it, expected 0700", folder / "shared/1"));
}

TEST(CacheFolder, RefusesWhatBelongsToSomebodyElse) {
  const TemporaryFolder folder;
  const uid_t me = geteuid();
  // The superuser can give a folder away; anybody else finds the superuser's own.
  std::string foreign = "/";
  if (me == 0) {
    foreign = folder / "foreign";
    fs::create_directories(foreign + "/1");
    ASSERT_EQ(chown(foreign.c_str(), 4242, 4242), 0);
  }
  const Variables variables(foreign, std::nullopt, std::nullopt);
  const CacheFolder found = open_cache_folder(me == 0 ? "1" : "tmp");
  EXPECT_EQ(found.problem, fmt::format("'{}' belongs to user {}, expected user {}", foreign, me == 0 ? 4242 : 0, me));
}

TEST(CacheFolder, SaysWhyItCannotBeMade) {
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "x";
  const Variables variables(folder / "file/cache", std::nullopt, std::nullopt);
  EXPECT_EQ(open_cache_folder("1").problem, fmt::format("cannot create '{}': Not a directory", folder / "file"));
}

TEST(CacheFolder, ProblemIsSaidOnceAndOnlyWhenAsked) {
  const Variables variables(std::nullopt, std::nullopt, std::nullopt);
  {
    const ScopedVariable quiet("ATTUNE_LOG", std::nullopt);
    testing::internal::CaptureStderr();
    open_cache_folder("1");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  }
  const ScopedVariable loud("ATTUNE_LOG", "1");
  testing::internal::CaptureStderr();
  open_cache_folder("1");
  open_cache_folder("1");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "attune: the kernel cache is off: none of ATTUNE_CACHE_DIR, XDG_CACHE_HOME and HOME is set\n");
}

TEST(CacheKey, DependsOnPartsAndTheirBorders) {
  using Parts = std::vector<std::string_view>;
  const CacheKey key = cache_key(Parts{"ab", "c"});
  EXPECT_EQ(key, cache_key(Parts{"ab", "c"}));
  EXPECT_NE(key, cache_key(Parts{"a", "bc"}));
  EXPECT_NE(key, cache_key(Parts{"abc"}));
  EXPECT_NE(key, cache_key(Parts{"ab", "c", ""}));
  EXPECT_EQ((CacheKey{1, 2}.hex()), "00000000000000010000000000000002");
}

TEST(ObjectCache, GivesBackWhatWasStored) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  EXPECT_EQ(cache.load(key_of(1)), std::nullopt);
  const std::string bytes("\0bytes\n\xff", 8);
  cache.store(key_of(1), bytes);
  cache.store(key_of(2), "");
  EXPECT_EQ(cache.load(key_of(1)), bytes);
  EXPECT_EQ(cache.load(key_of(2)), "");
  EXPECT_EQ(cache.load(key_of(3)), std::nullopt);
  cache.store(key_of(1), "newer");
  EXPECT_EQ(cache.load(key_of(1)), "newer");
  EXPECT_EQ(mode_of(file_of(folder, key_of(1))), 0600u);
  EXPECT_EQ(file_count(folder), 2) << "a temporary file is left over";
  const CacheStats stats = cache.stats();
  EXPECT_EQ(stats.entries, 2);
  EXPECT_EQ(stats.bytes, 2 * 40 + 5);
  EXPECT_EQ(stats.limit_bytes, ObjectCache::kDefaultLimitBytes);
}

TEST(ObjectCache, EveryDamagedByteIsFound) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  const std::string path = file_of(folder, key_of(1));
  cache.store(key_of(1), "some object");
  const auto size = static_cast<int>(fs::file_size(path));
  for (int damaged = 0; damaged < size; ++damaged) {
    cache.store(key_of(1), "some object");
    {
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(damaged);
      const char byte = static_cast<char>(file.get() ^ 0x10);
      file.seekp(damaged);
      file.put(byte);
    }
    EXPECT_EQ(cache.load(key_of(1)), std::nullopt) << "byte " << damaged;
    EXPECT_FALSE(fs::exists(path)) << "byte " << damaged;
  }
}

TEST(ObjectCache, ShortAndLongFilesAreDamaged) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  const std::string path = file_of(folder, key_of(1));
  cache.store(key_of(1), "some object");
  const auto size = static_cast<int>(fs::file_size(path));
  for (int length : {0, 7, 39, 40, size - 1, size + 1}) {
    cache.store(key_of(1), "some object");
    fs::resize_file(path, static_cast<uintmax_t>(length));
    EXPECT_EQ(cache.load(key_of(1)), std::nullopt) << length << " bytes";
    EXPECT_FALSE(fs::exists(path)) << length << " bytes";
  }
}

TEST(ObjectCache, AnEntryUnderAnothersNameIsDamaged) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  cache.store(key_of(1), "one");
  fs::rename(file_of(folder, key_of(1)), file_of(folder, key_of(2)));
  EXPECT_EQ(cache.load(key_of(2)), std::nullopt);
}

TEST(ObjectCache, DeletesWhatWasUsedLongestAgo) {
  const TemporaryFolder folder;
  const std::string bytes(60, 'x');  // 100 with the header
  const ObjectCache cache = cache_in(folder, 350);
  for (int i = 1; i <= 3; ++i) {
    cache.store(key_of(i), bytes);
    age(file_of(folder, key_of(i)), std::chrono::hours(10 - i));
  }
  EXPECT_TRUE(cache.load(key_of(1)));  // now the latest
  cache.store(key_of(4), bytes);
  EXPECT_TRUE(cache.load(key_of(1)));
  EXPECT_FALSE(cache.load(key_of(2)));
  EXPECT_TRUE(cache.load(key_of(3)));
  EXPECT_TRUE(cache.load(key_of(4)));
  EXPECT_EQ(cache.stats().bytes, 300);
}

TEST(ObjectCache, KeepsNothingBeyondTheLimit) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder, 100);
  cache.store(key_of(1), std::string(61, 'x'));
  EXPECT_EQ(file_count(folder), 0);
  cache.store(key_of(1), std::string(60, 'x'));
  cache.store(key_of(2), std::string(60, 'y'));
  EXPECT_EQ(cache.load(key_of(1)), std::nullopt);
  EXPECT_TRUE(cache.load(key_of(2)));
}

TEST(ObjectCache, ClearsTemporaryFilesThatNobodyFinishes) {
  const TemporaryFolder folder;
  std::ofstream(folder / "old.tmp") << "x";
  std::ofstream(folder / "new.tmp") << "x";
  std::ofstream(folder / "other.txt") << "x";
  age(folder / "old.tmp", std::chrono::hours(2));
  age(folder / "other.txt", std::chrono::hours(2));
  cache_in(folder).store(key_of(1), "one");
  EXPECT_FALSE(fs::exists(folder / "old.tmp"));
  EXPECT_TRUE(fs::exists(folder / "new.tmp"));
  EXPECT_TRUE(fs::exists(folder / "other.txt"));
}

TEST(ObjectCache, AnUnusableFolderKeepsNothing) {
  const ObjectCache off({"", "off"}, 1000);
  off.store(key_of(1), "one");
  EXPECT_EQ(off.load(key_of(1)), std::nullopt);
  EXPECT_EQ(off.stats().entries, 0);
  const ObjectCache gone({"/nonexistent/folder", ""}, 1000);
  gone.store(key_of(1), "one");
  EXPECT_EQ(gone.load(key_of(1)), std::nullopt);
  EXPECT_EQ(gone.stats().entries, 0);
}

TEST(ObjectCache, WritersAndReadersMeetWithoutHarm) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder, 4000);
  const auto bytes_of = [](int key) { return std::string(static_cast<size_t>(500 + key), static_cast<char>('a' + key)); };
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0}, hits{0};
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 60; ++round) {
        const int key = (round + t) % 10;
        cache.store(key_of(key), bytes_of(key));
        if (const auto found = cache.load(key_of(key))) {
          ++hits;
          if (*found != bytes_of(key)) ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(hits, 0);
  EXPECT_LE(cache.stats().bytes, 4000);
  for (const auto& entry : fs::directory_iterator(folder.path())) EXPECT_EQ(entry.path().extension(), ".kernel");
}

TEST(ObjectCache, LimitComesFromTheEnvironment) {
  for (const auto& [text, limit] :
       std::vector<std::pair<std::optional<std::string>, int64_t>>{{std::nullopt, int64_t{512} << 20},
                                                                   {"", int64_t{512} << 20},
                                                                   {"0", 0},
                                                                   {"3", 3 << 20},
                                                                   {"-1", int64_t{512} << 20},
                                                                   {"12x", int64_t{512} << 20},
                                                                   {"99999999999999999999", int64_t{512} << 20}}) {
    const ScopedVariable variable("ATTUNE_CACHE_LIMIT_MB", text);
    EXPECT_EQ(ObjectCache::limit_from_environment(), limit) << text.value_or("(not set)");
  }
}

TEST(CpuKernelBytes, ReadBackTheSame) {
  const CpuKernel kernel = {std::string("\x7f"
                                        "ELF\0\1",
                                        6),
                            "forward_x",
                            64,
                            size_t{1} << 33,
                            72,
                            136};
  const std::optional<CpuKernel> back = cpu_kernel_from_bytes(to_bytes(kernel));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->object, kernel.object);
  EXPECT_EQ(back->symbol, kernel.symbol);
  EXPECT_EQ(back->block_q, 64);
  EXPECT_EQ(back->scratch_bytes, size_t{1} << 33);
  EXPECT_EQ(back->dk_row, 72);
  EXPECT_EQ(back->dv_row, 136);
}

TEST(CpuKernelBytes, RefuseWhatIsNone) {
  EXPECT_FALSE(cpu_kernel_from_bytes(""));
  EXPECT_FALSE(cpu_kernel_from_bytes(std::string(31, '\1')));
  EXPECT_FALSE(cpu_kernel_from_bytes(std::string(100, '\xff')));  // a symbol longer than all bytes
  EXPECT_FALSE(cpu_kernel_from_bytes(std::string(100, '\0')));    // blocks of no queries
}

}  // namespace
}  // namespace attune::runtime
