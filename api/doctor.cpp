#include "api/doctor.h"

#include "api/kernels.h"
#include "runtime/driver_report.h"
#include "runtime/host_cpu.h"

namespace attune {
namespace {

constexpr std::string_view kFeatures[] = {"sse4.2",   "avx",      "avx2",       "fma",        "f16c",     "bmi2", "avx512f", "avx512bw",
                                          "avx512dq", "avx512vl", "avx512bf16", "avx512fp16", "amx-bf16", "neon", "sve"};

LibraryReport report_of(const runtime::FoundLibrary& library) {
  return {library.found, library.path, library.version};
}

}  // namespace

DoctorReport doctor() {
  DoctorReport report;
  report.attune_version = attune_version();
  report.llvm_version = codegen::llvm_version();
  const runtime::HostCpu cpu = runtime::native_cpu();
  report.cpu = cpu.name;
  for (std::string_view feature : kFeatures) {
    if (runtime::has_feature(cpu, feature)) report.cpu_features.emplace_back(feature);
  }
  report.cores = runtime::available_cores();

  const runtime::GpuReport gpus = runtime::report_gpus();
  report.driver = report_of(gpus.driver);
  report.nvrtc = report_of(gpus.nvrtc);
  report.gpus = gpus.gpus;

  const runtime::ObjectCache cache = open_object_cache();
  const runtime::CacheStats stats = cache.stats();
  report.cache_folder = cache.folder().path;
  report.cache_usable = cache.folder().usable();
  report.cache_problem = cache.folder().problem;
  report.cache_entries = stats.entries;
  report.cache_bytes = stats.bytes;
  report.cache_limit_bytes = stats.limit_bytes;
  return report;
}

}  // namespace attune
