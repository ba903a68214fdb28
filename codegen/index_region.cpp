#include "codegen/index_region.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace attune::codegen {
namespace {

// Half planes are widened by this, and by more where numbers are large: less than what lies between whole numbers, more than the rounding
// of corners.
constexpr double kSlack = 1e-9;
constexpr double kRelativeSlack = 1e-13;

}  // namespace

std::vector<IndexRegion::Point> IndexRegion::clipped(std::vector<Point> polygon, const HalfPlane& half_plane) const {
  const double scale = std::abs(half_plane.q) * q_len_ + std::abs(half_plane.k) * k_len_ + std::abs(half_plane.offset);
  const double offset = half_plane.offset + kSlack + kRelativeSlack * scale;
  const auto distance = [&](const Point& point) { return half_plane.q * point.q + half_plane.k * point.k + offset; };
  std::vector<Point> result;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const Point& from = polygon[i];
    const Point& to = polygon[(i + 1) % polygon.size()];
    const double a = distance(from);
    const double b = distance(to);
    if (a >= 0) result.push_back(from);
    if ((a < 0) != (b < 0)) {
      const double part = a / (a - b);
      result.push_back({from.q + part * (to.q - from.q), from.k + part * (to.k - from.k)});
    }
  }
  return result;
}

void IndexRegion::add(std::span<const HalfPlane> half_planes) {
  if (q_len_ <= 0 || k_len_ <= 0) return;
  const double last_q = q_len_ - 1.0;
  const double last_k = k_len_ - 1.0;
  std::vector<Point> polygon = {{0, 0}, {last_q, 0}, {last_q, last_k}, {0, last_k}};
  for (const HalfPlane& half_plane : half_planes) polygon = clipped(std::move(polygon), half_plane);
  corners_.insert(corners_.end(), polygon.begin(), polygon.end());
}

NumberRange IndexRegion::range(double q, double k) const {
  NumberRange result = {INFINITY, -INFINITY};
  for (const Point& corner : corners_) {
    const double value = q * corner.q + k * corner.k;
    result.low = std::min(result.low, value);
    result.high = std::max(result.high, value);
  }
  const double slack = kSlack + kRelativeSlack * (std::abs(q) * q_len_ + std::abs(k) * k_len_);
  return {std::ceil(result.low - slack), std::floor(result.high + slack)};
}

}  // namespace attune::codegen
