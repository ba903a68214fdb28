#include "program_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace attune::numeric {
namespace {

// Scores beyond this are squashed: their rounding error alone would be as large as the bars.
constexpr double kGreatestScore = 25;

constexpr const char* kCausal = "k_pos <= q_pos";

const std::vector<std::string> kFloats = {"f32", "f32", "f16", "bf16", "grad f32", "grad f32", "grad f16", "grad bf16"};

}  // namespace

std::string ProgramWriter::declare(const std::string& prefix, const std::string& type) {
  const std::string name = fmt::format("{}{}", prefix, names_++);
  program_.params.push_back(fmt::format("{}: {}", name, type));
  return name;
}

std::string ProgramWriter::scalar(const std::string& prefix, const std::string& type, const std::vector<std::string>& defaults) {
  const bool is_const = type.starts_with("const");
  return declare(prefix, is_const || chance(0.5) ? type + " = " + one_of(defaults) : type);
}

std::string ProgramWriter::read(const std::string& prefix, const std::vector<std::string>& types, const Place& place) {
  struct Axis {
    std::string dim, index;
  };
  std::vector<Axis> axes = {{"heads", "h"},     {"kv_heads", "kv_h"}, {"batch", "b"},
                            {"q_len", "q_idx"}, {"7", "h % 7"},       {"head_dim", "q_idx % head_dim"}};
  if (place.columns) {
    axes.push_back({"k_len", "k_idx"});
    axes.push_back({"k_len", "k_idx"});
    axes.push_back({"q_len + k_len - 1", "q_idx - k_idx + k_len - 1"});
    if (is_causal_) axes.push_back({"k_len", "q_pos - k_pos"});
    axes.push_back({"@relative", ""});
    axes.push_back({"@table", ""});
  }
  std::shuffle(axes.begin(), axes.end(), random_);
  const int rank = 1 + std::min(pick(4), pick(4));
  std::string dims, indices;
  for (int i = 0; i < rank; ++i) {
    Axis axis = axes[static_cast<size_t>(i)];
    if (axis.dim == "@relative") {
      const std::string reach = declare("reach", fmt::format("const i32 = {}", 2 + pick(9)));
      axis = {fmt::format("2 * {} + 1", reach), fmt::format("clamp(q_pos - k_pos, -{0}, {0}) + {0}", reach)};
    }
    if (axis.dim == "@table") {
      const std::string ids = declare("id", one_of<std::string>({"i32[batch, k_len]", "u8[k_len]"}));
      const bool has_batch = program_.params.back().find("batch") != std::string::npos;
      axis = {"6", has_batch ? ids + "[b, k_idx]" : ids + "[k_idx]"};
    }
    dims += (i ? ", " : "") + axis.dim;
    indices += (i ? ", " : "") + axis.index;
  }
  return fmt::format("{}[{}]", declare(prefix, fmt::format("{}[{}]", one_of(types), dims)), indices);
}

ProgramWriter::Term ProgramWriter::bounded(Term x, double greatest) {
  if (x.size <= greatest) return x;
  return {fmt::format("{0} * tanh(({1}) / {0})", greatest, x.text), greatest, x.uses_main};
}

std::string ProgramWriter::named(const std::string& value) {
  if (!chance(0.4)) return value;
  program_.lets.push_back({fmt::format("x{}", names_++), value});
  return program_.lets.back().name;
}

ProgramWriter::Term ProgramWriter::leaf(const Place& place) {
  if (!place.main.empty() && chance(0.45)) return {place.main, place.main_size, true};
  switch (pick(place.columns ? 14 : 9)) {
    case 0:
      return {one_of<std::string>({"0.5", "-0.25", "1.5", "1e-1", "2", "-1"}), 2};
    case 1:
      return {scalar("bias", "f32", {"0.25", "-log(k_len + 1) * 0.25", "rsqrt(head_dim)", "min(q_len, 8) / 8"}), 2};
    case 2:
      return {declare("bias", "grad f32"), 2};
    case 3:
      return {scalar("gain", "const f32", {"0.75", "1", "exp2(-1.5)", "3 // 2"}), 1.5};
    case 4:
    case 5:
      return {read("bias", kFloats, place), 2.5};
    case 6:
      return {one_of<std::string>(
                  {"log(q_idx + 1)", "q_idx / (q_len + 1)", "1 / (h + 1)", "b - 0.5 * kv_h", "rsqrt(k_len + 3)", "f32(q_idx % 3)"}),
              5};
    case 7:
      return {fmt::format("where({}, {}, {})", condition(place.columns), leaf(place).text, one_of<std::string>({"0", "0.5", "-1"})), 3,
              true};
    case 8:
      return {fmt::format("f32({})", condition(place.columns)), 1};
    case 9:
    case 10:
      return {read("bias", kFloats, place), 2.5};
    case 11:
      return {fmt::format("{} * (q_pos - k_pos)", read("slope", kFloats, {"", 0, false})), 20};
    case 12:
      return {fmt::format("random({})", scalar("seed", "i32", {"7", "k_len * 3"})), 1};
    default:
      return {one_of<std::string>({"k_idx / (k_len + 1)", "abs(q_pos - k_pos) * -0.05", "log2(1 + k_idx)", "f32(k_idx % 5) * 0.2",
                                   "floor(k_idx / 4) * 0.125"}),
              7};
  }
}

