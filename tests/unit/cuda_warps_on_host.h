// What a skeleton of warps needs beside cuda_on_host.h to run on the host as it is: the threads of a CTA take turns, each with a stack of
// its own; shared memory; the operations of a warp; fragments and matrix products. Asynchronous copies are done at once.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>

#define HOST_WARPS
#include "cuda_on_host.h"
#include "cuda_races_on_host.h"

#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __noinline__

struct int4 {
  int x, y, z, w;
};

alignas(128) inline unsigned char shared[256 << 10];

namespace host {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kSlotBytes = 32;

struct Barrier {
  unsigned arrived = 0, round = 0;
  Meeting meeting;
};
struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  bool is_done = false;
  int waits_at = -1;  // address of a barrier with phases
};

inline std::vector<Thread> threads;
inline ucontext_t scheduler;
inline const std::function<void()>* body;
inline Barrier of_cta;
inline std::vector<Barrier> of_warp;
inline std::vector<std::array<unsigned char, kSlotBytes>> slots;  // what each thread shows its warp
inline int votes = 0;
inline std::vector<unsigned> copy_groups;  // of each thread, closed
inline unsigned long progress = 0;         // what has happened, that somebody may wait for

// Not by an exception: each thread has a stack of its own.
[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "a kernel on the host, CTA %u, thread %u: %s\n", blockIdx.x, threadIdx.x, what);
  for (unsigned i = 0; i < threads.size(); ++i) {
    if (!threads[i].is_done) std::fprintf(stderr, "%sthread %u at %d", i % 8 == 0 ? "\n" : ", ", i, threads[i].waits_at);
  }
  std::fprintf(stderr, "\n");
  std::abort();
}
#ifdef HOST_HOPPER
void start_hopper();
void run_copies();
#endif

inline unsigned lane() {
  return threadIdx.x % kWarp;
}
inline void yield() {
  swapcontext(&threads[threadIdx.x].context, &scheduler);
}
inline void wait(Barrier& barrier, unsigned count) {
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.round;
    ++progress;
    return;
  }
  for (const unsigned before = barrier.round; barrier.round == before;) yield();
}
// What was written before is there behind it.
inline void meet(Barrier& barrier, unsigned count) {
  races.arrive(threadIdx.x, barrier.meeting);
  if (barrier.arrived + 1 == count) barrier.meeting.finish();
  wait(barrier, count);
  races.leave(threadIdx.x, barrier.meeting);
}
inline void enter() {
  (*body)();
  threads[threadIdx.x].is_done = true;
  ++progress;
  yield();
}
// All threads get as far as they can, one after the other, until all have returned.
inline void run_cta() {
  of_cta = {};
  of_warp.assign(threads.size() / kWarp, {});
  races.start(static_cast<unsigned>(threads.size()));
  copy_groups.assign(threads.size(), 0);
#ifdef HOST_HOPPER
  start_hopper();
#endif
  for (Thread& thread : threads) {
    thread.is_done = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, enter, 0);
  }
  for (bool is_running = true; is_running;) {
    is_running = false;
    const unsigned long before = progress;
#ifdef HOST_HOPPER
    run_copies();
#endif
    for (unsigned i = 0; i < threads.size(); ++i) {
      if (threads[i].is_done) continue;
      threadIdx.x = i;
      swapcontext(&scheduler, &threads[i].context);
      is_running = true;
    }
    if (is_running && progress == before) fail("nothing happens any more");
  }
}
inline void run(const Launch& launch, const std::function<void()>& thread) {
  body = &thread;
  threads = std::vector<Thread>(launch.threads);
  slots.resize(launch.threads);
  for_each_cta(launch, [&] {
    std::memset(shared, 0xFF, launch.shared_bytes);  // NaNs, that nothing of another CTA is read
    run_cta();
  });
}

// Shows `own` to the warp; `take` is called with a function of the lane whose value is wanted.
template <typename T, typename Take>
auto exchange(const T& own, const Take& take) {
  static_assert(sizeof(T) <= kSlotBytes);
  Barrier& barrier = of_warp[threadIdx.x / kWarp];
  std::memcpy(slots[threadIdx.x].data(), &own, sizeof(T));
  wait(barrier, kWarp);
  const auto taken = take([first = threadIdx.x - lane()](unsigned from) {
    T value;
    std::memcpy(&value, slots[first + from].data(), sizeof(T));
    return value;
  });
  wait(barrier, kWarp);
  return taken;
}

template <typename T>
T load(unsigned from, const Site& site) {
  races.read(threadIdx.x, from, sizeof(T), site);
  T value;
  std::memcpy(&value, shared + from, sizeof(T));
  return value;
}
template <typename T>
void store(unsigned to, const T& value, const Site& site) {
  races.write(threadIdx.x, to, sizeof(T), site);
  std::memcpy(shared + to, &value, sizeof(T));
}

}  // namespace host

