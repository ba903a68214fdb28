// Philox 4x32 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): a keyed bijection of counters whose
// outputs are random. On the host; form_random of math_forms.h is the same by instructions.
#pragma once

#include <array>
#include <cstdint>

namespace attune::codegen {

inline constexpr int kRandomRounds = 7;  // the fewest that the paper found to pass every test

struct PhiloxConstants {
  static constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  static constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;  // added to the key from round to round
};

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key, int rounds);

}  // namespace attune::codegen
