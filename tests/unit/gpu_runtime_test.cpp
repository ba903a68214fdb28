// nvrtc.h, ptxas_log.h, gpu_binary.h, gpu_binary_io.h, key_lock.h: what needs no GPU.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "runtime/error.h"
#include "runtime/gpu_binary.h"
#include "runtime/gpu_binary_io.h"
#include "runtime/key_lock.h"
#include "runtime/nvrtc.h"
#include "tests/unit/runtime_temporary.h"

namespace attune::runtime {
namespace {

namespace fs = std::filesystem;
using test::ScopedVariable;
using test::TemporaryFolder;
using testing::Contains;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kCopy[] = R"(
struct Params { const float* from; float* to; };
extern "C" __global__ void copy(const __grid_constant__ Params p) {
  __shared__ float row[64];
  row[threadIdx.x & 63] = p.from[threadIdx.x];
  __syncthreads();
  p.to[threadIdx.x] = row[63 - (threadIdx.x & 63)];
}
)";

// An array that is indexed by what is read.
constexpr char kStack[] = R"(
extern "C" __global__ void stack(float* data, int n) {
  float values[64];
  for (int i = 0; i < 64; ++i) values[i] = data[i];
  for (int i = 0; i < n; ++i) values[int(data[i]) & 63] += 1.f;
  data[0] = values[n & 63];
}
)";

// 96 values that live at once, in 32 registers.
constexpr char kSpill[] = R"(
extern "C" __global__ void __launch_bounds__(1024, 2) spill(float* data, int n) {
  float values[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) values[i] = data[i * 32 + threadIdx.x];
  __syncthreads();
  for (int k = 0; k < n; ++k) {
#pragma unroll
    for (int i = 0; i < 96; ++i) values[i] = values[i] * values[(i + 7) % 96] + values[(i + 31) % 96];
  }
#pragma unroll
  for (int i = 0; i < 96; ++i) data[i * 32 + threadIdx.x] = values[i];
}
)";

constexpr char kRegisterWish[] = R"(
extern "C" __global__ void wish(float* data) {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
  data[0] = 1;
}
)";

// Why NVRTC cannot be used here; empty if it can.
std::string nvrtc_problem() {
  try {
    nvrtc_version();
    return "";
  } catch (const EnvironmentError& error) {
    return error.what();
  }
}

class NvrtcTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string problem = nvrtc_problem(); !problem.empty()) GTEST_SKIP() << problem;
  }
};

using Nvrtc = NvrtcTest;
using GpuBinaries = NvrtcTest;

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "nothing thrown";
}

ObjectCache cache_in(const TemporaryFolder& folder) {
  return {CacheFolder{folder.path().string(), ""}, ObjectCache::kDefaultLimitBytes};
}

std::vector<std::string> files_in(const TemporaryFolder& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path())) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// A source that no other test has compiled.
GpuSource fresh_source(int number) {
  return {fmt::format("// {}\n{}", number, kCopy), "sm_80"};
}

TEST(PtxasLog, ReadsKernelsAndWarnings) {
  const PtxasReport report = parse_ptxas_log(
      "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.\n"
      "ptxas warning : Registers are spilled to local memory in function 'b', 12 bytes spill stores, 16 bytes spill loads\n"
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'b' for 'sm_90a'\n"
      "ptxas info    : Function properties for b\n"
      "ptxas         .     608 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n"
      "ptxas info    : Used 32 registers, used 1 barriers, 640 bytes cumulative stack size\n"
      "ptxas info    : Compile time = 57.338 ms\n"
      "ptxas info    : Function properties for _Z1fILi3EEff\n"
      "ptxas         .     0 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n"
      "ptxas info    : Compiling entry function 'a' for 'sm_80'\n"
      "ptxas info    : Function properties for a\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 10 registers, 256 bytes smem, 368 bytes cmem[0]");
  ASSERT_EQ(report.kernels.size(), 2u);
  EXPECT_EQ(report.kernels[0], (GpuResources{"a", 10, 0, 0, 0, 256}));
  EXPECT_EQ(report.kernels[1], (GpuResources{"b", 32, 640, 16, 20, 0}));
  EXPECT_THAT(report.warnings,
              testing::ElementsAre("(C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine register count at entry.",
                                   "Registers are spilled to local memory in function 'b', 12 bytes spill stores, 16 bytes spill loads"));
}

