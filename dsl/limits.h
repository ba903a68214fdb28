// Limits that hold against hostile files; each is named in the error that it causes and in docs/language.md.
#pragma once

#include <cstddef>

namespace attune::dsl {

inline constexpr size_t kMaxSourceBytes = 256 * 1024;
inline constexpr size_t kMaxTokens = 16384;
inline constexpr int kMaxNesting = 128;  // height of an expression tree, brackets and chains of operators included
inline constexpr size_t kMaxParameters = 64;
inline constexpr size_t kMaxRank = 6;  // of a tensor parameter
inline constexpr size_t kMaxNameBytes = 128;

}  // namespace attune::dsl
