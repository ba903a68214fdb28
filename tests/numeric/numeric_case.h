// One numeric comparison: a program, the sizes it runs at, and the seed of its data.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "api/attune.h"

namespace attune::numeric {

// Sizes of one call; head_dim and v_dim belong to the case, since another head dim is another kernel.
struct ProblemShape {
  int heads = 1, kv_heads = 1;
  bool packed = false;
  std::vector<int> q_lens, k_lens;  // one a sequence; if not packed all are equal

  int batch() const { return static_cast<int>(q_lens.size()); }
};

struct Case {
  std::string text;
  std::map<std::string, Scalar> constants;
  DType dtype = DType::kF32;
  int head_dim = 1, v_dim = 1;
  std::vector<ProblemShape> problems;
  uint64_t seed = 0;     // of the data
  bool strided = false;  // tensors with gaps and in another order
  bool padded = false;   // GPU tests: strides of multiples of 8 elements, but for the last dim; not saved
  int threads = 1;
};

// "f16, head_dim 40, v_dim 24, seed 7; b2 q100 k130 h4/2; packed q3,0,7 k5,2,9 h2/1"
std::string describe(const Case& c);

// The case as text: the program after comment lines that hold everything else. load_case reads it back; it throws std::runtime_error for
// what save_case has not written.
std::string save_case(const Case& c);
Case load_case(std::string_view text);

}  // namespace attune::numeric
