// A line on a terminal's standard error for work that takes over a second: "compiling ... 3 s". It vanishes when the object goes.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace attune::cli {

class Progress {
 public:
  explicit Progress(std::string what);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

 private:
  void show();

  std::string what_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace attune::cli
