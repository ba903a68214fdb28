// What the commands share: errors of the command line, text of arguments to values, reading program files.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "api/attune.h"

namespace attune::cli {

// A mistake in the command line or its files, or an environment that does not serve: exit code 2. Names the argument, the found and the
// expected.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline constexpr int kExitFine = 0;
inline constexpr int kExitProgram = 1;  // the program is wrong
inline constexpr int kExitUsage = 2;    // the command or the environment is wrong

// Result of a command, filled in while it runs.
struct Outcome {
  int exit_code = kExitFine;
  bool json = false;  // diagnostics go to standard output as JSON
};

// Help texts that several commands use for one kind of value; completion derives its choices from them.
inline constexpr const char* kProgramFile = "FILE.attn";
inline constexpr const char* kArrayFile = "FILE.npy";
inline constexpr const char* kAssignment = "NAME=VALUE";
inline constexpr const char* kParamAssignment = "NAME=VALUE|FILE.npy";
inline constexpr const char* kArrayAssignment = "NAME=FILE.npy";
inline constexpr const char* kDTypes = "f32|f16|bf16";
inline constexpr const char* kDevices = "auto|cpu|cuda";
inline constexpr const char* kAccuracies = "fast|high";
inline constexpr const char* kStages = "ast|ir|grad|rates|bounds|llvm|cuda|ptx|resources";

// A program's text. Throws UsageError.
std::string read_program(const std::string& path);

// Each "NAME=VALUE" given for `option`. Throws UsageError for one without '=', an empty name or value, and a name given twice.
std::map<std::string, std::string> parse_assignments(std::string_view option, std::span<const std::string> texts);

// Values of `const` parameters, before anything is known of the program: true, false, an integer, or a number.
std::map<std::string, Scalar> parse_constants(std::span<const std::string> texts);

// compile(), but where only the values of --const are wrong, throws a UsageError that says which.
Variant compile_program(std::string_view text, const CompileOptions& options);

// The value of a scalar parameter by its declared type.
Scalar parse_scalar(std::string_view option, const ParamInfo& param, const std::string& text);

DType parse_dtype(const std::string& text);        // of "f32|f16|bf16"
Accuracy parse_accuracy(const std::string& text);  // of "fast|high"
Shape parse_shape(const std::string& text);        // batch,q_len,k_len,heads,kv_heads,head_dim,v_dim

// The parameter of that name, or a UsageError with the nearest name.
const ParamInfo& find_param(std::string_view option, const Variant& variant, const std::string& name);

// " (did you mean 'window'?)" with the candidate nearest by edit distance, or "" if none is within a third of the length.
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

// Writes to standard output. Failures show when it is flushed at the end.
void print(std::string_view text);

}  // namespace attune::cli
