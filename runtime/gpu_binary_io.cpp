#include "runtime/gpu_binary_io.h"

#include <cstring>

namespace attune::runtime {
namespace {

class Writer {
 public:
  void number(uint64_t value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value)); }
  void text(std::string_view value) {
    number(value.size());
    bytes_ += value;
  }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads nothing more once something is missing.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  uint64_t number() {
    uint64_t value = 0;
    const std::string_view part = take(sizeof(value));
    if (good_) std::memcpy(&value, part.data(), sizeof(value));
    return value;
  }
  int integer() { return static_cast<int>(number()); }
  std::string text() { return std::string(take(number())); }
  // Of a list, each entry of which takes some bytes: no more than there are.
  uint64_t count() {
    const uint64_t value = number();
    if (value > bytes_.size()) good_ = false;
    return good_ ? value : 0;
  }
  bool done() const { return good_ && bytes_.empty(); }

 private:
  std::string_view take(uint64_t size) {
    if (size > bytes_.size()) good_ = false;
    if (!good_) return {};
    const std::string_view part = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return part;
  }

  std::string_view bytes_;
  bool good_ = true;
};

}  // namespace

std::string to_bytes(const GpuBinary& binary) {
  Writer out;
  out.number(binary.kernels.size());
  for (const GpuResources& kernel : binary.kernels) {
    out.text(kernel.kernel);
    for (const int value : {kernel.registers, kernel.stack_bytes, kernel.spill_store_bytes, kernel.spill_load_bytes, kernel.shared_bytes}) {
      out.number(static_cast<uint64_t>(value));
    }
  }
  out.number(binary.warnings.size());
  for (const std::string& warning : binary.warnings) out.text(warning);
  out.text(binary.cubin);
  return out.take();
}

std::optional<GpuBinary> gpu_binary_from_bytes(std::string_view bytes) {
  Reader in(bytes);
  GpuBinary binary;
  for (uint64_t left = in.count(); left > 0; --left) {
    GpuResources& kernel = binary.kernels.emplace_back();
    kernel.kernel = in.text();
    for (int* value : {&kernel.registers, &kernel.stack_bytes, &kernel.spill_store_bytes, &kernel.spill_load_bytes, &kernel.shared_bytes}) {
      *value = in.integer();
    }
  }
  for (uint64_t left = in.count(); left > 0; --left) binary.warnings.push_back(in.text());
  binary.cubin = in.text();
  if (!in.done() || binary.cubin.empty()) return std::nullopt;
  return binary;
}

}  // namespace attune::runtime
