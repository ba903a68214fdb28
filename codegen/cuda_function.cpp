#include "codegen/cuda_function.h"

#include <fmt/format.h>

#include "codegen/cuda_values.h"

namespace attune::codegen {

std::string cuda_function(std::string_view declared, const std::string& body, bool is_guarded) {
  const std::string guarded = is_guarded ? "  template <bool kGuarded>\n" : "";
  return guarded + cuda_line(2, fmt::format("static DEVICE {} {{", declared)) + body + "  }\n";
}

std::string cuda_return(const std::string& value) {
  return cuda_line(4, fmt::format("return {};", value));
}

std::string cuda_struct(std::string_view name, const std::string& members) {
  return members.empty() ? fmt::format("  struct {} {{}};\n", name) : fmt::format("  struct {} {{\n{}  }};\n", name, members);
}

std::string cuda_indented(const std::string& lines) {
  std::string text;
  for (size_t at = 0; at < lines.size();) {
    const size_t end = lines.find('\n', at);
    text += "  " + lines.substr(at, end + 1 - at);
    at = end + 1;
  }
  return text;
}

}  // namespace attune::codegen
