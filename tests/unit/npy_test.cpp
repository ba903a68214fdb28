#include "cli/npy.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <string>

namespace attune::npy {
namespace {

class NpyTest : public testing::Test {
 protected:
  NpyTest() {
    std::string name = testing::TempDir() + "npy-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~NpyTest() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name = "a.npy") const { return folder_ + "/" + name; }

  std::string put(const std::string& bytes) const {
    std::ofstream(path(), std::ios::binary) << bytes;
    return path();
  }

  // A version 1.0 file with this header text and data.
  std::string put_header(const std::string& header, const std::string& data = {}) const {
    std::string bytes("\x93NUMPY\x01\x00", 8);
    bytes += static_cast<char>(header.size() & 0xff);
    bytes += static_cast<char>(header.size() >> 8);
    return put(bytes + header + data);
  }

  // The error that reading the file gives, without its path; "" if there is none.
  std::string error(const std::string& file) const {
    try {
      read(file);
    } catch (const Error& problem) {
      std::string text = problem.what();
      EXPECT_TRUE(text.starts_with(file + ": ")) << text;
      return text.substr(std::min(file.size() + 2, text.size()));
    }
    return "";
  }

 private:
  std::string folder_;
};

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(NpyTest, WritesWhatNumPyWrites) {
  Array array = zeros({2, 3}, Type::kF32);
  std::iota(array.values<float>().begin(), array.values<float>().end(), 1.0f);
  write(path(), array);
  std::string bytes = contents(path());
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  ASSERT_EQ(bytes.size(), 128u + 24u);
  EXPECT_EQ(bytes.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_EQ(bytes.substr(10, header.size()), header);
  EXPECT_EQ(bytes.substr(10 + header.size(), 118 - header.size()), std::string(117 - header.size(), ' ') + "\n");
  EXPECT_EQ(std::memcmp(bytes.data() + 128, array.data.data(), 24), 0);
}

TEST_F(NpyTest, RoundTripsEveryType) {
  const unsigned seed = 20261124;
  std::mt19937 random(seed);
  for (int i = 0; i < 12; ++i) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{}, {0}, {1}, {7}, {3, 0, 2}, {2, 3, 4, 5}}) {
      Array array = zeros(shape, static_cast<Type>(i));
      for (std::byte& byte : array.data) byte = static_cast<std::byte>(random());
      write(path(), array);
      Array back = read(path());
      SCOPED_TRACE(std::string(type_name(array.type)) + shape_text(shape) + " seed " + std::to_string(seed));
      EXPECT_EQ(back.shape, shape);
      EXPECT_EQ(back.type, array.type);
      EXPECT_EQ(back.data, array.data);
      EXPECT_EQ(std::filesystem::file_size(path()) % 64, array.data.size() % 64);
    }
  }
}

TEST_F(NpyTest, ShapesAsNumPyPrintsThem) {
  for (const auto& [shape, text] :
       std::vector<std::pair<std::vector<int64_t>, std::string>>{{{}, "()"}, {{5}, "(5,)"}, {{5, 6}, "(5, 6)"}}) {
    write(path(), zeros(shape, Type::kU8));
    EXPECT_NE(contents(path()).find("'|u1', 'fortran_order': False, 'shape': " + text + ", }"), std::string::npos) << text;
  }
}

TEST_F(NpyTest, ReadsOtherSpellings) {
  EXPECT_EQ(error(put_header("{\"shape\":(1,),\"descr\":\"<i4\",\"fortran_order\":False}", "abcd")), "");
  EXPECT_EQ(error(put_header("{'descr': '<i4', 'fortran_order': False, 'shape': (1)}  \n", "abcd")), "");
  EXPECT_EQ(error(put_header("{'descr': '|b1', 'fortran_order': True, 'shape': (4,), }\n", "abcd")), "");  // one dimension has no order
  std::string header = "{'descr': '<u2', 'fortran_order': False, 'shape': (2,)}";
  std::string bytes = std::string("\x93NUMPY\x02\x00", 8) + static_cast<char>(header.size()) + std::string(3, '\0') + header + "abcd";
  Array array = read(put(bytes));
  EXPECT_EQ(array.type, Type::kU16);
  EXPECT_EQ(array.values<uint16_t>()[1], 'c' + 256 * 'd');
}

TEST_F(NpyTest, NotAnArray) {
  EXPECT_EQ(error(path("missing.npy")), "cannot open: No such file or directory");
  EXPECT_EQ(error(std::filesystem::path(path()).parent_path()), "found a folder, expected an .npy file");
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(error(path("pipe")), "found a device or pipe, expected an .npy file");
  EXPECT_EQ(error(put("")), "found a file of 0 bytes, expected an .npy file");
  EXPECT_EQ(error(put("PK\x03\x04 and more of it")), "found a file that does not start as an .npy file does (an .npz archive or text?)");
  EXPECT_EQ(error(put(std::string("\x93NUMPY\x03\x00\x10\x00\x00\x00", 12))), "found .npy version 3.0, expected 1.0 or 2.0");
  EXPECT_EQ(error(put(std::string("\x93NUMPY\x01\x01\x10\x00\x00\x00", 12))), "found .npy version 1.1, expected 1.0 or 2.0");
}

TEST_F(NpyTest, Truncated) {
  EXPECT_EQ(error(put(std::string("\x93NUMPY\x01\x00\x10\x00", 10))), "the file is truncated within its header");
  EXPECT_EQ(error(put(std::string("\x93NUMPY\x02\x00\x10\x00", 10))), "the file is truncated within its header");
  EXPECT_EQ(error(put_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", "12345678")),
            "found 8 bytes of data, expected 24 for f32[2, 3] (truncated?)");
  EXPECT_EQ(error(put_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "12345678")),
            "found 8 bytes of data, expected 4 for f32[1]");
}

TEST_F(NpyTest, EveryPrefixOfAFileIsAnError) {
  write(path(), zeros({2, 3}, Type::kF64));
  std::string bytes = contents(path());
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_NE(error(put(bytes.substr(0, size))), "") << size;
  EXPECT_EQ(error(put(bytes)), "");
}

TEST_F(NpyTest, HostileHeaderLengths) {
  EXPECT_EQ(error(put(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12))), "found a header of 4294967295 bytes, the limit is 65536");
  EXPECT_EQ(error(put(std::string("\x93NUMPY\x01\x00\xff\xff", 10) + "{'descr'")), "the file is truncated within its header");
}

