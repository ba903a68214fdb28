#include "runtime/cpu_kernel_io.h"

#include <cstring>

namespace attune::runtime {
namespace {

struct Metadata {
  uint64_t scratch_bytes;
  uint64_t symbol_bytes;  // the symbol follows, then the object up to the end
  int32_t block_q, dk_row, dv_row;
  int32_t reserved;
};

}  // namespace

std::string to_bytes(const CpuKernel& kernel) {
  const Metadata metadata = {kernel.scratch_bytes, kernel.symbol.size(), kernel.block_q, kernel.dk_row, kernel.dv_row, 0};
  std::string bytes(sizeof(metadata), '\0');
  std::memcpy(bytes.data(), &metadata, sizeof(metadata));
  return bytes + kernel.symbol + kernel.object;
}

std::optional<CpuKernel> cpu_kernel_from_bytes(std::string_view bytes) {
  Metadata metadata;
  if (bytes.size() < sizeof(metadata)) return std::nullopt;
  std::memcpy(&metadata, bytes.data(), sizeof(metadata));
  bytes.remove_prefix(sizeof(metadata));
  if (metadata.symbol_bytes > bytes.size() || metadata.block_q <= 0) return std::nullopt;
  CpuKernel kernel;
  kernel.symbol = bytes.substr(0, metadata.symbol_bytes);
  kernel.object = bytes.substr(metadata.symbol_bytes);
  kernel.block_q = metadata.block_q;
  kernel.scratch_bytes = metadata.scratch_bytes;
  kernel.dk_row = metadata.dk_row;
  kernel.dv_row = metadata.dv_row;
  return kernel;
}

}  // namespace attune::runtime
