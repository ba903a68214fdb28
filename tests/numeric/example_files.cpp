#include "example_files.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace attune::numeric {
namespace {

void fit_to_small_sizes(Example& example) {
  if (example.name == "documents") example.any_lengths = false;  // queries and keys are the same tokens
  if (example.name == "natten") {
    example.constants = {{"width", int64_t{8}}, {"height", int64_t{9}}, {"radius", int64_t{2}}};
    example.any_lengths = false;
    example.length = 72;
  }
  if (example.name == "window" || example.name == "capped") example.constants = {{"window", int64_t{16}}};
  if (example.name == "dilated") example.constants = {{"local", int64_t{5}}, {"stride", int64_t{4}}};
}

}  // namespace

std::vector<Example> examples_of(const std::map<std::string, std::string>& texts) {
  std::vector<Example> examples;
  for (const auto& [name, text] : texts) {
    Example example;
    example.name = name;
    example.text = text;
    fit_to_small_sizes(example);
    examples.push_back(std::move(example));
  }
  return examples;
}

std::vector<Example> load_examples() {
  std::map<std::string, std::string> texts;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(ATTUNE_SOURCE_DIR) / "examples")) {
    if (entry.path().extension() != ".attn") continue;
    std::ifstream in(entry.path());
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) throw std::runtime_error("cannot read " + entry.path().string());
    texts[entry.path().stem()] = text.str();
  }
  return examples_of(texts);
}

}  // namespace attune::numeric
