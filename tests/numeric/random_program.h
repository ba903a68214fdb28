// Valid attention programs from a seed: every operator and every kind of parameter, mask and weights, kept numerically tame so that a
// difference to the reference is an error and not bad conditioning.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "numeric_case.h"

namespace attune::numeric {

struct RandomOptions {
  // Without what has kinks or leaps in qk or a parameter with a gradient, so that finite differences hold.
  bool smooth = false;
  int greatest_len = 150;
};

// A program in pieces that can be taken away one by one.
struct RandomProgram {
  struct Let {
    std::string name, value;
  };
  std::vector<std::string> params;  // "slope0: grad f32[heads]"
  std::vector<Let> lets;
  std::vector<std::string> score;  // terms of a sum
  std::vector<std::string> mask;   // of a conjunction; none: no mask
  std::string weights;             // "softmax(score{})" with a place for the sink, or a pointwise expression
  std::string sink;                // "" if none
  std::vector<std::string> factors;

  // Without the lets and parameters that nothing uses.
  std::string text() const;
};

struct RandomCase {
  RandomProgram program;
  Case settings;  // without the text

  Case whole() const;
};

RandomCase random_case(uint64_t seed, const RandomOptions& options = {});

// Cases that are a little smaller, the greatest steps first.
std::vector<RandomCase> smaller_cases(const RandomCase& from);

}  // namespace attune::numeric
