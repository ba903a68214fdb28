// The text of every stage for the programs of tests/golden: <program>.attn -> <program>.{ir,grad,rates,bounds}.txt. With
// ATTUNE_UPDATE_GOLDEN=1 in the environment the files are written instead.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "codegen/lower.h"
#include "codegen/print_ir.h"
#include "tests/unit/golden_file.h"
#include "tests/unit/passes_util.h"

namespace attune::codegen {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> programs() {
  std::vector<fs::path> result;
  for (const auto& entry : fs::directory_iterator(golden_folder())) {
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
    check_golden(stem + ".ir.txt", print_ir(ir));
    const Lowered lowered = lower(std::move(ir));
    check_golden(stem + ".grad.txt", print_backward(lowered));
    check_golden(stem + ".rates.txt", print_rates(lowered));
    check_golden(stem + ".bounds.txt", print_bounds(lowered));
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
