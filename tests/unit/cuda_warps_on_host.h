// What a skeleton of warps needs beside cuda_on_host.h to run on the host: the threads of a CTA take turns, each with a stack of its own;
// shared memory; the operations of a warp; fragments and matrix products. Asynchronous copies are done at once.
#pragma once

#include <ucontext.h>

#include <numeric>
#include <random>
#include <vector>

#define ATTUNE_WARPS_ON_HOST
#include "cuda_on_host.h"

#define __noinline__

struct int4 {
  int x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};

namespace host {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 << 10;

struct Barrier {
  int arrived = 0, round = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  bool is_done = false;
};

inline std::vector<unsigned char> shared_memory;
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned current = 0;
inline Barrier of_cta;
inline std::vector<Barrier> of_warp;
inline std::vector<uint64_t> exchanged;  // a word for each thread
inline void (*kernel)(const void*);
inline const void* argument;
inline int votes = 0;

inline int lane() {
  return static_cast<int>(current % kWarp);
}
inline unsigned char* shared_at(unsigned address) {
  return shared_memory.data() + address;
}
inline void yield() {
  swapcontext(&fibers[current].context, &scheduler);
}
inline void wait(Barrier& barrier, int count) {
  const int round = barrier.round;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.round;
    return;
  }
  while (barrier.round == round) yield();
}
inline void wait_warp() {
  wait(of_warp[current / kWarp], kWarp);
}
// Gives `own` to the warp; `take` is called with a function of the lane whose value is wanted.
template <typename T, typename Take>
auto exchange(T own, const Take& take) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  std::memcpy(&exchanged[current], &own, sizeof(T));
  wait_warp();
  const auto taken = take([](int from) {
    T value;
    std::memcpy(&value, &exchanged[current / kWarp * kWarp + static_cast<unsigned>(from)], sizeof(T));
    return value;
  });
  wait_warp();
  return taken;
}

inline void enter() {
  kernel(argument);
  fibers[current].is_done = true;
  swapcontext(&fibers[current].context, &scheduler);
}
inline void run_cta(unsigned threads) {
  of_cta = {};
  of_warp.assign(threads / kWarp, {});
  exchanged.assign(threads, 0);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.is_done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool any = true; any;) {
    any = false;
    for (unsigned i = 0; i < threads; ++i) {
      if (fibers[i].is_done) continue;
      any = true;
      current = threadIdx.x = i;
      swapcontext(&scheduler, &fibers[i].context);
    }
  }
}
// All CTAs of a grid, one after the other, in an order of that seed.
inline void run_grid(void (*function)(const void*), const void* p, unsigned threads, unsigned shared_bytes, unsigned x, unsigned y,
                     unsigned seed) {
  kernel = function;
  argument = p;
  fibers = std::vector<Fiber>(threads);
  std::vector<unsigned> order(static_cast<size_t>(x) * y);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937 random(seed);
  std::shuffle(order.begin(), order.end(), random);
  for (const unsigned number : order) {
    blockIdx.x = number % x;
    blockIdx.y = number / x;
    shared_memory.assign(shared_bytes, 0xFF);  // NaNs, that nothing of another CTA is read
    run_cta(threads);
  }
}

}  // namespace host

