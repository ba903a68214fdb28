// Arrays in NumPy's .npy files: versions 1.0 and 2.0, little-endian, C order, plain numbers and bool.
//
//   attune::npy::Array q = attune::npy::read("q.npy");
//   attune::npy::write("copy.npy", q);
//
// A file is not trusted: its header is at most kMaxHeaderBytes long, and no memory is taken for data that the file does not hold.
// Every failure throws Error, whose text starts with the path and says what was found and what was expected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace attune::npy {

enum class Type : uint8_t { kBool, kU8, kI8, kU16, kI16, kF16, kU32, kI32, kF32, kU64, kI64, kF64 };
std::string_view type_name(Type type);   // "f32"
std::string_view numpy_name(Type type);  // "float32"
size_t type_size(Type type);             // bytes of an element

inline constexpr size_t kMaxHeaderBytes = 65536;
inline constexpr size_t kMaxRank = 32;

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Array {
  std::vector<int64_t> shape;  // empty: one element
  Type type = Type::kF32;
  std::vector<std::byte> data;  // C order, no gaps

  // The elements; T must have the size of `type`.
  template <typename T>
  std::span<T> values() {
    return {reinterpret_cast<T*>(data.data()), data.size() / sizeof(T)};
  }
  template <typename T>
  std::span<const T> values() const {
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }
};

// "[2, 3]"
std::string shape_text(std::span<const int64_t> shape);

// A zeroed array. Throws Error if a size is negative or the whole does not fit in memory's range.
Array zeros(std::vector<int64_t> shape, Type type);

Array read(const std::string& path);

// Makes or overwrites the file; a failure may leave a part of it. The data must have the size that shape and type say.
void write(const std::string& path, const Array& array);

}  // namespace attune::npy
