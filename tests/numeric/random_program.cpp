#include "random_program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <random>

#include "program_writer.h"

namespace attune::numeric {
namespace {

bool is_name_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
}

// Whether `text` uses the name as a whole word.
bool mentions(const std::string& text, const std::string& name) {
  for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const bool starts = at == 0 || !is_name_char(text[at - 1]);
    const bool ends = at + name.size() == text.size() || !is_name_char(text[at + name.size()]);
    if (starts && ends) return true;
  }
  return false;
}

std::string joined(const std::vector<std::string>& pieces, const std::string& separator) {
  std::string text;
  for (const std::string& piece : pieces) text += (text.empty() ? "" : separator) + piece;
  return text;
}

// Problems that may be this long now and then have several blocks of queries.
constexpr int kBlocksFrom = 100;

class ShapeWriter {
 public:
  ShapeWriter(uint64_t seed, int greatest_len) : random_(seed), greatest_len_(greatest_len) {}

  void write(Case& c) {
    c.dtype = one_of<DType>({DType::kF32, DType::kF32, DType::kF16, DType::kBF16});
    c.head_dim = dim();
    c.v_dim = pick(5) < 3 ? c.head_dim : dim();
    c.strided = pick(3) == 0;
    c.threads = 1;
    c.problems = {problem(greatest_len_)};
    if (pick(3) == 0) c.problems.push_back(problem(std::min(greatest_len_, 9)));
  }

 private:
  int pick(int count) { return std::uniform_int_distribution<int>(0, count - 1)(random_); }
  template <typename T>
  T one_of(const std::vector<T>& values) {
    return values[static_cast<size_t>(pick(static_cast<int>(values.size())))];
  }

  int dim() { return pick(2) == 0 ? one_of<int>({8, 16, 32, 64, 80}) : 1 + pick(80); }

  int length(int greatest) {
    const int special = one_of<int>({1, 2, 16, 17, 31, 32, 33, 64, 65, 128});
    return pick(3) == 0 && special <= greatest ? special : 1 + pick(greatest);
  }

  ProblemShape problem(int greatest) {
    ProblemShape shape;
    if (greatest > kBlocksFrom && pick(12) == 0) {
      shape.kv_heads = 1;
      shape.heads = 1 + pick(2);
      shape.q_lens = {257 + pick(400)};
      shape.k_lens = {1 + pick(40)};
      return shape;
    }
    shape.kv_heads = 1 + pick(3);
    shape.heads = shape.kv_heads * one_of<int>({1, 1, 2, 3});
    shape.packed = pick(5) == 0;
    if (!shape.packed) {
      const int batch = 1 + std::min(pick(3), pick(3));
      const int q_len = length(greatest);
      const int k_len = pick(3) == 0 ? q_len : length(greatest);
      shape.q_lens.assign(static_cast<size_t>(batch), q_len);
      shape.k_lens.assign(static_cast<size_t>(batch), k_len);
      return shape;
    }
    const int sequences = 1 + pick(4);
    for (int i = 0; i < sequences; ++i) {
      shape.q_lens.push_back(pick(8) == 0 ? 0 : length(greatest) / 2 + 1);
      shape.k_lens.push_back(pick(8) == 0 ? 0 : length(greatest) / 2 + 1);
    }
    shape.q_lens[0] = std::max(shape.q_lens[0], 1);  // dims must not be empty
    shape.k_lens[0] = std::max(shape.k_lens[0], 1);
    return shape;
  }

  std::mt19937_64 random_;
  int greatest_len_;
};

// Pieces of one list taken away: first halves, then single ones.
template <typename T, typename Take>
void add_shorter_lists(const std::vector<T>& list, size_t least, Take take) {
  for (size_t step = list.size(); step >= 1; step /= 2) {
    for (size_t first = 0; first + step <= list.size(); first += step) {
      if (list.size() - step < least) continue;
      std::vector<T> shorter = list;
      shorter.erase(shorter.begin() + static_cast<ptrdiff_t>(first), shorter.begin() + static_cast<ptrdiff_t>(first + step));
      take(shorter);
    }
  }
}

