#include "numeric_case.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>
#include <stdexcept>

namespace attune::numeric {
namespace {

constexpr std::string_view kCaseMark = "#case ";
constexpr std::string_view kProblemMark = "#problem ";

std::string lengths_text(const ProblemShape& shape) {
  if (!shape.packed) return fmt::format("b{} q{} k{}", shape.batch(), shape.q_lens.at(0), shape.k_lens.at(0));
  return fmt::format("packed q{} k{}", fmt::join(shape.q_lens, ","), fmt::join(shape.k_lens, ","));
}

DType dtype_of(const std::string& name) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  throw std::runtime_error("no dtype '" + name + "'");
}

std::vector<int> read_lengths(std::istream& in) {
  size_t count = 0;
  in >> count;
  std::vector<int> lengths(count);
  for (int& length : lengths) in >> length;
  return lengths;
}

}  // namespace

std::string describe(const Case& c) {
  std::string text =
      fmt::format("{}, head_dim {}, v_dim {}, seed {}{}", dtype_name(c.dtype), c.head_dim, c.v_dim, c.seed, c.strided ? ", strided" : "");
  for (const ProblemShape& shape : c.problems) text += fmt::format("; {} h{}/{}", lengths_text(shape), shape.heads, shape.kv_heads);
  return text;
}

std::string save_case(const Case& c) {
  std::string text = fmt::format("{}{} {} {} {} {} {}\n", kCaseMark, dtype_name(c.dtype), c.head_dim, c.v_dim, c.seed,
                                 static_cast<int>(c.strided), c.threads);
  for (const ProblemShape& shape : c.problems) {
    text += fmt::format("{}{} {} {} {} {} {} {}\n", kProblemMark, shape.heads, shape.kv_heads, static_cast<int>(shape.packed),
                        shape.q_lens.size(), fmt::join(shape.q_lens, " "), shape.k_lens.size(), fmt::join(shape.k_lens, " "));
  }
  return text + c.text;
}

Case load_case(std::string_view text) {
  Case c;
  bool has_settings = false;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(kCaseMark)) {
      std::istringstream in(line.substr(kCaseMark.size()));
      std::string dtype;
      in >> dtype >> c.head_dim >> c.v_dim >> c.seed >> c.strided >> c.threads;
      if (!in) throw std::runtime_error("cannot read: " + line);
      c.dtype = dtype_of(dtype);
      has_settings = true;
    } else if (line.starts_with(kProblemMark)) {
      std::istringstream in(line.substr(kProblemMark.size()));
      ProblemShape shape;
      in >> shape.heads >> shape.kv_heads >> shape.packed;
      shape.q_lens = read_lengths(in);
      shape.k_lens = read_lengths(in);
      if (!in) throw std::runtime_error("cannot read: " + line);
      c.problems.push_back(shape);
    } else {
      c.text += line + "\n";
    }
  }
  if (!has_settings || c.problems.empty()) throw std::runtime_error("not a saved case: there is no line of settings or no problem");
  return c;
}

}  // namespace attune::numeric
