// A checked shape and the sequences in it. Inner part of the library.
#pragma once

#include <cstdint>
#include <vector>

#include "api/attune.h"
#include "codegen/eval/defaults.h"

namespace attune {

struct Lengths {
  int32_t q_len = 0, k_len = 0;
  auto operator<=>(const Lengths&) const = default;
};

struct Problem {
  struct Sequence {
    int64_t first_query = 0, first_key = 0;  // where it begins in packed tensors
    size_t lengths = 0;                      // index into Problem::lengths
  };

  Shape shape;
  bool packed = false;
  int64_t total_q = 0, total_k = 0;  // packed
  std::vector<Lengths> lengths;      // the different ones
  std::vector<Sequence> sequences;   // packed: one each; else one for the whole batch

  codegen::Sizes sizes(Lengths own) const;
  codegen::Sizes longest() const;  // what tensor dims go by
};

// Throws ArgumentError naming the size or the offset that is wrong.
Problem check_problem(const Shape& shape, const int32_t* cu_q, const int32_t* cu_k);

}  // namespace attune
