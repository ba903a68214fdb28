// A picture of a mask as SVG: the classes of its tiles, the kept pairs, ticks, a legend with counts and percentages. At most
// kMaxPictureBytes long: long sequences are drawn in cells of several pairs, shaded by how many of them are kept.
#pragma once

#include <cstddef>
#include <string>

#include "api/explain.h"

namespace attune::cli {

inline constexpr size_t kMaxPictureBytes = 300 * 1000;

std::string mask_picture(const std::string& program, const Shape& shape, const MaskTiles& tiles);

// "skipped 28 (43.8%), partial 8 (12.5%), full 28 (43.8%) of 64 tiles; 2080 of 4096 pairs kept (50.8%)"
std::string mask_summary(const MaskTiles& tiles);

}  // namespace attune::cli