TEST_F(NpyTest, HostileShapes) {
  auto shape = [&](const std::string& text) {
    return error(put_header("{'descr': '<f4', 'fortran_order': False, 'shape': " + text + ", }"));
  };
  EXPECT_EQ(shape("(9223372036854775807, 9223372036854775807)"), "the shape [9223372036854775807, 9223372036854775807] is too large");
  EXPECT_EQ(shape("(4294967296, 4294967296, 4294967296)"), "the shape [4294967296, 4294967296, 4294967296] is too large");
  EXPECT_EQ(shape("(1099511627776,)"), "found 0 bytes of data, expected 4398046511104 for f32[1099511627776] (truncated?)");
  EXPECT_EQ(shape("(0, 9223372036854775807, 9223372036854775807)"), "the shape [0, 9223372036854775807, 9223372036854775807] is too large");
  const std::string size = "expected a size of at least 0 and below 2**63";
  EXPECT_EQ(shape("(-1,)"), "malformed .npy header at byte 51: " + size);
  EXPECT_EQ(shape("(9223372036854775808,)"), "malformed .npy header at byte 51: " + size);
  EXPECT_EQ(shape("(x,)"), "malformed .npy header at byte 51: " + size);
  EXPECT_EQ(shape("(1.5,)"), "malformed .npy header at byte 52: expected ','");
  std::string many = "(";
  for (int i = 0; i < 33; ++i) many += "1,";
  EXPECT_EQ(shape(many + ")"), "malformed .npy header at byte 115: more than 32 dimensions");
}