TEST(PtxasLog, OddTextIsNoTrouble) {
  for (const char* log : {"", "\n\n", "ptxas info    : Compiling entry function", "ptxas info    : Compiling entry function 'k",
                          "bytes stack frame", "99999999999999 registers", "ptxas warning"}) {
    parse_ptxas_log(log);
  }
}

TEST_F(Nvrtc, CompilesForEachArchWithoutAGpu) {
  for (const char* arch : {"sm_80", "sm_90a"}) {
    const CompiledGpu compiled = compile_gpu({kCopy, arch});
    EXPECT_THAT(compiled.cubin, StartsWith("\x7f"
                                           "ELF"));
    EXPECT_EQ(compiled.ptx, "");
    EXPECT_GT(compiled.seconds, 0);
    ASSERT_EQ(compiled.kernels.size(), 1u) << compiled.log;
    const GpuResources& copy = compiled.kernels[0];
    EXPECT_EQ(copy.kernel, "copy");
    EXPECT_GT(copy.registers, 0);
    EXPECT_EQ(copy.stack_bytes, 0);
    EXPECT_EQ(copy.spill_store_bytes, 0);
    EXPECT_EQ(copy.shared_bytes, 256);
    EXPECT_TRUE(compiled.warnings.empty()) << compiled.warnings[0];
  }
}

TEST_F(Nvrtc, TheSameSourceGivesTheSameCode) {
  EXPECT_EQ(compile_gpu({kSpill, "sm_90a"}).cubin, compile_gpu({kSpill, "sm_90a"}).cubin);
}

TEST_F(Nvrtc, PtxIfWanted) {
  const std::string ptx = compile_gpu({kCopy, "sm_90a"}, {true, {}}).ptx;
  EXPECT_THAT(ptx, HasSubstr(".target sm_90a"));
  EXPECT_THAT(ptx, HasSubstr(".visible .entry copy("));
  EXPECT_EQ(ptx.find('\0'), std::string::npos);
}

TEST_F(Nvrtc, ResourcesOfEachKernel) {
  const CompiledGpu compiled = compile_gpu({std::string(kStack) + kSpill + kCopy, "sm_90a"});
  ASSERT_EQ(compiled.kernels.size(), 3u) << compiled.log;
  const GpuResources &copy = compiled.kernels[0], &spill = compiled.kernels[1], &stack = compiled.kernels[2];
  EXPECT_EQ(copy.kernel, "copy");
  EXPECT_EQ(copy.spill_load_bytes, 0);
  EXPECT_EQ(spill.kernel, "spill");
  EXPECT_EQ(spill.registers, 32);
  EXPECT_GT(spill.spill_store_bytes, 0);
  EXPECT_GT(spill.spill_load_bytes, 0);
  EXPECT_EQ(stack.kernel, "stack");
  EXPECT_EQ(stack.stack_bytes, 256);
  EXPECT_EQ(stack.spill_store_bytes, 0);
}

TEST_F(Nvrtc, WarnsOfAnIgnoredRegisterWish) {
  const CompiledGpu compiled = compile_gpu({kRegisterWish, "sm_90a"});
  EXPECT_THAT(compiled.warnings, Contains(StartsWith("(C7508) Potential Performance Loss: 'setmaxnreg' ignored")));
}

TEST_F(Nvrtc, ASourceThatDoesNotCompileIsOurBug) {
  EXPECT_EQ(error_of([] { compile_gpu({"__device__ int x = y;", "sm_90a"}); }),
            "nvrtcCompileProgram: NVRTC_ERROR_COMPILATION (6): a generated kernel does not compile for sm_90a, which is a bug in Attune:\n"
            "kernel.cu(1): error: identifier \"y\" is undefined\n"
            "  __device__ int x = y;\n"
            "                     ^\n\n"
            "1 error detected in the compilation of \"kernel.cu\".");
  EXPECT_THAT(error_of([] { compile_gpu({"__global__ void k() { asm volatile(\"bogus;\"); }", "sm_90a"}); }),
              testing::AllOf(HasSubstr("which is a bug in Attune:\nptxas"), HasSubstr("bogus")));
}

