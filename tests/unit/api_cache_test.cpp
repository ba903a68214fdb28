// Kernels come from the cache where they can. All tests of this binary use a folder of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <thread>

#include "api/doctor.h"
#include "tests/unit/api_util.h"
#include "tests/unit/runtime_temporary.h"

namespace attune {
namespace {

namespace fs = std::filesystem;
using test::Problem;
using test::ScopedVariable;
using test::TemporaryFolder;

class OwnCache : public testing::Environment {
 public:
  void SetUp() override {
    folder_ = std::make_unique<TemporaryFolder>();
    variable_ = std::make_unique<ScopedVariable>("ATTUNE_CACHE_DIR", folder_->path().string());
  }
  void TearDown() override {
    variable_.reset();
    folder_.reset();
  }

 private:
  std::unique_ptr<TemporaryFolder> folder_;
  std::unique_ptr<ScopedVariable> variable_;
};

const testing::Environment* const kOwnCache = testing::AddGlobalTestEnvironment(new OwnCache());

constexpr Shape kShape = {.batch = 1, .heads = 1, .kv_heads = 1, .q_len = 9, .k_len = 9, .head_dim = 8, .v_dim = 8};
constexpr std::string_view kText = "attention c(n: const i32 = 1) {\n  score = qk * n\n  weights = softmax(score)\n}\n";

class KernelCache : public testing::Test {
 protected:
  TemporaryFolder folder;
  ScopedVariable variable{"ATTUNE_CACHE_DIR", folder / "cache"};

  // The log of what a new variant compiles for a forward (and a backward) call; its kernels are dropped behind it.
  std::string compiled(bool backward = false, const CompileOptions& options = {}, const Shape& shape = kShape) {
    const ScopedVariable loud("ATTUNE_LOG", "1");
    testing::internal::CaptureStderr();
    {
      const Plan plan = compile(kText, options).plan(shape);
      Problem problem(shape, 1);
      plan.forward(problem.forward(true));
      if (backward) plan.backward(problem.backward(true));
    }
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(KernelCache, TheSecondProcessCompilesNothing) {
  EXPECT_NE(compiled(), "");
  EXPECT_EQ(compiled(), "");
  EXPECT_EQ(doctor().cache_entries, 1);
  EXPECT_NE(compiled(true), "");  // the backward kernel
  EXPECT_EQ(compiled(true), "");
  EXPECT_EQ(doctor().cache_entries, 2);
}

TEST_F(KernelCache, NewLengthsCompileNothing) {
  EXPECT_NE(compiled(), "");
  Shape longer = kShape;
  longer.batch = 2;
  longer.heads = 4;
  longer.q_len = 77;
  longer.k_len = 33;
  EXPECT_EQ(compiled(false, {}, longer), "");
  longer.head_dim = 16;
  EXPECT_NE(compiled(false, {}, longer), "");
}

TEST_F(KernelCache, ConstantsAreKernelsOfTheirOwn) {
  EXPECT_NE(compiled(), "");
  CompileOptions two;
  two.constants["n"] = int64_t{2};
  EXPECT_NE(compiled(false, two), "");
  EXPECT_EQ(compiled(false, two), "");
}

TEST_F(KernelCache, CanBePassedBy) {
  EXPECT_NE(compiled(), "");
  const ScopedVariable always("ATTUNE_ALWAYS_COMPILE", "1");
  EXPECT_NE(compiled(), "");
}

TEST_F(KernelCache, AProcessorIsPartOfTheKey) {
  EXPECT_NE(compiled(), "");
  const ScopedVariable plain("ATTUNE_CPU", "x86-64");
  EXPECT_NE(compiled(), "");
  EXPECT_EQ(compiled(), "");
}

TEST_F(KernelCache, WithoutAFolderPlansStillWork) {
  const ScopedVariable nowhere("ATTUNE_CACHE_DIR", "/proc/nonexistent/attune");
  EXPECT_NE(compiled(), "");
  EXPECT_NE(compiled(), "");
  const DoctorReport report = doctor();
  EXPECT_FALSE(report.cache_usable);
  EXPECT_NE(report.cache_problem, "");
}

TEST_F(KernelCache, ThreadsShareOneCompilation) {
  const ScopedVariable loud("ATTUNE_LOG", "1");
  testing::internal::CaptureStderr();
  const Variant variant = compile(kText);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back([&] { variant.plan(kShape); });
  for (std::thread& thread : threads) thread.join();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
}

TEST_F(KernelCache, DumpsWhatItCompiles) {
  const ScopedVariable dump("ATTUNE_DUMP", folder / "dump/here");
  compiled();
  std::vector<std::string> extensions;
  for (const auto& entry : fs::directory_iterator(folder / "dump/here")) {
    EXPECT_EQ(entry.path().filename().string().rfind("c_forward_", 0), 0u) << entry.path();
    EXPECT_GT(entry.file_size(), 0u) << entry.path();
    extensions.push_back(entry.path().extension());
  }
  std::sort(extensions.begin(), extensions.end());
  EXPECT_EQ(extensions, (std::vector<std::string>{".ir", ".ll"}));
}

}  // namespace
}  // namespace attune
