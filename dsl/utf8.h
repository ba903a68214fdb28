// Decoding of UTF-8, strict: overlong forms, surrogates and values above U+10FFFF are invalid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace attune::dsl {

struct CodePoint {
  uint32_t value = 0;  // of an invalid byte: that byte
  size_t bytes = 1;
  bool is_valid = false;
};

// The code point at `offset`, which must lie within the text. An invalid sequence is one invalid byte.
CodePoint decode_utf8(std::string_view text, size_t offset);

inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace attune::dsl
