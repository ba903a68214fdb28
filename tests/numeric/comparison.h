// How far a result is from what it should be.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attune::numeric {

struct Tolerance {
  double relative = 0;  // of the norm of the difference to the norm of what is wanted
  double worst = 0;     // of one element's difference to the greatest magnitude wanted
  double absolute = 0;  // that one element may differ anyway
};

struct Difference {
  double norm = 0;  // of got - want, where both are finite
  double want_norm = 0;
  double worst = 0;
  double greatest = 0;  // magnitude wanted
  size_t worst_index = 0;
  bool same_kind = true;   // NaN where NaN is wanted, the same infinity where one is wanted, finite elsewhere
  size_t wrong_index = 0;  // where not
  size_t count = 0;

  double relative() const { return want_norm > 0 ? norm / want_norm : norm; }
  bool within(const Tolerance& tolerance) const;
};

Difference difference(const std::vector<double>& got, const std::vector<double>& want);

// "dk differs: worst |got - want| = 3.1e-02 at [0, 127, 3, 40] (got 0.421, want 0.4522), rel.err 4.4e-03, bar 2.5e-03"
std::string describe(const std::string& name, const Difference& difference, const Tolerance& tolerance, const std::vector<double>& got,
                     const std::vector<double>& want, const std::vector<int64_t>& dims);

}  // namespace attune::numeric
