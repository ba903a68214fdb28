// thread_pool.h, single_flight.h.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>

#include "runtime/host_cpu.h"
#include "runtime/single_flight.h"
#include "runtime/thread_pool.h"

namespace attune::runtime {
namespace {

using namespace std::chrono_literals;

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (int workers : {1, 2, 5}) {
    ThreadPool pool(workers);
    EXPECT_EQ(pool.size(), workers);
    for (int64_t count : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      pool.parallel_for(count, [&](int64_t index, int worker) {
        ++runs[static_cast<size_t>(index)];
        EXPECT_GE(worker, 0);
        EXPECT_LT(worker, workers);
      });
      for (const auto& n : runs) EXPECT_EQ(n, 1);
    }
  }
}

TEST(ThreadPool, ZeroMeansTheCoresOfThisProcess) {
  EXPECT_EQ(ThreadPool(0).size(), available_cores());
  EXPECT_EQ(ThreadPool::shared().size(), available_cores());
}

TEST(ThreadPool, WorkersOfOneLoopAreApart) {
  ThreadPool pool(4);
  std::atomic<int> inside[4] = {};
  std::atomic<int> overlaps{0};
  std::set<int> seen;
  std::mutex mutex;
  pool.parallel_for(64, [&](int64_t, int worker) {
    if (inside[worker].fetch_add(1) != 0) ++overlaps;
    std::this_thread::sleep_for(1ms);
    --inside[worker];
    const std::lock_guard lock(mutex);
    seen.insert(worker);
  });
  EXPECT_EQ(overlaps, 0);
  EXPECT_EQ(seen.size(), 4u) << "somebody had nothing to do in 64 ms of work";
}

TEST(ThreadPool, StartsIndicesInOrder) {
  ThreadPool pool(1);
  std::vector<int64_t> order;
  pool.parallel_for(5, [&](int64_t index, int) { order.push_back(index); });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(ThreadPool, NestedLoopsRunOnTheSameThread) {
  ThreadPool pool(3), other(3);
  std::atomic<int> inner{0}, elsewhere{0};
  pool.parallel_for(8, [&](int64_t, int) {
    const auto self = std::this_thread::get_id();
    for (ThreadPool* nested : {&pool, &other}) {
      nested->parallel_for(10, [&](int64_t, int worker) {
        ++inner;
        if (std::this_thread::get_id() != self || worker != 0) ++elsewhere;
      });
    }
  });
  EXPECT_EQ(inner, 160);
  EXPECT_EQ(elsewhere, 0);
}

TEST(ThreadPool, ManyCallersAtOnce) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::vector<int64_t> sums(6);
  for (size_t c = 0; c < sums.size(); ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 20; ++round) {
        std::vector<int64_t> values(200);
        pool.parallel_for(200, [&](int64_t index, int) { values[static_cast<size_t>(index)] = index; });
        sums[c] += std::accumulate(values.begin(), values.end(), int64_t{0});
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (int64_t sum : sums) EXPECT_EQ(sum, 20 * 199 * 100);
}

TEST(ThreadPool, ExceptionsReachTheCallerAndStopTheLoop) {
  for (int workers : {1, 4}) {
    ThreadPool pool(workers);
    std::atomic<int> started{0};
    try {
      pool.parallel_for(100000, [&](int64_t index, int) {
        ++started;
        if (index == 3) throw std::runtime_error("task 3 failed");
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "task 3 failed");
    }
    EXPECT_LT(started, 100000);
    std::atomic<int> after{0};
    pool.parallel_for(10, [&](int64_t, int) { ++after; });
    EXPECT_EQ(after, 10) << "the pool is unusable after an exception";
  }
}

TEST(SingleFlight, MakesOnceForManyThreads) {
  SingleFlight<std::string, int> flights;
  std::atomic<int> made{0};
  std::vector<std::thread> threads;
  std::vector<SingleFlight<std::string, int>::Pointer> values(8);
  for (size_t t = 0; t < values.size(); ++t) {
    threads.emplace_back([&, t] {
      values[t] = flights.get("key", [&] {
        std::this_thread::sleep_for(30ms);
        return std::make_shared<const int>(++made);
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made, 1);
  for (const auto& value : values) EXPECT_EQ(value, values[0]);
}

TEST(SingleFlight, KeysAreApart) {
  SingleFlight<int, int> flights;
  const auto one = flights.get(1, [] { return std::make_shared<const int>(10); });
  const auto two = flights.get(2, [] { return std::make_shared<const int>(20); });
  EXPECT_EQ(*flights.get(1, [] { return std::make_shared<const int>(0); }), 10);
  EXPECT_EQ(*two, 20);
}

TEST(SingleFlight, KeepsNothingThatNobodyHolds) {
  SingleFlight<int, int> flights;
  int made = 0;
  const auto make = [&] { return std::make_shared<const int>(++made); };
  flights.get(1, make);
  const auto held = flights.get(1, make);
  flights.get(1, make);
  EXPECT_EQ(made, 2);
}

TEST(SingleFlight, AFailureReachesAllWaitersAndIsTriedAgain) {
  SingleFlight<int, int> flights;
  std::atomic<int> tries{0}, failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      try {
        flights.get(1, [&]() -> SingleFlight<int, int>::Pointer {
          ++tries;
          std::this_thread::sleep_for(30ms);
          throw std::runtime_error("no");
        });
      } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "no");
        ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 4);
  EXPECT_LE(tries, 4);
  EXPECT_EQ(*flights.get(1, [] { return std::make_shared<const int>(7); }), 7);
}

}  // namespace
}  // namespace attune::runtime
