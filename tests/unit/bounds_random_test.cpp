// Random masks: bounds must be sound whatever the mask is.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "bounds_checker.h"
#include "codegen/expr_builder.h"
#include "codegen/print_ir.h"
#include "codegen/simplify.h"

namespace attune::codegen {
namespace {

constexpr int kIntParam = 0, kFloatParam = 1, kBoolParam = 2, kIntLine = 3, kFloatLine = 4, kIntTable = 5;

class MaskGenerator {
 public:
  explicit MaskGenerator(uint32_t seed) : rng_(seed) {}

  Ir make() {
    ir_ = Ir();
    ir_.name = "random";
    const ValueId length = ir_.graph.symbol(Symbol::kKLen);
    add_param("n", dsl::ElementType::kI32, {});
    add_param("x", dsl::ElementType::kF32, {});
    add_param("flag", dsl::ElementType::kBool, {});
    add_param("line", dsl::ElementType::kI32, {length});
    add_param("fline", dsl::ElementType::kF32, {length});
    add_param("table", dsl::ElementType::kI32, {length, length});
    ir_.score = ir_.graph.symbol(Symbol::kQk);
    only_affine_ = draw(0, 2) == 0;
    ir_.mask = condition(draw(1, 4)).id;
    return std::move(ir_);
  }

  int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng_); }
  double pick(std::initializer_list<double> values) { return values.begin()[draw(0, static_cast<int>(values.size()) - 1)]; }

 private:
  void add_param(const std::string& name, dsl::ElementType type, std::vector<ValueId> dims) {
    Param param;
    param.name = name;
    param.element = type;
    param.is_tensor = !dims.empty();
    param.dims = std::move(dims);
    ir_.params.push_back(std::move(param));
  }

  Ex leaf(Symbol symbol) { return codegen::symbol(ir_.graph, symbol); }
  Ex index() { return leaf(draw(0, 1) ? Symbol::kQIdx : Symbol::kKIdx); }
  Ex number(Type type, double value) { return codegen::constant(ir_.graph, type, value); }
  Ex param(int index) { return {&ir_.graph, ir_.graph.param(value_type(ir_.params[index].element), index)}; }
  Ex read(int param, std::vector<ValueId> indices) {
    return {&ir_.graph, ir_.graph.read(value_type(ir_.params[param].element), param, std::move(indices))};
  }

  Ex uniform() {
    switch (draw(0, 4)) {
      case 0:
        return leaf(Symbol::kQLen);
      case 1:
        return leaf(Symbol::kKLen);
      case 2:
        return param(kIntParam);
      case 3:
        return leaf(draw(0, 1) ? Symbol::kB : Symbol::kH);
      default:
        return number(Type::kI32, draw(-9, 9));
    }
  }

  Ex affine(int depth) {
    if (depth == 0) return draw(0, 2) ? index() : uniform();
    switch (draw(0, 4)) {
      case 0:
        return affine(depth - 1) + affine(depth - 1);
      case 1:
      case 2:
        return affine(depth - 1) - affine(depth - 1);
      case 3:
        return affine(depth - 1) * pick({2, 3, -1, -2, 0, 65536, 1 << 30});
      default:
        return -affine(depth - 1);
    }
  }

  Ex integer(int depth) {
    if (depth == 0 || only_affine_) return affine(std::min(depth, 2));
    const auto x = [&] { return integer(depth - 1); };
    switch (draw(0, 12)) {
      case 0:
        return x() + x();
      case 1:
        return x() - x();
      case 2:
        return x() * x();
      case 3:
        return min(x(), x());
      case 4:
        return max(x(), x());
      case 5:
        return apply(Op::k_clamp, {x(), x(), x()});
      case 6:
        return apply(Op::k_abs, {x()});
      case 7:
        return apply(Op::k_floor_div, {x(), draw(0, 1) ? number(Type::kI32, draw(-1, 5)) : x()});
      case 8:
        return apply(Op::k_mod, {x(), draw(0, 1) ? number(Type::kI32, draw(-5, 5)) : x()});
      case 9:
        return where(condition(depth - 1), x(), x());
      case 10:
        return apply(Op::k_to_i32, {real(depth - 1)});
      case 11:
        return draw(0, 3) ? read(kIntLine, {index().id}) : read(kIntTable, {index().id, index().id});
      default:
        return apply(Op::k_ipow, {x(), number(Type::kI32, draw(0, 3))});
    }
  }

  Ex real(int depth) {
    if (depth == 0) return draw(0, 2) ? apply(Op::k_to_f32, {affine(1)}) : uniform_real();
    const auto x = [&] { return real(depth - 1); };
    switch (draw(0, 14)) {
      case 0:
        return x() + x();
      case 1:
        return x() - x();
      case 2:
        return x() * x();
      case 3:
        return x() / x();
      case 4:
        return min(x(), x());
      case 5:
        return max(x(), x());
      case 6:
        return apply(Op::k_abs, {x()});
      case 7:
        return floor(x());
      case 8:
        return apply(Op::k_mod, {x(), x()});
      case 9:
        return where(condition(depth - 1), x(), x());
      case 10:
        return read(kFloatLine, {index().id});
      case 11: {
        constexpr Op kFunctions[] = {Op::k_exp,  Op::k_log,      Op::k_sqrt, Op::k_rsqrt, Op::k_tanh, Op::k_sigmoid,
                                     Op::k_relu, Op::k_softplus, Op::k_silu, Op::k_erf,   Op::k_sin,  Op::k_neg};
        return apply(kFunctions[draw(0, static_cast<int>(std::size(kFunctions)) - 1)], {x()});
      }
      case 12:
        return apply(Op::k_pow, {x(), number(Type::kF32, pick({0, 1, 2, 3, -1, 0.5}))});
      default:
        return apply(Op::k_to_f32, {integer(depth - 1)});
    }
  }