TEST_F(Nvrtc, AnUnknownArchNamesTheLibrary) {
  const NvrtcVersion& version = nvrtc_version();
  EXPECT_THAT(error_of([] { compile_gpu({kCopy, "sm_1a"}); }),
              StartsWith(fmt::format("nvrtcCompileProgram: NVRTC_ERROR_INVALID_OPTION (5): NVRTC {}.{} '{}' does not take {} "
                                     "--gpu-architecture=sm_1a: ",
                                     version.major, version.minor, version.path, nvrtc_flags())));
}

TEST_F(Nvrtc, RacecheckHasKernelsOfItsOwn) {
  const std::string usual = nvrtc_flags();
  setenv("ATTUNE_RACECHECK", "1", 1);
  const std::string all_arrive = nvrtc_flags();
  const std::string log = error_of([] { compile_gpu({"#ifdef ATTUNE_RACECHECK\n#error all arrive\n#endif\n", "sm_90a"}); });
  unsetenv("ATTUNE_RACECHECK");
  EXPECT_EQ(all_arrive, usual + " -DATTUNE_RACECHECK");
  EXPECT_THAT(log, HasSubstr("all arrive"));
}

TEST_F(Nvrtc, StopsWhenAsked) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(error_of([&] { compile_gpu({kSpill, "sm_90a"}, {false, stop.get_token()}); }),
              testing::EndsWith("cancelled while compiling for sm_90a"));
}

TEST_F(Nvrtc, SeveralThreadsCompileAtOnce) {
  std::vector<std::string> cubins(4);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < cubins.size(); ++i) {
      threads.emplace_back([&, i] { cubins[i] = compile_gpu({i % 2 == 0 ? kCopy : kStack, "sm_90a"}).cubin; });
    }
  }
  EXPECT_EQ(cubins[0], cubins[2]);
  EXPECT_EQ(cubins[1], cubins[3]);
  EXPECT_NE(cubins[0], cubins[1]);
}

TEST(GpuBinaryIo, ReadsBackAndRefusesEveryCut) {
  GpuBinary binary;
  binary.cubin = std::string(
      "\x7f"
      "ELF\0code",
      9);
  binary.kernels = {{"forward", 168, 8, 4, 12, 1024}, {"combine", 32, 0, 0, 0, 0}};
  binary.warnings = {"(C7508) ...", ""};
  const std::string bytes = to_bytes(binary);
  const std::optional<GpuBinary> read = gpu_binary_from_bytes(bytes);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->cubin, binary.cubin);
  EXPECT_EQ(read->kernels, binary.kernels);
  EXPECT_EQ(read->warnings, binary.warnings);
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(gpu_binary_from_bytes(bytes.substr(0, size))) << size;
  EXPECT_FALSE(gpu_binary_from_bytes(bytes + "x"));
  EXPECT_FALSE(gpu_binary_from_bytes(std::string(64, '\xff')));
}

TEST_F(GpuBinaries, KeyIsTotal) {
  const CacheKey key = gpu_binary_key({kCopy, "sm_90a"});
  EXPECT_EQ(key, gpu_binary_key({kCopy, "sm_90a"}));
  EXPECT_NE(key, gpu_binary_key({kCopy, "sm_80"}));
  EXPECT_NE(key, gpu_binary_key({kStack, "sm_90a"}));
}

