// Random programs through the library, against the reference. ATTUNE_RANDOM_SEED is the first seed, ATTUNE_RANDOM_COUNT how many follow;
// ATTUNE_RANDOM_CASE names a saved case to run instead. A failing case is made smaller and saved.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <mutex>
#include <sstream>
#include <thread>

#include "own_cache.h"
#include "random_program.h"
#include "run_case.h"

namespace attune::numeric {
namespace {

// Not to fill the user's cache.
const testing::Environment* const kOwnCache = testing::AddGlobalTestEnvironment(new OwnCache());

constexpr uint64_t kDefaultSeed = 1;
constexpr uint64_t kDefaultCount = 300;
constexpr int kMaxShrinkRuns = 300;

uint64_t number_of(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error("cannot open " + path.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// A kernel that leaves its memory kills the process: say which case it was.
thread_local uint64_t current_seed = 0;

void report_crash(int number) {
  char text[64] = "crashed at ATTUNE_RANDOM_SEED=";
  char* end = text + std::strlen(text);
  char digits[24];
  int count = 0;
  for (uint64_t rest = current_seed; rest != 0 || count == 0; rest /= 10) digits[count++] = static_cast<char>('0' + rest % 10);
  while (count > 0) *end++ = digits[--count];
  *end++ = '\n';
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, static_cast<size_t>(end - text));
  std::signal(number, SIG_DFL);
  std::raise(number);
}

// "exception", or the name of what differs: a smaller case has to fail in the same way.
std::string kind_of(const std::string& failure) {
  return failure.find("exception") == 0 ? failure.substr(0, failure.find('\'')) : "difference";
}

RandomCase shrunk(RandomCase from, const std::string& failure) {
  const std::string kind = kind_of(failure);
  int runs = 0;
  for (bool is_smaller = true; is_smaller;) {
    is_smaller = false;
    for (const RandomCase& candidate : smaller_cases(from)) {
      if (++runs > kMaxShrinkRuns) return from;
      const auto still = failure_of(candidate.whole());
      if (!still || kind_of(*still) != kind) continue;
      from = candidate;
      is_smaller = true;
      break;
    }
  }
  return from;
}

std::string report(uint64_t seed, const std::string& failure) {
  const RandomCase original = random_case(seed);
  const Case smallest = shrunk(original, failure).whole();
  const std::filesystem::path folder = std::filesystem::path(ATTUNE_SOURCE_DIR) / "tests/numeric/failures";
  std::filesystem::create_directories(folder);
  const std::filesystem::path path = folder / fmt::format("{}.attn", seed);
  std::ofstream(path) << save_case(smallest);
  return fmt::format(
      "{}\n{}\n{}smallest ({}), saved as {}:\n{}\n{}  rerun: ATTUNE_RANDOM_SEED={} ATTUNE_RANDOM_COUNT=1 attune_random_programs\n     or: "
      "ATTUNE_RANDOM_CASE={} attune_random_programs\n",
      failure, describe(original.whole()), original.program.text(), describe(smallest), path.string(),
      failure_of(smallest).value_or("does not fail again"), smallest.text, seed, path.string());
}

TEST(RandomPrograms, AgreeWithTheReference) {
  for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) std::signal(number, report_crash);
  if (const char* path = std::getenv("ATTUNE_RANDOM_CASE")) {
    const Case saved = load_case(read_file(path));
    EXPECT_EQ(failure_of(saved), std::nullopt) << describe(saved) << "\n" << saved.text;
    return;
  }
  const uint64_t first = number_of("ATTUNE_RANDOM_SEED", kDefaultSeed), count = number_of("ATTUNE_RANDOM_COUNT", kDefaultCount);
  std::cout << fmt::format("seeds {}..{}", first, first + count - 1) << std::endl;
  std::atomic<uint64_t> next = first;
  std::mutex mutex;
  std::vector<std::pair<uint64_t, std::string>> failures;
  const auto work = [&] {
    while ((current_seed = next++) < first + count) {
      const auto failure = failure_of(random_case(current_seed).whole());
      const std::lock_guard lock(mutex);
      if (failure) failures.emplace_back(current_seed, *failure);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  std::sort(failures.begin(), failures.end());
  constexpr size_t kMaxReports = 3;
  for (size_t i = 0; i < failures.size(); ++i) {
    const auto& [seed, failure] = failures[i];
    current_seed = seed;
    ADD_FAILURE() << (i < kMaxReports ? report(seed, failure) : fmt::format("ATTUNE_RANDOM_SEED={}: {}", seed, failure));
  }
}

}  // namespace
}  // namespace attune::numeric
