// orc_linker.h, on objects that the build compiled from runtime_linked_object.cpp and runtime_undefined_object.cpp.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "runtime/error.h"
#include "runtime/orc_linker.h"

namespace attune::runtime {
namespace {

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

const std::string& object() {
  static const std::string bytes = read_file(ATTUNE_TEST_OBJECT);
  return bytes;
}

std::string error_of(std::string_view bytes, const std::string& symbol) {
  try {
    const LinkedObject linked(bytes, symbol);
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  return "";
}

TEST(Linker, CodeRunsWithItsData) {
  ASSERT_NE(object(), "") << ATTUNE_TEST_OBJECT;
  const LinkedObject linked(object(), "scaled");
  const auto scaled = linked.function<int(int)>();
  EXPECT_EQ(scaled(3), 30);
  EXPECT_EQ(scaled(3), 300);
  EXPECT_EQ(scaled(3), 3000);
}

TEST(Linker, ObjectsAreApart) {
  const LinkedObject first(object(), "scaled"), second(object(), "scaled");
  EXPECT_EQ(first.function<int(int)>()(1), 10);
  EXPECT_EQ(first.function<int(int)>()(1), 100);
  EXPECT_EQ(second.function<int(int)>()(1), 10) << "two objects share their data";
}

TEST(Linker, FindsMemoryFunctionsOfTheProcess) {
  const LinkedObject copy(object(), "move_bytes"), fill(object(), "fill_bytes");
  char to[6] = "-----";
  copy.function<void(void*, const void*, size_t)>()(to, "abc", 3);
  EXPECT_STREQ(to, "abc--");
  fill.function<void(void*, int, size_t)>()(to + 3, 'x', 2);
  EXPECT_STREQ(to, "abcxx");
}

TEST(Linker, MovesKeepTheCode) {
  LinkedObject first(object(), "scaled");
  LinkedObject second = std::move(first);
  EXPECT_EQ(second.function<int(int)>()(2), 20);
  second = LinkedObject(object(), "scaled");
  EXPECT_EQ(second.function<int(int)>()(5), 50);
}

TEST(Linker, ErrorsNameWhatIsMissing) {
  const std::string missing = error_of(object(), "no_such_symbol");
  EXPECT_EQ(missing.rfind("cannot link 'no_such_symbol': ", 0), 0u) << missing;
  const std::string undefined = error_of(read_file(ATTUNE_TEST_UNDEFINED_OBJECT), "calls_nowhere");
  EXPECT_EQ(undefined.rfind("cannot link 'calls_nowhere': ", 0), 0u) << undefined;
  EXPECT_NE(undefined.find("attune_no_such_function"), std::string::npos) << undefined;
}

TEST(Linker, BytesThatAreNoObjectAreAnError) {
  for (const std::string& bytes : {std::string(), std::string("not an object"), object().substr(0, 100)}) {
    const std::string error = error_of(bytes, "scaled");
    EXPECT_EQ(error.rfind("cannot link 'scaled': ", 0), 0u) << bytes.size() << " bytes: " << error;
  }
}

TEST(Linker, ManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  std::vector<int> results(8);
  for (size_t t = 0; t < results.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 5; ++round) {
        const LinkedObject linked(object(), "scaled");
        results[t] += linked.function<int(int)>()(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int result : results) EXPECT_EQ(result, 50);
}

}  // namespace
}  // namespace attune::runtime
