// attune doctor: what this machine offers. Always exit code 0: a missing GPU is a finding, not a failure.
#include "api/doctor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"

namespace attune::cli {
namespace {

nlohmann::ordered_json library_json(const LibraryReport& library) {
  return {{"found", library.found}, {"path", library.path}, {"version", library.version}};
}

std::string report_json(const DoctorReport& report) {
  nlohmann::ordered_json json;
  json["attune_version"] = report.attune_version;
  json["llvm_version"] = report.llvm_version;
  json["cpu"] = report.cpu;
  json["cpu_features"] = report.cpu_features;
  json["cores"] = report.cores;
  json["driver"] = library_json(report.driver);
  json["nvrtc"] = library_json(report.nvrtc);
  json["gpus"] = report.gpus;
  json["cache"] = {{"folder", report.cache_folder},   {"usable", report.cache_usable}, {"problem", report.cache_problem},
                   {"entries", report.cache_entries}, {"bytes", report.cache_bytes},   {"limit_bytes", report.cache_limit_bytes}};
  return json.dump(2) + "\n";
}

std::string library_text(const LibraryReport& library) {
  if (!library.found) return fmt::format("not found (tried {})", library.path);
  return fmt::format("{} ({})", library.version.empty() ? "version unknown" : library.version, library.path);
}

double mebibytes(int64_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

std::string report_text(const DoctorReport& report) {
  std::string text;
  auto line = [&](const char* name, const std::string& value) { fmt::format_to(std::back_inserter(text), "{:<14}{}\n", name, value); };
  line("attune", report.attune_version);
  line("llvm", report.llvm_version);
  line("cpu", fmt::format("{}, {} {}", report.cpu, report.cores, report.cores == 1 ? "core" : "cores"));
  line("cpu features", report.cpu_features.empty() ? "none of those that matter" : fmt::format("{}", fmt::join(report.cpu_features, " ")));
  line("driver", library_text(report.driver));
  line("nvrtc", library_text(report.nvrtc));
  if (report.gpus.empty()) line("gpus", "none");
  for (size_t i = 0; i < report.gpus.size(); ++i) line(i == 0 ? "gpus" : "", fmt::format("{}: {}", i, report.gpus[i]));
  line("cache", report.cache_folder);
  if (report.cache_usable) {
    line("", fmt::format("{} {}, {:.1f} of {:.0f} MiB", report.cache_entries, report.cache_entries == 1 ? "entry" : "entries",
                         mebibytes(report.cache_bytes), mebibytes(report.cache_limit_bytes)));
  } else {
    line("", "not usable: " + report.cache_problem);
  }
  return text;
}

}  // namespace

Command doctor_command(Outcome& outcome) {
  return {"doctor",
          "Show what this machine offers: CPU, GPUs, libraries, cache",
          {{"--json", &outcome.json, "Print as a JSON object"}},
          "Examples:\n  attune doctor\n  attune doctor --json\n",
          [&outcome] {
            DoctorReport report = doctor();
            print(outcome.json ? report_json(report) : report_text(report));
          }};
}

}  // namespace attune::cli