TEST_F(GpuBinaries, TheSecondOneIsNotCompiled) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  const GpuSource source = fresh_source(1);
  EXPECT_EQ(stored_gpu_binary(source, cache), nullptr);
  const int before = compile_gpu_count();
  auto first = get_gpu_binary(source, cache);
  EXPECT_EQ(compile_gpu_count(), before + 1);
  EXPECT_EQ(get_gpu_binary(source, cache), first);  // in memory
  const std::string cubin = first->cubin;
  first.reset();
  const auto second = get_gpu_binary(source, cache);  // on disk
  EXPECT_EQ(compile_gpu_count(), before + 1);
  EXPECT_EQ(second->cubin, cubin);
  EXPECT_EQ(second->key, gpu_binary_key(source));
  ASSERT_EQ(second->kernels.size(), 1u);
  EXPECT_EQ(second->kernels[0].kernel, "copy");
  EXPECT_EQ(files_in(folder), std::vector<std::string>{second->key.hex() + ".kernel"});  // and no lock is left

  get_gpu_binary(source, cache, {true, {}});
  EXPECT_EQ(compile_gpu_count(), before + 2);
}

TEST_F(GpuBinaries, ADamagedEntryIsCompiledAnew) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  const GpuSource source = fresh_source(2);
  const std::string cubin = get_gpu_binary(source, cache)->cubin;
  const std::string path = folder / (gpu_binary_key(source).hex() + ".kernel");
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(200);
    file.put('\x5a');
  }
  const int before = compile_gpu_count();
  EXPECT_EQ(get_gpu_binary(source, cache)->cubin, cubin);
  EXPECT_EQ(compile_gpu_count(), before + 1);
  EXPECT_EQ(stored_gpu_binary(source, cache)->cubin, cubin);
  // Whole by its checksum, but not what to_bytes makes.
  cache.store(gpu_binary_key(source), "something else");
  EXPECT_EQ(get_gpu_binary(source, cache)->cubin, cubin);
  EXPECT_EQ(compile_gpu_count(), before + 2);
}

TEST_F(GpuBinaries, ManyThreadsCompileOnce) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  const GpuSource source = fresh_source(3);
  const int before = compile_gpu_count();
  std::vector<std::shared_ptr<const GpuBinary>> binaries(8);
  {
    std::vector<std::jthread> threads;
    for (auto& binary : binaries) threads.emplace_back([&] { binary = get_gpu_binary(source, cache); });
  }
  EXPECT_EQ(compile_gpu_count(), before + 1);
  for (const auto& binary : binaries) EXPECT_EQ(binary, binaries[0]);
}

TEST_F(GpuBinaries, OfAPlanInOrder) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  GpuPlan plan;
  plan.sources = {{kStack, "sm_80"}, fresh_source(5), {kRegisterWish, "sm_90a"}, fresh_source(5)};
  const int before = compile_gpu_count();
  const auto binaries = get_gpu_binaries(plan, cache);
  EXPECT_EQ(compile_gpu_count(), before + 3);
  ASSERT_EQ(binaries.size(), 4u);
  EXPECT_EQ(binaries[0]->kernels.at(0).kernel, "stack");
  EXPECT_EQ(binaries[2]->kernels.at(0).kernel, "wish");
  EXPECT_EQ(binaries[1], binaries[3]);
  plan.sources[2].text = "nonsense";
  EXPECT_THAT(error_of([&] { get_gpu_binaries(plan, cache); }), HasSubstr("error"));
  EXPECT_TRUE(get_gpu_binaries({}, cache).empty());
}

// What the child's `work` returns, at most 255.
template <typename Work>
pid_t start_process(const Work& work) {
  const pid_t child = fork();
  if (child == 0) {
    int result = 255;
    try {
      result = work();
    } catch (const std::exception& error) {
      fmt::print(stderr, "child: {}\n", error.what());
    }
    _exit(result);
  }
  return child;
}

int result_of(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

TEST_F(GpuBinaries, SeveralProcessesCompileOnce) {
  const TemporaryFolder folder;
  const GpuSource source = {std::string(kSpill), "sm_90a"};
  const auto work = [&] {
    const int before = compile_gpu_count();
    const auto binary = get_gpu_binary(source, cache_in(folder));
    return binary->kernels[0].kernel == "spill" ? compile_gpu_count() - before : 255;
  };
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) children.push_back(start_process(work));
  int compiled = 0;
  for (const pid_t child : children) compiled += result_of(child);
  EXPECT_EQ(compiled, 1);
}

