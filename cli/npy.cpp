#include "cli/npy.h"

#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <utility>

namespace attune::npy {
namespace {

struct TypeRow {
  Type type;
  std::string_view name, numpy, descr;  // descr without its byte order
  size_t size;
};

constexpr std::array<TypeRow, 12> kTypes = {{
    {Type::kBool, "bool", "bool", "b1", 1},
    {Type::kU8, "u8", "uint8", "u1", 1},
    {Type::kI8, "i8", "int8", "i1", 1},
    {Type::kU16, "u16", "uint16", "u2", 2},
    {Type::kI16, "i16", "int16", "i2", 2},
    {Type::kF16, "f16", "float16", "f2", 2},
    {Type::kU32, "u32", "uint32", "u4", 4},
    {Type::kI32, "i32", "int32", "i4", 4},
    {Type::kF32, "f32", "float32", "f4", 4},
    {Type::kU64, "u64", "uint64", "u8", 8},
    {Type::kI64, "i64", "int64", "i8", 8},
    {Type::kF64, "f64", "float64", "f8", 8},
}};

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kAlignment = 64;

const TypeRow& row(Type type) {
  return kTypes.at(static_cast<size_t>(type));
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::string errno_text() {
  return std::strerror(errno);
}

// Bytes of an array, or nothing if a size is negative or the product leaves the range of an offset.
std::optional<size_t> byte_count(std::span<const int64_t> shape, size_t element) {
  constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t bytes = element;
  bool empty = false;
  for (int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
      continue;
    }
    if (bytes > kMax / static_cast<uint64_t>(size)) return std::nullopt;
    bytes *= static_cast<uint64_t>(size);
  }
  return empty ? 0 : static_cast<size_t>(bytes);
}

// Printable text of bytes out of a file, cut if it is long.
std::string quoted(std::string_view text) {
  constexpr size_t kMax = 40;
  std::string result = "'";
  for (char c : text.substr(0, kMax)) result += c >= ' ' && c <= '~' ? c : '?';
  return result + (text.size() > kMax ? "...'" : "'");
}

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

// The header is a Python dict with three keys: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
class HeaderParser {
 public:
  HeaderParser(const std::string& path, std::string_view text) : path_(path), text_(text) {}

  Header parse() {
    Header header;
    std::array<bool, 3> seen{};
    expect('{');
    while (!accept('}')) {
      std::string key = string();
      expect(':');
      size_t index = 0;
      if (key == "descr") {
        header.descr = descr();
      } else if (key == "fortran_order") {
        index = 1;
        header.fortran_order = boolean();
      } else if (key == "shape") {
        index = 2;
        header.shape = tuple();
      } else {
        fail("unknown key " + quoted(key));
      }
      if (seen[index]) fail("key " + quoted(key) + " is there twice");
      seen[index] = true;
      if (accept('}')) break;
      expect(',');
    }
    skip_blanks();
    if (at_ < text_.size()) fail("text after the closing '}'");
    for (size_t i = 0; i < seen.size(); ++i) {
      if (!seen[i]) fail(std::string("no key '") + std::array{"descr", "fortran_order", "shape"}[i] + "'");
    }
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(path_ + ": malformed .npy header at byte " + std::to_string(at_) + ": " + what);
  }

  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }

  bool accept(char c) {
    skip_blanks();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!accept(c)) fail(std::string("expected '") + c + "'");
  }

  std::string string() {
    skip_blanks();
    char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("expected a string");
    size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a string does not end");
    std::string result(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return result;
  }

  std::string descr() {
    skip_blanks();
    if (at_ < text_.size() && text_[at_] == '[') {
      throw Error(path_ + ": found a structured dtype, expected plain numbers (pick one field and save that)");
    }
    return string();
  }

  bool boolean() {
    skip_blanks();
    for (auto [word, value] : {std::pair("False", false), std::pair("True", true)}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += std::strlen(word);
        return value;
      }
    }
    fail("expected True or False");
  }

  std::vector<int64_t> tuple() {
    std::vector<int64_t> result;
    expect('(');
    while (!accept(')')) {
      if (result.size() == kMaxRank) fail("more than " + std::to_string(kMaxRank) + " dimensions");
      skip_blanks();
      int64_t size = 0;
      auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), size);
      if (error != std::errc() || size < 0) fail("expected a size of at least 0 and below 2**63");
      at_ = static_cast<size_t>(end - text_.data());
      result.push_back(size);
      if (accept(')')) break;
      expect(',');
    }
    return result;
  }

  const std::string& path_;
  std::string_view text_;
  size_t at_ = 0;
};

Type type_of(const std::string& path, const std::string& descr) {
  if (descr.size() >= 2) {
    char order = descr[0];
    std::string_view rest = std::string_view(descr).substr(1);
    for (const TypeRow& candidate : kTypes) {
      if (candidate.descr != rest) continue;
      if (order == '<' || (candidate.size == 1 && (order == '|' || order == '>'))) return candidate.type;
      if (order == '>') {
        throw Error(path + ": found big-endian " + std::string(candidate.name) + ", expected little-endian: convert with a.astype('<" +
                    std::string(candidate.descr) + "')");
      }
    }
    if (rest == "V2") {
      throw Error(path + ": found dtype " + quoted(descr) +
                  ", which NumPy writes for bfloat16, expected plain numbers: convert with a.astype('float32')");
    }
  }
  throw Error(path + ": found dtype " + quoted(descr) + ", expected bool or integers of 8 to 64 bits or floats of 16 to 64 bits");
}

