// Where pairs of indices lie that a mask may keep: a union of convex polygons of the (q_idx, k_idx) plane.
#pragma once

#include <optional>
#include <span>
#include <vector>

namespace attune::codegen {

// q * q_idx + k * k_idx + offset >= 0; q and k are whole.
struct HalfPlane {
  double q = 0, k = 0, offset = 0;
};

struct NumberRange {
  double low = 0, high = 0;
};

// A union of convex sets of pairs within [0, q_len) x [0, k_len).
class IndexRegion {
 public:
  IndexRegion(int q_len, int k_len) : q_len_(q_len), k_len_(k_len) {}

  // Adds the pairs of the box that fulfil all of `half_planes`.
  void add(std::span<const HalfPlane> half_planes);
  bool is_empty() const { return corners_.empty(); }
  // Range of q * q_idx + k * k_idx over the region, which is not empty; q and k are whole. Sound, and exact where the corners are.
  NumberRange range(double q, double k) const;

 private:
  struct Point {
    double q = 0, k = 0;
  };
  std::vector<Point> clipped(std::vector<Point> polygon, const HalfPlane& half_plane) const;

  int q_len_, k_len_;
  std::vector<Point> corners_;  // of all polygons
};

}  // namespace attune::codegen
