// Notes for the person at the terminal, on stderr, only where the environment variable ATTUNE_LOG is set to something other than 0.
#pragma once

#include <string_view>

namespace attune::runtime {

bool log_enabled();
void log(std::string_view message);       // one line
void log_once(std::string_view message);  // the same, but each text only once a process

}  // namespace attune::runtime