inline void __syncthreads() {
  host::meet(host::of_cta, static_cast<unsigned>(host::threads.size()));
}
inline void __syncwarp() {
  host::meet(host::of_warp[threadIdx.x / host::kWarp], host::kWarp);
}
inline int __syncthreads_or(int vote) {
  host::votes |= vote;
  __syncthreads();
  const int any = host::votes;
  __syncthreads();
  host::votes = 0;
  return any;
}
inline void __threadfence() {}
inline bool __any_sync(unsigned, bool vote) {
  return host::exchange(vote, [](const auto& of) {
    bool any = false;
    for (unsigned i = 0; i < host::kWarp; ++i) any |= of(i);
    return any;
  });
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return host::exchange(x, [&](const auto& of) { return of(host::lane() ^ static_cast<unsigned>(mask)); });
}
template <typename T>
T __shfl_sync(unsigned, T x, int from) {
  return host::exchange(x, [&](const auto& of) { return of(static_cast<unsigned>(from)); });
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  return host::exchange(vote, [](const auto& of) {
    unsigned votes = 0;
    for (unsigned i = 0; i < host::kWarp; ++i) votes |= static_cast<unsigned>(of(i)) << i;
    return votes;
  });
}
inline int __ffs(unsigned x) {
  return x == 0 ? 0 : std::countr_zero(x) + 1;
}
inline int __clz(unsigned x) {
  return std::countl_zero(x);
}
inline int atomicAdd(int* at, int value) {
  return (*at += value) - value;
}
inline void atomicMin(int* at, int value) {
  *at = std::min(*at, value);
}
inline void atomicMax(int* at, int value) {
  *at = std::max(*at, value);
}
inline unsigned atomicInc(unsigned* at, unsigned last) {
  const unsigned before = *at;
  *at = before >= last ? 0 : before + 1;
  return before;
}

inline unsigned long __cvta_generic_to_shared(const void* pointer) {
  return static_cast<unsigned long>(static_cast<const unsigned char*>(pointer) - shared);
}
inline int load_shared(unsigned from, host::Site site = host::Site::current()) {
  return host::load<int>(from, site);
}
inline int4 load_shared_x4(unsigned from, host::Site site = host::Site::current()) {
  return host::load<int4>(from, site);
}
inline float4 load_shared_f32x4(unsigned from, host::Site site = host::Site::current()) {
  return host::load<float4>(from, site);
}
inline void store_shared(unsigned to, int value, host::Site site = host::Site::current()) {
  host::store(to, value, site);
}
inline void store_shared_x4(unsigned to, int4 value, host::Site site = host::Site::current()) {
  host::store(to, value, site);
}
inline void store_shared_f32x4(unsigned to, float4 value, host::Site site = host::Site::current()) {
  host::store(to, value, site);
}
inline float4 load_cached_x4(const float4* from) {
  return *from;
}

inline void copy_async_x4(unsigned to, const void* from, int bytes, host::Site site = host::Site::current()) {
  host::races.write({host::Races::kCopiesOfThread, threadIdx.x}, host::copy_groups[threadIdx.x] + 1, host::races.of(threadIdx.x), to, 16,
                    site);
  std::memset(shared + to, 0, 16);
  std::memcpy(shared + to, from, static_cast<size_t>(bytes));
}
inline void copy_async_commit() {
  ++host::copy_groups[threadIdx.x];
}
template <int kPending>
void copy_async_wait() {
  const unsigned closed = host::copy_groups[threadIdx.x];
  host::races.see(host::races.of(threadIdx.x), {host::Races::kCopiesOfThread, threadIdx.x}, closed - std::min<unsigned>(closed, kPending));
}

inline void load_matrix_x4(unsigned from, unsigned (&to)[4], host::Site site = host::Site::current()) {
  const std::array rows = host::exchange(from, [](const auto& of) {
    const unsigned row = host::lane() / 4;
    return std::array{of(row), of(8 + row), of(16 + row), of(24 + row)};
  });
  for (unsigned i = 0; i < 4; ++i) to[i] = host::load<unsigned>(rows[i] + host::lane() % 4 * 4, site);
}
inline void load_matrix_transposed_x4(unsigned from, unsigned (&to)[4], host::Site site = host::Site::current()) {
  host::exchange(from, [&](const auto& of) {
    const unsigned row = host::lane() % 4 * 2, column = host::lane() / 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned low = host::load<unsigned short>(of(8 * i + row) + column, site);
      const unsigned high = host::load<unsigned short>(of(8 * i + row + 1) + column, site);
      to[i] = low | high << 16;
    }
    return 0;
  });
}

// Lane 4 r + k / 2 has elements k and k + 1, then k + 8 and k + 9, of rows r and r + 8 of A, and of column r of B.
template <typename Element>
void mma_16x8x16(Element, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Operands {
    unsigned a[4], b[2];
  };
  host::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](const auto& of) {
    const unsigned row = host::lane() / 4, column = host::lane() % 4 * 2;
    for (unsigned k = 0; k < 16; k += 2) {
      const Operands left = of(4 * row + k % 8 / 2);
      for (unsigned i = 0; i < 4; ++i) {
        const float2 x = Element::unpack(left.a[i / 2 + k / 8 * 2]);
        const float2 y = Element::unpack(of(4 * (column + i % 2) + k % 8 / 2).b[k / 8]);
        c[i] += x.x * y.x;
        c[i] += x.y * y.y;
      }
    }
    return 0;
  });
}
