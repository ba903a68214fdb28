#include "cli/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>

namespace attune::cli {
namespace {

// Far above the language's own limit, whose error is better; this one only stops endless files.
constexpr size_t kMaxProgramBytes = size_t{16} << 20;

// The whole text as a number; "+1" and blanks are not numbers.
template <typename T>
std::optional<T> number(std::string_view text) {
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool is_i32(int64_t value) {
  return value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max();
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      current[j] = std::min({last[j] + 1, current[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) current[j] = std::min(current[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, current);
  }
  return last[b.size()];
}

void check_constants(const Variant& variant, const std::map<std::string, Scalar>& constants) {
  for (const auto& [name, value] : constants) {
    const ParamInfo& param = find_param("--const", variant, name);
    auto expected = [&](std::string_view what) {
      return UsageError(fmt::format("--const {}: expected {} for '{}'", name, what, param.declaration));
    };
    if (!param.is_const) throw UsageError(fmt::format("--const {}: '{}' is not const: give it with --param", name, param.declaration));
    if (param.is_bool && !std::holds_alternative<bool>(value)) throw expected("true or false");
    if (!param.is_bool && std::holds_alternative<bool>(value)) throw expected("a number");
    if (param.dtype != DType::kI32) continue;
    const int64_t* integer = std::get_if<int64_t>(&value);
    if (!integer || !is_i32(*integer)) throw expected("an integer of 32 bits");
  }
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

std::string read_program(const std::string& path) {
  // Read as a stream: a pipe will do.
  std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw UsageError(fmt::format("cannot open '{}': {}", path, std::strerror(errno)));
  std::string text;
  std::array<char, 65536> buffer;
  while (size_t bytes = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    text.append(buffer.data(), bytes);
    if (text.size() > kMaxProgramBytes) throw UsageError(fmt::format("'{}' has over {} bytes: that is no program", path, kMaxProgramBytes));
  }
  if (std::ferror(file.get())) throw UsageError(fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
  return text;
}

std::map<std::string, std::string> parse_assignments(std::string_view option, std::span<const std::string> texts) {
  std::map<std::string, std::string> result;
  for (const std::string& text : texts) {
    size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
      throw UsageError(fmt::format("{}: expected NAME=VALUE, found '{}'", option, text));
    }
    std::string name = text.substr(0, equals);
    if (!result.emplace(name, text.substr(equals + 1)).second) throw UsageError(fmt::format("{}: '{}' is given twice", option, name));
  }
  return result;
}

std::map<std::string, Scalar> parse_constants(std::span<const std::string> texts) {
  std::map<std::string, Scalar> result;
  for (const auto& [name, text] : parse_assignments("--const", texts)) {
    if (text == "true" || text == "false") {
      result[name] = text == "true";
    } else if (auto integer = number<int64_t>(text)) {
      result[name] = *integer;
    } else if (auto real = number<double>(text); real && !std::isnan(*real)) {
      result[name] = *real;
    } else {
      throw UsageError(fmt::format("--const {}: expected a number, true or false, found '{}'", name, text));
    }
  }
  return result;
}

Variant compile_program(std::string_view text, const CompileOptions& options) {
  std::optional<Variant> variant;
  try {
    variant = compile(text, options);
  } catch (const ProgramError&) {
    // The program's own mistakes come first; those of --const show against what it declares.
    if (options.constants.empty()) throw;
    CompileOptions defaults = options;
    defaults.constants.clear();
    try {
      variant = compile(text, defaults);
    } catch (const ProgramError&) {
    }
    if (variant) check_constants(*variant, options.constants);
    throw;
  }
  check_constants(*variant, options.constants);
  return *variant;
}

Scalar parse_scalar(std::string_view option, const ParamInfo& param, const std::string& text) {
  auto fail = [&](std::string_view expected) {
    return UsageError(fmt::format("{} {}: expected {} for '{}', found '{}'", option, param.name, expected, param.declaration, text));
  };
  if (param.is_bool) {
    if (text != "true" && text != "false") throw fail("true or false");
    return text == "true";
  }
  if (param.dtype == DType::kI32) {
    auto value = number<int64_t>(text);
    if (!value || !is_i32(*value)) throw fail("an integer of 32 bits");
    return *value;
  }
  auto value = number<double>(text);
  if (!value || std::isnan(*value)) throw fail("a number that is not NaN");
  return *value;
}

DType parse_dtype(const std::string& text) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (text == dtype_name(dtype)) return dtype;
  }
  throw UsageError(fmt::format("--dtype: expected f32, f16 or bf16, found '{}'", text));
}

Accuracy parse_accuracy(const std::string& text) {
  if (text == "fast") return Accuracy::kFast;
  if (text == "high") return Accuracy::kHigh;
  throw UsageError(fmt::format("--accuracy: expected fast or high, found '{}'", text));
}

Shape parse_shape(const std::string& text) {
  Shape shape;
  const std::array sizes = {&shape.batch, &shape.q_len, &shape.k_len, &shape.heads, &shape.kv_heads, &shape.head_dim, &shape.v_dim};
  std::string_view rest = text;
  for (size_t i = 0; i < sizes.size(); ++i) {
    size_t comma = rest.find(',');
    bool last = i + 1 == sizes.size();
    auto size = number<int32_t>(rest.substr(0, comma));
    if (!size || *size < 1 || last != (comma == std::string_view::npos)) {
      throw UsageError(
          fmt::format("--shape: expected seven sizes from 1 on, batch,q_len,k_len,heads,kv_heads,head_dim,v_dim, found '{}'", text));
    }
    *sizes[i] = *size;
    if (!last) rest.remove_prefix(comma + 1);
  }
  if (shape.heads % shape.kv_heads != 0) {
    throw UsageError(fmt::format("--shape: heads {} is not a multiple of kv_heads {}", shape.heads, shape.kv_heads));
  }
  return shape;
}

const ParamInfo& find_param(std::string_view option, const Variant& variant, const std::string& name) {
  std::vector<std::string> names;
  for (const ParamInfo& param : variant.params()) {
    if (param.name == name) return param;
    names.push_back(param.name);
  }
  throw UsageError(fmt::format("{}: '{}' has no parameter '{}'{}", option, variant.name(), name, did_you_mean(name, names)));
}

std::string did_you_mean(std::string_view name, std::span<const std::string> candidates) {
  const std::string* best = nullptr;
  size_t limit = std::max<size_t>(name.size() / 3, 1);
  for (const std::string& candidate : candidates) {
    size_t distance = edit_distance(name, candidate);
    if (distance > limit || distance == std::max(name.size(), candidate.size())) continue;
    best = &candidate;
    if (distance == 0) break;
    limit = distance - 1;
  }
  return best ? fmt::format(" (did you mean '{}'?)", *best) : "";
}

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace attune::cli
