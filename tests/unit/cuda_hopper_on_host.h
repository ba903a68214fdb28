// What a skeleton for sm_90a needs beside cuda_warps_on_host.h to run on the host: barriers with phases, copies that come late and in
// another order than they were asked for, matrix products of a warpgroup. Products are done when they are asked for, but a race with what
// they read is found (cuda_races_on_host.h); that their results are used too early is not. A CTA in which nothing happens any more is a
// deadlock.
#pragma once

#define HOST_HOPPER
#include "cuda_warps_on_host.h"

struct int2 {
  int x, y;
};

namespace host {

// In the place of what cuTensorMapEncodeTiled makes; filled in by host_kernels.cpp.
struct Map {
  unsigned char* data;
  long long strides[3];  // bytes
  unsigned dims[4], box[4], bytes;
};

struct PhaseBarrier {
  unsigned arrivals = 0, left = 0, phase = 0;
  long long bytes = 0;  // on their way
  Meeting meeting;
};
inline std::vector<PhaseBarrier> barriers;
inline std::vector<std::function<void()>> copies;  // asked for
inline size_t stores = 0;                          // of these, out of shared memory
inline std::vector<unsigned> last_stores;          // of each thread
inline std::vector<unsigned> groups;               // of products, of each thread
// A thread has gone on without what a barrier stands for, and its next products are of nothing.
inline std::vector<char> goes_without, is_of_nothing;

inline PhaseBarrier& barrier_at(unsigned address) {
  return barriers.at(address / 8);
}
inline void finish_phase(PhaseBarrier& barrier) {
  if (barrier.left != 0 || barrier.bytes != 0) return;
  barrier.left = barrier.arrivals;
  ++barrier.phase;
  barrier.meeting.finish();
  ++progress;
}
inline void arrive(unsigned address) {
  PhaseBarrier& barrier = barrier_at(address);
  if (barrier.left == 0) fail("more arrivals than a barrier expects");
  --barrier.left;
  races.arrive(threadIdx.x, barrier.meeting);
  finish_phase(barrier);
}
inline bool is_over(unsigned address, unsigned parity) {
  const PhaseBarrier& barrier = barrier_at(address);
  if (barrier.phase % 2 == parity) return false;
  races.leave(threadIdx.x, barrier.meeting);
  return true;
}
inline void start_hopper() {
  barriers.assign(sizeof(shared) / 8, {});
  copies.clear();
  stores = 0;
  last_stores.assign(threads.size(), 0);
  groups.assign(threads.size(), 0);
  goes_without.assign(threads.size(), 0);
  is_of_nothing.assign(threads.size(), 0);
}
inline void ask(std::function<void()> copy) {
  copies.push_back(std::move(copy));
  ++progress;
}
// The last one first.
inline void run_copies() {
  std::vector<std::function<void()>> now;
  now.swap(copies);
  for (size_t i = now.size(); i-- > 0;) now[i]();
}

inline unsigned swizzled(unsigned address) {
  return address ^ ((address >> 7 & 7) << 4);
}
// Calls f(shared-memory address, tensor address or null behind its end) for each element of a box.
template <typename Function>
void for_each_of_box(const Map& map, unsigned at, const std::array<int, 4>& first, const Function& f) {
  unsigned row = 0;
  for (unsigned d = 0; d < map.box[3]; ++d) {
    for (unsigned c = 0; c < map.box[2]; ++c) {
      for (unsigned b = 0; b < map.box[1]; ++b, ++row) {
        for (unsigned a = 0; a < map.box[0]; ++a) {
          const std::array<unsigned, 4> place = {first[0] + a, first[1] + b, first[2] + c, first[3] + d};
          bool is_inside = true;
          long long offset = static_cast<long long>(place[0]) * map.bytes;
          for (unsigned i = 0; i < 4; ++i) {
            is_inside = is_inside && place[i] < map.dims[i];
            if (i > 0) offset += place[i] * map.strides[i - 1];
          }
          f(swizzled(at + row * 128 + a * map.bytes), is_inside ? map.data + offset : nullptr);
        }
      }
    }
  }
}

// Where element (row, k) of an operand lies; is_across: the inner dimension runs across rows.
inline unsigned place_of(unsigned long long operand, bool is_across, unsigned row, unsigned k) {
  const auto address = static_cast<unsigned>(operand & 0x3FFF) << 4, leading = static_cast<unsigned>(operand >> 16 & 0x3FFF) << 4;
  if (is_across) return swizzled(address + row / 64 * leading + k / 8 * 1024 + k % 8 * 128 + row % 64 * 2);
  return swizzled(address + row / 8 * 1024 + row % 8 * 128 + k * 2);
}
template <typename Element>
float element_at(unsigned long long operand, bool is_across, unsigned row, unsigned k) {
  unsigned short bits;
  std::memcpy(&bits, shared + place_of(operand, is_across, row, k), sizeof(bits));
  return Element::unpack(bits).x;
}
inline void begin_products() {
  ++groups[threadIdx.x];
  is_of_nothing[threadIdx.x] = goes_without[threadIdx.x];
  goes_without[threadIdx.x] = 0;
}
// What a warp's products read of an operand; lane 0 speaks for all.
inline void read_operand(unsigned long long operand, bool is_across, unsigned first_row, unsigned rows, const Site& site) {
  if (lane() != 0 || is_of_nothing[threadIdx.x]) return;
  for (unsigned i = 0; i < rows * 16; ++i)
    races.read({Races::kProductsOfWarp, threadIdx.x / kWarp}, groups[threadIdx.x], races.of(threadIdx.x),
               place_of(operand, is_across, first_row + i / 16, i % 16), 2, site);
}
// d: rows r and r + 8 of this warp's 16, two neighbouring columns of each 8.
template <typename Element, size_t kCount, typename A>
void multiply(float (&d)[kCount], unsigned long long b, bool b_is_across, bool accumulates, const A& a, const Site& site) {
  read_operand(b, b_is_across, 0, 2 * kCount, site);
  for (unsigned j = 0; j < kCount / 4; ++j) {
    for (unsigned c = 0; c < 2; ++c) {
      float sums[2] = {};
      for (unsigned k = 0; k < 16; ++k) {
        const float y = element_at<Element>(b, b_is_across, 8 * j + lane() % 4 * 2 + c, k);
        for (unsigned i = 0; i < 2; ++i) sums[i] += a[i][k] * y;
      }
      for (unsigned i = 0; i < 2; ++i) d[4 * j + 2 * i + c] = (accumulates ? d[4 * j + 2 * i + c] : 0) + sums[i];
    }
  }
  if (is_of_nothing[threadIdx.x]) std::fill(d, d + kCount, NAN);  // nothing may come of it
}
template <typename Element, size_t kCount>
void multiply_shared(float (&d)[kCount], unsigned long long a, unsigned long long b, bool a_is_across, bool b_is_across, bool accumulates,
                     Site site = Site::current()) {
  float rows[2][16];
  const unsigned first_of_warp = threadIdx.x / kWarp % 4 * 16, first = first_of_warp + lane() / 4;
  read_operand(a, a_is_across, first_of_warp, 16, site);
  for (unsigned i = 0; i < 2; ++i) {
    for (unsigned k = 0; k < 16; ++k) rows[i][k] = element_at<Element>(a, a_is_across, first + 8 * i, k);
  }
  multiply<Element>(d, b, b_is_across, accumulates, rows, site);
}
template <typename Element, size_t kCount>
void multiply_registers(float (&d)[kCount], const unsigned* w, unsigned long long b, bool b_is_across, bool accumulates,
                        Site site = Site::current()) {
  float rows[2][16];
  exchange(std::array{w[0], w[1], w[2], w[3]}, [&](const auto& of) {
    for (unsigned k = 0; k < 16; k += 2) {
      const std::array<unsigned, 4> words = of(lane() / 4 * 4 + k % 8 / 2);
      for (unsigned i = 0; i < 2; ++i) {
        const float2 two = Element::unpack(words[i + k / 8 * 2]);
        rows[i][k] = two.x;
        rows[i][k + 1] = two.y;
      }
    }
    return 0;
  });
  multiply<Element>(d, b, b_is_across, accumulates, rows, site);
}

}  // namespace host

