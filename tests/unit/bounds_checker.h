// Bounds of a mask against the mask itself, pair by pair.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "codegen/build_ir.h"
#include "codegen/eval/defaults.h"
#include "codegen/eval/interpreter.h"
#include "codegen/mask_bounds.h"
#include "codegen/rates.h"
#include "codegen/verify.h"
#include "dsl/parser.h"

namespace attune::codegen {

inline Ir build(const std::string& program, const BuildOptions& options = {}) {
  dsl::Diagnostics diagnostics("test.attn", program);
  const std::optional<dsl::Program> tree = dsl::parse(diagnostics);
  std::optional<Ir> ir = tree ? build_ir(*tree, diagnostics, options) : std::nullopt;
  if (!ir) throw std::runtime_error(diagnostics.render());
  return std::move(*ir);
}

// A program of that mask.
inline Ir build_mask(const std::string& params, const std::string& mask) {
  return build("attention test(" + params + ") {\n  score = qk\n  mask = " + mask + "\n  weights = softmax(score)\n}\n");
}

// What a mask is evaluated for.
struct Situation {
  Sizes sizes;
  std::map<int, double> scalars;                                              // by parameter; others are 0
  std::function<double(int param, std::span<const double> indices)> element;  // of tensors; none: 0
  int b = 0, h = 0;
  Precision precision = Precision::kDouble;
};

struct TilePlace {
  int first_q = 0, last_q = 0, first_k = 0, last_k = 0;
};

// What tiles turned out to be, and what the bounds said.
struct TileCounts {
  int tiles = 0;
  int empty = 0, found_empty = 0;
  int full = 0, found_full = 0;
};

class BoundsChecker {
 public:
  // `ir` must outlive the checker.
  BoundsChecker(const Ir& ir, const MaskBounds& bounds, Situation situation)
      : ir_(ir), bounds_(bounds), situation_(std::move(situation)), rates_(assign_rates(ir.graph)) {
    Interpreter mask(ir.graph, {ir.mask}, situation_.precision);
    const Sizes& sizes = situation_.sizes;
    keep_.assign(sizes.q_len, std::vector<bool>(sizes.k_len));
    for (int q = 0; q < sizes.q_len; ++q) {
      for (int k = 0; k < sizes.k_len; ++k) keep_[q][k] = mask(LeafEnv(*this, {q, q, k, k}))[0] != 0;
    }
  }

  // Every tile and every range of that tile size; a failure is reported once.
  TileCounts check(int block_m, int block_n) {
    TileCounts counts;
    const Sizes& sizes = situation_.sizes;
    Interpreter verdicts(ir_.graph, {bounds_.may_keep, bounds_.all_kept}, situation_.precision);
    for (int q = 0; q < sizes.q_len; q += block_m) {
      for (int k = 0; k < sizes.k_len; k += block_n) {
        const TilePlace tile = {q, std::min(q + block_m, sizes.q_len) - 1, k, std::min(k + block_n, sizes.k_len) - 1};
        const std::span<const double> said = verdicts(LeafEnv(*this, tile));
        check_tile(tile, said[0] != 0, said[1] != 0, counts);
      }
    }
    if (bounds_.kind != MaskBounds::Kind::kTileMap) {
      check_ranges(block_m, bounds_.kept_keys, bounds_.full_keys, true);
      check_ranges(block_n, bounds_.kept_queries, bounds_.full_queries, false);
    }
    return counts;
  }

  bool is_sound() const { return is_sound_; }

  // [kept begin, kept end, full begin, full end] for a tile of rows.
  std::vector<int> key_ranges(int first_q, int last_q) {
    Interpreter ends(ir_.graph, {bounds_.kept_keys.begin, bounds_.kept_keys.end, bounds_.full_keys.begin, bounds_.full_keys.end});
    const std::span<const double> values = ends(LeafEnv(*this, {first_q, last_q, kUnset, kUnset}));
    return {values.begin(), values.end()};
  }
  // The same of rows, for a tile of keys.
  std::vector<int> query_ranges(int first_k, int last_k) {
    Interpreter ends(ir_.graph,
                     {bounds_.kept_queries.begin, bounds_.kept_queries.end, bounds_.full_queries.begin, bounds_.full_queries.end});
    const std::span<const double> values = ends(LeafEnv(*this, {kUnset, kUnset, first_k, last_k}));
    return {values.begin(), values.end()};
  }

 private:
  static constexpr int kUnset = std::numeric_limits<int>::min();

  // Leaves for a tile, and for its pair if it is one pair. Indices that are not set must not be asked for.
  class LeafEnv : public Env {
   public:
    LeafEnv(BoundsChecker& checker, TilePlace tile) : checker_(checker), tile_(tile) {}
    double symbol(Symbol symbol) const override {
      switch (symbol) {
        case Symbol::kB:
          return checker_.situation_.b;
        case Symbol::kH:
          return checker_.situation_.h;
        case Symbol::kKvH:
          return checker_.situation_.h / (checker_.situation_.sizes.heads / checker_.situation_.sizes.kv_heads);
        case Symbol::kQIdx:
          return tile_.first_q == tile_.last_q ? set(tile_.first_q) : set(kUnset);
        case Symbol::kKIdx:
          return tile_.first_k == tile_.last_k ? set(tile_.first_k) : set(kUnset);
        case Symbol::kFirstQ:
          return set(tile_.first_q);
        case Symbol::kLastQ:
          return set(tile_.last_q);
        case Symbol::kFirstK:
          return set(tile_.first_k);
        case Symbol::kLastK:
          return set(tile_.last_k);
        default:
          return size_of(checker_.situation_.sizes, symbol);
      }
    }
    double param(int index) const override {
      const auto found = checker_.situation_.scalars.find(index);
      return found == checker_.situation_.scalars.end() ? 0 : found->second;
    }
    double read(int param, std::span<const double> indices) const override {
      return checker_.situation_.element ? checker_.situation_.element(param, indices) : 0;
    }
    double tile(Op op, ValueId operand) const override { return checker_.extremum(op, operand, tile_); }

