#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "api/explain.h"
#include "api/plan_impl.h"
#include "codegen/eval/interpreter.h"
#include "runtime/error.h"

namespace attune {
namespace {

using codegen::Interpreter;
using codegen::Symbol;
using codegen::ValueId;

constexpr int64_t kMaxPairs = int64_t{1} << 24;
constexpr int64_t kMaxTiles = 64;  // a side

struct Tile {
  int64_t first_q = 0, last_q = 0, first_k = 0, last_k = 0;
};

// The leaves at one pair, or over one tile.
class MaskEnv : public codegen::Env {
 public:
  MaskEnv(const BoundProgram& bound, size_t lengths, int64_t b, int64_t h)
      : bound_(bound), sizes_(bound.problem->sizes(bound.problem->lengths[lengths])), lengths_(lengths), b_(b), h_(h) {}

  int64_t q_idx = 0, k_idx = 0;
  Tile tile_at;

  const codegen::Sizes& sizes() const { return sizes_; }

  double symbol(Symbol symbol) const override {
    switch (symbol) {
      case Symbol::kB:
        return static_cast<double>(b_);
      case Symbol::kH:
        return static_cast<double>(h_);
      case Symbol::kKvH:
        return static_cast<double>(h_ / (sizes_.heads / sizes_.kv_heads));
      case Symbol::kQIdx:
        return static_cast<double>(q_idx);
      case Symbol::kKIdx:
        return static_cast<double>(k_idx);
      case Symbol::kFirstQ:
        return static_cast<double>(tile_at.first_q);
      case Symbol::kLastQ:
        return static_cast<double>(tile_at.last_q);
      case Symbol::kFirstK:
        return static_cast<double>(tile_at.first_k);
      case Symbol::kLastK:
        return static_cast<double>(tile_at.last_k);
      default:
        return codegen::size_of(sizes_, symbol);
    }
  }
  double param(int index) const override { return bound_.parameters->scalar(lengths_, index); }
  double read(int param, std::span<const double> indices) const override { return bound_.parameters->element(param, indices); }

  // Over the rows if the operand reads q_idx, over the columns if it reads k_idx.
  double tile(codegen::Op op, ValueId operand) const override {
    Extremes& known = extremes_of(operand);
    const bool by_row = known.uses_q;
    const int64_t first = by_row ? tile_at.first_q : known.uses_k ? tile_at.first_k : 0;
    const int64_t last = by_row ? tile_at.last_q : known.uses_k ? tile_at.last_k : 0;
    MaskEnv at = *this;
    double least = INFINITY, greatest = -INFINITY;
    for (int64_t i = first; i <= last; ++i) {
      (by_row ? at.q_idx : at.k_idx) = i;
      const double value = known.value(at)[0];
      if (std::isnan(value)) return value;
      least = std::min(least, value);
      greatest = std::max(greatest, value);
    }
    return op == codegen::Op::k_tile_min ? least : greatest;
  }

 private:
  struct Extremes {
    Interpreter value;
    bool uses_q = false, uses_k = false;
  };

  Extremes& extremes_of(ValueId operand) const {
    const auto known = extremes_->find(operand);
    if (known != extremes_->end()) return known->second;
    const codegen::Graph& graph = bound_.typed->lowered().ir.graph;
    Extremes extremes{Interpreter(graph, {operand})};
    const std::vector<bool> needed = codegen::reachable(graph, std::span(&operand, 1));
    for (ValueId id = 0; id < graph.size(); ++id) {
      if (!needed[id] || graph[id].op != codegen::Op::k_symbol) continue;
      extremes.uses_q = extremes.uses_q || static_cast<Symbol>(graph[id].index) == Symbol::kQIdx;
      extremes.uses_k = extremes.uses_k || static_cast<Symbol>(graph[id].index) == Symbol::kKIdx;
    }
    return extremes_->emplace(operand, std::move(extremes)).first->second;
  }

