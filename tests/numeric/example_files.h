// The programs of examples/, with what they need to run at small sizes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "api/attune.h"

namespace attune::numeric {

struct Example {
  std::string name;
  std::string text;
  std::map<std::string, Scalar> constants;
  bool any_lengths = true;  // else q_len = k_len = length
  int length = 40;
};

// In the order of their names.
std::vector<Example> load_examples();

}  // namespace attune::numeric
