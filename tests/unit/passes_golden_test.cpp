// The text of every stage for the programs of tests/golden: <program>.attn -> <program>.{ir,grad,rates,bounds}.txt. With
// ATTUNE_UPDATE_GOLDEN=1 in the environment the files are written instead.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "codegen/lower.h"
#include "codegen/print_ir.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(ATTUNE_SOURCE_DIR) / "tests/golden";

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> lines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

// "" if both are the same, else the first line that differs.
std::string difference(const std::string& want, const std::string& got) {
  if (want == got) return "";
  const std::vector<std::string> a = lines(want);
  const std::vector<std::string> b = lines(got);
  size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  return fmt::format("line {}\n- {}\n+ {}", i + 1, i < a.size() ? a[i] : "(end of file)", i < b.size() ? b[i] : "(end of text)");
}

void check(const fs::path& path, const std::string& text) {
  for (const std::string& line : lines(text)) EXPECT_LE(line.size(), 140u) << path << ": " << line;
  if (const char* update = std::getenv("ATTUNE_UPDATE_GOLDEN"); update && std::string(update) == "1") {
    std::ofstream(path, std::ios::binary) << text;
    return;
  }
  ASSERT_TRUE(fs::exists(path)) << path << " is missing; ATTUNE_UPDATE_GOLDEN=1 writes it";
  const std::string changed = difference(read_file(path), text);
  EXPECT_TRUE(changed.empty()) << path.string() << " differs at " << changed << "\nATTUNE_UPDATE_GOLDEN=1 rewrites it";
}

std::vector<fs::path> programs() {
  std::vector<fs::path> result;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() == ".attn") result.push_back(entry.path());
  }
  std::sort(result.begin(), result.end());
  return result;
}

TEST(Golden, Stages) {
  ASSERT_GE(programs().size(), 8u);
  for (const fs::path& path : programs()) {
    const std::string stem = fs::path(path).replace_extension("").string();
    Ir ir = build(read_file(path));
    check(stem + ".ir.txt", print_ir(ir));
    const Lowered lowered = lower(std::move(ir));
    check(stem + ".grad.txt", print_backward(lowered));
    check(stem + ".rates.txt", print_rates(lowered));
    check(stem + ".bounds.txt", print_bounds(lowered));
  }
}

TEST(Golden, Difference) {
  EXPECT_EQ(difference("a\nb\n", "a\nb\n"), "");
  EXPECT_EQ(difference("a\nb\n", "a\nc\n"), "line 2\n- b\n+ c");
  EXPECT_EQ(difference("a\n", "a\nc\n"), "line 2\n- (end of file)\n+ c");
  EXPECT_EQ(difference("a\nb\n", "a\n"), "line 2\n- b\n+ (end of text)");
}

}  // namespace
}  // namespace attune::codegen
