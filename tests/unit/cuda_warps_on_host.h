// Beside cuda_on_host.h, what a kernel of sm_80 needs to run on the CPU as it is, with warps of 32 lanes and CTAs that wait for each other:
// threads are contexts that take turns, instructions of a warp meet at a barrier. Copies into shared memory are done at once.
#pragma once

#include <ucontext.h>

#include <array>
#include <functional>
#include <memory>
#include <vector>

#define __shared__
#define __noinline__

struct int4 {
  int x, y, z, w;
};

inline constexpr unsigned kHostLanes = 32;
alignas(128) inline unsigned char shared[256 << 10];

struct HostBarrier {
  unsigned arrived = 0, generation = 0;
};
struct HostThread {
  ucontext_t context;
  std::vector<unsigned char> stack;
  bool is_done = false;
};
struct HostCta {
  std::vector<std::unique_ptr<HostThread>> threads;
  std::vector<HostBarrier> warps;
  std::vector<std::array<std::array<unsigned long long, 4>, kHostLanes>> slots;  // of each warp and lane: what it shows the others
  HostBarrier all;
  ucontext_t scheduler;
  std::function<void()> body;
};
inline HostCta* host_cta = nullptr;

inline void host_yield() {
  swapcontext(&host_cta->threads[threadIdx.x]->context, &host_cta->scheduler);
}
inline void host_wait(HostBarrier& barrier, unsigned count) {
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  for (const unsigned before = barrier.generation; barrier.generation == before;) host_yield();
}
inline void host_enter() {
  host_cta->body();
  host_cta->threads[threadIdx.x]->is_done = true;
  host_yield();
}
// Runs one CTA. All threads get as far as they can, one after the other, until all have returned.
inline void host_run_cta(unsigned count, const std::function<void()>& body) {
  constexpr size_t kStackBytes = 256 << 10;
  std::memset(shared, 0xFF, sizeof(shared));  // NaNs
  HostCta cta;
  cta.body = body;
  cta.warps.resize(count / kHostLanes);
  cta.slots.resize(count / kHostLanes);
  host_cta = &cta;
  for (unsigned i = 0; i < count; ++i) {
    HostThread& thread = *cta.threads.emplace_back(std::make_unique<HostThread>());
    thread.stack.resize(kStackBytes);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = kStackBytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, host_enter, 0);
  }
  for (unsigned running = count; running > 0;) {
    running = 0;
    for (unsigned i = 0; i < count; ++i) {
      if (cta.threads[i]->is_done) continue;
      threadIdx.x = i;
      swapcontext(&cta.scheduler, &cta.threads[i]->context);
      running += !cta.threads[i]->is_done;
    }
  }
}

inline void __syncthreads() {
  host_wait(host_cta->all, static_cast<unsigned>(host_cta->threads.size()));
}
inline void __syncwarp() {
  host_wait(host_cta->warps[threadIdx.x / kHostLanes], kHostLanes);
}
// What each lane of the warp shows.
template <typename T>
std::array<T, kHostLanes> host_exchange(const T& own) {
  auto& slots = host_cta->slots[threadIdx.x / kHostLanes];
  static_assert(sizeof(T) <= sizeof(slots[0]));
  std::memcpy(&slots[threadIdx.x % kHostLanes], &own, sizeof(T));
  __syncwarp();
  std::array<T, kHostLanes> all;
  for (unsigned lane = 0; lane < kHostLanes; ++lane) std::memcpy(&all[lane], &slots[lane], sizeof(T));
  __syncwarp();
  return all;
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return host_exchange(x)[threadIdx.x % kHostLanes ^ static_cast<unsigned>(mask)];
}
inline int __ffs(unsigned x) {
  return std::countr_zero(x) + 1;
}
inline int __clz(unsigned x) {
  return std::countl_zero(x);
}
inline bool __any_sync(unsigned, bool x) {
  for (const bool other : host_exchange(x)) x = x || other;
  return x;
}

inline unsigned long __cvta_generic_to_shared(const void* pointer) {
  return static_cast<unsigned long>(static_cast<const unsigned char*>(pointer) - shared);
}
inline int load_shared(unsigned from) {
  int value;
  std::memcpy(&value, shared + from, sizeof(value));
  return value;
}
inline void store_shared(unsigned to, int value) {
  std::memcpy(shared + to, &value, sizeof(value));
}
inline int4 load_shared_x4(unsigned from) {
  int4 value;
  std::memcpy(&value, shared + from, sizeof(value));
  return value;
}
inline void store_shared_x4(unsigned to, int4 value) {
  std::memcpy(shared + to, &value, sizeof(value));
}
inline void copy_async_x4(unsigned to, const void* from, int bytes) {
  std::memset(shared + to, 0, 16);
  std::memcpy(shared + to, from, static_cast<size_t>(bytes));
}
inline void copy_async_commit() {}
template <int kPending>
void copy_async_wait() {}

inline unsigned host_element(unsigned row, unsigned column) {
  unsigned short x;
  std::memcpy(&x, shared + row + 2 * column, sizeof(x));
  return x;
}
inline void load_matrix_x4(unsigned from, unsigned (&to)[4]) {
  const auto rows = host_exchange(from);
  const unsigned lane = threadIdx.x % kHostLanes, column = lane % 4 * 2;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = rows[8 * i + lane / 4];
    to[i] = host_element(row, column) | host_element(row, column + 1) << 16;
  }
}
inline void load_matrix_transposed_x4(unsigned from, unsigned (&to)[4]) {
  const auto rows = host_exchange(from);
  const unsigned lane = threadIdx.x % kHostLanes, row = lane % 4 * 2;
  for (unsigned i = 0; i < 4; ++i) to[i] = host_element(rows[8 * i + row], lane / 4) | host_element(rows[8 * i + row + 1], lane / 4) << 16;
}

inline float host_number(F16, unsigned bits) {
  const auto half = static_cast<unsigned short>(bits);
  return load_f16(&half);
}
inline float host_number(BF16, unsigned bits) {
  return std::bit_cast<float>(bits << 16);
}
template <typename Element>
void mma_16x8x16(Element, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Operands {
    unsigned a[4], b[2];
  };
  const auto all = host_exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const unsigned lane = threadIdx.x % kHostLanes;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4, column = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned of = k % 8 / 2, half = k % 2 * 16;
      const unsigned x = all[4 * row + of].a[i / 2 + k / 8 * 2] >> half, y = all[4 * column + of].b[k / 8] >> half;
      c[i] += host_number(Element{}, x & 0xFFFF) * host_number(Element{}, y & 0xFFFF);
    }
  }
}
