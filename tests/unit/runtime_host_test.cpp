// host_cpu.h, half.h, driver_report.h.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "runtime/driver_report.h"
#include "runtime/error.h"
#include "runtime/half.h"
#include "runtime/host_cpu.h"
#include "tests/unit/runtime_temporary.h"

namespace attune::runtime {
namespace {

using test::ScopedVariable;

TEST(HostCpu, NativeHasANameAndSortedFeatures) {
  const HostCpu cpu = native_cpu();
  EXPECT_NE(cpu.name, "");
  EXPECT_TRUE(has_feature(cpu, "sse2"));
  EXPECT_FALSE(has_feature(cpu,
                           "sse"
                           "x"));
  EXPECT_FALSE(has_feature({"x", "+avx512f,-avx2"}, "avx2"));
  EXPECT_FALSE(has_feature({"x", "+avx512f,-avx2"}, "avx"));
  EXPECT_TRUE(has_feature({"x", "+avx512f,-avx2"}, "avx512f"));
  EXPECT_EQ(cpu.features, native_cpu().features);
}

TEST(HostCpu, TheEnvironmentNamesALevel) {
  {
    const ScopedVariable plain("ATTUNE_CPU", "x86-64");
    EXPECT_EQ(host_cpu().name, "x86-64");
    EXPECT_EQ(host_cpu().features, "");
  }
  for (const char* value : {"", "native"}) {
    const ScopedVariable variable("ATTUNE_CPU", value);
    EXPECT_EQ(host_cpu().name, native_cpu().name);
    EXPECT_EQ(host_cpu().features, native_cpu().features);
  }
}

TEST(HostCpu, AnUnknownLevelIsAnError) {
  const ScopedVariable variable("ATTUNE_CPU", "x86-64-v9");
  try {
    host_cpu();
    ADD_FAILURE() << "nothing thrown";
  } catch (const EnvironmentError& error) {
    EXPECT_STREQ(error.what(), "ATTUNE_CPU: expected x86-64, x86-64-v3, x86-64-v4 or native, found 'x86-64-v9'");
  }
}

TEST(HostCpu, ALevelThatTheHostLacksIsAnError) {
  const HostCpu native = native_cpu();
  const ScopedVariable variable("ATTUNE_CPU", "x86-64-v4");
  if (has_feature(native, "avx512f")) {
    EXPECT_EQ(host_cpu().name, "x86-64-v4");
    return;
  }
  try {
    host_cpu();
    ADD_FAILURE() << "nothing thrown";
  } catch (const EnvironmentError& error) {
    EXPECT_EQ(error.what(), fmt::format("ATTUNE_CPU: 'x86-64-v4' needs avx512f, which this processor, {}, lacks", native.name));
  }
}

TEST(Cores, QuotaRoundsUp) {
  EXPECT_EQ(cores_of_quota("200000 100000"), 2);
  EXPECT_EQ(cores_of_quota("150000 100000"), 2);
  EXPECT_EQ(cores_of_quota("1000 100000"), 1);
  EXPECT_EQ(cores_of_quota("max 100000"), 0);
  EXPECT_EQ(cores_of_quota("-1 100000"), 0);
  EXPECT_EQ(cores_of_quota(""), 0);
  EXPECT_EQ(cores_of_quota("100000"), 0);
  EXPECT_EQ(cores_of_quota("100000 0"), 0);
  EXPECT_GE(available_cores(), 1);
}

TEST(Half, EveryF16ReadsBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = f32_of_f16(half);
    if (std::isnan(value)) {
      EXPECT_TRUE((half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0) << bits;
      EXPECT_TRUE(std::isnan(f32_of_f16(f16_of_f32(value)))) << bits;
    } else {
      EXPECT_EQ(f16_of_f32(value), half) << bits;
    }
  }
}

TEST(Half, KnownValues) {
  EXPECT_EQ(f32_of_f16(0x3c00), 1.0f);
  EXPECT_EQ(f32_of_f16(0xc000), -2.0f);
  EXPECT_EQ(f32_of_f16(0x0001), 0x1p-24f);
  EXPECT_EQ(f32_of_f16(0x7bff), 65504.0f);
  EXPECT_EQ(f16_of_f32(65519.0f), 0x7bff);
  EXPECT_EQ(f16_of_f32(65520.0f), 0x7c00);
  EXPECT_EQ(f16_of_f32(-INFINITY), 0xfc00);
  EXPECT_EQ(f16_of_f32(0x1p-25f), 0x0000);  // a tie goes to even
  EXPECT_EQ(f16_of_f32(0x1.8p-24f), 0x0002);
  EXPECT_EQ(f16_of_f32(1 + 0x1p-11f), 0x3c00);
  EXPECT_EQ(f16_of_f32(1 + 0x1.8p-10f), 0x3c02);
  EXPECT_EQ(f32_of_bf16(0x3f80), 1.0f);
  EXPECT_EQ(bf16_of_f32(1 + 0x1p-8f), 0x3f80);
  EXPECT_EQ(bf16_of_f32(1 + 0x1.8p-7f), 0x3f82);
  EXPECT_EQ(bf16_of_f32(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(f32_of_bf16(bf16_of_f32(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(f32_of_f16(f16_of_f32(std::bit_cast<float>(0xff800001u)))));
}

// The nearest of the two neighbours, the even one at a tie, found without looking at bits.
uint16_t nearest(float value, float (*widen)(uint16_t), uint16_t below) {
  const auto above = static_cast<uint16_t>(below + 1);
  const double down = std::abs(static_cast<double>(value) - widen(below)), up = std::abs(widen(above) - static_cast<double>(value));
  if (down != up) return down < up ? below : above;
  return below % 2 == 0 ? below : above;
}

TEST(Half, NarrowingRoundsToTheNearest) {
  std::mt19937 random(7);
  for (int i = 0; i < 100000; ++i) {
    const auto below16 = static_cast<uint16_t>(random() % 0x7bff);
    const float a = f32_of_f16(below16), b = f32_of_f16(static_cast<uint16_t>(below16 + 1));
    const float between = a + (b - a) * static_cast<float>(random() % 9) / 8;
    EXPECT_EQ(f16_of_f32(between), nearest(between, f32_of_f16, below16)) << between;
    EXPECT_EQ(f16_of_f32(-between), nearest(between, f32_of_f16, below16) | 0x8000) << between;
    const auto below_b = static_cast<uint16_t>(0x0080 + random() % 0x7e00);
    const float c = f32_of_bf16(below_b), d = f32_of_bf16(static_cast<uint16_t>(below_b + 1));
    const float middle = c + (d - c) * static_cast<float>(random() % 9) / 8;
    EXPECT_EQ(bf16_of_f32(middle), nearest(middle, f32_of_bf16, below_b)) << middle;
  }
}

TEST(DriverReport, SaysWhatWasTriedOrFound) {
  const GpuReport report = report_gpus();
  EXPECT_NE(report.driver.path, "");
  EXPECT_NE(report.nvrtc.path, "");
  if (!report.driver.found) {
    EXPECT_EQ(report.driver.path, "libcuda.so.1");
    EXPECT_TRUE(report.gpus.empty());
  }
}

TEST(DriverReport, ItsOwnVariableIsTriedFirst) {
  const ScopedVariable variable("ATTUNE_NVRTC", "/nonexistent/libnvrtc.so");
  const FoundLibrary nvrtc = report_gpus().nvrtc;
  if (!nvrtc.found) {
    EXPECT_EQ(nvrtc.path.rfind("/nonexistent/libnvrtc.so, libnvrtc.so.13, libnvrtc.so.12", 0), 0u) << nvrtc.path;
  }
}

}  // namespace
}  // namespace attune::runtime
