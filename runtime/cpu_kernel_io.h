// A CpuKernel as bytes, for the cache.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "runtime/cpu_kernel.h"

namespace attune::runtime {

std::string to_bytes(const CpuKernel& kernel);
// nullopt if the bytes are not what to_bytes made.
std::optional<CpuKernel> cpu_kernel_from_bytes(std::string_view bytes);

}  // namespace attune::runtime
