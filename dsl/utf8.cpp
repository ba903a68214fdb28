#include "dsl/utf8.h"

namespace attune::dsl {
namespace {

// Bytes of the sequence that starts with `lead`; 0 if none does.
size_t sequence_bytes(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

bool is_scalar_value(uint32_t value, size_t bytes) {
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = value >= 0xD800 && value <= 0xDFFF;
  return value >= kSmallest[bytes] && value <= 0x10FFFF && !is_surrogate;
}

}  // namespace

CodePoint decode_utf8(std::string_view text, size_t offset) {
  const auto lead = static_cast<unsigned char>(text[offset]);
  const CodePoint invalid{lead, 1, false};
  const size_t bytes = sequence_bytes(lead);
  if (bytes == 0 || bytes > text.size() - offset) return invalid;
  constexpr uint32_t kLeadBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  uint32_t value = lead & kLeadBits[bytes];
  for (size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<unsigned char>(text[offset + i]);
    if ((next & 0xC0) != 0x80) return invalid;
    value = value << 6 | (next & 0x3F);
  }
  return is_scalar_value(value, bytes) ? CodePoint{value, bytes, true} : invalid;
}

}  // namespace attune::dsl