  const BoundProgram& bound_;
  codegen::Sizes sizes_;
  size_t lengths_;
  int64_t b_, h_;
  std::shared_ptr<std::map<ValueId, Extremes>> extremes_ = std::make_shared<std::map<ValueId, Extremes>>();
};

int64_t block_for(int64_t length) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(1, (length + kMaxTiles - 1) / kMaxTiles))));
}

// Classes of tiles by the bounds, just as kernels take them.
class Classifier {
 public:
  explicit Classifier(const codegen::Lowered& lowered) : bounds_(lowered.bounds), values_(lowered.ir.graph, roots()) {}

  TileClass operator()(const MaskEnv& env) {
    if (bounds_.kind == codegen::MaskBounds::Kind::kAll) return TileClass::kFull;
    const std::span<const double> x = values_(env);
    const Tile& tile = env.tile_at;
    bool may_keep = false, all_kept = false;
    if (bounds_.kind == codegen::MaskBounds::Kind::kTileMap) {
      may_keep = x[0] != 0;
      all_kept = x[1] != 0;
    } else {
      const auto first = static_cast<double>(tile.first_k), end = static_cast<double>(tile.last_k + 1);
      may_keep = first < x[1] && x[0] < end;
      all_kept = x[2] <= first && end <= x[3];
    }
    if (!may_keep) return TileClass::kSkipped;
    return all_kept ? TileClass::kFull : TileClass::kPartial;
  }

 private:
  std::vector<ValueId> roots() const {
    switch (bounds_.kind) {
      case codegen::MaskBounds::Kind::kAll:
        return {};
      case codegen::MaskBounds::Kind::kTileMap:
        return {bounds_.may_keep, bounds_.all_kept};
      default:
        return {bounds_.kept_keys.begin, bounds_.kept_keys.end, bounds_.full_keys.begin, bounds_.full_keys.end};
    }
  }

  const codegen::MaskBounds& bounds_;
  Interpreter values_;
};

void check_index(std::string_view name, int64_t index, int64_t size) {
  if (index < 0 || index >= size) throw ArgumentError(fmt::format("{} is {}, expected 0..{}", name, index, size - 1));
}

}  // namespace

MaskTiles mask_tiles(const Variant& variant, const Shape& shape, const PlanOptions& options, int64_t b, int64_t h) {
  const BoundProgram bound = bind_program(VariantAccess::impl(variant), shape, options, Needed::kMask);
  check_index("b", b, shape.batch);
  check_index("h", h, shape.heads);
  const Problem& problem = *bound.problem;
  const size_t lengths = problem.sequences[problem.packed ? static_cast<size_t>(b) : 0].lengths;
  MaskEnv env(bound, lengths, b, h);
  MaskTiles tiles;
  tiles.q_len = env.sizes().q_len;
  tiles.k_len = env.sizes().k_len;
  if (tiles.q_len * tiles.k_len > kMaxPairs) {
    throw ArgumentError(
        fmt::format("q_len * k_len is {}, expected at most {} for a picture of the mask", tiles.q_len * tiles.k_len, kMaxPairs));
  }
  tiles.block_q = block_for(tiles.q_len);
  tiles.block_k = block_for(tiles.k_len);

  const codegen::Lowered& lowered = bound.typed->lowered();
  Classifier classify(lowered);
  for (int64_t q = 0; q < tiles.q_len; q += tiles.block_q) {
    for (int64_t k = 0; k < tiles.k_len; k += tiles.block_k) {
      env.tile_at = {q, std::min(tiles.q_len, q + tiles.block_q) - 1, k, std::min(tiles.k_len, k + tiles.block_k) - 1};
      tiles.classes.push_back(classify(env));
    }
  }
  Interpreter mask(lowered.ir.graph, {lowered.ir.mask});
  tiles.kept.reserve(static_cast<size_t>(tiles.q_len * tiles.k_len));
  for (env.q_idx = 0; env.q_idx < tiles.q_len; ++env.q_idx) {
    for (env.k_idx = 0; env.k_idx < tiles.k_len; ++env.k_idx) tiles.kept.push_back(mask(env)[0] != 0);
  }
  return tiles;
}

}  // namespace attune
