// Ir -> everything an emitter needs. lower.cpp is the list of passes.
#pragma once

#include <optional>
#include <vector>

#include "codegen/ir.h"

namespace attune::codegen {

// The value kept(pair) implies for a range of indices, as IR: [begin, end), i32, already clamped to [0, length]; begin <= end.
struct IndexRange {
  ValueId begin = kNoValue;
  ValueId end = kNoValue;
};

// What is known of the mask over a tile {first_q..last_q} x {first_k..last_k} (inclusive, Symbol::kFirstQ and so on), before any pair is
// looked at.
struct MaskBounds {
  enum class Kind : uint8_t {
    kAll,      // no mask
    kRange,    // closed form: the four ranges below hold, no tile map is needed
    kTileMap,  // the mask reads tensors or uses // and %: classify tiles by may_keep and all_kept
  };
  Kind kind = Kind::kAll;
  // bool; operands are uniform, tile symbols, and tile_min(x) / tile_max(x) of per-row or per-column values x over the tile's rows or
  // columns. Sound, not complete: may_keep is false only if the tile keeps nothing; all_kept is true only if it keeps everything.
  ValueId may_keep = kNoValue;
  ValueId all_kept = kNoValue;
  // kRange. In terms of first_q and last_q: no key outside kept_keys is kept by any row; every key inside full_keys is kept by all.
  IndexRange kept_keys, full_keys;
  // In terms of first_k and last_k, the transpose for key-major loops.
  IndexRange kept_queries, full_queries;
};

// One read of a `grad` parameter (a `param` or a `read` node) and what it receives: grad[indices of read] += contribution.
struct ParamGradient {
  int param = 0;
  ValueId read = kNoValue;         // the node: Op::k_read or Op::k_param
  ValueId per_element = kNoValue;  // f32, summed over kept pairs; uses kDp, kQk, kLse2, kDelta; kNoValue if none
  ValueId per_row = kNoValue;      // f32, summed over rows (through a sink); kNoValue if none
};

// The derivatives, as IR over kQk, kDp and, for softmax, the row symbols kLse2 and kDelta.
struct Backward {
  ValueId weight = kNoValue;  // the weight that multiplies v (softmax: exp2(score2 - lse2) * factor)
  ValueId dqk = kNoValue;     // dL / d qk
  std::vector<ParamGradient> params;
  bool uses_delta = false;  // whether any root above reads kDelta
};

struct Lowered {
  Ir ir;
  ValueId score2 = kNoValue;  // softmax: score * log2(e), with constants and uniform factors folded together
  Backward backward;
  MaskBounds bounds;
  std::vector<Rate> rates;  // of every node of ir.graph

  Rate rate(ValueId id) const { return rates[id]; }
};

// `ir` is typed and verified. Deterministic.
Lowered lower(Ir ir);

}  // namespace attune::codegen
