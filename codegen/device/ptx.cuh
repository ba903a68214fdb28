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
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(from)
               : "memory");
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

DEVICE void add_global(float* to, float value) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(to), "f"(value) : "memory");
}

// Only if the condition is not 0, as data and not as a branch.
DEVICE void add_global_if(int adds, float* to, float value) {
  asm volatile("{.reg .pred adds; setp.ne.s32 adds, %2, 0; @adds red.relaxed.gpu.global.add.f32 [%0], %1;}" ::"l"(to), "f"(value), "r"(adds)
               : "memory");
}
DEVICE void add_global_if(int adds, i64* to, i64 value) {
  asm volatile("{.reg .pred adds; setp.ne.s32 adds, %2, 0; @adds red.relaxed.gpu.global.add.u64 [%0], %1;}" ::"l"(to), "l"(value), "r"(adds)
               : "memory");
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

// Two numbers of 16 bits in a register, the first in the low half.
struct F16 {
  static constexpr float kGreatest = 65504.0f;

  static DEVICE u32 pack(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
  }
  static DEVICE float2 unpack(u32 x) {
    float2 y;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}" : "=f"(y.x), "=f"(y.y) : "r"(x));
    return y;
  }
};
struct BF16 {
  static constexpr float kGreatest = 0x1.FEp127f;

  static DEVICE u32 pack(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
  }
  static DEVICE float2 unpack(u32 x) { return {__uint_as_float(x << 16), __uint_as_float(x & 0xFFFF0000u)}; }
};
