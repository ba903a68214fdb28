// Which numbers are whole, and how large they may be: i32 arithmetic that cannot wrap is written as plain + on a GPU, and bounds, which are
// made in f64, as int or i64, whose instructions are everywhere as fast as others.
#pragma once

#include <optional>
#include <vector>

#include "codegen/ir.h"

namespace attune::codegen {

struct WholeRange {
  double low = 0, high = 0;
  bool wraps = false;  // i32: the exact result may leave i32

  bool fits_i32() const;
};

// For every node of type i32, and for those of type f64 that are known to be whole and below 2^53: exact in double and in i64. Sizes and
// indices lie in [0, kIndexLimit), as in conditions.h.
std::vector<std::optional<WholeRange>> whole_ranges(const Graph& graph);

// floor(x / c), or floor(x * (1 / c)) where 1 / c is exact, of a whole x by a whole constant c.
struct WholeDivision {
  ValueId dividend = kNoValue;
  double divisor = 0;
};
std::optional<WholeDivision> whole_division(const Graph& graph, const std::vector<std::optional<WholeRange>>& ranges, ValueId floor);

}  // namespace attune::codegen
