// f32 to and from the 16-bit float formats: to nearest, ties to even; beyond the range gives inf; NaN stays NaN.
#pragma once

#include <cstdint>

namespace attune::cli {

uint16_t f32_to_f16(float value);
uint16_t f32_to_bf16(float value);
float f16_to_f32(uint16_t bits);
float bf16_to_f32(uint16_t bits);

}  // namespace attune::cli