  Ex uniform_real() { return draw(0, 1) ? param(kFloatParam) : number(Type::kF32, pick({0, 1.5, -2, 4, 100})); }

  Ex comparison(int depth) {
    constexpr Op kComparisons[] = {Op::k_lt, Op::k_le, Op::k_gt, Op::k_ge, Op::k_eq, Op::k_ne};
    const Op op = kComparisons[draw(0, 5)];
    if (draw(0, 2)) return apply(op, {integer(depth), integer(depth)});
    if (draw(0, 1)) {
      const Ex value = apply(Op::k_to_f32, {integer(depth)});
      return draw(0, 1) ? apply(op, {value, uniform_real()}) : apply(op, {uniform_real(), value});
    }
    return only_affine_ ? apply(op, {integer(depth), uniform()}) : apply(op, {real(depth), real(depth)});
  }

  Ex condition(int depth) {
    if (depth == 0) return comparison(draw(0, 2));
    const auto x = [&] { return condition(depth - 1); };
    switch (draw(0, 9)) {
      case 0:
      case 1:
      case 2:
        return x() && x();
      case 3:
      case 4:
        return x() || x();
      case 5:
        return !x();
      case 6:
        return where(x(), x(), x());
      case 7:
        return apply(draw(0, 1) ? Op::k_eq : Op::k_ne, {x(), x()});
      case 8:
        return draw(0, 1) ? param(kBoolParam) : apply(Op::k_bit, {integer(1), number(Type::kI32, draw(-1, 4))});
      default:
        return comparison(draw(0, 2));
    }
  }

  std::mt19937 rng_;
  Ir ir_;
  bool only_affine_ = false;
};

// As lower() does.
void simplify_bounds(Ir& ir, MaskBounds& bounds) {
  std::vector<ValueId*> roots = {&bounds.may_keep, &bounds.all_kept};
  for (IndexRange* range : {&bounds.kept_keys, &bounds.full_keys, &bounds.kept_queries, &bounds.full_queries}) {
    roots.push_back(&range->begin);
    roots.push_back(&range->end);
  }
  simplify(ir.graph, roots);
}

TEST(MaskBoundsRandom, AreSound) {
#ifdef __SANITIZE_ADDRESS__
  constexpr uint32_t kPrograms = 500;  // many times slower
#else
  constexpr uint32_t kPrograms = 3000;
#endif
  int ranges = 0, tile_maps = 0, found_empty = 0, found_full = 0, empty = 0, full = 0;
  for (uint32_t seed = 0; seed < kPrograms; ++seed) {
    MaskGenerator generator(seed);
    Ir ir = generator.make();
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, print_expr(ir, ir.mask)));
    verify(ir);
    if (seed % 2) simplify(ir);
    MaskBounds bounds = mask_bounds(ir);
    if (seed % 3 == 0) simplify_bounds(ir, bounds);
    std::vector<ValueId> roots = {bounds.may_keep, bounds.all_kept};
    if (bounds.kind != MaskBounds::Kind::kTileMap) roots.push_back(bounds.kept_keys.begin);
    verify(ir, roots);
    ranges += bounds.kind == MaskBounds::Kind::kRange;
    tile_maps += bounds.kind == MaskBounds::Kind::kTileMap;
    for (int round = 0; round < 3; ++round) {
      Situation situation;
      Sizes& sizes = situation.sizes;
      sizes.batch = sizes.heads = 3;
      sizes.q_len = generator.draw(1, 14);
      sizes.k_len = generator.draw(1, 14);
      situation.b = generator.draw(0, 2);
      situation.h = generator.draw(0, 2);
      situation.scalars[kIntParam] = generator.pick({0, 1, 3, -4, 9, 1 << 30, -2147483648.0, 2147483647.0});
      situation.scalars[kFloatParam] = generator.pick({0, 2.5, -3, 7, 3e7, 1e30, INFINITY, -INFINITY, NAN});
      situation.scalars[kBoolParam] = generator.draw(0, 1);
      situation.precision = round == 0 ? Precision::kDouble : Precision::kF32;  // as kernels compute
      const int salt = generator.draw(0, 1000);
      situation.element = [salt](int param, std::span<const double> indices) -> double {
        std::mt19937 rng(static_cast<uint32_t>(salt + 97 * param + 13 * indices[0] + 7 * indices.back()));
        const auto bits = static_cast<uint32_t>(rng());
        if (bits % 29 == 0) return param == kFloatLine ? NAN : -2147483648.0;
        if (bits % 31 == 0) return param == kFloatLine ? INFINITY : 2147483647.0;
        return bits % 11 - 3.0;
      };
      BoundsChecker checker(ir, bounds, situation);
      for (const auto& [block_m, block_n] : {std::pair(1, 1), std::pair(4, 4), std::pair(5, 2), std::pair(16, 16)}) {
        const TileCounts counts = checker.check(block_m, block_n);
        empty += counts.empty;
        full += counts.full;
        found_empty += counts.found_empty;
        found_full += counts.found_full;
        ASSERT_TRUE(checker.is_sound()) << "seed " << seed << ", round " << round << ", q_len " << sizes.q_len << ", k_len " << sizes.k_len
                                        << ", tile " << block_m << " x " << block_n;
      }
    }
  }
  // That the test means something: both kinds occur, and most tiles are classified.
  EXPECT_GT(ranges, kPrograms / 10);
  EXPECT_GT(tile_maps, kPrograms / 4);
  EXPECT_GT(found_empty, empty / 2);
  EXPECT_GT(found_full, full / 2);
}

}  // namespace
}  // namespace attune::codegen