inline int __reduce_min_sync(unsigned, int x) {
  return host::exchange(x, [](const auto& of) {
    int least = of(0);
    for (unsigned i = 1; i < host::kWarp; ++i) least = std::min(least, of(i));
    return least;
  });
}
inline int __reduce_max_sync(unsigned mask, int x) {
  return -__reduce_min_sync(mask, -x);
}

inline void mbarrier_init(unsigned barrier, unsigned arrivals) {
  host::barrier_at(barrier) = {arrivals, arrivals};
}
inline void mbarrier_fence_init() {}
inline void mbarrier_arrive(unsigned barrier) {
  host::arrive(barrier);
}
inline void mbarrier_arrive_if(int arrives, unsigned barrier) {
  if (arrives) host::arrive(barrier);
}
inline void mbarrier_expect_bytes(unsigned barrier, unsigned bytes) {
  host::barrier_at(barrier).bytes += bytes;
  host::arrive(barrier);
}
inline int mbarrier_test(unsigned barrier, unsigned parity) {
  return host::is_over(barrier, parity);
}
inline void mbarrier_wait(unsigned barrier, unsigned parity) {
  host::goes_without[threadIdx.x] = 0;
  host::threads[threadIdx.x].waits_at = static_cast<int>(barrier);
  while (!host::is_over(barrier, parity)) host::yield();
  host::threads[threadIdx.x].waits_at = -1;
}
inline void mbarrier_wait_if(int waits, unsigned barrier, unsigned parity) {
  if (waits) return mbarrier_wait(barrier, parity);
  if (!host::is_over(barrier, parity)) host::goes_without[threadIdx.x] = 1;
}

