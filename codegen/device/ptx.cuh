// One instruction a function. Shared-memory addresses are 32-bit, of the shared window.

DEVICE u32 shared_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

DEVICE int load_shared(u32 from) {
  int value;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
  return value;
}
DEVICE void store_shared(u32 to, int value) {
  asm volatile("st.shared.s32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}
DEVICE int4 load_shared_x4(u32 from) {
  int4 value;
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];" : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(from) : "memory");
  return value;
}
DEVICE void store_shared_x4(u32 to, int4 value) {
  asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w) : "memory");
}
DEVICE int add_shared(u32 to, int value) {
  int before;
  asm volatile("atom.shared.add.s32 %0, [%1], %2;" : "=r"(before) : "r"(to), "r"(value) : "memory");
  return before;
}

// Special-function unit: 16 results a cycle and multiprocessor. exp2: 2 ulp; tanh: absolute error 2^-10.9.
DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float tanh_approx(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The greatest of three, for each half as an unsigned number: also for floats >= 0, NaN being the greatest.
DEVICE u32 max_u16x2(u32 a, u32 b, u32 c) {
  u32 ab, y;
  asm("max.u16x2 %0, %1, %2;" : "=r"(ab) : "r"(a), "r"(b));
  asm("max.u16x2 %0, %1, %2;" : "=r"(y) : "r"(ab), "r"(c));
  return y;
}

// Two numbers of 16 bits in a register, the first in the low half.
struct F16 {
  static constexpr float kGreatest = 65504.0f;
  static constexpr u32 kOneThirtySecond = 0x2800;

  static DEVICE u32 pack(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
  }
  static DEVICE float2 unpack(u32 x) {
    float2 y;
    asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(y.x), "=f"(y.y) : "r"(x));
    return y;
  }
  static DEVICE u32 minus_square(u32 x) {  // x - x * x
    u32 y;
    asm("{.reg .b32 n; neg.f16x2 n, %1; fma.rn.f16x2 %0, n, %1, %1;}" : "=r"(y) : "r"(x));
    return y;
  }
};
struct BF16 {
  static constexpr float kGreatest = 0x1.FEp127f;
  static constexpr u32 kOneThirtySecond = 0x3D00;

  static DEVICE u32 pack(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
  }
  static DEVICE float2 unpack(u32 x) { return {__uint_as_float(x << 16), __uint_as_float(x & 0xFFFF0000)}; }
  static DEVICE u32 minus_square(u32 x) {  // x - x * x
    u32 y;
    asm("{.reg .b32 n; neg.bf16x2 n, %1; fma.rn.bf16x2 %0, n, %1, %1;}" : "=r"(y) : "r"(x));
    return y;
  }
};
