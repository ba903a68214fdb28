// What is emitted of every example, around plain loops and with the skeletons for sm_80, compiled for the CPU and compared with double
// precision: no GPU is needed to find a wrong Variant or index.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <span>

#include "codegen/lower.h"
#include "codegen/pair_sums.h"
#include "example_files.h"
#include "random_program.h"
#include "run_case.h"
#include "tests/gpu/backward_case.h"
#include "tests/gpu/variant_case.h"
#include "tests/unit/cuda_util.h"
#include "tests/unit/golden_file.h"
#include "tests/unit/host_kernels.h"

namespace attune::codegen {
namespace {

TEST(CudaOnHost, EveryExampleAroundPlainLoops) {
  ASSERT_GE(variant_programs().size(), 20u);
  HostKernels host;
  const unsigned first_seed = std::random_device{}();
  unsigned number = 0;
  for (const std::filesystem::path& path : variant_programs()) {
    const unsigned seed = first_seed + number++;
    GpuKernelOptions options;
    options.dtype = seed % 2 == 0 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16;
    options.packed = seed % 4 >= 2;
    options.head_dim = 16;
    options.v_dim = 8;
    SCOPED_TRACE(fmt::format("{}{}, seed {}", path.string(), options.packed ? ", packed" : "", seed));
    VariantCase one(read_file(path), options, seed);
    host.run(one.kernel.source, one.plan, one.tensors);
    const VariantCase::Errors errors = one.errors(2);
    EXPECT_LT(errors.out, options.dtype == dsl::ElementType::kF16 ? 6e-4 : 3e-3);
    EXPECT_LT(errors.lse.value_or(0), 2e-5);
    EXPECT_FALSE(errors.is_flagged);
  }
}

// Sizes that the planner gives splits, heads of a key head in one tile, warps that share keys, and what has none of them.
struct SmallCase {
  const char* program;
  VariantSizes sizes;
  bool packed = false;
};
constexpr SmallCase kSmall[] = {
    {"causal", {4, 4, 1, 300}},        {"sink", {8, 2, 1, 700}, true}, {"alibi", {8, 1, 2, 400}},
    {"flash_sigmoid", {8, 2, 9, 300}}, {"documents", {6, 2, 30, 300}}, {"window", {2, 2, 100, 300}, true},
    {"dropout", {4, 2, 70, 70}, true}, {"softmax", {8, 2, 3, 1}},      {"relu_squared", {4, 1, 16, 300}},
};

TEST(CudaOnHost, SmallProblems) {
  HostKernels host;
  const unsigned first_seed = std::random_device{}();
  for (const SmallCase& small : kSmall) {
    const unsigned seed = first_seed + static_cast<unsigned>(&small - kSmall);
    const VariantSizes& sizes = small.sizes;
    GpuKernelOptions options;
    options.arch = "sm_80";
    options.dtype = seed % 2 == 0 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16;
    options.packed = small.packed;
    options.head_dim = 24;
    options.v_dim = 40;
    VariantCase one(read_file(source_folder() / "examples" / fmt::format("{}.attn", small.program)), options, seed, sizes, true);
    SCOPED_TRACE(fmt::format("{}{}, seed {}, {} heads of {}, q_len {}, k_len {}: {} splits, {} heads a tile, {} warps a row", small.program,
                             options.packed ? ", packed" : "", seed, sizes.heads, sizes.kv_heads, sizes.q_len, sizes.k_len,
                             one.config.splits, one.config.tile_heads, one.config.key_warps));
    EXPECT_GE(one.config.splits, 1);
    EXPECT_TRUE(host.run(one.kernel.source, one.plan, one.tensors, HostThreads::kWarps, 2)) << "other bits in another order of CTAs";
    const VariantCase::Errors errors = one.errors(2);
    EXPECT_LT(errors.out, options.dtype == dsl::ElementType::kF16 ? 1.5e-3 : 8e-3);
    EXPECT_LT(errors.lse.value_or(0), 2e-5);
    EXPECT_FALSE(errors.is_flagged);
  }
}

// The skeleton for Hopper: several tiles to a CTA, masks of all kinds, searched ones with gaps, what feeders bring, heads of a tile and a
// half, lengths that are no multiple of a tile.
struct HopperCase {
  const char* program;
  int head_dim, v_dim;
  VariantSizes sizes;
  bool packed = false;
};
constexpr HopperCase kHopper[] = {
    {"causal", 64, 64, {2, 1, 450, 450, 2}},       {"flash_sigmoid", 64, 64, {2, 2, 330, 700, 1}},
    {"softmax", 128, 128, {1, 1, 300, 250, 1}},    {"documents", 64, 64, {2, 1, 300, 400, 2}},
    {"window", 64, 64, {1, 1, 300, 300, 1}, true}, {"causal", 192, 128, {1, 1, 280, 290, 1}},
    {"dense_bias", 64, 64, {1, 1, 200, 264, 1}},   {"relu_squared", 96, 96, {1, 1, 260, 260, 1}, true},
};

TEST(CudaOnHost, HopperForward) {
  HostKernels host;
  const unsigned first_seed = std::random_device{}();
  for (const HopperCase& one_case : kHopper) {
    const unsigned seed = first_seed + static_cast<unsigned>(&one_case - kHopper);
    GpuKernelOptions options;
    options.dtype = seed % 2 == 0 ? dsl::ElementType::kF16 : dsl::ElementType::kBF16;
    options.packed = one_case.packed;
    options.head_dim = one_case.head_dim;
    options.v_dim = one_case.v_dim;
    VariantCase one(read_file(source_folder() / "examples" / fmt::format("{}.attn", one_case.program)), options, seed, one_case.sizes,
                    true);
    SCOPED_TRACE(fmt::format("{}{}, seed {}, head_dim {}, tiles of {} by {}", one_case.program, options.packed ? ", packed" : "", seed,
                             options.head_dim, one.config.forward_rows(), one.config.block_n));
    ASSERT_EQ(one.config.skeleton, GpuSkeleton::kSm90);
    EXPECT_TRUE(host.run(one.kernel.source, one.plan, one.tensors, HostThreads::kHopper, 2)) << "other bits in another order of CTAs";
    const VariantCase::Errors errors = one.errors(2);
    EXPECT_LT(errors.out, options.dtype == dsl::ElementType::kF16 ? 6e-4 : 3e-3);
    EXPECT_LT(errors.lse.value_or(0), 2e-5);
    EXPECT_FALSE(errors.is_flagged);
  }
}

uint64_t number_of(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// Programs of tests/numeric/random_program.h follow the examples. ATTUNE_RANDOM_SEED is the first seed, ATTUNE_RANDOM_COUNT how many
// follow.
std::string backward_failure(HostKernels& host, const numeric::Case& c, const std::optional<GpuConfig>& own = std::nullopt,
                             bool deterministic = false) {
  const HostThreads threads = !own ? HostThreads::kAlone : own->skeleton == GpuSkeleton::kSm90 ? HostThreads::kHopper : HostThreads::kWarps;
  for (size_t i = 0; i < c.problems.size(); ++i) {
    numeric::BackwardCase one(c, i, own, deterministic);
    const bool is_same = host.run(one.kernel.source, one.plan, one.tensors, threads, deterministic ? 3 : 1);
    if (!is_same) return fmt::format("problem {}: other bits in another order of CTAs\n{}\n{}", i, numeric::describe(c), c.text);
    if (const auto failure = one.failure()) return fmt::format("problem {}: {}\n{}\n{}", i, *failure, numeric::describe(c), c.text);
  }
  return "";
}

numeric::Case backward_case(const numeric::Example& example, uint64_t seed) {
  numeric::Case c;
  c.text = example.text;
  c.constants = example.constants;
  c.seed = seed;
  c.dtype = seed % 2 == 0 ? DType::kF16 : DType::kBF16;
  c.head_dim = 16;
  c.v_dim = 8;
  const int length = example.any_lengths ? 57 : example.length, k_length = example.any_lengths ? 70 : example.length;
  c.problems = {{4, 2, false, {length, length}, {k_length, k_length}}};
  if (example.any_lengths && seed % 4 >= 2) c.problems = {{2, 1, true, {33, 0, 40}, {20, 7, 65}}};
  return c;
}

TEST(CudaOnHost, EveryExampleBackwardAroundPlainLoops) {
  HostKernels host;
  uint64_t seed = std::random_device{}();
  for (const numeric::Example& example : numeric::load_examples()) {
    EXPECT_EQ(backward_failure(host, backward_case(example, ++seed)), "") << example.name;
  }
}

// Both forms of sin and cos with their derivatives, arguments of several turns; powers that are no small whole numbers, odd ones of
// negative numbers among them.
TEST(CudaOnHost, SinesAndPowersBackward) {
  HostKernels host;
  numeric::Example waves;
  waves.name = "waves";
  waves.any_lengths = true;
  waves.text =
      "attention waves() {\n  let x = qk * rsqrt(head_dim)\n  let y = sin(20 * x) / 20 + (1 + x ** 2) ** -0.75 - (1 + abs(x)) ** 0.3\n"
      "  score = cos(3 * x) + y + (x / 2) ** 17 / (1 + x ** 18)\n  weights = softmax(score)\n}\n";
  uint64_t seed = std::random_device{}();
  for (int i = 0; i < 2; ++i) EXPECT_EQ(backward_failure(host, backward_case(waves, ++seed)), "");
}

TEST(CudaOnHost, DeterministicBackwardAroundPlainLoops) {
  HostKernels host;
  uint64_t seed = number_of("ATTUNE_RANDOM_SEED", std::random_device{}());
  for (const numeric::Example& example : numeric::load_examples()) {
    if (example.text.find("grad ") == std::string::npos) continue;
    EXPECT_EQ(backward_failure(host, backward_case(example, ++seed), std::nullopt, true), "") << example.name;
  }
}

// Masks in closed form and searched ones, with gaps; more blocks of keys than a word has bits, key heads that query heads share, sequences
// of which some have no key or no query.
TEST(CudaOnHost, TurnsOfBlocksOfQueries) {
  const std::pair<const char*, const char*> programs[] = {
      {"all", "attention all() {\n  score = qk\n  weights = softmax(score)\n}\n"},
      {"causal", "attention causal() {\n  score = qk\n  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n"},
      {"window", "attention window() {\n  score = qk\n  mask = k_pos <= q_pos and q_pos - k_pos < 100\n  weights = softmax(score)\n}\n"},
      {"global keys",
       "attention global() {\n  score = qk\n  mask = k_idx < 70 or abs(q_idx - k_idx) < 90\n  weights = softmax(score)\n}\n"},
      {"far keys", "attention far() {\n  score = qk\n  mask = abs(q_idx - k_idx) > 300\n  weights = softmax(score)\n}\n"},
      {"nothing", "attention nothing() {\n  score = qk\n  mask = k_idx < 0\n  weights = softmax(score)\n}\n"},
      {"some keys", "attention some() {\n  score = qk\n  mask = (k_idx // 64 + q_idx // 64) % 3 == 0\n  weights = softmax(score)\n}\n"},
      {"few keys", "attention few() {\n  score = qk\n  mask = k_idx // 64 % 41 == q_idx // 64 % 3\n  weights = softmax(score)\n}\n"},
      {"by key",
       "attention by_key(open: u8[k_len]) {\n  score = qk\n  mask = open[k_idx // 64 * 64] > 127 and k_pos <= q_pos\n  weights = "
       "softmax(score)\n}\n"},
  };
  HostKernels host;
  uint64_t seed = number_of("ATTUNE_RANDOM_SEED", std::random_device{}());
  for (const auto& [name, text] : programs) {
    for (const bool packed : {false, true}) {
      numeric::Case c;
      c.text = text;
      c.seed = ++seed;
      c.dtype = DType::kBF16;
      c.head_dim = c.v_dim = 8;
      c.problems = {packed ? numeric::ProblemShape{2, 1, true, {300, 0, 40, 65}, {500, 7, 0, 64}}
                           : numeric::ProblemShape{2, 1, false, {400}, {2500}}};
      auto one = numeric::BackwardCase::of_turns(c, 0);
      host.run(one.kernel.source, one.plan, one.tensors, HostThreads::kWarps);
      EXPECT_TRUE(one.has_right_turns()) << name << (packed ? ", packed" : "");
    }
  }
}

GpuConfig sm80_backward_config(int warps, int block_m, int stages) {
  GpuConfig config;
  config.skeleton = GpuSkeleton::kSm80;
  config.warpgroups = warps;
  config.block_m = block_m;
  config.block_n = 16 * warps;
  config.stages = stages;
  return config;
}

// The skeleton itself, of which these are the greatest programs: a search, a table, sinks and slopes, dropout.
TEST(CudaOnHost, BackwardSkeletonOfSm80) {
  struct Tiles {
    int head_dim, v_dim, warps, block_m, stages;
  };
  HostKernels host;
  uint64_t seed = number_of("ATTUNE_RANDOM_SEED", std::random_device{}());
  for (const auto& [name, tiles] : {std::pair<const char*, Tiles>("causal", {16, 16, 2, 32, 2}),
                                    {"t5_bias", {40, 24, 2, 16, 1}},
                                    {"capped", {24, 33, 1, 32, 3}},
                                    {"documents", {32, 32, 2, 16, 2}},
                                    {"window", {200, 144, 1, 16, 1}},
                                    {"flash_sigmoid", {64, 64, 4, 32, 2}},
                                    {"dense_bias", {16, 16, 1, 16, 2}},
                                    {"sink", {16, 8, 2, 16, 2}},
                                    {"dilated", {16, 16, 1, 16, 1}}}) {
    for (const numeric::Example& example : numeric::load_examples()) {
      if (example.name != name) continue;
      numeric::Case c = backward_case(example, ++seed);
      c.head_dim = tiles.head_dim;
      c.v_dim = tiles.v_dim;
      EXPECT_EQ(backward_failure(host, c, sm80_backward_config(tiles.warps, tiles.block_m, tiles.stages)), "") << name;
    }
  }
}

TEST(CudaOnHost, DeterministicBackwardSkeletonOfSm80) {
  HostKernels host;
  uint64_t seed = number_of("ATTUNE_RANDOM_SEED", std::random_device{}());
  for (const char* name : {"alibi", "t5_bias", "sink", "dense_bias"}) {
    for (const numeric::Example& example : numeric::load_examples()) {
      if (example.name != name) continue;
      EXPECT_EQ(backward_failure(host, backward_case(example, ++seed), sm80_backward_config(2, 16, 2), true), "") << name;
    }
  }
}

// Gradients that are sums over dS, in all forms: a slope, a factor of qk, a bias of all heads; two at once, and one that is none of them.
constexpr const char* kSlopes =
    "attention slopes(gain: grad f32 = 0.9, slopes: grad f32[heads]) {\n  score = gain * qk * rsqrt(head_dim) - slopes[h] * (q_pos - "
    "k_pos)\n"
    "  mask = k_pos <= q_pos\n  weights = softmax(score)\n}\n";
constexpr const char* kBiases =
    "attention biases(bias: grad f32 = -1, of_heads: grad f32[heads], of_keys: grad f32[k_len], scale: grad f32 = 2) {\n"
    "  score = qk / scale + bias + 0.5 * of_heads[h] + of_keys[k_idx] - (k_idx - q_idx) * of_heads[h] * 0.01\n  weights = "
    "sigmoid(score)\n}\n";

// Steps of all kinds: plain ones, the first and last, where the mask cuts, another head of the group; gradients of parameters.
struct HopperBackward {
  std::string program;  // of the examples, or its text
  int head_dim, v_dim;
  numeric::ProblemShape shape;
  bool deterministic = false;
};
void expect_hopper_backward(std::span<const HopperBackward> cases, bool persistent) {
  HostKernels host;
  uint64_t seed = number_of("ATTUNE_RANDOM_SEED", std::random_device{}());
  for (const HopperBackward& one : cases) {
    std::vector<numeric::Example> programs = numeric::load_examples();
    if (one.program.starts_with("attention ")) programs = {{one.program, one.program, {}}};
    for (const numeric::Example& example : programs) {
      if (example.name != one.program) continue;
      numeric::Case c = backward_case(example, ++seed);
      c.head_dim = one.head_dim;
      c.v_dim = one.v_dim;
      c.problems = {one.shape};
      GpuKernelOptions options = gpu_options(c.head_dim);
      options.v_dim = c.v_dim;
      options.deterministic = one.deterministic;
      GpuConfig config = backward_tiles(lower(numeric::reference_ir(c, numeric::HeadDims::kConstant)), options);
      config.persistent = persistent && can_persist(options, config);
      EXPECT_EQ(config.persistent, persistent) << one.program;
      EXPECT_EQ(backward_failure(host, c, config, one.deterministic), "") << one.program << ", seed " << seed;
    }
  }
}
TEST(CudaOnHost, HopperBackward) {
  // Tensors by pair that the copy engine brings, and gradients with an element for each pair.
  const std::string pairs =
      "attention pairs(bias: grad bf16[heads, q_len, k_len], more: grad f32[q_len, k_len], fixed: f16[batch, q_len, k_len]) {\n"
      "  score = qk * 0.2 + bias[h, q_idx, k_idx] - 0.5 * more[q_idx, k_idx] + fixed[b, q_idx, k_idx]\n  mask = k_pos <= q_pos + 20\n"
      "  weights = softmax(score)\n}\n";
  const std::string twice =
      "attention twice(w: f16[2, q_len, k_len]) {\n  score = qk * w[0, q_idx, k_idx] * 0.2 + w[1, q_idx, k_idx]\n  weights = "
      "softmax(score)\n}\n";
  const HopperBackward cases[] = {
      {"dense_bias", 64, 64, {2, 1, false, {150}, {140}}},
      {"dense_bias", 128, 128, {1, 1, false, {70}, {260}}, true},
      {twice, 64, 64, {2, 1, false, {140}, {160}}},
      {pairs, 64, 64, {4, 2, false, {200}, {160}}},
      {pairs, 128, 128, {2, 1, false, {100}, {88}}},
      {kSlopes, 64, 64, {4, 2, false, {280}, {300}}},
      {kSlopes, 128, 128, {2, 1, true, {150, 0, 90}, {140, 20, 30}}},
      {kSlopes, 64, 64, {2, 1, false, {150}, {150}}, true},
      {kBiases, 64, 128, {2, 1, false, {150}, {140}}},
      {kBiases, 96, 96, {1, 1, false, {70}, {90}}, true},
      {"causal", 64, 64, {2, 1, false, {300}, {300}}},
      {"flash_sigmoid", 64, 64, {1, 1, false, {280}, {350}}, true},
      {"softmax", 128, 128, {1, 1, false, {200}, {150}}, true},
      {"documents", 64, 64, {1, 1, false, {260}, {260}}, true},
      {"window", 64, 64, {2, 2, true, {200, 0, 130}, {180, 7, 140}}},
      {"alibi", 64, 64, {2, 1, false, {150}, {150}}, true},
      {"relu_squared", 96, 96, {1, 1, false, {140}, {200}}},
      {"causal", 192, 128, {1, 1, false, {150}, {140}}, true},
      {"causal", 192, 128, {2, 1, false, {173}, {173}}},
      {"alibi", 192, 128, {2, 1, true, {70, 0, 101}, {90, 3, 150}}, true},
      {"softmax", 128, 192, {1, 1, false, {75}, {131}}},
      {"documents", 192, 128, {1, 1, false, {150}, {150}}, true},
      {"window", 64, 200, {1, 1, true, {45, 70}, {60, 75}}},
      {"t5_bias", 136, 136, {2, 2, false, {70}, {70}}},
      {"flash_sigmoid", 192, 64, {1, 1, false, {150}, {140}}, true},
      {"causal", 192, 192, {1, 1, false, {150}, {140}}, true},
      {"alibi", 256, 72, {2, 1, false, {70}, {90}}, true},  // two warpgroups have the same pairs
      {"t5_bias", 168, 160, {2, 2, false, {70}, {70}}},
  };
  expect_hopper_backward(cases, false);
}

// Several tiles to each of two CTAs: of one step and of many, without a pair that is kept, of heads that share keys; behind the last one.
TEST(CudaOnHost, PersistentHopperBackward) {
  const HopperBackward cases[] = {
      {"causal", 64, 64, {4, 2, false, {300}, {300}}},        {"causal", 128, 128, {2, 1, false, {173}, {391}}},
      {"softmax", 64, 64, {3, 3, false, {130}, {200}}},       {"softmax", 128, 128, {2, 2, false, {70}, {300}}},
      {"softmax", 128, 128, {1, 1, false, {60}, {300}}},      {"softmax", 64, 64, {2, 2, false, {100}, {300}}},
      {"flash_sigmoid", 64, 64, {2, 1, false, {280}, {350}}}, {"flash_sigmoid", 128, 128, {1, 1, false, {290}, {290}}},
      {"window", 64, 64, {2, 2, false, {300}, {300}}},        {"window", 96, 96, {2, 1, false, {300}, {420}}},
      {"causal", 96, 96, {2, 1, false, {250}, {250}}},        {"documents", 64, 64, {1, 1, false, {400}, {400}}},
      {"relu_squared", 64, 128, {1, 1, false, {140}, {500}}}, {kBiases, 64, 64, {2, 1, false, {150}, {300}}},
      {"t5_bias", 64, 64, {2, 1, false, {300}, {300}}},       {"causal", 64, 64, {1, 1, false, {60}, {60}}},
  };
  expect_hopper_backward(cases, true);
}

// A kernel without one of its fences or waits, or that gives something back before all have read it.
struct Mutant {
  std::string original, changed;
  const char* message;
};
void expect_races(numeric::ProblemShape shape, bool persistent, std::span<const Mutant> mutants) {
  numeric::Case c;
  c.text = "attention all() {\n  score = qk * 0.125\n  weights = softmax(score)\n}\n";
  c.dtype = DType::kBF16;
  c.head_dim = c.v_dim = 64;
  c.problems = {std::move(shape)};
  GpuConfig config;
  config.warpgroups = 2;
  config.block_m = 64;
  config.block_n = 128;
  config.persistent = persistent;
  HostKernels host;
  for (const auto& [original, changed, message] : mutants) {
    numeric::BackwardCase one(c, 0, config);
    std::string source = one.kernel.source;
    const size_t place = source.find(original);
    ASSERT_NE(place, std::string::npos) << original;
    source.replace(place, original.size(), changed);
    EXPECT_DEATH(host.run(source, one.plan, one.tensors, HostThreads::kHopper), message) << original;
  }
}

TEST(CudaOnHostDeathTest, RacesAreFound) {
  const Mutant mutants[] = {
      {"    fence_async_proxy();\n    __syncwarp();\n    release(", "    __syncwarp();\n    release(", "no fence of proxies"},
      {"wait_products<1>(dk);", "wait_products<2>(dk);", "a race.* copies at barrier .* writes .* products of warp .* read"},
      {"wait_products<0>(dq);\n      if (i == L::kUnitsOfOne - 1) release(", "if (i == L::kUnitsOfOne - 1) release(",
       "a race.* writes .* products of warp .* read"},
  };
  expect_races({1, 1, false, {520}, {128}}, false, mutants);
}

TEST(CudaOnHostDeathTest, RacesBetweenTilesAreFound) {
  const char* const stores = "a race.* copies at barrier .* writes .* bulk stores of warp .* read";
  const Mutant mutants[] = {
      {"if (lane == 0) tma_store_wait_read();\n      release(", "release(", stores},
      {"      mbarrier_wait(at(L::kDrained, t.place()), Ring<L::kPlacesK>{t.count - 1}.parity());\n", "", "a race"},
      {"    if constexpr (Config::kPersistent) fence_async_proxy();", "", "no fence of proxies"},
      {"      mbarrier_wait(at(L::kReadK), (t.count + 1) % 2);", "", "a race.* writes .* products of warp .* read"},
      {"      mbarrier_wait(at(L::kFullV, t.place()), t.parity());\n", "", "a race"},
      {"wait_products<1>(dq, dv, dk);\n", "wait_products<2>(dq, dv, dk);\n", "a race.* writes .* products of warp .* read"},
      {"if (i == L::kUnitsOfOne - 1) release(at(L::kEmptyS, late.place()));", "", "nothing happens any more"},
  };
  expect_races({2, 2, false, {64}, {600}}, true, mutants);
}

TEST(CudaOnHost, RandomProgramsBackwardAroundPlainLoops) {
  HostKernels host;
  const uint64_t first = number_of("ATTUNE_RANDOM_SEED", std::random_device{}()), count = number_of("ATTUNE_RANDOM_COUNT", 10);
  numeric::RandomOptions options;
  options.greatest_len = 80;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    numeric::Case c = numeric::random_case(seed, options).whole();
    if (c.dtype == DType::kF32) c.dtype = DType::kBF16;
    EXPECT_EQ(backward_failure(host, c), "") << "ATTUNE_RANDOM_SEED=" << seed;
    // The emulated skeleton takes its time.
    if (seed % 5 != 0) continue;
    EXPECT_EQ(backward_failure(host, c, sm80_backward_config(1 + seed / 5 % 2, 16, 1 + seed / 10 % 3)), "")
        << "ATTUNE_RANDOM_SEED=" << seed;
  }
}

// By the planner's own tiles; each takes seconds.
TEST(CudaOnHost, RandomProgramsHopperBackward) {
  HostKernels host;
  const uint64_t first = number_of("ATTUNE_RANDOM_SEED", std::random_device{}()), count = number_of("ATTUNE_RANDOM_COUNT", 10) / 8 + 1;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    numeric::Case c = numeric::random_case(seed, {}).whole();
    if (c.dtype == DType::kF32) c.dtype = DType::kBF16;
    c.head_dim = c.v_dim = seed % 3 == 0 ? 128 : 64;
    for (numeric::ProblemShape& shape : std::vector(c.problems)) {
      c.problems = {shape};
      GpuKernelOptions options = gpu_options(c.head_dim);
      options.packed = shape.packed;
      const Lowered lowered = lower(numeric::reference_ir(c, numeric::HeadDims::kConstant));
      EXPECT_EQ(backward_failure(host, c, backward_tiles(lowered, options)), "") << "ATTUNE_RANDOM_SEED=" << seed;
    }
  }
}

}  // namespace
}  // namespace attune::codegen
