// Programs and leaves for the tests of the passes.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "codegen/build_ir.h"
#include "codegen/eval/interpreter.h"
#include "codegen/ir.h"
#include "dsl/parser.h"

namespace attune::codegen {

// The typed program; a program with errors fails the test.
inline Ir build(const std::string& text, const BuildOptions& options = {}) {
  dsl::Diagnostics diagnostics("test.attn", text);
  const std::optional<dsl::Program> program = dsl::parse(diagnostics);
  std::optional<Ir> ir = program ? build_ir(*program, diagnostics, options) : std::nullopt;
  if (!ir) throw std::runtime_error(diagnostics.render());
  return std::move(*ir);
}

// A program of one expression, the score, over these parameters.
inline Ir build_score(const std::string& params, const std::string& expr) {
  return build("attention test(" + params + ") {\n  score = " + expr + "\n  weights = softmax(score)\n}\n");
}

// Pseudo-random numbers in [0, 1): a function of the seed and the words (splitmix64 as a hash).
inline double uniform(uint64_t seed, std::initializer_list<int64_t> words) {
  uint64_t state = seed;
  for (int64_t word : words) {
    state += 0x9e3779b97f4a7c15ull * (static_cast<uint64_t>(word) + 1);
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ull;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebull;
    state ^= state >> 31;
  }
  return static_cast<double>(state >> 11) * 0x1p-53;
}

// Leaves by name; values that are not set are random: f32 parameters and elements of tensors in [low, high), integers in 0..3.
class TestEnv : public Env {
 public:
  TestEnv(const Ir& ir, uint64_t seed, double low = 0.25, double high = 1.75) : ir_(ir), seed_(seed), low_(low), high_(high) {}

  std::map<Symbol, double> symbols;
  std::map<int, double> params;
  std::map<std::pair<int, std::vector<double>>, double> elements;

  double symbol(Symbol symbol) const override { return symbols.at(symbol); }
  double param(int index) const override {
    const auto set = params.find(index);
    return set != params.end() ? set->second : random_value(value_type(ir_.params[index].element), {index});
  }
  double read(int param, std::span<const double> indices) const override {
    const std::vector<double> key(indices.begin(), indices.end());
    const auto set = elements.find({param, key});
    if (set != elements.end()) return set->second;
    int64_t flat = 17;
    for (double index : indices) flat = flat * 131 + static_cast<int64_t>(index);
    return random_value(value_type(ir_.params[param].element), {param, flat});
  }

 private:
  double random_value(Type type, std::initializer_list<int64_t> words) const {
    const double u = uniform(seed_, words);
    if (type == Type::kBool) return u < 0.5 ? 0 : 1;
    return type == Type::kI32 ? std::floor(u * 4) : low_ + u * (high_ - low_);
  }

  const Ir& ir_;
  uint64_t seed_;
  double low_, high_;
};

inline double value_of(const Graph& graph, ValueId id, const Env& env) {
  return Interpreter(graph, {id})(env)[0];
}

}  // namespace attune::codegen
