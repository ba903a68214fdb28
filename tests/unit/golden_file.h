// Texts that files of tests/golden pin. With ATTUNE_UPDATE_GOLDEN=1 in the environment the files are written instead.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace attune::codegen {

inline std::filesystem::path golden_folder() {
  return std::filesystem::path(ATTUNE_SOURCE_DIR) / "tests/golden";
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::vector<std::string> lines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

// "" if both are the same, else the first line that differs.
inline std::string difference(const std::string& want, const std::string& got) {
  if (want == got) return "";
  const std::vector<std::string> a = lines(want);
  const std::vector<std::string> b = lines(got);
  size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  return fmt::format("line {}\n- {}\n+ {}", i + 1, i < a.size() ? a[i] : "(end of file)", i < b.size() ? b[i] : "(end of text)");
}

inline void check_golden(const std::filesystem::path& path, const std::string& text) {
  for (const std::string& line : lines(text)) EXPECT_LE(line.size(), 140u) << path << ": " << line;
  if (const char* update = std::getenv("ATTUNE_UPDATE_GOLDEN"); update && std::string(update) == "1") {
    std::ofstream(path, std::ios::binary) << text;
    return;
  }
  ASSERT_TRUE(std::filesystem::exists(path)) << path << " is missing; ATTUNE_UPDATE_GOLDEN=1 writes it";
  const std::string changed = difference(read_file(path), text);
  EXPECT_TRUE(changed.empty()) << path.string() << " differs at " << changed << "\nATTUNE_UPDATE_GOLDEN=1 rewrites it";
}

}  // namespace attune::codegen
