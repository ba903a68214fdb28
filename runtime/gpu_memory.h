// Memory, streams and events of a GPU, for the command line and for tests: a plan never allocates. A stream is the driver's handle as
// void*; null is the default stream. All throw EnvironmentError with the driver's words.
#pragma once

#include <cstddef>

namespace attune::runtime {

class GpuBuffer {
 public:
  GpuBuffer() = default;
  // Not zeroed. No bytes: no memory, a null address.
  GpuBuffer(int device, size_t bytes);
  ~GpuBuffer();
  GpuBuffer(GpuBuffer&& other) noexcept;
  GpuBuffer& operator=(GpuBuffer&& other) noexcept;

  void* data() const { return data_; }
  size_t size() const { return size_; }

  // In the order of the stream. The host does not wait, but where its memory is pageable the driver copies it before it returns.
  void zero(void* stream = nullptr) const;
  void copy_from_host(const void* host, size_t bytes, size_t offset = 0, void* stream = nullptr) const;
  void copy_to_host(void* host, size_t bytes, size_t offset = 0, void* stream = nullptr) const;

 private:
  void check_range(const char* what, size_t bytes, size_t offset) const;

  int device_ = 0;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Does not wait for the default stream.
class GpuStream {
 public:
  explicit GpuStream(int device);
  ~GpuStream();
  GpuStream(GpuStream&& other) noexcept;
  GpuStream& operator=(GpuStream&& other) noexcept;

  void* get() const { return stream_; }
  void synchronize() const;

 private:
  int device_ = 0;
  void* stream_ = nullptr;
};

class GpuEvent {
 public:
  explicit GpuEvent(int device);
  ~GpuEvent();
  GpuEvent(GpuEvent&& other) noexcept;
  GpuEvent& operator=(GpuEvent&& other) noexcept;

  void* get() const { return event_; }
  void record(void* stream);
  void synchronize() const;
  // Both recorded; waits for this one. The driver's clock ticks every 0.5 us.
  double milliseconds_since(const GpuEvent& start) const;

 private:
  int device_ = 0;
  void* event_ = nullptr;
};

void synchronize(int device, void* stream);
void synchronize(int device);  // all its streams

struct GpuMemory {
  size_t free_bytes = 0, total_bytes = 0;
};
GpuMemory gpu_memory(int device);

}  // namespace attune::runtime
