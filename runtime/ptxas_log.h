// What ptxas says of the kernels that it made.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace attune::runtime {

// Of one kernel, functions that it calls and that were not inlined included.
struct GpuResources {
  std::string kernel;
  int registers = 0;    // of a thread
  int stack_bytes = 0;  // of a thread; the rest are bytes too
  int spill_store_bytes = 0, spill_load_bytes = 0;
  int shared_bytes = 0;  // static, of a block

  bool operator==(const GpuResources&) const = default;
};

struct PtxasReport {
  std::vector<GpuResources> kernels;  // by name
  // "(C7508) Potential Performance Loss: 'setmaxnreg' ignored; ...": what ptxas warns of, or gives a number to. In its order.
  std::vector<std::string> warnings;
};

// Reads what --ptxas-options=-v prints. Lines of any other form are passed over.
PtxasReport parse_ptxas_log(std::string_view log);

}  // namespace attune::runtime
