// Writes one random program; see random_program.h. The prefix of a parameter's name tells random_data what values it takes.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "random_program.h"

namespace attune::numeric {

class ProgramWriter {
 public:
  ProgramWriter(uint64_t seed, const RandomOptions& options) : random_(seed), options_(options) {}

  RandomProgram write();

 private:
  // What an expression may be made of.
  struct Place {
    std::string main;  // "qk * rsqrt(head_dim)", "score", or "" where neither is allowed
    double main_size = 0;
    bool columns = true;  // k_idx is allowed
  };
  // f32, with its usual greatest magnitude.
  struct Term {
    std::string text;
    double size = 1;
    bool uses_main = false;
  };

  int pick(int count) { return std::uniform_int_distribution<int>(0, count - 1)(random_); }
  bool chance(double probability) { return std::uniform_real_distribution<double>(0, 1)(random_) < probability; }
  template <typename T>
  T one_of(const std::vector<T>& values) {
    return values[static_cast<size_t>(pick(static_cast<int>(values.size())))];
  }

  // Declares a parameter of that prefix and returns its name.
  std::string declare(const std::string& prefix, const std::string& type);
  std::string scalar(const std::string& prefix, const std::string& type, const std::vector<std::string>& defaults);
  // Declares a tensor, and returns a read of it.
  std::string read(const std::string& prefix, const std::vector<std::string>& types, const Place& place);

  Term leaf(const Place& place);
  Term term(const Place& place, int depth);
  Term unary(const Term& x);
  Term kinked(const Term& x);
  Term binary(const Place& place, int depth);
  Term bounded(Term x, double greatest);
  // A let with that value, or the value itself.
  std::string named(const std::string& value);

  std::string integer(bool columns, int depth);
  std::string condition(bool columns);
  std::string mask_term();

  void write_score();
  void write_mask();
  void write_softmax();
  void write_pointwise();

  std::mt19937_64 random_;
  RandomOptions options_;
  RandomProgram program_;
  bool is_causal_ = false;  // the mask has 'k_pos <= q_pos' as a conjunct
  int names_ = 0;
};

}  // namespace attune::numeric
