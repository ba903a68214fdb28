// Gradients of parameters: sums of threads, and what becomes of them in memory.

// By all lanes of a warp: adds up what they have.
DEVICE void add_of_warp(float* to, float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  if (threadIdx.x % kWarp == 0 && value != 0.0f) add_global(to, value);
}

// What has come for one address since another one did.
struct RunningSum {
  float* to = nullptr;
  float sum = 0.0f;

  DEVICE void add(float* at, float value) {
    if (at != to) flush();
    to = at;
    sum += value;
  }
  DEVICE void flush() {
    if (sum != 0.0f) add_global(to, sum);
    sum = 0.0f;
  }
};

// Zeros in a tensor of `count` elements, by all threads of a grid.
template <int kRank>
DEVICE void clear_strided(float* tensor, const i64 (&stride)[kRank], const int (&size)[kRank], i64 count, i64 thread, i64 threads) {
  for (i64 i = thread; i < count; i += threads) {
    i64 at = 0, rest = i;
#pragma unroll
    for (int axis = kRank - 1; axis >= 0; --axis) {
      at += rest % size[axis] * stride[axis];
      rest /= size[axis];
    }
    tensor[at] = 0.0f;
  }
}
