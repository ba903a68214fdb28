#include "runtime/shared_library.h"

#include <dlfcn.h>

namespace attune::runtime {
namespace {

std::string file_of(void* handle, const char* symbol) {
  Dl_info info;
  void* address = dlsym(handle, symbol);
  return address && dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

}  // namespace

SharedLibrary::SharedLibrary(std::span<const std::string> names, const char* symbol) {
  for (const std::string& name : names) {
    handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_) {
      path_ = file_of(handle_, symbol);
      if (path_.empty()) path_ = name;
      return;
    }
    path_ += (path_.empty() ? "" : ", ") + name;
  }
}

void* SharedLibrary::find(const char* symbol) const {
  return handle_ ? dlsym(handle_, symbol) : nullptr;
}

}  // namespace attune::runtime
