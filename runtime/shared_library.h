// A library that is looked for at run time and never linked.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace attune::runtime {

// Never closed: neither the CUDA driver nor NVRTC can be unloaded safely while threads of theirs live.
class SharedLibrary {
 public:
  // The first of `names` (file names by the loader's path, or paths) that can be opened. `symbol`, one that it has, tells where it was
  // found.
  SharedLibrary(std::span<const std::string> names, const char* symbol);

  bool is_open() const { return handle_; }
  // Of the file; if there is none, the names that were tried: "libnvrtc.so.13, libnvrtc.so.12".
  const std::string& path() const { return path_; }
  void* find(const char* symbol) const;  // null if the library lacks it

  template <typename Function>
  Function* function(const char* symbol) const {
    return reinterpret_cast<Function*>(find(symbol));
  }

 private:
  void* handle_ = nullptr;
  std::string path_;
};

}  // namespace attune::runtime