ProgramWriter::Term ProgramWriter::unary(const Term& x) {
  struct Form {
    const char* text;
    double size;
    double greatest_operand;
  };
  static const std::vector<Form> kForms = {
      {"tanh({0})", 1, 1e3},
      {"sigmoid({0})", 1, 1e3},
      {"sin({0})", 1, 30},
      {"cos(2 * {0})", 1, 30},
      {"erf({0})", 1, 1e3},
      {"exp(-({0}) ** 2)", 1, 1e3},
      {"exp({0})", 8, 2},
      {"exp2(tanh({0}))", 2, 1e3},
      {"log(1 + ({0}) ** 2)", 7, 30},
      {"log2(2 + ({0}) ** 2)", 10, 30},
      {"sqrt(1 + ({0}) ** 2)", 31, 30},
      {"rsqrt(1 + ({0}) ** 2)", 1, 30},
      {"(0.5 + ({0}) ** 2) ** -0.75", 2, 30},
      {"(1 + ({0}) ** 2) ** 0.25", 6, 30},
      {"1 / (2 + sin({0}))", 1, 30},
      {"({0}) ** 3", 27, 3},
      {"relu({0}) ** 2", 9, 3},
      {"abs({0}) * ({0})", 9, 3},
      {"(({0}) - clamp({0}, -1, 1)) ** 2", 9, 3},
      {"gelu({0})", 8, 8},
      {"silu({0})", 8, 8},
      {"softplus({0})", 9, 8},
      {"-({0})", 30, 30},
      {"({0}) * 0.25", 8, 30},
      {"({0}) / 3", 10, 30},
  };
  const Form& form = one_of(kForms);
  const Term operand = bounded(x, form.greatest_operand);
  return {fmt::format(fmt::runtime(form.text), named(operand.text)),
          std::min(form.size, form.size / form.greatest_operand * (operand.size + 1)) + 0.1, x.uses_main};
}

ProgramWriter::Term ProgramWriter::kinked(const Term& x) {
  static const std::vector<const char*> kForms = {"relu({0})", "abs({0})", "clamp({0}, -0.75, 1)", "min({0}, 0.3)", "max({0}, -0.3)"};
  static const std::vector<const char*> kLeaps = {"floor({0})", "f32(i32(2 * ({0})))", "({0}) % 1.5", "({0}) // 0.75"};
  const bool leaps = chance(x.uses_main ? 0.1 : 0.5);
  return {fmt::format(fmt::runtime(one_of(leaps ? kLeaps : kForms)), named(x.text)), x.size * 1.5, x.uses_main};
}

ProgramWriter::Term ProgramWriter::binary(const Place& place, int depth) {
  const Term a = term(place, depth - 1), b = term(place, depth - 1);
  const bool uses_main = a.uses_main || b.uses_main;
  switch (pick(5)) {
    case 0:
      return {fmt::format("{} + {}", a.text, b.text), a.size + b.size, uses_main};
    case 1:
      return {fmt::format("{} - ({})", a.text, b.text), a.size + b.size, uses_main};
    case 2: {
      const Term x = bounded(a, 4), y = bounded(b, 4);
      return {fmt::format("({}) * ({})", x.text, y.text), x.size * y.size, uses_main};
    }
    case 3:
      return {fmt::format("({}) / (1.5 + ({}) ** 2)", a.text, bounded(b, 5).text), a.size, uses_main};
    default:
      return {fmt::format("where({}, {}, {})", condition(place.columns), a.text, b.text), std::max(a.size, b.size), uses_main};
  }
}

