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

// The same of texts by name, for programs that are carried away from the sources.
std::vector<Example> examples_of(const std::map<std::string, std::string>& texts);

}  // namespace attune::numeric
