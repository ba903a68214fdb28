#include "cli/tensors.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "cli/arguments.h"
#include "cli/floats.h"
#include "cli/npy.h"

namespace attune::cli {
namespace {

npy::Array read_array(const std::string& option, const std::string& path) {
  try {
    return npy::read(path);
  } catch (const npy::Error& error) {
    throw UsageError(option + ": " + error.what());
  }
}

[[noreturn]] void fail_type(const std::string& option, const std::string& path, npy::Type found, std::string_view expected,
                            npy::Type convert_to) {
  throw UsageError(fmt::format("{}: {}: found dtype {}, expected {}: convert with a.astype('{}')", option, path, npy::type_name(found),
                               expected, npy::numpy_name(convert_to)));
}

// The values in f32, of an f32 or f16 array.
std::vector<float> to_f32(const npy::Array& array) {
  if (array.type == npy::Type::kF32) {
    auto values = array.values<float>();
    return {values.begin(), values.end()};
  }
  std::vector<float> result;
  result.reserve(array.data.size() / 2);
  for (uint16_t bits : array.values<uint16_t>()) result.push_back(f16_to_f32(bits));
  return result;
}

struct Narrowed {
  std::vector<std::byte> data;
  size_t overflows = 0;  // finite values that became inf
};

Narrowed narrow(std::span<const float> values, DType dtype) {
  Narrowed result{std::vector<std::byte>(values.size() * 2), 0};
  auto* bits = reinterpret_cast<uint16_t*>(result.data.data());
  for (size_t i = 0; i < values.size(); ++i) {
    bits[i] = dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    float back = dtype == DType::kF16 ? f16_to_f32(bits[i]) : bf16_to_f32(bits[i]);
    result.overflows += std::isinf(back) && !std::isinf(values[i]);
  }
  return result;
}

Buffer convert(const std::string& option, npy::Array array, DType dtype) {
  Buffer buffer{dtype, array.shape, {}};
  bool same = (array.type == npy::Type::kF32 && dtype == DType::kF32) || (array.type == npy::Type::kF16 && dtype == DType::kF16);
  if (same) {
    buffer.data = std::move(array.data);
    return buffer;
  }
  std::vector<float> values = to_f32(array);
  if (dtype == DType::kF32) {
    buffer.data.resize(values.size() * sizeof(float));
    if (!values.empty()) std::memcpy(buffer.data.data(), values.data(), buffer.data.size());
    return buffer;
  }
  Narrowed narrowed = narrow(values, dtype);
  if (narrowed.overflows > 0) {
    fmt::print(stderr, "attune: warning: {}: {} {} beyond the range of {} and became inf\n", option, narrowed.overflows,
               narrowed.overflows == 1 ? "value is" : "values are", dtype_name(dtype));
  }
  buffer.data = std::move(narrowed.data);
  return buffer;
}

bool is_float(npy::Type type) {
  return type == npy::Type::kF32 || type == npy::Type::kF16;
}

void check_no_nan(const std::string& option, const std::string& path, const npy::Array& array) {
  std::vector<float> values = to_f32(array);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) throw UsageError(fmt::format("{}: {}: found NaN (element {} of {})", option, path, i, values.size()));
  }
}

Buffer read_param(const std::string& option, const ParamInfo& param, const std::string& path) {
  npy::Array array = read_array(option, path);
  if (param.dtype == DType::kI32) {
    if (array.type != npy::Type::kI32) fail_type(option, path, array.type, fmt::format("i32 for '{}'", param.declaration), npy::Type::kI32);
    return {DType::kI32, std::move(array.shape), std::move(array.data)};
  }
  if (param.dtype == DType::kU8) {
    bool suits = array.type == npy::Type::kU8 || array.type == npy::Type::kBool;
    if (!suits) fail_type(option, path, array.type, fmt::format("u8 or bool for '{}'", param.declaration), npy::Type::kU8);
    return {DType::kU8, std::move(array.shape), std::move(array.data)};
  }
  if (!is_float(array.type)) fail_type(option, path, array.type, fmt::format("f32 or f16 for '{}'", param.declaration), npy::Type::kF32);
  check_no_nan(option, path, array);
  return convert(option, std::move(array), param.dtype);
}

