// The CUDA files of codegen/device/, embedded.
#pragma once

#include <string_view>

namespace attune::codegen {

// "types.cuh" and so on; throws std::logic_error if there is none.
std::string_view device_source(std::string_view name);

}  // namespace attune::codegen
