#include "runtime/ptxas_log.h"

#include <algorithm>
#include <charconv>

namespace attune::runtime {
namespace {

constexpr std::string_view kInfo = "ptxas info", kWarning = "ptxas warning";

// The number in front of `unit`: 608 of "608 bytes stack frame". 0 if the line has none.
int number_before(std::string_view line, std::string_view unit) {
  const size_t end = line.find(unit);
  if (end == std::string_view::npos) return 0;
  size_t begin = end;
  while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
  int number = 0;
  std::from_chars(line.data() + begin, line.data() + end, number);
  return number;
}

// 'name' of "Compiling entry function 'name' for 'sm_90a'".
std::string_view quoted(std::string_view line) {
  const size_t begin = line.find('\'');
  if (begin == std::string_view::npos) return {};
  const size_t end = line.find('\'', begin + 1);
  return end == std::string_view::npos ? std::string_view() : line.substr(begin + 1, end - begin - 1);
}

// The text behind "ptxas info    : ".
std::string_view text_of(std::string_view line) {
  const size_t colon = line.find(": ");
  return colon == std::string_view::npos ? line : line.substr(colon + 2);
}

}  // namespace

PtxasReport parse_ptxas_log(std::string_view log) {
  PtxasReport report;
  while (!log.empty()) {
    const std::string_view line = log.substr(0, log.find('\n'));
    log.remove_prefix(std::min(log.size(), line.size() + 1));
    const bool has_number = line.starts_with(kInfo) && text_of(line).starts_with("(C");
    if (line.starts_with(kWarning) || has_number) {
      report.warnings.emplace_back(text_of(line));
    } else if (line.find("Compiling entry function") != std::string_view::npos) {
      report.kernels.emplace_back().kernel = quoted(line);
    } else if (!report.kernels.empty()) {
      // Of the kernel that was named last, or of a function that it calls.
      GpuResources& kernel = report.kernels.back();
      kernel.registers = std::max(kernel.registers, number_before(line, " registers"));
      kernel.stack_bytes =
          std::max({kernel.stack_bytes, number_before(line, " bytes stack frame"), number_before(line, " bytes cumulative")});
      kernel.spill_store_bytes += number_before(line, " bytes spill stores");
      kernel.spill_load_bytes += number_before(line, " bytes spill loads");
      kernel.shared_bytes = std::max(kernel.shared_bytes, number_before(line, " bytes smem"));
    }
  }
  std::sort(report.kernels.begin(), report.kernels.end(), [](const auto& a, const auto& b) { return a.kernel < b.kernel; });
  return report;
}

}  // namespace attune::runtime
