// What the Hopper skeletons share: places in shared memory, rings of barriers, operands of the tensor cores.

// How often a ring of barriers was passed: the place in it, and the parity to wait for; who fills the ring waits for the other one.
template <int kPlaces>
struct Ring {
  u32 count;
  DEVICE u32 place() const { return count % kPlaces; }
  DEVICE u32 parity() const { return count / kPlaces % 2; }
  DEVICE void next() { ++count; }
};

// Lane 0 arrives for its warp, behind a __syncwarp. A race finder that follows each thread's own arrivals only takes that for a race.
#ifdef ATTUNE_RACECHECK
constexpr int kArrivalsOfWarp = kWarp;
#else
constexpr int kArrivalsOfWarp = 1;
#endif

struct Places {
  u32 base;  // of shared memory
  DEVICE u32 operator()(int offset) const { return base + offset; }
  DEVICE u32 operator()(int offset, int place) const { return base + offset + 8 * place; }
};

// Operands in shared memory with 128-byte swizzle, from 1024-aligned places on: address, leading and stride offset in units of 16 bytes.
DEVICE u64 k_major(u32 address) {
  return static_cast<u64>((address & 0x3FFFF) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
DEVICE u64 mn_major(u32 address, u32 leading) {
  return static_cast<u64>((address & 0x3FFFF) >> 4) | static_cast<u64>(leading >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

// Waits until no more than `kPending` groups of products are in flight; what it names is not touched before.
template <int kPending, typename... Accumulators>
DEVICE void wait_products(Accumulators&... accumulators) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  (hold(accumulators), ...);
}
