// A GpuBinary as bytes, for the cache. Its key is not among them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/gpu_binary.h"

namespace attune::runtime {

std::string to_bytes(const GpuBinary& binary);
// nullopt if the bytes are not what to_bytes made.
std::optional<GpuBinary> gpu_binary_from_bytes(std::string_view bytes);

}  // namespace attune::runtime
