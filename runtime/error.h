// The three kinds of error: a user's mistake in a program is a dsl::Diagnostics; a mistake in a call or a failure of the environment is one
// of the exceptions below; our own bug is an assert.
#pragma once

#include <stdexcept>
#include <string>

namespace attune {

// The caller's mistake: a wrong shape, dtype, missing parameter. Names the argument, the found and the expected value.
class ArgumentError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// The environment failed: names the call, its code, and its log where there is one.
class EnvironmentError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The caller asked for it while something was at work.
class CancelledError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

}  // namespace attune
