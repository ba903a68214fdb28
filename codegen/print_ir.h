// Every stage of lowering as text, deterministic: what `attune explain` prints and golden tests pin.
#pragma once

#include <span>
#include <string>
#include <utility>

#include "codegen/ir.h"
#include "codegen/lower.h"

namespace attune::codegen {

// One expression in the language's notation, minimal brackets; inner operators as calls: tile_min(x), to_f64(x).
std::string print_expr(const Ir& ir, ValueId id);

// Named roots; a value that is used more than once and costs something gets a line of its own, "%7 = ...", before its first use;
// so does one that is too long for a line.
std::string print_roots(const Ir& ir, std::span<const std::pair<std::string, ValueId>> roots);

std::string print_ir(const Ir& ir);                  // params with dims and defaults, then score, mask, weights as typed
std::string print_backward(const Lowered& lowered);  // weight, dqk, each parameter's gradient
std::string print_rates(const Lowered& lowered);     // what is computed once per kernel, row, column, element
std::string print_bounds(const Lowered& lowered);    // kind, may_keep, all_kept, ranges

}  // namespace attune::codegen
