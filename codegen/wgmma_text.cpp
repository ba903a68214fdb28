#include "codegen/wgmma_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>

namespace attune::codegen {
namespace {

constexpr int kStep = 16;  // of the inner dimension, in one instruction

// Where the steps of an operand begin in shared memory, in the descriptor's units of 16 bytes.
struct Operand {
  int rows;  // its inner dimension runs along rows of 64 columns, of which so many lie before the next 64 columns; 0: it runs across rows
  bool is_across() const { return rows == 0; }
  int offset(int step) const { return (is_across() ? step * 2048 : step / 4 * rows * 128 + step % 4 * 32) / 16; }
};
constexpr Operand kAcross = {0};

// D of 64 rows and `columns` columns, in f32.
struct Product {
  std::string_view name, type;  // of the function, of the operands
  int columns, inner;
  int count() const { return columns / 2; }  // registers of D
  int steps() const { return (inner + kStep - 1) / kStep; }
};

// The registers of an accumulator, as macros: every instruction names them all. `hold`: what is computed from them is not moved above it.
std::string accumulator(int count) {
  constexpr int kOfLine = 16;
  std::string places, registers;
  for (int i = 0; i < count; ++i) {
    const bool starts = i % kOfLine == 0, ends = i % kOfLine == kOfLine - 1 && i + 1 < count;
    places += fmt::format("{}%{}{}", starts ? "  \"" : "", i, i + 1 == count ? "\"\n" : ends ? ", \" \\\n" : ", ");
    registers += fmt::format("{}kind(d[{}]){}", starts ? "  " : "", i, i + 1 == count ? "\n" : ends ? ", \\\n" : ", ");
  }
  return fmt::format(
      "#define PLACES_{0} \\\n{1}#define REGISTERS_{0}(kind) \\\n{2}"
      "DEVICE void hold(float (&d)[{0}]) {{\n  asm volatile(\"\" : REGISTERS_{0}(\"+f\") :: \"memory\");\n}}\n",
      count, places, registers);
}

// A product is one asm: each one that names an accumulator costs the compiler as much time as the arithmetic around it.
std::string instruction(const Product& product) {
  return fmt::format("wgmma.mma_async.sync.aligned.m64n{0}k16.f32.{1}.{1} {{\" PLACES_{2} \"}}", product.columns, product.type,
                     product.count());
}

std::string steps_from_shared(const Product& product, Operand a, Operand b) {
  const int count = product.count();
  std::string steps;
  for (int i = 0; i < product.steps(); ++i) {
    steps += fmt::format("      \"add.s64 a, %{}, {}; add.s64 b, %{}, {}; {}, a, b, {}, 1, 1, {:d}, {:d};\"\n", count, a.offset(i),
                         count + 1, b.offset(i), instruction(product), i == 0 ? "none" : "1", a.is_across(), b.is_across());
  }
  return steps;
}

// D = A B, both from shared memory.
std::string from_shared(const Product& product, Operand a, Operand b) {
  const int count = product.count();
  return fmt::format(
      "DEVICE void {}(float (&d)[{}], u64 a, u64 b) {{\n"
      "  asm volatile(\"{{.reg .b64 a, b; .reg .pred none; setp.ne.b32 none, 0, 0; wgmma.fence.sync.aligned;\"\n"
      "{}      \"wgmma.commit_group.sync.aligned;}}\"\n"
      "      : REGISTERS_{}(\"=f\") : \"l\"(a), \"l\"(b) : \"memory\");\n}}\n",
      product.name, count, steps_from_shared(product, a, b), count);
}

// The same, if `does` is not 0, which is the same for a warpgroup; else D stays as it is, and the group of products is empty. Without the
// second fence ptxas adds one (C7519).
std::string from_shared_if(const Product& product, Operand a, Operand b) {
  const int count = product.count();
  return fmt::format(
      "DEVICE void {}_if(int does, float (&d)[{}], u64 a, u64 b) {{\n"
      "  asm volatile(\"{{.reg .b64 a, b; .reg .pred none, skips; setp.ne.b32 none, 0, 0; setp.eq.s32 skips, %{}, 0;\"\n"
      "      \"@skips bra.uni NONE; wgmma.fence.sync.aligned;\"\n"
      "{}      \"wgmma.commit_group.sync.aligned; bra.uni END; NONE: wgmma.fence.sync.aligned; wgmma.commit_group.sync.aligned; END:}}\"\n"
      "      : REGISTERS_{}(\"+f\") : \"l\"(a), \"l\"(b), \"r\"(does) : \"memory\");\n}}\n",
      product.name, count, count + 2, steps_from_shared(product, a, b), count);
}

// D += A B, A from registers, B from shared memory; D = A B if `accumulates` is 0.
std::string from_registers(const Product& product, Operand b) {
  const int count = product.count(), words = 4 * product.steps();
  std::string steps, operands;
  for (int i = 0; i < product.steps(); ++i) {
    const int place = count + 4 * i;
    steps += fmt::format("      \"add.s64 b, %{}, {}; {}, {{%{}, %{}, %{}, %{}}}, b, {}, 1, 1, {:d};\"\n", count + words, b.offset(i),
                         instruction(product), place, place + 1, place + 2, place + 3, i == 0 ? "adds" : "1", b.is_across());
    operands += fmt::format("\"r\"(w[{}]), \"r\"(w[{}]), \"r\"(w[{}]), \"r\"(w[{}]),{}", 4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3,
                            i % 2 == 0 ? " " : "\n        ");
  }
  return fmt::format(
      "DEVICE void {}(float (&d)[{}], const u32 (&w)[{}], u64 b, int accumulates = 1) {{\n"
      "  asm volatile(\"{{.reg .b64 b; .reg .pred adds; setp.ne.s32 adds, %{}, 0; wgmma.fence.sync.aligned;\"\n"
      "{}      \"wgmma.commit_group.sync.aligned;}}\"\n"
      "      : REGISTERS_{}(\"+f\")\n      : {}\"l\"(b), \"r\"(accumulates) : \"memory\");\n}}\n",
      product.name, count, words, count + words + 1, steps, count, operands);
}

// A branch that is never taken and that ptxas cannot see through: what computes `d` stays above what follows.
std::string stay_above(int count) {
  return fmt::format(
      "DEVICE void stay_above(float (&d)[{0}], int count) {{\n"
      "  asm volatile(\"{{.reg .pred done, usual; setp.ne.s32 usual, %{0}, -77; @usual bra ON;\"\n"
      "      \"AGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%{0}], 0; @!done bra AGAIN; ON:}}\"\n"
      "      : REGISTERS_{0}(\"+f\") : \"r\"(count) : \"memory\");\n}}\n",
      count);
}

std::string accumulators(const std::set<int>& counts) {
  std::string text;
  for (const int count : counts) text += accumulator(count);
  return text;
}

}  // namespace

std::string wgmma_forward_text(const GpuKernelOptions& options, const GpuConfig& config) {
  const std::string_view type = options.dtype == dsl::ElementType::kF16 ? "f16" : "bf16";
  const Product qk = {"products_qk", type, config.block_n, options.head_dim};
  const Product pv = {"products_pv", type, (options.v_dim + 15) / 16 * 16, config.block_n};
  return accumulators({qk.count(), pv.count()}) + from_shared(qk, {64}, {config.block_n}) + from_registers(pv, kAcross) +
         stay_above(qk.count());
}

std::string wgmma_backward_text(const GpuKernelOptions& options, const GpuConfig& config) {
  const std::string_view type = options.dtype == dsl::ElementType::kF16 ? "f16" : "bf16";
  constexpr int kChunk = 64;
  const bool is_split = 64 * config.warpgroups > config.block_n;  // two warpgroups share the columns of dK and dV, in whole chunks
  const auto columns = [&](int dim) {
    const int chunks = (dim + kChunk - 1) / kChunk;
    return is_split ? (chunks + 1) / 2 * kChunk : (dim + 15) / 16 * 16;
  };
  const Product s = {"products_s", type, config.block_m, options.head_dim}, dp = {"products_dp", type, config.block_m, options.v_dim};
  const Product dv = {"products_dv", type, columns(options.v_dim), config.block_m};
  constexpr int kSumColumns = 8;
  const Product dk = {"products_dk", type, columns(options.head_dim) + (config.sums ? kSumColumns : 0), config.block_m};
  const Product dq = {"products_dq", type, std::min(config.block_m, kChunk), config.block_n};
  const Operand keys = {config.block_n}, queries = {config.block_m};
  // Of few queries, 64 columns of the head are the rows of the product, and not all warpgroups take part in the last one.
  const std::string products_dq = config.block_m < kChunk ? from_shared(dq, kAcross, queries) + from_shared_if(dq, kAcross, queries)
                                                          : from_shared(dq, queries, kAcross);
  return accumulators({s.count(), dv.count(), dk.count(), dq.count()}) + from_shared(s, keys, queries) + from_shared(dp, keys, queries) +
         from_registers(dv, kAcross) + from_registers(dk, kAcross) + products_dq + stay_above(s.count());
}

}  // namespace attune::codegen
