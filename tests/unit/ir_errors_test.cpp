// Every message about names and types: tests/errors/sema_*.attn, and beside each what is printed for it. ATTUNE_UPDATE_GOLDEN=1 writes the
// expected texts anew; read them before they are committed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "codegen/build_ir.h"
#include "dsl/parser.h"

namespace attune::codegen {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(ATTUNE_SOURCE_DIR) / "tests/errors";

std::string read_file(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return in ? text.str() : "(no such file: " + path.string() + ")";
}

std::vector<fs::path> cases() {
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().filename().string().starts_with("sema_") && entry.path().extension() == ".attn") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

bool updates_golden() {
  const char* value = std::getenv("ATTUNE_UPDATE_GOLDEN");
  return value && std::string(value) == "1";
}

TEST(SemanticErrors, HaveTheseTexts) {
  for (const fs::path& path : cases()) {
    dsl::Diagnostics diagnostics(path.filename().string(), read_file(path));
    const std::optional<dsl::Program> program = dsl::parse(diagnostics);
    ASSERT_TRUE(program) << "a syntax error:\n" << diagnostics.render();
    EXPECT_FALSE(build_ir(*program, diagnostics)) << path;
    EXPECT_FALSE(diagnostics.ok()) << path;
    fs::path expected = path;
    expected.replace_extension(".txt");
    if (updates_golden()) std::ofstream(expected) << diagnostics.render();
    EXPECT_EQ(diagnostics.render(), read_file(expected)) << path;
  }
}

TEST(SemanticErrors, HaveAnExpectedTextEach) {
  EXPECT_GE(cases().size(), 90u);
  for (const fs::directory_entry& entry : fs::directory_iterator(kFolder)) {
    fs::path program = entry.path();
    if (!program.filename().string().starts_with("sema_") || program.extension() != ".txt") continue;
    program.replace_extension(".attn");
    EXPECT_TRUE(fs::exists(program)) << entry.path() << " has no program";
  }
}

}  // namespace
}  // namespace attune::codegen
