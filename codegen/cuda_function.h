// Pieces of a struct of static functions as CUDA text, as they stand in `Variant`.
#pragma once

#include <string>
#include <string_view>

namespace attune::codegen {

// Arguments that most functions of a Variant end with.
inline constexpr std::string_view kOfCall = "const Params& p, const Uniform& u";
inline constexpr std::string_view kOfPair =
    "int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Column& column, bool keeps";
// Where feeders bring what pairs read.
inline constexpr std::string_view kOfFedPair =
    "int q_idx, int k_idx, const Params& p, const Uniform& u, const Row& row, const Pair& column, bool keeps";

// One function. `body` stands at an indentation of four. `is_guarded`: a template of kGuarded.
std::string cuda_function(std::string_view declared, const std::string& body, bool is_guarded = false);
std::string cuda_return(const std::string& value);
std::string cuda_struct(std::string_view name, const std::string& members);
// Two blanks before each line.
std::string cuda_indented(const std::string& lines);

}  // namespace attune::codegen