TEST_F(GpuBinaries, AReadOnlyFolderIsNoTrouble) {
  const TemporaryFolder folder;
  const GpuSource source = fresh_source(4);
  // The superuser may write anywhere, so the folder is gone for good instead.
  const bool root = geteuid() == 0;
  const std::string path = root ? "/proc/attune" : folder.path().string();
  if (!root) chmod(path.c_str(), 0500);
  const ObjectCache cache(CacheFolder{path, ""}, ObjectCache::kDefaultLimitBytes);
  const int before = compile_gpu_count();
  EXPECT_FALSE(get_gpu_binary(source, cache)->cubin.empty());
  EXPECT_FALSE(get_gpu_binary(source, cache)->cubin.empty());
  EXPECT_EQ(compile_gpu_count(), before + 2);
  if (!root) chmod(path.c_str(), 0700);
}

TEST_F(GpuBinaries, AnErrorIsNotRemembered) {
  const TemporaryFolder folder;
  const ObjectCache cache = cache_in(folder);
  const GpuSource source = {"not CUDA", "sm_90a"};
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(error_of([&] { get_gpu_binary(source, cache); }), HasSubstr("a generated kernel does not compile"));
  }
  EXPECT_TRUE(files_in(folder).empty());
}

TEST(KeyLocks, ExcludeAndAreGoneAfterwards) {
  const TemporaryFolder folder;
  const CacheFolder cache = {folder.path().string(), ""};
  const CacheKey key = {1, 2}, other = {1, 3};
  {
    const KeyLock lock(cache, key);
    EXPECT_TRUE(lock.is_held());
    EXPECT_FALSE(KeyLock(cache, key, {}, std::chrono::milliseconds(20)).is_held());
    EXPECT_TRUE(KeyLock(cache, other, {}, std::chrono::milliseconds(20)).is_held());
    std::stop_source stop;
    stop.request_stop();
    EXPECT_FALSE(KeyLock(cache, key, stop.get_token()).is_held());
  }
  EXPECT_TRUE(files_in(folder).empty());
  EXPECT_TRUE(KeyLock(cache, key).is_held());
  EXPECT_FALSE(KeyLock({"", "no folder"}, key).is_held());
  EXPECT_FALSE(KeyLock({"/nonexistent", ""}, key).is_held());
}

TEST(KeyLocks, DieWithTheirProcess) {
  const TemporaryFolder folder;
  const CacheFolder cache = {folder.path().string(), ""};
  const CacheKey key = {1, 2};
  const pid_t child = start_process([&] {
    const KeyLock lock(cache, key);
    kill(getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(result_of(child), 255);
  EXPECT_EQ(files_in(folder).size(), 1u);  // its file is left
  EXPECT_TRUE(KeyLock(cache, key, {}, std::chrono::milliseconds(0)).is_held());
  EXPECT_TRUE(files_in(folder).empty());
}

TEST(KeyLocks, OneHolderAmongManyThatWait) {
  const TemporaryFolder folder;
  const CacheFolder cache = {folder.path().string(), ""};
  std::atomic<int> holders{0}, most{0}, held{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 6; ++i) {
      threads.emplace_back([&] {
        for (int round = 0; round < 5; ++round) {
          const KeyLock lock(cache, {7, 7});
          held += lock.is_held() ? 1 : 0;
          most = std::max(most.load(), ++holders);
          std::this_thread::sleep_for(std::chrono::microseconds(200));
          --holders;
        }
      });
    }
  }
  EXPECT_EQ(held, 30);
  EXPECT_EQ(most, 1);
}

TEST(NvrtcSearch, ItsOwnVariableIsTriedFirst) {
  const ScopedVariable variable("ATTUNE_NVRTC", "/nonexistent/libnvrtc.so");
  const SharedLibrary library = open_nvrtc_library();
  if (library.is_open()) {
    EXPECT_THAT(library.path(), HasSubstr("libnvrtc"));
  } else {
    EXPECT_THAT(library.path(), StartsWith("/nonexistent/libnvrtc.so, libnvrtc.so.13, libnvrtc.so.12"));
  }
}

}  // namespace
}  // namespace attune::runtime
