// Rates: what each value depends on, and so how often it must be computed.
//
// A kernel call handles one (b, h). kUniform: sizes, scalar parameters, b, h, kv_h and tile symbols: once. kRow: also q_idx, lse2 or delta:
// once a row. kColumn: also k_idx: once a column. kElement: qk, dp, or both a row and a column: for every pair. A read has the rate of
// its indices, any other value that of its operands. Precondition: none. There are no errors.
#pragma once

#include <vector>

#include "codegen/ir.h"

namespace attune::codegen {

// The rate of a value of two operands.
Rate join(Rate a, Rate b);
// Whether a value of rate `a` changes less often than one of rate `b` does: it can be hoisted out of it.
bool is_slower(Rate a, Rate b);

// The rate of every node of the graph.
std::vector<Rate> assign_rates(const Graph& graph);
// The same for the nodes that were added since `rates` was made.
void extend_rates(const Graph& graph, std::vector<Rate>& rates);

}  // namespace attune::codegen
