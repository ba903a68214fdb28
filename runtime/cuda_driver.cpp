#include "runtime/cuda_driver.h"

#include <fmt/format.h>

#include <memory>

#include "runtime/error.h"

namespace attune::runtime::cuda {
namespace {

std::string text_of(const DriverFunction<Result, const char**>& describe, Result result) {
  const char* text = nullptr;
  return describe(result, &text) == Result::kSuccess && text ? text : "unknown error";
}

[[noreturn]] void fail_old(const SharedLibrary& library, const char* lacking) {
  throw EnvironmentError(fmt::format("the CUDA driver '{}' lacks {}: expected one of CUDA 12.0 or newer", library.path(), lacking));
}

}  // namespace

SharedLibrary open_driver_library() {
  const std::string names[] = {"libcuda.so.1"};
  return {names, "cuInit"};
}

Driver::Driver() : library_(open_driver_library()) {}

Driver::GetAddress* Driver::find_get_address(const SharedLibrary& library) {
  if (!library.is_open()) throw EnvironmentError(fmt::format("no CUDA driver: cannot open {}", library.path()));
  // Of CUDA 12.0 on; its older namesake has no status.
  constexpr char kName[] = "cuGetProcAddress_v2";
  GetAddress* found = library.function<GetAddress>(kName);
  if (!found) fail_old(library, kName);
  return found;
}

Symbol Driver::find_optional(const char* name, int version) const {
  void* address = nullptr;
  int status = 0;
  if (get_address_(name, &address, version, 0, &status) != Result::kSuccess) address = nullptr;
  return {name, address};
}

Symbol Driver::find(const char* name, int version) const {
  const Symbol symbol = find_optional(name, version);
  if (!symbol.address) fail_old(library_, name);
  return symbol;
}

const Driver& driver() {
  static const Driver* const instance = [] {
    auto made = std::make_unique<Driver>();
    call(*made, made->init, "initialising the driver", 0u);
    return made.release();
  }();
  return *instance;
}

void fail(const Driver& driver, const char* function, Result result, std::string_view doing) {
  throw EnvironmentError(fmt::format("{}: {} ({}), {}; while {}", function, text_of(driver.error_name, result), static_cast<int>(result),
                                     text_of(driver.error_text, result), doing));
}

}  // namespace attune::runtime::cuda