ProgramWriter::Term ProgramWriter::term(const Place& place, int depth) {
  if (depth <= 0 || chance(0.2)) return leaf(place);
  if (chance(0.4)) return binary(place, depth);
  const Term x = term(place, depth - 1);
  if (!options_.smooth && chance(x.uses_main ? 0.03 : 0.2)) return kinked(x);
  return unary(x);
}

std::string ProgramWriter::integer(bool columns, int depth) {
  if (depth == 0 || chance(0.3)) {
    std::vector<std::string> leaves = {"q_idx",    "q_pos", "h",        "b",     "kv_h", "q_len", "heads",
                                       "kv_heads", "batch", "head_dim", "v_dim", "3",    "16",    "-5"};
    if (columns) leaves.insert(leaves.end(), {"k_idx", "k_idx", "k_idx", "k_pos", "k_len"});
    if (chance(0.15)) return scalar("num", "i32", {"4", "k_len // 2", "max(q_len, 3)"});
    if (chance(0.1)) return scalar("num", "const i32", {"4", "2 ** 3", "7 % 4"});
    return one_of(leaves);
  }
  const std::string a = integer(columns, depth - 1), b = integer(columns, depth - 1);
  switch (pick(10)) {
    case 0:
      return fmt::format("({} + {})", a, b);
    case 1:
      return fmt::format("({} - {})", a, b);
    case 2:
      return fmt::format("({} * {})", a, b);
    case 3:
      return fmt::format("({} // {})", a, one_of<std::string>({"2", "3", "16", "-4", b}));
    case 4:
      return fmt::format("({} % {})", a, one_of<std::string>({"2", "3", "16", "-4", b}));
    case 5:
      return fmt::format("min({}, {})", a, b);
    case 6:
      return fmt::format("max({}, -({}))", a, b);
    case 7:
      return fmt::format("abs({} - {})", a, b);
    case 8:
      return fmt::format("clamp({}, -7, {})", a, b);
    default:
      return fmt::format("({}) ** 2", a);
  }
}

std::string ProgramWriter::condition(bool columns) {
  if (columns && chance(0.15)) return fmt::format("random({}) < 0.6", scalar("seed", "i32", {"11", "q_len"}));
  if (chance(0.1)) return scalar("causal", "bool", {"true", "false", "k_len > 40"});
  if (chance(0.1)) return fmt::format("{} != 0", read("flag", {"u8", "i32"}, {"", 0, columns}));
  if (chance(0.1)) return fmt::format("i32({} * 4) % 3 == 1", read("gate", {"f32", "f16", "bf16"}, {"", 0, columns}));
  const std::string comparison = one_of<std::string>({"==", "!=", "<", "<=", ">", ">="});
  if (chance(0.5)) return fmt::format("{} % 3 {} {}", integer(columns, 1), comparison, pick(3));
  return fmt::format("{} {} {}", integer(columns, 2), comparison, integer(columns, 1));
}

std::string ProgramWriter::mask_term() {
  switch (pick(19)) {
    case 0:
    case 1:
      return kCausal;
    case 2:
      return fmt::format("q_pos - k_pos < {}", scalar("win", "i32", {"40", "k_len // 3 + 1"}));
    case 3:
      return fmt::format("abs(q_pos - k_pos) <= {}", scalar("win", "const i32", {"9", "64", "33"}));
    case 4:
      return fmt::format("{}[b, q_idx] == {}[b, k_idx]", declare("doc", "i32[batch, q_len]"), declare("doc", "i32[batch, k_len]"));
    case 5:
      return fmt::format("k_idx < {}[b]", declare("lens", "i32[batch]"));
    case 6:
      return fmt::format("k_idx < {} or k_pos <= q_pos", scalar("num", "i32", {"5", "q_len // 4"}));
    case 7:
      return fmt::format("(q_idx - k_idx) % {} == 0", scalar("num", "i32", {"2", "3", "0"}));
    case 8:
      return "k_idx // 16 <= q_idx // 8";
    case 9:
      return "(q_idx // 4 + k_idx // 8) % 2 == 0";
    case 10:
      return fmt::format("{} != 0", read("flag", {"u8", "u8", "i32"}, {"", 0, true}));
    case 11:
      return fmt::format("bit({}[k_idx], h % 32)", declare("bits", "i32[k_len]"));
    case 12:
      return fmt::format("{} > 0.2", read("gate", {"f32", "f16"}, {"", 0, true}));
    case 13:
      return fmt::format("not {} or k_pos <= q_pos", scalar("causal", "bool", {"true", "head_dim > 32"}));
    case 14:
      return fmt::format("k_idx >= max(0, q_pos - {})", scalar("win", "i32", {"12"}));
    case 15:
      return fmt::format("(q_pos - k_pos) ** 2 < {0} * {0} or k_idx < 2", scalar("win", "i32", {"20"}));
    case 16:
      return "(k_idx % 2 == 0) != (q_idx % 3 == 0)";
    case 17:
      return fmt::format("not ({})", condition(true));
    default:
      return condition(true);
  }
}