std::vector<ProblemShape> smaller_problems(const ProblemShape& shape) {
  std::vector<ProblemShape> smaller;
  const auto add = [&](auto change) {
    ProblemShape other = shape;
    change(other);
    smaller.push_back(other);
  };
  const auto halve = [](std::vector<int>& lengths, bool by_one) {
    for (int& length : lengths) length = by_one ? std::max(length - 1, 1) : (length + 1) / 2;
  };
  if (shape.batch() > 1) {
    add([](ProblemShape& s) { s.q_lens.resize(1), s.k_lens.resize(1); });
    add([](ProblemShape& s) { s.q_lens.erase(s.q_lens.begin()), s.k_lens.erase(s.k_lens.begin()); });
  }
  if (shape.packed && shape.batch() == 1) add([](ProblemShape& s) { s.packed = false; });
  if (shape.heads > 1) add([](ProblemShape& s) { s.heads = s.kv_heads = 1; });
  if (shape.heads > shape.kv_heads) add([](ProblemShape& s) { s.heads = s.kv_heads; });
  for (bool by_one : {false, true}) {
    if (*std::max_element(shape.q_lens.begin(), shape.q_lens.end()) > 1) add([&](ProblemShape& s) { halve(s.q_lens, by_one); });
    if (*std::max_element(shape.k_lens.begin(), shape.k_lens.end()) > 1) add([&](ProblemShape& s) { halve(s.k_lens, by_one); });
  }
  return smaller;
}

}  // namespace

std::string RandomProgram::text() const {
  std::vector<std::string> statements;
  statements.push_back("score = " + joined(score, " + "));
  if (!mask.empty()) statements.push_back("mask = " + joined(mask, " and "));
  std::string right = fmt::format(fmt::runtime(weights), sink.empty() ? "" : ", sink = " + sink);
  for (const std::string& factor : factors) right += " * " + factor;
  statements.push_back("weights = " + right);

  std::string used = joined(statements, "\n");
  for (auto let = lets.rbegin(); let != lets.rend(); ++let) {
    if (!mentions(used, let->name)) continue;
    statements.insert(statements.begin(), fmt::format("let {} = {}", let->name, let->value));
    used += "\n" + let->value;
  }
  std::vector<std::string> needed;
  for (auto param = params.rbegin(); param != params.rend(); ++param) {
    if (!mentions(used, param->substr(0, param->find(':')))) continue;
    needed.insert(needed.begin(), *param);
    used += "\n" + *param;
  }
  return fmt::format("attention random({}) {{\n  {}\n}}\n", joined(needed, ", "), joined(statements, "\n  "));
}

Case RandomCase::whole() const {
  Case c = settings;
  c.text = program.text();
  return c;
}

RandomCase random_case(uint64_t seed, const RandomOptions& options) {
  RandomCase result;
  result.program = ProgramWriter(seed, options).write();
  result.settings.seed = seed;
  ShapeWriter(seed ^ 0x9e3779b97f4a7c15ull, options.greatest_len).write(result.settings);
  return result;
}

std::vector<RandomCase> smaller_cases(const RandomCase& from) {
  std::vector<RandomCase> smaller;
  const auto add = [&](auto change) {
    RandomCase other = from;
    change(other);
    smaller.push_back(std::move(other));
  };
  add_shorter_lists(from.settings.problems, 1, [&](auto shorter) { add([&](RandomCase& c) { c.settings.problems = shorter; }); });
  add_shorter_lists(from.program.factors, 0, [&](auto shorter) { add([&](RandomCase& c) { c.program.factors = shorter; }); });
  add_shorter_lists(from.program.mask, 0, [&](auto shorter) { add([&](RandomCase& c) { c.program.mask = shorter; }); });
  add_shorter_lists(from.program.score, 1, [&](auto shorter) { add([&](RandomCase& c) { c.program.score = shorter; }); });
  if (!from.program.sink.empty()) add([](RandomCase& c) { c.program.sink.clear(); });
  if (from.program.score != std::vector<std::string>{"qk"}) add([](RandomCase& c) { c.program.score = {"qk"}; });
  for (size_t i = 0; i < from.program.score.size(); ++i) add([i](RandomCase& c) { c.program.score[i] = "qk"; });
  if (from.settings.strided) add([](RandomCase& c) { c.settings.strided = false; });
  if (from.settings.dtype != DType::kF32) add([](RandomCase& c) { c.settings.dtype = DType::kF32; });
  if (from.settings.v_dim > 1) add([](RandomCase& c) { c.settings.v_dim = (c.settings.v_dim + 1) / 2; });
  if (from.settings.head_dim > 1) add([](RandomCase& c) { c.settings.head_dim = (c.settings.head_dim + 1) / 2; });
  for (size_t i = 0; i < from.settings.problems.size(); ++i) {
    for (const ProblemShape& shape : smaller_problems(from.settings.problems[i])) {
      add([&](RandomCase& c) { c.settings.problems[i] = shape; });
    }
  }
  return smaller;
}

}  // namespace attune::numeric