// Little-endian number of n bytes.
size_t little_endian(const unsigned char* bytes, size_t n) {
  size_t value = 0;
  for (size_t i = n; i-- > 0;) value = value << 8 | bytes[i];
  return value;
}

void read_bytes(const std::string& path, std::FILE* file, void* into, size_t bytes) {
  if (bytes != 0 && std::fread(into, 1, bytes, file) != bytes) {
    throw Error(path + ": " + (std::ferror(file) ? "cannot read: " + errno_text() : "the file was cut short while being read"));
  }
}

}  // namespace

std::string_view type_name(Type type) {
  return row(type).name;
}
std::string_view numpy_name(Type type) {
  return row(type).numpy;
}
size_t type_size(Type type) {
  return row(type).size;
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

Array zeros(std::vector<int64_t> shape, Type type) {
  std::optional<size_t> bytes = byte_count(shape, type_size(type));
  if (!bytes) throw Error("an array of shape " + shape_text(shape) + " is too large");
  return {std::move(shape), type, std::vector<std::byte>(*bytes)};
}

Array read(const std::string& path) {
  struct stat status{};
  if (stat(path.c_str(), &status) != 0) throw Error(path + ": cannot open: " + errno_text());
  if (!S_ISREG(status.st_mode))
    throw Error(path + ": found " + (S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe") + ", expected an .npy file");
  File file(std::fopen(path.c_str(), "rb"));
  if (!file) throw Error(path + ": cannot open: " + errno_text());
  auto file_bytes = static_cast<size_t>(status.st_size);

  // Six bytes of magic, two of version, two or four of header length.
  std::array<unsigned char, 12> start{};
  if (file_bytes < 10) throw Error(path + ": found a file of " + std::to_string(file_bytes) + " bytes, expected an .npy file");
  read_bytes(path, file.get(), start.data(), 10);
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0) {
    throw Error(path + ": found a file that does not start as an .npy file does (an .npz archive or text?)");
  }
  int major = start[6];
  int minor = start[7];
  if ((major != 1 && major != 2) || minor != 0) {
    throw Error(path + ": found .npy version " + std::to_string(major) + "." + std::to_string(minor) + ", expected 1.0 or 2.0");
  }
  size_t prefix = major == 1 ? 10 : 12;
  if (file_bytes < prefix) throw Error(path + ": the file is truncated within its header");
  if (major == 2) read_bytes(path, file.get(), start.data() + 10, 2);
  size_t header_bytes = little_endian(start.data() + 8, prefix - 8);
  if (header_bytes > kMaxHeaderBytes) {
    throw Error(path + ": found a header of " + std::to_string(header_bytes) + " bytes, the limit is " + std::to_string(kMaxHeaderBytes));
  }
  if (header_bytes > file_bytes - prefix) throw Error(path + ": the file is truncated within its header");
  std::string text(header_bytes, '\0');
  read_bytes(path, file.get(), text.data(), header_bytes);

  Header header = HeaderParser(path, text).parse();
  Array array{std::move(header.shape), type_of(path, header.descr), {}};
  if (header.fortran_order && array.shape.size() > 1) {
    throw Error(path + ": found Fortran order, expected C order: convert with numpy.ascontiguousarray(a)");
  }
  size_t data_bytes = file_bytes - prefix - header_bytes;
  std::optional<size_t> expected = byte_count(array.shape, type_size(array.type));
  if (!expected) throw Error(path + ": the shape " + shape_text(array.shape) + " is too large");
  if (*expected != data_bytes) {
    throw Error(path + ": found " + std::to_string(data_bytes) + " bytes of data, expected " + std::to_string(*expected) + " for " +
                std::string(type_name(array.type)) + shape_text(array.shape) + (data_bytes < *expected ? " (truncated?)" : ""));
  }
  try {
    array.data.resize(data_bytes);
  } catch (const std::bad_alloc&) {
    throw Error(path + ": no memory for " + std::to_string(data_bytes) + " bytes");
  }
  read_bytes(path, file.get(), array.data.data(), data_bytes);
  return array;
}

void write(const std::string& path, const Array& array) {
  const TypeRow& type = row(array.type);
  if (byte_count(array.shape, type.size) != array.data.size()) {
    throw std::logic_error("npy::write: data of another size than its shape and type say");
  }
  std::string shape;
  for (int64_t size : array.shape) shape += std::to_string(size) + ", ";
  if (array.shape.size() > 1) shape.resize(shape.size() - 2);
  if (array.shape.size() == 1) shape.pop_back();
  std::string header = std::string("{'descr': '") + (type.size == 1 ? '|' : '<') + std::string(type.descr) +
                       "', 'fortran_order': False, 'shape': (" + shape + "), }";
  // NumPy wants the data aligned: blanks, then one newline.
  size_t used = kMagic.size() + 4 + header.size() + 1;
  header.append((kAlignment - used % kAlignment) % kAlignment, ' ');
  header += '\n';

  std::string start(kMagic);
  start += {'\x01', '\x00', static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  start += header;

  File file(std::fopen(path.c_str(), "wb"));
  if (!file) throw Error(path + ": cannot write: " + errno_text());
  bool written = std::fwrite(start.data(), 1, start.size(), file.get()) == start.size() &&
                 (array.data.empty() || std::fwrite(array.data.data(), 1, array.data.size(), file.get()) == array.data.size()) &&
                 std::fflush(file.get()) == 0;
  if (!written) throw Error(path + ": cannot write: " + errno_text());
}

}  // namespace attune::npy