// A `grad` scalar: one f32 in memory, from a value or from a file of one element.
Buffer bind_grad_scalar(const std::string& option, const ParamInfo& param, const std::string& text) {
  Buffer buffer = make_buffer(DType::kF32, {});
  float value = 0;
  if (text.ends_with(".npy")) {
    Buffer file = read_param(option, param, text);
    if (file.data.size() != sizeof(float)) {
      throw UsageError(fmt::format("{}: {}: found shape {}, expected one element for '{}'", option, text, npy::shape_text(file.shape),
                                   param.declaration));
    }
    std::memcpy(&value, file.data.data(), sizeof(value));
  } else {
    value = static_cast<float>(std::get<double>(parse_scalar("--param", param, text)));
  }
  std::memcpy(buffer.data.data(), &value, sizeof(value));
  return buffer;
}

}  // namespace

Tensor Buffer::tensor() {
  return {data.data(), dtype, shape, {}};
}

Buffer make_buffer(DType dtype, std::vector<int64_t> shape) {
  // Only the size of the elements matters to zeros().
  npy::Type type = dtype_size(dtype) == 4 ? npy::Type::kF32 : npy::Type::kF16;
  npy::Array array = npy::zeros(std::move(shape), type);
  return {dtype, std::move(array.shape), std::move(array.data)};
}

Buffer read_floats(const std::string& option, const std::string& path, DType dtype) {
  npy::Array array = read_array(option, path);
  if (!is_float(array.type)) fail_type(option, path, array.type, "f32 or f16", npy::Type::kF32);
  return convert(option, std::move(array), dtype);
}

Buffer read_offsets(const std::string& option, const std::string& path) {
  npy::Array array = read_array(option, path);
  if (array.type != npy::Type::kI32) fail_type(option, path, array.type, "i32", npy::Type::kI32);
  if (array.shape.size() != 1 || array.shape[0] < 2) {
    throw UsageError(fmt::format("{}: {}: found shape {}, expected [batch + 1] offsets", option, path, npy::shape_text(array.shape)));
  }
  auto offsets = array.values<int32_t>();
  if (offsets[0] != 0) throw UsageError(fmt::format("{}: {}: found first offset {}, expected 0", option, path, offsets[0]));
  for (size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] < offsets[i - 1]) {
      throw UsageError(fmt::format("{}: {}: offset {} falls from {} to {}, expected offsets that do not decrease", option, path, i,
                                   offsets[i - 1], offsets[i]));
    }
  }
  return {DType::kI32, std::move(array.shape), std::move(array.data)};
}

void write_floats(const std::string& path, const Buffer& buffer) {
  npy::Array array{buffer.shape, npy::Type::kF32, {}};
  if (buffer.dtype == DType::kF32) {
    array.data = buffer.data;
  } else {
    array.data.resize(buffer.data.size() * 2);
    auto values = array.values<float>();
    const auto* bits = reinterpret_cast<const uint16_t*>(buffer.data.data());
    for (size_t i = 0; i < values.size(); ++i) values[i] = buffer.dtype == DType::kF16 ? f16_to_f32(bits[i]) : bf16_to_f32(bits[i]);
  }
  npy::write(path, array);
}

void Bindings::apply(PlanOptions& options) {
  options.scalars = scalars;
  for (auto& [name, buffer] : buffers) options.tensors[name] = buffer.tensor();
}

Bindings bind_params(const Variant& variant, std::span<const std::string> texts) {
  Bindings bindings;
  for (const auto& [name, text] : parse_assignments("--param", texts)) {
    const ParamInfo& param = find_param("--param", variant, name);
    std::string option = "--param " + name;
    if (param.is_const) throw UsageError(fmt::format("{}: '{}' is fixed at compile time: give it with --const", option, param.declaration));
    if (param.is_tensor) {
      bindings.buffers[name] = read_param(option, param, text);
    } else if (param.is_grad) {
      bindings.buffers[name] = bind_grad_scalar(option, param, text);
    } else if (text.ends_with(".npy")) {
      throw UsageError(fmt::format("{}: expected a value for '{}', found the file '{}'", option, param.declaration, text));
    } else {
      bindings.scalars[name] = parse_scalar("--param", param, text);
    }
  }
  return bindings;
}

void check_all_bound(const Variant& variant, const Bindings& bindings) {
  for (const ParamInfo& param : variant.params()) {
    bool bound = bindings.scalars.contains(param.name) || bindings.buffers.contains(param.name);
    if (bound || param.is_const || param.has_default) continue;
    throw UsageError(fmt::format("--param: '{}' has no value, expected --param {}={}", param.declaration, param.name,
                                 param.is_tensor ? "FILE.npy" : "VALUE"));
  }
}

}  // namespace attune::cli