namespace host {

// A copy into shared memory, of which a barrier counts the bytes.
struct Copy {
  unsigned barrier;
  Races::Party party;
  unsigned number;
  Knowledge known;
  Site site;

  Copy(unsigned counted_at, const Site& asked_at)
      : barrier(counted_at),
        party{Races::kCopiesAtBarrier, counted_at / 8 % Races::kBarriers},
        number(races.begin(party)),
        known(races.of(threadIdx.x)),
        site(asked_at) {}
  void write(unsigned to, unsigned bytes) const { races.write(party, number, known, to, bytes, site); }
  void finish(long long bytes) const {
    PhaseBarrier& counter = barrier_at(barrier);
    races.see(counter.meeting.arrived, party, number);
    counter.bytes -= bytes;
    finish_phase(counter);
  }
};

}  // namespace host

template <typename TensorMap>
void tma_load_4d(unsigned to, const TensorMap* map, unsigned barrier, int c0, int c1, int c2, int c3,
                 host::Site site = host::Site::current()) {
  host::ask([=, copy = host::Copy(barrier, site)] {
    const auto& view = *reinterpret_cast<const host::Map*>(map);
    host::for_each_of_box(view, to, {c0, c1, c2, c3}, [&](unsigned at, const unsigned char* from) {
      copy.write(at, view.bytes);
      if (from) std::memcpy(shared + at, from, view.bytes);
      if (!from) std::memset(shared + at, 0, view.bytes);
    });
    copy.finish(view.box[0] * view.box[1] * view.box[2] * view.box[3] * view.bytes);
  });
}
template <typename TensorMap>
void tma_store_4d(const TensorMap* map, unsigned from, int c0, int c1, int c2, int c3, host::Site site = host::Site::current()) {
  ++host::stores;
  const host::Races::Party party = {host::Races::kStoresOfWarp, threadIdx.x / host::kWarp};
  const unsigned number = host::last_stores[threadIdx.x] = host::races.begin(party);
  host::ask([=, known = host::races.of(threadIdx.x)] {
    const auto& view = *reinterpret_cast<const host::Map*>(map);
    host::for_each_of_box(view, from, {c0, c1, c2, c3}, [&](unsigned at, unsigned char* to) {
      host::races.read(party, number, known, at, view.bytes, site);
      if (to) std::memcpy(to, shared + at, view.bytes);
    });
    --host::stores;
  });
}
inline void bulk_load(unsigned to, const void* from, unsigned bytes, unsigned barrier, host::Site site = host::Site::current()) {
  host::ask([=, copy = host::Copy(barrier, site)] {
    copy.write(to, bytes);
    std::memcpy(shared + to, from, bytes);
    copy.finish(bytes);
  });
}
inline void tma_store_commit() {}
inline void tma_store_wait_all() {
  while (host::stores > 0) host::yield();
  host::races.see(host::races.of(threadIdx.x), {host::Races::kStoresOfWarp, threadIdx.x / host::kWarp}, host::last_stores[threadIdx.x]);
}
inline void tma_store_wait_read() {
  tma_store_wait_all();
}
inline void fence_async_proxy() {
  host::races.fence(threadIdx.x);
}

