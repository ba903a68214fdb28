// Conversions of distances, f32(q_idx - k_idx) and the like, as differences of conversions: f32(q_idx) - f32(k_idx). A conversion then
// costs one for each row and one for each column, and a subtraction for each pair.
#pragma once

#include <cstdint>

#include "codegen/lower.h"

namespace attune::codegen {

// Lengths from here on: some positions are no numbers of f32.
inline constexpr int64_t kFirstInexactLength = int64_t{1} << 24;

// The same program; exact for lengths below kFirstInexactLength. The mask and its bounds stay as they are.
Lowered with_float_distances(Lowered lowered);

}  // namespace attune::codegen
