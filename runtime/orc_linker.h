// Object bytes -> callable code in this process. An object may use what the process itself exports, such as memcpy.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace attune::runtime {

// One linked object; its code lives as long as this. Objects do not see each other, so equal symbols in two of them are fine. Safe to make
// and destroy on several threads at once.
class LinkedObject {
 public:
  // `object` is an ELF relocatable file for this machine that defines `symbol`. Throws EnvironmentError with the linker's words.
  LinkedObject(std::string_view object, const std::string& symbol);
  ~LinkedObject();
  LinkedObject(LinkedObject&&) noexcept;
  LinkedObject& operator=(LinkedObject&&) noexcept;

  template <typename Function>
  Function* function() const {
    return reinterpret_cast<Function*>(address_);
  }

 private:
  struct Session;
  std::unique_ptr<Session> session_;
  void* address_ = nullptr;
};

}  // namespace attune::runtime