inline void __syncthreads() {
  host::wait(host::of_cta, static_cast<int>(host::fibers.size()));
}
inline void __syncwarp() {
  host::wait_warp();
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
inline int __any_sync(unsigned, bool vote) {
  return host::exchange(vote, [](const auto& of) {
    int any = 0;
    for (int i = 0; i < host::kWarp; ++i) any |= of(i);
    return any;
  });
}
inline int __ffs(unsigned x) {
  return x == 0 ? 0 : std::countr_zero(x) + 1;
}
inline int __clz(unsigned x) {
  return std::countl_zero(x);
}
template <typename T>
T shuffled(T x, int mask) {
  return host::exchange(x, [&](const auto& of) { return of(host::lane() ^ mask); });
}
inline unsigned atomicInc(unsigned* at, unsigned last) {
  const unsigned before = *at;
  *at = before >= last ? 0 : before + 1;
  return before;
}

template <typename T>
T load_from_shared(unsigned from) {
  T value;
  std::memcpy(&value, host::shared_at(from), sizeof(T));
  return value;
}
template <typename T>
void store_to_shared(unsigned to, T value) {
  std::memcpy(host::shared_at(to), &value, sizeof(T));
}
inline int load_shared(unsigned from) {
  return load_from_shared<int>(from);
}
inline int4 load_shared_x4(unsigned from) {
  return load_from_shared<int4>(from);
}
inline float4 load_shared_f32x4(unsigned from) {
  return load_from_shared<float4>(from);
}
inline void store_shared(unsigned to, int value) {
  store_to_shared(to, value);
}
inline void store_shared_x4(unsigned to, int4 value) {
  store_to_shared(to, value);
}
inline void store_shared_f32x4(unsigned to, float4 value) {
  store_to_shared(to, value);
}
inline float4 load_cached_x4(const float4* from) {
  return *from;
}

inline void copy_async_x4(unsigned to, const void* from, int bytes) {
  unsigned char piece[16] = {};
  std::memcpy(piece, from, static_cast<size_t>(bytes));
  std::memcpy(host::shared_at(to), piece, sizeof(piece));
}
inline void copy_async_commit() {}
template <int kPending>
void copy_async_wait() {}

inline void load_matrix_x4(unsigned from, unsigned (&to)[4]) {
  host::exchange(from, [&](const auto& of) {
    for (int i = 0; i < 4; ++i)
      to[i] = load_from_shared<unsigned>(of(8 * i + host::lane() / 4) + 4 * static_cast<unsigned>(host::lane() % 4));
    return 0;
  });
}
inline void load_matrix_transposed_x4(unsigned from, unsigned (&to)[4]) {
  host::exchange(from, [&](const auto& of) {
    const int row = host::lane() % 4 * 2;
    const unsigned column = 2 * static_cast<unsigned>(host::lane() / 4);
    for (int i = 0; i < 4; ++i) {
      const auto low = load_from_shared<unsigned short>(of(8 * i + row) + column);
      const auto high = load_from_shared<unsigned short>(of(8 * i + row + 1) + column);
      to[i] = low | static_cast<unsigned>(high) << 16;
    }
    return 0;
  });
}

inline float half_of(F16, unsigned bits) {
  const auto element = static_cast<unsigned short>(bits);
  return load_f16(&element);
}
inline float half_of(BF16, unsigned bits) {
  return std::bit_cast<float>(bits << 16);
}
// Lane 4 r + k / 2 has elements k and k + 1 of row r of A, and of column r of B.
template <typename Element>
void mma_16x8x16(Element element, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Pair {
    unsigned first, second;
  };
  const int row = host::lane() / 4, column = host::lane() % 4 * 2;
  for (int half = 0; half < 2; ++half) {
    unsigned rows[2][4], columns[2][4];
    host::exchange(Pair{a[2 * half], a[2 * half + 1]}, [&](const auto& of) {
      for (int i = 0; i < 4; ++i) {
        rows[0][i] = of(4 * row + i).first;
        rows[1][i] = of(4 * row + i).second;
      }
      return 0;
    });
    host::exchange(half == 0 ? b0 : b1, [&](const auto& of) {
      for (int i = 0; i < 4; ++i) {
        columns[0][i] = of(4 * column + i);
        columns[1][i] = of(4 * column + 4 + i);
      }
      return 0;
    });
    for (int e = 0; e < 4; ++e) {
      for (int k = 0; k < 8; ++k) {
        const int shift = 16 * (k % 2);
        c[e] += half_of(element, rows[e / 2][k / 2] >> shift & 0xFFFF) * half_of(element, columns[e % 2][k / 2] >> shift & 0xFFFF);
      }
    }
  }
}
