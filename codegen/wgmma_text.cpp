#include "codegen/wgmma_text.h"

#include <fmt/format.h>

#include <string_view>

namespace attune::codegen {
namespace {

// `count` operands "%0, %1, ..." as pieces of a string, and their constraints on the array `d`: lines that hang below an asm.
struct Operands {
  std::string places, constraints;
};

Operands operands(int count, std::string_view constraint) {
  constexpr int kPlacesOfLine = 20, kConstraintsOfLine = 8;
  Operands result;
  for (int i = 0; i < count; ++i) {
    const bool is_last = i + 1 == count;
    if (i % kPlacesOfLine == 0) result.places += "      \"";
    result.places += fmt::format("%{}{}", i, is_last ? "" : ", ");
    if (is_last || i % kPlacesOfLine == kPlacesOfLine - 1) result.places += "\"\n";
    if (i % kConstraintsOfLine == 0) result.constraints += i == 0 ? "" : "\n        ";
    result.constraints += fmt::format("\"{}\"(d[{}]){}", constraint, i,
                                      is_last                                            ? ""
                                      : i % kConstraintsOfLine == kConstraintsOfLine - 1 ? ","
                                                                                         : ", ");
  }
  return result;
}

// D (+)= A B, both operands from shared memory, A with its rows of 16-bit elements along the product's inner dimension; B also, or across.
std::string from_shared(std::string_view name, int n, std::string_view type, bool is_first, bool is_b_across = false) {
  const Operands d = operands(n / 2, is_first ? "=f" : "+f");
  return fmt::format(
      "DEVICE void {0}(float (&d)[{1}], u64 a, u64 b) {{\n"
      "  asm volatile(\"{{.reg .pred accumulates; setp.ne.b32 accumulates, {2}, 0;\"\n"
      "      \"wgmma.mma_async.sync.aligned.m64n{3}k16.f32.{4}.{4} {{\"\n{5}      \"}}, %{6}, %{7}, accumulates, 1, 1, 0, {8};}}\"\n"
      "      : {9} : \"l\"(a), \"l\"(b));\n}}\n",
      name, n / 2, is_first ? 0 : 1, n, type, d.places, n / 2, n / 2 + 1, is_b_across ? 1 : 0, d.constraints);
}

// D += A B, A from registers, B from shared memory with its rows across the inner dimension.
std::string from_registers(std::string_view name, int n, std::string_view type) {
  const Operands d = operands(n / 2, "+f");
  return fmt::format(
      "DEVICE void {0}(float (&d)[{1}], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {{\n"
      "  asm volatile(\"wgmma.mma_async.sync.aligned.m64n{2}k16.f32.{3}.{3} {{\"\n{4}      \"}}, {{%{5}, %{6}, %{7}, %{8}}}, %{9}, 1, 1, "
      "1, 1;\"\n"
      "      : {10} : \"r\"(a0), \"r\"(a1), \"r\"(a2), \"r\"(a3), \"l\"(b));\n}}\n",
      name, n / 2, n, type, d.places, n / 2, n / 2 + 1, n / 2 + 2, n / 2 + 3, n / 2 + 4, d.constraints);
}

// Waits until no more than `pending` groups are in flight; what it names is not touched before.
std::string wait(std::string_view name, int n, int pending) {
  return fmt::format(
      "DEVICE void {}(float (&d)[{}]) {{\n  asm volatile(\"wgmma.wait_group.sync.aligned {};\"\n      : {} :: \"memory\");\n}}\n", name,
      n / 2, pending, operands(n / 2, "+f").constraints);
}

// A branch that is never taken and that ptxas cannot see through: what computes `d` stays above what follows.
std::string stay_above(int n) {
  return fmt::format(
      "DEVICE void stay_above(float (&d)[{0}], int count) {{\n"
      "  asm volatile(\"{{.reg .pred done, usual; setp.ne.s32 usual, %{0}, -77; @usual bra ON;\"\n"
      "      \"AGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%{0}], 0; @!done bra AGAIN; ON:}}\"\n"
      "      : {1} : \"r\"(count) : \"memory\");\n}}\n",
      n / 2, operands(n / 2, "+f").constraints);
}

}  // namespace

std::string wgmma_forward_text(const GpuKernelOptions& options, const GpuConfig& config) {
  const std::string_view type = options.dtype == dsl::ElementType::kF16 ? "f16" : "bf16";
  const int columns = (options.v_dim + 15) / 16 * 16;
  return from_shared("wgmma_qk_first", config.block_n, type, true) + from_shared("wgmma_qk", config.block_n, type, false) +
         from_registers("wgmma_pv", columns, type) + wait("wait_qk", config.block_n, 0) + wait("wait_qk_under_pv", config.block_n, 1) +
         wait("wait_pv", columns, 0) + stay_above(config.block_n);
}

std::string wgmma_backward_text(const GpuKernelOptions& options, const GpuConfig& config) {
  const std::string_view type = options.dtype == dsl::ElementType::kF16 ? "f16" : "bf16";
  constexpr int kChunk = 64;
  const bool is_split = 64 * config.warpgroups > config.block_n;  // two warpgroups share the columns of dK and dV, in whole chunks
  const auto columns = [&](int dim) {
    const int chunks = (dim + kChunk - 1) / kChunk;
    return is_split ? (chunks + 1) / 2 * kChunk : (dim + 15) / 16 * 16;
  };
  return from_shared("wgmma_scores_first", config.block_m, type, true) + from_shared("wgmma_scores", config.block_m, type, false) +
         from_registers("wgmma_dv", columns(options.v_dim), type) + from_registers("wgmma_dk", columns(options.head_dim), type) +
         from_shared("wgmma_dq_first", kChunk, type, true, true) + from_shared("wgmma_dq", kChunk, type, false, true);
}

}  // namespace attune::codegen