template <int kRegisters>
void set_registers_down() {}
template <int kRegisters>
void set_registers_up() {}
template <typename Accumulator>
void hold(Accumulator&) {}
template <typename Accumulator>
void stay_above(Accumulator&, int) {}
template <int kPending, typename... Accumulators>
void wait_products(Accumulators&...) {
  const unsigned begun = host::groups[threadIdx.x], done = begun - std::min<unsigned>(begun, kPending);
  host::races.see(host::races.of(threadIdx.x), {host::Races::kProductsOfWarp, threadIdx.x / host::kWarp}, done);
}

inline void store_matrix_x4(unsigned to, unsigned a, unsigned b, unsigned c, unsigned d, host::Site site = host::Site::current()) {
  host::exchange(to, [&](const auto& of) {
    const unsigned words[] = {a, b, c, d};
    for (unsigned i = 0; i < 4; ++i) host::store(of(8 * i + host::lane() / 4) + host::lane() % 4 * 4, words[i], site);
    return 0;
  });
}
inline void store_matrix_transposed_x4(unsigned to, unsigned a, unsigned b, unsigned c, unsigned d,
                                       host::Site site = host::Site::current()) {
  host::exchange(to, [&](const auto& of) {
    const unsigned words[] = {a, b, c, d}, row = host::lane() % 4 * 2, column = host::lane() / 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
      host::store(of(8 * i + row) + column, static_cast<unsigned short>(words[i]), site);
      host::store(of(8 * i + row + 1) + column, static_cast<unsigned short>(words[i] >> 16), site);
    }
    return 0;
  });
}
inline int2 load_matrix_transposed_x2(unsigned from, host::Site site = host::Site::current()) {
  return host::exchange(from, [&](const auto& of) {
    const unsigned row = host::lane() % 4 * 2, column = host::lane() / 4 * 2;
    int words[2];
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned low = host::load<unsigned short>(of(8 * i + row) + column, site);
      words[i] = static_cast<int>(low | static_cast<unsigned>(host::load<unsigned short>(of(8 * i + row + 1) + column, site)) << 16);
    }
    return int2{words[0], words[1]};
  });
}
inline int add_shared(unsigned to, int value) {
  return atomicAdd(reinterpret_cast<int*>(shared + to), value);  // whoever adds, in any order: no race
}
inline float2 load_shared_f32_x2(unsigned from, host::Site site = host::Site::current()) {
  return host::load<float2>(from, site);
}
inline unsigned read_shared(unsigned from, host::Site site = host::Site::current()) {
  return host::load<unsigned>(from, site);
}
inline int2 read_shared_x2(unsigned from, host::Site site = host::Site::current()) {
  return host::load<int2>(from, site);
}
inline void add_global_x4(float* to, float a, float b, float c, float d) {
  to[0] += a, to[1] += b, to[2] += c, to[3] += d;
}
inline void wait_global(const int* from, int value) {
  while (*from != value) host::yield();
}
inline void store_release(int* to, int value) {
  *to = value;
}
inline unsigned read_thread_index() {
  return threadIdx.x;
}
inline unsigned read_block_index() {
  return blockIdx.x;
}
inline unsigned anew(unsigned x) {
  return x;
}
