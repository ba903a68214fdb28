#include "comparison.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace attune::numeric {
namespace {

std::string position(size_t index, const std::vector<int64_t>& dims) {
  std::vector<int64_t> indices(dims.size());
  for (size_t axis = dims.size(); axis-- > 0; index /= static_cast<size_t>(dims[axis])) {
    indices[axis] = static_cast<int64_t>(index % static_cast<size_t>(dims[axis]));
  }
  return fmt::format("[{}]", fmt::join(indices, ", "));
}

}  // namespace

bool Difference::within(const Tolerance& tolerance) const {
  const double all = tolerance.absolute * std::sqrt(static_cast<double>(count));
  return same_kind && norm <= tolerance.relative * want_norm + all && worst <= tolerance.worst * greatest + tolerance.absolute;
}

Difference difference(const std::vector<double>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) throw std::logic_error(fmt::format("{} values instead of {}", got.size(), want.size()));
  Difference result;
  result.count = got.size();
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(want[i]) || !std::isfinite(got[i])) {
      const bool is_same = std::isnan(want[i]) ? std::isnan(got[i]) : got[i] == want[i];
      if (!is_same && result.same_kind) {
        result.same_kind = false;
        result.wrong_index = i;
      }
      continue;
    }
    const double error = std::abs(got[i] - want[i]);
    result.norm += error * error;
    result.want_norm += want[i] * want[i];
    result.greatest = std::max(result.greatest, std::abs(want[i]));
    if (error > result.worst) {
      result.worst = error;
      result.worst_index = i;
    }
  }
  result.norm = std::sqrt(result.norm);
  result.want_norm = std::sqrt(result.want_norm);
  return result;
}

std::string describe(const std::string& name, const Difference& difference, const Tolerance& tolerance, const std::vector<double>& got,
                     const std::vector<double>& want, const std::vector<int64_t>& dims) {
  const size_t index = difference.same_kind ? difference.worst_index : difference.wrong_index;
  return fmt::format("{} differs: worst |got - want| = {:.2e} at {} (got {:.6g}, want {:.6g}), greatest {:.2e}, rel.err {:.2e}, bar {:.2e}",
                     name, std::abs(got.at(index) - want.at(index)), position(index, dims), got.at(index), want.at(index),
                     difference.greatest, difference.relative(), tolerance.relative);
}

}  // namespace attune::numeric
