#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bounds_checker.h"
#include "codegen/simplify.h"

namespace attune::codegen {
namespace {

using Kind = MaskBounds::Kind;

std::string_view kind_name(Kind kind) {
  return kind == Kind::kAll ? "all" : kind == Kind::kRange ? "range" : "tile map";
}

struct MaskCase {
  std::string params;
  std::string mask;
  Kind kind;
  std::map<std::string, std::vector<double>> scalars = {};  // values to try
};

const std::vector<double> kInts = {0, 1, 5, -3, 17, 1e9, -2147483648.0, 2147483647.0};
const std::vector<double> kFloats = {0, 2.5, 5, -3, 1e9, 3e7, -INFINITY, INFINITY, NAN};

const std::vector<MaskCase>& cases() {
  static const std::vector<MaskCase> list = {
      // Nothing to do.
      {"", "true", Kind::kAll},
      {"", "k_idx >= 0", Kind::kAll},
      {"", "k_idx >= 0 or q_idx == 3", Kind::kAll},
      {"", "not (q_idx < 0)", Kind::kAll},
      {"", "false", Kind::kRange},
      // Causal, aligned at the end or the start, strict, and its complement.
      {"", "k_pos <= q_pos", Kind::kRange},
      {"", "q_pos >= k_pos", Kind::kRange},
      {"", "k_idx <= q_idx", Kind::kRange},
      {"", "k_pos < q_pos", Kind::kRange},
      {"", "not (k_pos <= q_pos)", Kind::kRange},
      {"", "k_pos > q_pos + 2", Kind::kRange},
      {"", "q_pos - k_pos >= 0", Kind::kRange},
      // Windows.
      {"window: const i32 = 6", "q_pos - k_pos >= 0 and q_pos - k_pos < window", Kind::kRange},
      {"window: i32", "q_pos - k_pos >= 0 and q_pos - k_pos < window", Kind::kRange, {{"window", kInts}}},
      {"window: f32", "k_pos <= q_pos and q_pos - k_pos < window", Kind::kRange, {{"window", kFloats}}},
      {"window: f32", "k_pos <= q_pos and not (q_pos - k_pos >= window)", Kind::kRange, {{"window", kFloats}}},
      {"window: f32", "window > k_pos - q_pos", Kind::kRange, {{"window", kFloats}}},
      {"window: i32", "abs(q_pos - k_pos) <= window", Kind::kRange, {{"window", kInts}}},
      {"window: i32", "abs(q_pos - k_pos) > window", Kind::kRange, {{"window", kInts}}},
      {"window: f32", "abs(q_pos - k_pos) <= window * 0.5", Kind::kRange, {{"window", kFloats}}},
      {"window: f32", "abs(f32(q_pos - k_pos)) <= window", Kind::kRange, {{"window", kFloats}}},
      {"window: i32", "k_pos > q_pos - window and k_pos <= q_pos", Kind::kRange, {{"window", kInts}}},
      {"", "max(q_pos - k_pos, 2 * k_pos - q_pos) < 9", Kind::kRange},
      {"", "min(q_pos - k_pos, k_pos) < 4", Kind::kRange},
      {"", "clamp(q_pos - k_pos, 0, 8) < 5", Kind::kRange},
      {"", "clamp(q_pos - k_pos, 0, 8) >= 3", Kind::kRange},
      // Prefix, sinks, unions.
      {"prefix: i32", "k_pos < prefix or k_pos <= q_pos", Kind::kRange, {{"prefix", kInts}}},
      {"", "k_idx < 4 or q_pos - k_pos < 6", Kind::kRange},
      {"", "k_pos <= q_pos and (k_idx < 4 or q_pos - k_pos < 6)", Kind::kRange},
      {"", "(k_idx < 4 and q_idx < 4) or (k_idx >= 9 and q_idx >= 9)", Kind::kRange},
      {"n: i32", "(k_idx < n and q_idx < n) or (k_idx >= n and q_idx >= n)", Kind::kRange, {{"n", kInts}}},
      // Rows or columns alone, and neither.
      {"n: i32", "k_idx >= n", Kind::kRange, {{"n", kInts}}},
      {"n: i32", "q_idx < n", Kind::kRange, {{"n", kInts}}},
      {"flag: bool", "flag or k_idx <= q_idx", Kind::kRange, {{"flag", {0, 1}}}},
      {"flag: bool", "where(flag, k_idx <= q_idx, k_idx >= q_idx)", Kind::kRange, {{"flag", {0, 1}}}},
      {"flag: bool", "flag == (k_idx <= q_idx)", Kind::kRange, {{"flag", {0, 1}}}},
      {"flag: bool", "(k_idx <= q_idx) != flag", Kind::kRange, {{"flag", {0, 1}}}},
      {"", "h == 0 and k_idx <= q_idx or h == 1 and k_idx >= q_idx", Kind::kRange},
      {"lens: i32[batch]", "k_idx < lens[b]", Kind::kRange},
      {"lens: f32[batch]", "k_idx < lens[b]", Kind::kRange},
      {"", "where(k_idx < q_idx, k_idx > 2, q_idx > 2)", Kind::kRange},
      // Equalities.
      {"", "q_idx == k_idx", Kind::kRange},
      {"", "q_idx != k_idx", Kind::kRange},
      {"", "k_idx != 5", Kind::kRange},
      {"n: f32", "k_idx == n", Kind::kRange, {{"n", kFloats}}},
      {"n: f32", "k_idx != n", Kind::kRange, {{"n", kFloats}}},
      // Other factors.
      {"", "2 * q_idx >= 3 * k_idx", Kind::kRange},
      {"", "q_idx * 2 + k_idx > 11", Kind::kRange},
      {"", "-3 * (q_idx - k_idx) <= k_len - 5", Kind::kRange},
      {"n: i32", "q_idx + n >= k_idx", Kind::kRange, {{"n", kInts}}},
      {"n: i32", "q_idx * 3 + n * 5 - k_idx > 4", Kind::kRange, {{"n", kInts}}},
      {"", "abs(q_idx * 1000000 - k_idx * 1000000) < 4000000", Kind::kRange},
      {"", "q_idx * 1000000 * 1000 > k_idx", Kind::kTileMap},
      {"", "k_idx - q_idx <= 7 * 1073741824", Kind::kRange},  // -1073741824
      {"n: i32", "q_idx * n > k_idx", Kind::kTileMap, {{"n", kInts}}},
      {"a: f32", "q_idx * a > k_idx + 0.5", Kind::kTileMap, {{"a", kFloats}}},
      // Blocks, dilation.
      {"", "q_idx // 4 == k_idx // 4", Kind::kTileMap},
      {"", "k_idx // 4 <= q_idx // 4", Kind::kTileMap},
      {"n: i32", "(q_idx - k_idx) % n == 0", Kind::kTileMap, {{"n", kInts}}},
      {"", "(q_idx - k_idx) % 8 < 2 and k_idx <= q_idx", Kind::kTileMap},
      // Tensors.
      {"doc: i32[batch, k_len]", "doc[b, q_idx] == doc[b, k_idx]", Kind::kTileMap},
      {"doc: i32[batch, k_len]", "doc[b, q_idx] == doc[b, k_idx] and k_idx <= q_idx", Kind::kTileMap},
      {"doc: i32[batch, k_len]", "not (doc[b, q_idx] != doc[b, k_idx] or k_idx > q_idx)", Kind::kTileMap},
      {"start: i32[k_len]", "k_idx >= start[q_idx]", Kind::kTileMap},
      {"pad: u8[k_len]", "pad[k_idx] > 1 and k_idx <= q_idx", Kind::kTileMap},
      {"pad: u8[k_len]", "bit(pad[k_idx], 1) or bit(pad[q_idx], 0)", Kind::kTileMap},
      {"bias: f32[k_len]", "log(bias[q_idx]) < bias[k_idx] * 2", Kind::kTileMap},
      {"table: i32[q_len, k_len]", "table[q_idx, k_idx] > 3 or k_idx < 4", Kind::kTileMap},
      {"", "random(7) < 0.5 and k_idx <= q_idx", Kind::kTileMap},
      {"", "sin(q_idx) < 0.5", Kind::kTileMap},
      {"", "exp(q_idx - k_idx) < 4", Kind::kTileMap},
      {"", "where(k_idx < 5, q_idx, k_idx) ** 2 < 50", Kind::kTileMap},
      {"", "f32(q_idx) / 3 > sqrt(k_idx)", Kind::kTileMap},
  };
  return list;
}

// Sorted documents of uneven lengths, some special values for floats.
double element(const Ir& ir, int param, std::span<const double> indices) {
  const double i = indices.back();
  const std::string& name = ir.params[param].name;
  if (name == "doc") return std::floor(std::sqrt(3 * i));
  if (name == "lens") return 7 + i;
  if (name == "start") return std::max(0.0, i - std::fmod(i * 7, 5));
  if (name == "pad") return std::fmod(std::floor(i / 3), 4);
  if (name == "bias") return i == 11 ? NAN : i - 6;
  return std::fmod(i * 3 + indices.front(), 8);
}

// All combinations of scalars.
std::vector<std::map<int, double>> scalar_choices(const Ir& ir, const MaskCase& mask) {
  std::vector<std::map<int, double>> choices = {{}};
  for (int i = 0; i < static_cast<int>(ir.params.size()); ++i) {
    const auto values = mask.scalars.find(ir.params[i].name);
    if (values == mask.scalars.end()) continue;
    std::vector<std::map<int, double>> more;
    for (const auto& choice : choices) {
      for (double value : values->second) {
        more.push_back(choice);
        more.back()[i] = value;
      }
    }
    choices = std::move(more);
  }
  return choices;
}

void check_case(const Ir& ir, const MaskBounds& bounds, const MaskCase& mask) {
  constexpr int kLengths[][2] = {{16, 16}, {1, 13}, {13, 1}, {7, 21}, {21, 7}, {20, 19}};
  constexpr int kTiles[][2] = {{1, 1}, {4, 4}, {8, 3}, {3, 16}, {64, 64}};
  for (const auto& scalars : scalar_choices(ir, mask)) {
    for (const auto& [q_len, k_len] : kLengths) {
      Situation situation;
      situation.sizes = {.batch = 2, .heads = 2, .kv_heads = 1, .q_len = q_len, .k_len = k_len, .head_dim = 8, .v_dim = 8};
      situation.scalars = scalars;
      situation.element = [&ir](int param, std::span<const double> indices) { return element(ir, param, indices); };
      situation.b = 1;
      situation.h = 1;
      BoundsChecker checker(ir, bounds, situation);
      for (const auto& [block_m, block_n] : kTiles) {
        checker.check(block_m, block_n);
        std::string text;
        for (const auto& [param, value] : scalars) text += fmt::format("{} = {}, ", ir.params[param].name, value);
        ASSERT_TRUE(checker.is_sound()) << mask.mask << ": " << text << "q_len " << q_len << ", k_len " << k_len << ", tile " << block_m
                                        << " x " << block_n;
      }
    }
  }
}

TEST(MaskBounds, HandwrittenMasksAreSound) {
  for (const MaskCase& mask : cases()) {
    Ir ir = build_mask(mask.params, mask.mask);
    const MaskBounds bounds = mask_bounds(ir);
    EXPECT_EQ(kind_name(bounds.kind), kind_name(mask.kind)) << mask.mask;
    verify(ir, std::vector{bounds.may_keep, bounds.all_kept});
    check_case(ir, bounds, mask);
  }
}

TEST(MaskBounds, SimplifiedMasksAreSoundAndOfTheSameKind) {
  for (const MaskCase& mask : cases()) {
    Ir ir = build_mask(mask.params, mask.mask);
    simplify(ir);
    const MaskBounds bounds = mask_bounds(ir);
    EXPECT_EQ(kind_name(bounds.kind), kind_name(mask.kind)) << mask.mask;
    check_case(ir, bounds, mask);
  }
}

TEST(MaskBounds, IsDeterministic) {
  for (const MaskCase& mask : cases()) {
    Ir one = build_mask(mask.params, mask.mask), two = build_mask(mask.params, mask.mask);
    const MaskBounds a = mask_bounds(one), b = mask_bounds(two);
    ASSERT_EQ(one.graph.size(), two.graph.size());
    for (ValueId id = 0; id < one.graph.size(); ++id) EXPECT_TRUE(one.graph[id] == two.graph[id]);
    EXPECT_EQ(a.may_keep, b.may_keep);
    EXPECT_EQ(a.kept_keys.end, b.kept_keys.end);
  }
}

// A wrong bound is found, so that the tests above mean something.
TEST(MaskBounds, WrongBoundsAreFound) {
  Situation situation;
  situation.sizes = {.q_len = 9, .k_len = 9};
  const auto is_found = [&](void (*spoil)(Ir&, MaskBounds&)) {
    Ir ir = build_mask("", "k_pos <= q_pos");
    MaskBounds bounds = mask_bounds(ir);
    spoil(ir, bounds);
    testing::TestPartResultArray failures;
    const testing::ScopedFakeTestPartResultReporter reporter(&failures);
    BoundsChecker checker(ir, bounds, situation);
    checker.check(4, 4);
    return !checker.is_sound() && failures.size() == 1;
  };
  EXPECT_FALSE(is_found([](Ir&, MaskBounds&) {}));
  EXPECT_TRUE(is_found([](Ir& ir, MaskBounds& bounds) { bounds.may_keep = ir.graph.constant(Type::kBool, 0); }));
  EXPECT_TRUE(is_found([](Ir& ir, MaskBounds& bounds) { bounds.all_kept = ir.graph.constant(Type::kBool, 1); }));
  EXPECT_TRUE(is_found([](Ir&, MaskBounds& bounds) { bounds.kept_keys = bounds.full_keys; }));
  EXPECT_TRUE(is_found([](Ir&, MaskBounds& bounds) { bounds.full_queries = bounds.kept_queries; }));
  EXPECT_TRUE(is_found([](Ir&, MaskBounds& bounds) { std::swap(bounds.kept_keys.begin, bounds.kept_keys.end); }));
}

// How exactly tiles are classified.
struct Expected {
  std::string params, mask;
  int q_len, k_len, block;
  int empty, found_empty, full, found_full;  // of all tiles
  std::map<int, double> scalars = {};
};

TEST(MaskBounds, TilesAreClassifiedExactly) {
  const std::vector<Expected> list = {
      {"", "k_pos <= q_pos", 64, 64, 16, 6, 6, 6, 6},
      {"", "k_pos <= q_pos", 32, 96, 16, 1, 1, 9, 9},
      {"", "k_pos <= q_pos", 96, 32, 16, 9, 9, 1, 1},
      {"", "not (q_pos < k_pos)", 64, 64, 16, 6, 6, 6, 6},
      // No tile lies wholly in a window of 16, one does in 32: two tiles a row are left, or three.
      {"window: i32", "q_pos - k_pos >= 0 and q_pos - k_pos < window", 64, 64, 16, 9, 9, 0, 0, {{0, 16}}},
      {"window: i32", "q_pos - k_pos >= 0 and q_pos - k_pos < window", 64, 64, 16, 7, 7, 3, 3, {{0, 33}}},
      {"window: f32", "k_pos <= q_pos and q_pos - k_pos < window", 64, 64, 16, 7, 7, 3, 3, {{0, 32.5}}},
      {"window: i32", "abs(q_pos - k_pos) <= window", 64, 64, 16, 6, 6, 4, 4, {{0, 15}}},
      {"prefix: i32", "k_pos < prefix or k_pos <= q_pos", 64, 64, 16, 5, 5, 7, 7, {{0, 20}}},
      {"doc: i32[batch, k_len]", "doc[b, q_idx] == doc[b, k_idx]", 64, 64, 8, 38, 38, 14, 14},
      {"doc: i32[batch, k_len]", "doc[b, q_idx] == doc[b, k_idx] and k_idx <= q_idx", 64, 64, 8, 47, 47, 4, 4},
      {"", "k_pos <= q_pos and (k_idx < 4 or q_pos - k_pos < 16)", 64, 64, 16, 7, 7, 0, 0},
      {"", "k_idx < 16 or q_pos - k_pos < 16 and k_pos <= q_pos", 64, 64, 16, 7, 7, 4, 4},
      {"", "q_idx // 16 == k_idx // 16", 64, 64, 16, 12, 12, 4, 4},
      {"", "k_idx // 8 <= q_idx // 8", 64, 64, 8, 28, 28, 36, 36},
      {"lens: i32[batch]", "k_idx < lens[b] and q_idx < lens[b]", 64, 64, 8, 60, 60, 1, 1},
  };
  for (const Expected& e : list) {
    Ir ir = build_mask(e.params, e.mask);
    const MaskBounds bounds = mask_bounds(ir);
    Situation situation;
    situation.sizes = {.batch = 3, .q_len = e.q_len, .k_len = e.k_len};
    situation.scalars = e.scalars;
    situation.element = [&ir](int param, std::span<const double> indices) {
      // Documents of 11 tokens and more.
      if (ir.params[param].name == "doc") return std::floor(indices[1] * (indices[1] < 33 ? 1.0 / 11 : 1.0 / 16));
      return 8 + indices[0];
    };
    situation.b = 2;
    BoundsChecker checker(ir, bounds, situation);
    const TileCounts counts = checker.check(e.block, e.block);
    const std::string where = fmt::format("{}, q_len {}, k_len {}", e.mask, e.q_len, e.k_len);
    EXPECT_EQ(counts.empty, e.empty) << where;
    EXPECT_EQ(counts.found_empty, e.found_empty) << where;
    EXPECT_EQ(counts.full, e.full) << where;
    EXPECT_EQ(counts.found_full, e.found_full) << where;
  }
}

TEST(MaskBounds, RangesAreTight) {
  struct Tight {
    std::string mask;
    std::vector<int> keys;     // of rows 16..23: kept, full
    std::vector<int> queries;  // of keys 16..23
  };
  const std::vector<Tight> list = {
      {"k_pos <= q_pos", {0, 34, 0, 27}, {6, 40, 13, 40}},
      {"k_idx <= q_idx", {0, 24, 0, 17}, {16, 40, 23, 40}},
      {"q_pos - k_pos >= 0 and q_pos - k_pos < 8", {19, 34, 26, 27}, {6, 21, 13, 14}},
      {"abs(q_pos - k_pos) < 8", {19, 41, 26, 34}, {0, 21, 6, 14}},
      {"k_idx < 30 or k_pos <= q_pos", {0, 34, 0, 30}, {0, 40, 0, 40}},
      {"k_idx >= 20 or k_pos <= q_pos", {0, 50, 0, 50}, {0, 40, 13, 40}},
      {"k_idx < 4 or k_idx >= 9", {0, 50, 9, 50}, {0, 40, 0, 40}},
      {"k_idx == q_idx", {16, 24, 23, 23}, {16, 24, 23, 23}},
      {"k_idx > q_idx * 2 - 10", {23, 50, 37, 50}, {0, 17, 0, 13}},
      {"2 * k_idx < q_idx", {0, 12, 0, 8}, {33, 40, 40, 40}},
      {"h == 1 and k_idx < 9", {0, 0, 0, 0}, {0, 0, 0, 0}},
      {"h == 0 and k_idx < 9", {0, 9, 0, 9}, {0, 0, 0, 0}},
      {"q_idx < 20 or k_idx > 90", {0, 50, 0, 0}, {0, 20, 0, 20}},
  };
  for (const Tight& e : list) {
    Ir ir = build_mask("", e.mask);
    const MaskBounds bounds = mask_bounds(ir);
    Situation situation;
    situation.sizes = {.q_len = 40, .k_len = 50};
    BoundsChecker checker(ir, bounds, situation);
    EXPECT_EQ(checker.key_ranges(16, 23), e.keys) << e.mask;
    EXPECT_EQ(checker.query_ranges(16, 23), e.queries) << e.mask;
  }
}

// The bounds of common masks are a few operations: what static limits decide has gone.
TEST(MaskBounds, CommonBoundsAreCheap) {
  struct Cheap {
    std::string params, mask;
    size_t nodes;  // that the bounds need beside constants, symbols and conversions to f64
  };
  const std::vector<Cheap> list = {
      {"", "k_pos <= q_pos", 25},
      {"window: const i32 = 128", "q_pos - k_pos >= 0 and q_pos - k_pos < window", 53},
      {"doc: i32[batch, k_len]", "doc[b, q_idx] == doc[b, k_idx] and k_idx <= q_idx", 17},
  };
  for (const Cheap& e : list) {
    Ir ir = build_mask(e.params, e.mask);
    const MaskBounds bounds = mask_bounds(ir);
    std::vector<ValueId> roots = {bounds.may_keep, bounds.all_kept};
    if (bounds.kind == Kind::kRange) {
      for (const IndexRange& range : {bounds.kept_keys, bounds.full_keys, bounds.kept_queries, bounds.full_queries}) {
        roots.push_back(range.begin);
        roots.push_back(range.end);
      }
    }
    const std::vector<bool> needed = reachable(ir.graph, roots);
    size_t nodes = 0;
    for (ValueId id = 0; id < ir.graph.size(); ++id) {
      const Op op = ir.graph[id].op;
      nodes += needed[id] && op != Op::k_constant && op != Op::k_symbol && op != Op::k_to_f64;
    }
    EXPECT_EQ(nodes, e.nodes) << e.mask;
  }
}

// Tiles of these lengths cannot be looked at pair by pair: only their ends.
constexpr int kHugeLength = (1 << 30) - 1;

class HugeEnv : public Env {
 public:
  explicit HugeEnv(double n) : n_(n) {}
  double symbol(Symbol symbol) const override {
    switch (symbol) {
      case Symbol::kQLen:
      case Symbol::kKLen:
        return kHugeLength;
      case Symbol::kFirstQ:
        return kHugeLength - 128;
      case Symbol::kLastQ:
        return kHugeLength - 1;
      default:
        return Env::symbol(symbol);
    }
  }
  double param(int) const override { return n_; }

 private:
  double n_;
};

TEST(MaskBounds, HugeLengths) {
  Ir ir = build_mask("n: i32", "q_pos - k_pos >= 0 and q_idx - k_idx + n > 0");
  const MaskBounds bounds = mask_bounds(ir);
  Interpreter keys(ir.graph, {bounds.kept_keys.begin, bounds.kept_keys.end, bounds.full_keys.begin, bounds.full_keys.end});
  const auto range = [&](double n) {
    const std::span<const double> values = keys(HugeEnv(n));
    return std::vector<int>(values.begin(), values.end());
  };
  EXPECT_EQ(range(1000), (std::vector<int>{0, kHugeLength, 0, kHugeLength - 127}));
  EXPECT_EQ(range(-1000), (std::vector<int>{0, kHugeLength - 1001, 0, kHugeLength - 1128}));
  // q_idx - k_idx + n may wrap: nothing is known of the second condition.
  EXPECT_EQ(range(2147483647), (std::vector<int>{0, kHugeLength, 0, 0}));
}

}  // namespace
}  // namespace attune::codegen