   private:
    static double set(int index) {
      if (index == kUnset) throw std::logic_error("the bound uses an index that it may not use");
      return index;
    }

    BoundsChecker& checker_;
    TilePlace tile_;
  };

  double extremum(Op op, ValueId operand, const TilePlace& tile) {
    const Rate rate = rates_.at(operand);
    if (rate == Rate::kElement) throw std::logic_error("tile_min of a value that is not of a row or column");
    if (rate == Rate::kUniform) {  // what simplification left of one
      const TilePlace nowhere{kUnset, kUnset, kUnset, kUnset};
      return Interpreter(ir_.graph, {operand}, situation_.precision)(LeafEnv(*this, nowhere))[0];
    }
    const bool is_row = rate == Rate::kRow;
    std::vector<double>& values = lines_[operand];
    if (values.empty()) {
      Interpreter line(ir_.graph, {operand}, situation_.precision);
      const int length = is_row ? situation_.sizes.q_len : situation_.sizes.k_len;
      for (int i = 0; i < length; ++i) {
        values.push_back(line(LeafEnv(*this, is_row ? TilePlace{i, i, kUnset, kUnset} : TilePlace{kUnset, kUnset, i, i}))[0]);
      }
    }
    double result = values[is_row ? tile.first_q : tile.first_k];
    for (int i = is_row ? tile.first_q : tile.first_k; i <= (is_row ? tile.last_q : tile.last_k); ++i) {
      if (std::isnan(values[i])) return values[i];
      result = op == Op::k_tile_min ? std::min(result, values[i]) : std::max(result, values[i]);
    }
    return result;
  }

  void fail(const std::string& problem) {
    if (is_sound_) ADD_FAILURE() << problem;
    is_sound_ = false;
  }

  void check_tile(const TilePlace& tile, bool may_keep, bool all_kept, TileCounts& counts) {
    bool any = false, all = true;
    for (int q = tile.first_q; q <= tile.last_q; ++q) {
      for (int k = tile.first_k; k <= tile.last_k; ++k) {
        any = any || keep_[q][k];
        all = all && keep_[q][k];
      }
    }
    ++counts.tiles;
    counts.empty += !any;
    counts.found_empty += !may_keep;
    counts.full += all;
    counts.found_full += all_kept;
    if (may_keep >= any && all_kept <= all) return;
    fail(fmt::format("rows {}..{}, keys {}..{}: may_keep is {}, all_kept {}; kept are {}", tile.first_q, tile.last_q, tile.first_k,
                     tile.last_k, may_keep, all_kept,
                     all   ? "all"
                     : any ? "some"
                           : "none"));
  }

  void check_ranges(int block, const IndexRange& kept, const IndexRange& full, bool is_key) {
    Interpreter ends(ir_.graph, {kept.begin, kept.end, full.begin, full.end}, situation_.precision);
    const int tiled = is_key ? situation_.sizes.q_len : situation_.sizes.k_len;
    const int length = is_key ? situation_.sizes.k_len : situation_.sizes.q_len;
    for (int first = 0; first < tiled; first += block) {
      const int last = std::min(first + block, tiled) - 1;
      const std::span<const double> said =
          ends(LeafEnv(*this, is_key ? TilePlace{first, last, kUnset, kUnset} : TilePlace{kUnset, kUnset, first, last}));
      const std::string where =
          fmt::format("{} {}..{}: kept [{}, {}), full [{}, {})", is_key ? "rows" : "keys", first, last, said[0], said[1], said[2], said[3]);
      for (int i : {0, 2}) {
        if (said[i] < 0 || said[i] > said[i + 1] || said[i + 1] > length) return fail(where + ": not a range");
      }
      for (int other = 0; other < length; ++other) {
        bool any = false, all = true;
        for (int i = first; i <= last; ++i) {
          const bool keep = is_key ? keep_[i][other] : keep_[other][i];
          any = any || keep;
          all = all && keep;
        }
        if (any && (other < said[0] || other >= said[1])) return fail(fmt::format("{}: {} is kept", where, other));
        if (!all && other >= said[2] && other < said[3]) return fail(fmt::format("{}: {} is not kept by all", where, other));
      }
    }
  }

  const Ir& ir_;
  const MaskBounds& bounds_;
  Situation situation_;
  std::vector<Rate> rates_;
  std::vector<std::vector<bool>> keep_;           // [q][k]
  std::map<ValueId, std::vector<double>> lines_;  // values of what tile_min and tile_max ask for, by row or column
  bool is_sound_ = true;
};

}  // namespace attune::codegen
