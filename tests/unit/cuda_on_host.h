// What generated CUDA needs to be C++ of the host: keywords, built-in functions and the vocabulary's PTX. A warp has one lane, and threads
// run one after the other, unless cuda_warps_on_host.h includes this.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __global__
#define __launch_bounds__(...)

struct Index {
  unsigned x = 0, y = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};

using std::floor;  // of floats, too
using std::max;
using std::min;
inline long long min(long long a, int b) {
  return std::min(a, static_cast<long long>(b));
}
inline float __uint_as_float(unsigned x) {
  return std::bit_cast<float>(x);
}
inline float __int_as_float(int x) {
  return std::bit_cast<float>(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}
#ifndef HOST_WARPS
inline unsigned long __cvta_generic_to_shared(const void*) {
  return 0;
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int) {
  return x;
}
#endif

inline void add_global(float* to, float value) {
  *to += value;
}
template <typename T>
void add_global_if(int adds, T* to, T value) {
  if (adds) *to += value;
}
inline float exp2_approx(float x) {
  return std::exp2(x);
}
inline float log2_approx(float x) {
  return std::log2(x);
}
inline float reciprocal_approx(float x) {
  return 1 / x;
}
inline float tanh_approx(float x) {
  return std::tanh(x);
}
inline float nan_min(float a, float b) {
  return a != a || b != b ? a + b : std::min(a, b);
}
inline float nan_max(float a, float b) {
  return a != a || b != b ? a + b : std::max(a, b);
}
inline int to_i32(double x) {
  return x != x ? 0 : static_cast<int>(std::trunc(std::clamp(x, -2147483648.0, 2147483647.0)));
}
inline int to_i32(float x) {
  return to_i32(static_cast<double>(x));
}

// Elements of 16 bits.
inline float load_f16(const unsigned short* at) {
  _Float16 x;
  std::memcpy(&x, at, sizeof(x));
  return static_cast<float>(x);
}
struct F16 {
  static constexpr float kGreatest = 65504.0f;
  static unsigned pack(float low, float high) {
    const auto a = static_cast<_Float16>(low), b = static_cast<_Float16>(high);
    return std::bit_cast<unsigned short>(a) | static_cast<unsigned>(std::bit_cast<unsigned short>(b)) << 16;
  }
  static float2 unpack(unsigned x) {
    const unsigned short low = static_cast<unsigned short>(x), high = static_cast<unsigned short>(x >> 16);
    return {load_f16(&low), load_f16(&high)};
  }
};
struct BF16 {
  static constexpr float kGreatest = 0x1.FEp127f;
  static unsigned bits(float x) {
    const auto word = std::bit_cast<unsigned>(x);
    return x != x ? 0x7FC0 : (word + 0x7FFF + (word >> 16 & 1)) >> 16;
  }
  static unsigned pack(float low, float high) { return bits(low) | bits(high) << 16; }
  static float2 unpack(unsigned x) { return {std::bit_cast<float>(x << 16), std::bit_cast<float>(x & 0xFFFF0000u)}; }
};

namespace host {

// A grid of CTAs, which come in an order of that seed.
struct Launch {
  unsigned x, y, threads, shared_bytes, seed;
};

template <typename Function>
void for_each_cta(const Launch& launch, const Function& run_cta) {
  gridDim = {launch.x, launch.y};
  blockDim.x = launch.threads;
  std::vector<unsigned> order(static_cast<size_t>(launch.x) * launch.y);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937 random(launch.seed);
  std::shuffle(order.begin(), order.end(), random);
  for (const unsigned number : order) {
    blockIdx = {number % launch.x, number / launch.x};
    run_cta();
  }
}

#ifndef HOST_WARPS
template <typename Function>
void run(const Launch& launch, const Function& thread) {
  for_each_cta(launch, [&] {
    for (threadIdx.x = 0; threadIdx.x < launch.threads; ++threadIdx.x) thread();
  });
}
#endif

}  // namespace host