void ProgramWriter::write_mask() {
  bool is_causal = false;
  const int count = chance(0.15) ? 0 : 1 + std::min(pick(3), pick(3));
  for (int i = 0; i < count; ++i) {
    std::string conjunct = mask_term();
    if (chance(0.12)) {
      conjunct = fmt::format("{} or {}", conjunct, mask_term());
    } else {
      is_causal |= conjunct == kCausal;
    }
    program_.mask.push_back(chance(0.3) ? "(" + conjunct + ")" : named("(" + conjunct + ")"));
  }
  // Not before: reads in the mask itself are checked for all pairs.
  is_causal_ = is_causal;
}

void ProgramWriter::write_score() {
  const Place place = {one_of<std::string>({"qk * rsqrt(head_dim)", "qk / sqrt(head_dim)", "qk * head_dim ** -0.5"}), 4, true};
  Term main = {place.main, place.main_size, true};
  if (chance(0.25))
    main.text = fmt::format("{0} * tanh({1} / {0})", scalar("cap", one_of<std::string>({"f32", "const f32"}), {"7.5", "10"}), main.text);
  if (chance(0.2)) main = unary(main);
  if (chance(0.2)) main = {fmt::format("({}) * {}", main.text, read("gain", kFloats, place)), main.size * 1.5, true};
  double size = main.size;
  program_.score.push_back(main.text);
  for (int i = pick(4); i > 0; --i) {
    const Term more = bounded(term(place, 1 + pick(3)), kGreatestScore);
    size += more.size;
    program_.score.push_back(named(more.text));
  }
  if (size <= 3 * kGreatestScore) return;
  std::string sum;
  for (const std::string& piece : program_.score) sum += (sum.empty() ? "(" : " + (") + piece + ")";
  program_.score = {bounded({sum, size, true}, kGreatestScore).text};
}

void ProgramWriter::write_softmax() {
  program_.weights = "softmax(score{})";
  const Place row = {"", 0, false};
  if (chance(0.3)) {
    switch (pick(4)) {
      case 0:
        program_.sink = one_of<std::string>({"0", "-1.5", "log(q_idx + 1)", "-inf"});
        break;
      case 1:
        program_.sink = declare("sink", "grad f32");
        break;
      case 2:
        program_.sink = read("sink", kFloats, row);
        break;
      default:
        program_.sink = bounded(term(row, 2), 8).text;
    }
  }
}

void ProgramWriter::write_pointwise() {
  program_.weights =
      one_of<std::string>({"sigmoid(score)", "sigmoid(score - log(k_len))", "relu(score) ** 2 / k_len", "tanh(score) / sqrt(k_len)",
                           "exp(min(score, 2) - 1) / k_len", "silu(score) / k_len", "gelu(score) * rsqrt(k_len)", "softplus(score) / k_len",
                           "erf(score)", "score / k_len", "(1 + score ** 2) ** -1.5", "relu(score) / k_len"});
  if (options_.smooth && program_.weights.find("min(") != std::string::npos) program_.weights = "sigmoid(score)";
  program_.weights = "(" + program_.weights + ")";
}

RandomProgram ProgramWriter::write() {
  write_mask();
  write_score();
  if (chance(0.65)) {
    write_softmax();
  } else {
    write_pointwise();
  }
  const Place place = {"score", 10, true};
  for (int i = chance(0.6) ? 0 : 1 + pick(2); i > 0; --i) {
    if (chance(0.4)) {
      const std::string keep = scalar("keep", "f32", {"0.75", "0.9"});
      program_.factors.push_back(
          fmt::format("where(random({}) < {}, 1 / {}, 0)", scalar("seed", "i32", {"3", "q_len + k_len"}), keep, keep));
    } else {
      // A let would come before the statement of the score.
      const size_t lets = program_.lets.size();
      const Term factor = bounded(term(place, 1 + pick(2)), 5);
      if (program_.lets.size() == lets) program_.factors.push_back("(" + factor.text + ")");
      program_.lets.resize(lets);
    }
  }
  std::shuffle(program_.score.begin(), program_.score.end(), random_);
  return std::move(program_);
}

}  // namespace attune::numeric
