// Names for what CUDA C++ has without a header.
#define DEVICE __device__ __forceinline__
#define GRID_CONSTANT __grid_constant__

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

constexpr float kInfinity = __builtin_bit_cast(float, 0x7F800000);
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr int kWarp = 32;
constexpr int kWarpgroup = 128;

using Raw = u16;  // an element of 16 bits in memory

// What cuTensorMapEncodeTiled makes.
struct alignas(64) TensorMap {
  u64 words[16];
};

// Keys [begin, end).
struct KeyRange {
  int begin, end;
};

// How a program's mask is known before pairs are looked at.
enum class Mask { kAll, kRange, kSearch };
enum class TileClass { kSkip, kPartial, kFull };
// How scores become weights. kSigmoid: weight = sigmoid_log2(exponent2).
enum class Weight { kSoftmax, kSigmoid, kGeneral };
