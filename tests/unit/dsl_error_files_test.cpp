// tests/errors/syntax_*.attn: programs that do not parse, each with a .txt of what is printed.
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "dsl_util.h"

namespace attune::dsl {
namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ErrorFiles, AreReportedExactly) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(ATTUNE_SOURCE_DIR "/tests/errors")) {
    std::filesystem::path path = entry.path();
    if (!path.filename().string().starts_with("syntax_") || path.extension() != ".attn") continue;
    Diagnostics diagnostics(path.filename().string(), contents(path));
    EXPECT_FALSE(parse(diagnostics).has_value()) << path;
    EXPECT_EQ(diagnostics.render(), contents(path.replace_extension(".txt"))) << path;
    ++count;
  }
  EXPECT_GE(count, 30);
}

}  // namespace
}  // namespace attune::dsl
