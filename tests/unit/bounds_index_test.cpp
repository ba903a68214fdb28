#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "bounds_checker.h"
#include "codegen/index_bounds.h"

namespace attune::codegen {
namespace {

Ir build_program(const std::string& params, const std::string& score, const std::string& mask = "true",
                 const std::string& weights = "softmax(score)") {
  return build("attention test(" + params + ") {\n  score = " + score + "\n  mask = " + mask + "\n  weights = " + weights + "\n}\n");
}

// The messages, one a line.
std::string problems(const Ir& ir, const Sizes& sizes, const std::map<std::string, double>& scalars = {}, const Sizes* longest = nullptr) {
  std::string text;
  const auto scalar = [&](int param) {
    const auto found = scalars.find(ir.params[param].name);
    if (found == scalars.end()) throw std::logic_error("asked for '" + ir.params[param].name + "'");
    return found->second;
  };
  for (const IndexProblem& problem : check_indices(ir, sizes, scalar, longest)) {
    text += problem.message + "\n";
    EXPECT_EQ(problem.message.rfind("'" + ir.params[problem.param].name + "': index " + std::to_string(problem.axis) + " ", 0), 0u);
  }
  return text;
}

Sizes sizes_of(int q_len, int k_len, int heads = 4, int batch = 2) {
  return {.batch = batch, .heads = heads, .kv_heads = 2, .q_len = q_len, .k_len = k_len, .head_dim = 8, .v_dim = 8};
}

TEST(IndexBounds, ReadsOfIndicesThemselves) {
  const Ir ir = build_program("a: f32[batch, heads], c: f32[kv_heads, q_len, k_len]", "qk * a[b, h] + c[kv_h, q_idx, k_idx]");
  EXPECT_EQ(problems(ir, sizes_of(5, 9)), "");
}

TEST(IndexBounds, UniformIndex) {
  const Ir ir = build_program("slopes: f32[4]", "qk * slopes[h]");
  EXPECT_EQ(problems(ir, sizes_of(5, 9, 4)), "");
  EXPECT_EQ(problems(ir, sizes_of(5, 9, 8)), "'slopes': index 0 can be 0..7, its dim has size 4\n");
  // Also where no pair is kept: it is read once for all of them.
  const Ir empty = build_program("slopes: f32[4]", "qk * slopes[h]", "k_idx < 0");
  EXPECT_EQ(problems(empty, sizes_of(5, 9, 8)), "'slopes': index 0 can be 0..7, its dim has size 4\n");
}

TEST(IndexBounds, TheMaskCutsDistances) {
  const std::string params = "t: f32[heads, k_len]";
  const std::string score = "qk + t[h, q_pos - k_pos]";
  EXPECT_EQ(problems(build_program(params, score, "k_pos <= q_pos"), sizes_of(5, 9)), "");
  EXPECT_EQ(problems(build_program(params, score, "not (k_pos > q_pos) and k_idx >= 0"), sizes_of(9, 5)), "");
  EXPECT_EQ(problems(build_program(params, score), sizes_of(5, 9)), "'t': index 1 can be -4..8, its dim has size 9\n");
  EXPECT_EQ(problems(build_program(params, score, "k_pos <= q_pos + 2"), sizes_of(5, 9)),
            "'t': index 1 can be -2..8, its dim has size 9; for pairs that the mask may keep\n");
  EXPECT_EQ(problems(build_program(params, score, "k_pos <= q_pos and (k_idx < 2 or q_pos - k_pos < 3)"), sizes_of(5, 9)), "");
  // A union is looked at part by part.
  const std::string window = "t: f32[heads, 6]";
  EXPECT_EQ(problems(build_program(window, score, "q_pos - k_pos >= 0 and q_pos - k_pos < 6"), sizes_of(50, 90)), "");
  EXPECT_EQ(problems(build_program(window, score, "k_idx < 2 or q_pos - k_pos >= 0 and q_pos - k_pos < 6"), sizes_of(5, 9)),
            "'t': index 1 can be 0..8, its dim has size 6; for pairs that the mask may keep\n");
}

TEST(IndexBounds, ScalarsAndConstants) {
  const std::string params = "w: i32, t: f32[16]";
  const Ir ir = build_program(params, "qk + t[q_idx - k_idx + w]", "abs(q_idx - k_idx) <= w");
  EXPECT_EQ(problems(ir, sizes_of(50, 50), {{"w", 7}}), "");
  EXPECT_EQ(problems(ir, sizes_of(50, 50), {{"w", 8}}),
            "'t': index 0 can be 0..16, its dim has size 16; for pairs that the mask may keep\n");
  const Ir relative = build_program("w: const i32 = 5, t: f32[2 * w - 1]", "qk + t[clamp(q_idx - k_idx, 1 - w, w - 1) + w - 1]");
  EXPECT_EQ(problems(relative, sizes_of(50, 50)), "");
  const Ir wide = build_program("w: const i32 = 5, t: f32[2 * w - 1]", "qk + t[clamp(q_idx - k_idx, -w, w) + w]");
  EXPECT_EQ(problems(wide, sizes_of(50, 50)), "'t': index 0 can be 0..10, its dim has size 9\n");
  const Ir float_window = build_program("w: f32, t: f32[16]", "qk + t[q_idx - k_idx]", "k_idx <= q_idx and q_idx - k_idx < w");
  EXPECT_EQ(problems(float_window, sizes_of(50, 50), {{"w", 15.5}}), "");
  EXPECT_EQ(problems(float_window, sizes_of(50, 50), {{"w", 16.5}}),
            "'t': index 0 can be 0..16, its dim has size 16; for pairs that the mask may keep\n");
  EXPECT_EQ(problems(float_window, sizes_of(50, 50), {{"w", NAN}}),
            "'t': index 0 can be 0..49, its dim has size 16; for pairs that the mask may keep\n");
}

TEST(IndexBounds, ReadsInTheMaskAreForAllPairs) {
  const Ir ir = build_program("doc: i32[batch, k_len]", "qk", "k_idx <= q_idx and doc[b, q_idx] == doc[b, k_idx]");
  EXPECT_EQ(problems(ir, sizes_of(9, 9)), "");
  EXPECT_EQ(problems(ir, sizes_of(9, 5)), "'doc': index 1 can be 0..8, its dim has size 5; the mask reads it for all pairs\n");
  // Shared with the score: once.
  const Ir both = build_program("t: f32[heads, k_len]", "qk + t[h, q_idx - k_idx]", "k_idx <= q_idx and t[h, q_idx - k_idx] > 0");
  EXPECT_EQ(problems(both, sizes_of(9, 9)), "'t': index 1 can be -8..8, its dim has size 9; the mask reads it for all pairs\n");
}

TEST(IndexBounds, SinkWeightsAndFactor) {
  EXPECT_EQ(problems(build_program("s: f32[3]", "qk", "true", "softmax(score, sink = s[h])"), sizes_of(5, 9)),
            "'s': index 0 can be 0..3, its dim has size 3\n");
  EXPECT_EQ(problems(build_program("s: f32[3]", "qk", "true", "softmax(score) * s[b + 2]"), sizes_of(5, 9)),
            "'s': index 0 can be 2..3, its dim has size 3\n");
  EXPECT_EQ(problems(build_program("s: f32[3]", "qk", "k_idx < 3", "sigmoid(score) * s[k_idx]"), sizes_of(5, 9)), "");
}

TEST(IndexBounds, Blocks) {
  const Ir ir = build_program("t: f32[4, 4]", "qk + t[q_idx // 16, k_idx % 4]");
  EXPECT_EQ(problems(ir, sizes_of(64, 100)), "");
  EXPECT_EQ(problems(ir, sizes_of(65, 100)), "'t': index 0 can be 0..4, its dim has size 4\n");
}

TEST(IndexBounds, WrappingIsNotTrusted) {
  const Ir ir = build_program("n: i32, t: f32[8]", "qk + t[q_idx + n]", "q_idx + n < 8 and q_idx + n >= 0");
  EXPECT_EQ(problems(ir, sizes_of(100, 8), {{"n", -50}}), "");
  EXPECT_EQ(problems(ir, sizes_of(100, 8), {{"n", 2147483600}}),
            "'t': index 0 can be -2147483648..2147483647, its dim has size 8; for pairs that the mask may keep\n");
}

TEST(IndexBounds, WhatDependsOnDataIsLeftToTheKernel) {
  const Ir ir = build_program("page: i32[k_len], t: f32[8]", "qk + t[page[k_idx]]");
  EXPECT_EQ(problems(ir, sizes_of(9, 9)), "");
  const Ir bad_inside = build_program("page: i32[k_len], t: f32[8]", "qk + t[page[q_idx]]");
  EXPECT_EQ(problems(bad_inside, sizes_of(9, 5)), "'page': index 0 can be 0..8, its dim has size 5\n");
}

TEST(IndexBounds, DataDependence) {
  const std::string params = "page: i32[k_len], n: i32, x: f32, g: grad f32, t: f32[8]";
  const auto is_dependent = [&](const std::string& index) {
    const Ir ir = build_program(params, "qk + t[" + index + "]");
    ValueId result = kNoValue;
    for (ValueId id = 0; id < ir.graph.size(); ++id) {
      if (ir.graph[id].op == Op::k_read && ir.params[ir.graph[id].index].name == "t") result = ir.graph[id].operands[0];
    }
    return is_data_dependent(ir.graph, result);
  };
  for (const char* index :
       {"h", "q_idx - k_idx", "clamp(q_pos - k_pos, 0, n)", "k_idx // 4 % 8", "i32(floor(k_idx / 4))", "i32(k_idx * 0.25)",
        "where(k_idx < n, 1, 2)", "n", "k_idx ** 2", "i32(bit(k_idx, 1))", "i32(max(k_idx, 3) / 2)"}) {
    EXPECT_FALSE(is_dependent(index)) << index;
  }
  for (const char* index : {"page[k_idx]", "min(page[k_idx], 7)", "i32(log(k_idx))", "i32(x * k_idx)", "i32(g)", "i32(sqrt(k_idx))",
                            "i32(random(3) * 8)", "i32(qk)", "i32(k_idx / f32(n))", "min(i32(4 + log(k_idx / 4) / log(2) * 2), 7)",
                            "where(page[k_idx] > 0, 1, 2)", "i32(exp(-k_idx))"}) {
    EXPECT_TRUE(is_dependent(index)) << index;
  }
}

// T5's buckets: exact up to 4, then by the logarithm, which is not known here.
TEST(IndexBounds, RelativeBuckets) {
  const Ir ir =
      build_program("t: f32[heads, 8]",
                    "qk + t[h, where(q_idx - k_idx < 4, max(q_idx - k_idx, 0), min(4 + i32(log(max(q_idx - k_idx, 1) / 4) * 2), 7))]");
  EXPECT_EQ(problems(ir, sizes_of(64, 64)), "");
}

TEST(IndexBounds, GradScalarsAreNotAskedFor) {
  const Ir ir = build_program("g: grad f32, t: f32[k_len]", "qk * g + t[k_idx]", "k_idx < g");
  EXPECT_EQ(problems(ir, sizes_of(5, 5)), "");
}

TEST(IndexBounds, UnknownScalarsMayBeAnything) {
  const Ir mask = build_program("n: i32, flag: bool, t: f32[3]", "qk + t[k_idx]", "k_idx < n and not flag");
  const std::string all = "'t': index 0 can be 0..4, its dim has size 3; for pairs that the mask may keep\n";
  EXPECT_EQ(problems(mask, sizes_of(5, 5), {{"n", 2}, {"flag", 0}}), "");
  EXPECT_EQ(problems(mask, sizes_of(5, 5), {{"n", NAN}, {"flag", 0}}), all);
  EXPECT_EQ(problems(mask, sizes_of(5, 5), {{"n", 5}, {"flag", NAN}}), all);
  const Ir index = build_program("n: i32, t: f32[3]", "qk + t[n]");
  EXPECT_EQ(problems(index, sizes_of(5, 5), {{"n", NAN}}), "'t': index 0 can be -2147483648..2147483647, its dim has size 3\n");
}

TEST(IndexBounds, NoPairsNoReads) {
  const Ir ir = build_program("t: f32[2]", "qk + t[k_idx]");
  EXPECT_EQ(problems(ir, sizes_of(5, 0)), "");
  EXPECT_EQ(problems(ir, sizes_of(0, 5)), "");
  EXPECT_EQ(problems(ir, sizes_of(5, 5)), "'t': index 0 can be 0..4, its dim has size 2\n");
  const Ir never = build_program("n: i32, t: f32[2]", "qk + t[k_idx]", "n > 3");
  EXPECT_EQ(problems(never, sizes_of(5, 5), {{"n", 3}}), "");
}

TEST(IndexBounds, PackedDimsAreOfTheLongest) {
  const Ir ir = build_program("doc: i32[k_len]", "qk", "doc[q_idx] == doc[k_idx]");
  const Sizes longest = sizes_of(9, 9);
  EXPECT_EQ(problems(ir, sizes_of(9, 5), {}, &longest), "");
}

// Against the indices themselves, pair by pair.
TEST(IndexBounds, RandomAffineIndicesAndMasks) {
  int accepted = 0, refused = 0, refused_in_vain = 0;
  for (uint32_t seed = 0; seed < 600; ++seed) {
    std::mt19937 rng(seed);
    const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
    const auto affine = [&] { return fmt::format("{} * q_idx + {} * k_idx + {}", draw(-2, 2), draw(-2, 2), draw(-6, 6)); };
    std::string mask;
    for (int i = draw(1, 4); i-- > 0;) {
      const char* comparisons[] = {">=", "<", "==", "!=", "<="};
      mask += fmt::format("{}({} {} {})",
                          mask.empty() ? ""
                          : draw(0, 3) ? " and "
                                       : " or ",
                          affine(), comparisons[draw(0, 4)], draw(-6, 6));
    }
    const std::string index = draw(0, 1) ? affine() : fmt::format("clamp({}, 0, {}) // 2", affine(), draw(3, 12));
    const Ir ir = build_program("t: f32[6]", "qk + t[" + index + "]", mask);
    const Sizes sizes = sizes_of(draw(1, 8), draw(1, 8));
    const bool is_accepted = problems(ir, sizes).empty();
    ValueId value = kNoValue;
    for (ValueId id = 0; id < ir.graph.size(); ++id) {
      if (ir.graph[id].op == Op::k_read) value = ir.graph[id].operands[0];
    }
    class Pair : public Env {
     public:
      Pair(int q, int k) : q_(q), k_(k) {}
      double symbol(Symbol symbol) const override {
        return symbol == Symbol::kQIdx ? q_ : symbol == Symbol::kKIdx ? k_ : Env::symbol(symbol);
      }

     private:
      int q_, k_;
    };
    Interpreter interpreter(ir.graph, {ir.mask, value});
    bool leaves = false;
    for (int q = 0; q < sizes.q_len; ++q) {
      for (int k = 0; k < sizes.k_len; ++k) {
        const std::span<const double> values = interpreter(Pair(q, k));
        leaves = leaves || (values[0] != 0 && (values[1] < 0 || values[1] >= 6));
      }
    }
    ASSERT_FALSE(is_accepted && leaves) << "seed " << seed << ": t[" << index << "], mask " << mask;
    accepted += is_accepted;
    refused += leaves;
    refused_in_vain += !is_accepted && !leaves;
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
  EXPECT_LT(refused_in_vain, 60);
}

}  // namespace
}  // namespace attune::codegen