TEST_F(NpyTest, MalformedHeaders) {
  auto header = [&](const std::string& text) { return error(put_header(text)); };
  const std::string at = "malformed .npy header at byte ";
  EXPECT_EQ(header(""), at + "0: expected '{'");
  EXPECT_EQ(header("{}"), at + "2: no key 'descr'");
  EXPECT_EQ(header("{'descr': '<f4', 'shape': ()}"), at + "29: no key 'fortran_order'");
  EXPECT_EQ(header("{'descr': '<f4', 'fortran_order': False}"), at + "40: no key 'shape'");
  EXPECT_EQ(header("{'descr': '<f4', 'descr': '<f4'}"), at + "31: key 'descr' is there twice");
  EXPECT_EQ(header("{'evil': 1}"), at + "8: unknown key 'evil'");  // the key is named before what follows it is read
  EXPECT_EQ(header("{'descr"), at + "1: a string does not end");
  EXPECT_EQ(header("{descr"), at + "1: expected a string");
  EXPECT_EQ(header("{'descr' '<f4'"), at + "9: expected ':'");
  EXPECT_EQ(header("{'fortran_order': 0"), at + "18: expected True or False");
  EXPECT_EQ(header("{'shape': 3"), at + "10: expected '('");
  EXPECT_EQ(header("{'shape': (3"), at + "12: expected ','");
  EXPECT_EQ(header("{'descr': '<f4', 'fortran_order': False, 'shape': ()} import os"), at + "54: text after the closing '}'");
}

TEST_F(NpyTest, OtherTypes) {
  auto descr = [&](const std::string& text) {
    return error(put_header("{'descr': " + text + ", 'fortran_order': False, 'shape': (1,)}", "12345678"));
  };
  EXPECT_EQ(descr("'>f4'"), "found big-endian f32, expected little-endian: convert with a.astype('<f4')");
  EXPECT_EQ(descr("'<V2'"), "found dtype '<V2', which NumPy writes for bfloat16, expected plain numbers: convert with a.astype('float32')");
  const std::string expected = ", expected bool or integers of 8 to 64 bits or floats of 16 to 64 bits";
  EXPECT_EQ(descr("'<c8'"), "found dtype '<c8'" + expected);
  EXPECT_EQ(descr("'|O'"), "found dtype '|O'" + expected);
  EXPECT_EQ(descr("'|f4'"), "found dtype '|f4'" + expected);
  EXPECT_EQ(descr("''"), "found dtype ''" + expected);
  EXPECT_EQ(descr("'" + std::string(50, 'x') + "\x1b'"), "found dtype '" + std::string(40, 'x') + "...'" + expected);
  EXPECT_EQ(descr("[('x', '<f4')]"), "found a structured dtype, expected plain numbers (pick one field and save that)");
}

TEST_F(NpyTest, FortranOrder) {
  EXPECT_EQ(error(put_header("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2), }", "abcd")),
            "found Fortran order, expected C order: convert with numpy.ascontiguousarray(a)");
}

TEST_F(NpyTest, RandomDamageNeverCrashes) {
  const unsigned seed = 7;
  std::mt19937 random(seed);
  write(path(), zeros({2, 3, 4}, Type::kF32));
  const std::string good = contents(path());
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = good;
    for (int changes = 0; changes < 3; ++changes) bytes[random() % 72] = static_cast<char>(random());
    std::string text = error(put(bytes));
    EXPECT_LT(text.size(), 300u) << "seed " << seed << " round " << i;
  }
}

TEST_F(NpyTest, CannotWrite) {
  EXPECT_THROW(
      try { write(path("no/such/folder.npy"), zeros({1}, Type::kF32)); } catch (const Error& problem) {
        EXPECT_EQ(std::string(problem.what()), path("no/such/folder.npy") + ": cannot write: No such file or directory");
        throw;
      },
      Error);
  EXPECT_THROW(write("/dev/full", zeros({1 << 16}, Type::kF32)), Error);
}

TEST_F(NpyTest, ZerosChecksItsSizes) {
  EXPECT_THROW(zeros({-1}, Type::kU8), Error);
  EXPECT_THROW(zeros({int64_t{1} << 40, int64_t{1} << 40}, Type::kU8), Error);
  EXPECT_EQ(zeros({2, 3}, Type::kF16).data, std::vector<std::byte>(12));
}

}  // namespace
}  // namespace attune::npy
