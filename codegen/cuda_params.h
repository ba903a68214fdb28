// The argument of a GPU kernel: `struct Params` as CUDA text, and where each member lies.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "codegen/gpu_kernel.h"
#include "codegen/lower.h"

namespace attune::codegen {

// Members in their order, at the offsets that CUDA gives them.
class ParamsLayout {
 public:
  void add(const std::string& name, const std::string& type) { add_member(name, type, 1, name); }
  void add_array(const std::string& name, const std::string& element, int count);

  size_t bytes() const;
  const std::vector<GpuField>& fields() const { return fields_; }
  std::string text() const;

 private:
  struct Line {  // members of one type
    std::string type;
    std::vector<std::string> members;
  };

  void add_member(const std::string& name, const std::string& element, int count, const std::string& declared);

  std::vector<GpuField> fields_;
  std::vector<Line> lines_;
  size_t end_ = 0, alignment_ = 8;
};

struct GpuParamsOptions {
  GpuSkeleton skeleton = GpuSkeleton::kSm90;
  bool packed = false;
  bool has_extents = false;      // classes of tiles are searched for with what is known of blocks of keys (backward: of queries)
  bool has_index_flag = false;   // an index depends on data
  bool deterministic = false;    // backward
  std::vector<int> mapped = {};  // tensor parameters that have a map of tiles, too
};

// Both throw ArgumentError if the members take more than a kernel's argument may.
ParamsLayout forward_params(const Ir& ir, const GpuParamsOptions& options);
ParamsLayout backward_params(const Ir& ir, const GpuParamsOptions& options);

}  // namespace attune::codegen
