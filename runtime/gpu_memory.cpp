#include "runtime/gpu_memory.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/cuda_driver.h"
#include "runtime/error.h"
#include "runtime/gpu_device.h"

namespace attune::runtime {
namespace {

cuda::Stream stream_of(void* stream) {
  return static_cast<cuda::Stream>(stream);
}

cuda::Event event_of(void* event) {
  return static_cast<cuda::Event>(event);
}

cuda::Address address_of(void* data, size_t offset = 0) {
  return reinterpret_cast<cuda::Address>(data) + offset;
}

template <typename Release>
void release(int device, const Release& free) {
  try {
    const GpuContextScope scope(device);
    free(cuda::driver());
  } catch (const EnvironmentError&) {
    // From a destructor: the context is gone, and with it what was to be freed.
  }
}

}  // namespace

GpuBuffer::GpuBuffer(int device, size_t bytes) : device_(device), size_(bytes) {
  if (bytes == 0) return;
  const GpuContextScope scope(device);
  cuda::Address address = 0;
  cuda::call(
      cuda::driver(), cuda::driver().memory_allocate, [&] { return fmt::format("allocating {} bytes on GPU {}", bytes, device); }, &address,
      bytes);
  data_ = reinterpret_cast<void*>(address);
}

GpuBuffer::~GpuBuffer() {
  if (data_) release(device_, [&](const cuda::Driver& driver) { driver.memory_free(address_of(data_)); });
}

GpuBuffer::GpuBuffer(GpuBuffer&& other) noexcept {
  *this = std::move(other);
}

GpuBuffer& GpuBuffer::operator=(GpuBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void GpuBuffer::check_range(const char* what, size_t bytes, size_t offset) const {
  if (offset <= size_ && bytes <= size_ - offset) return;
  throw ArgumentError(fmt::format("{}: {} bytes at {} are not within the buffer's {}", what, bytes, offset, size_));
}

void GpuBuffer::zero(void* stream) const {
  if (size_ == 0) return;
  const GpuContextScope scope(device_);
  cuda::call(
      cuda::driver(), cuda::driver().memory_set, [&] { return fmt::format("zeroing {} bytes", size_); }, address_of(data_), 0, size_,
      stream_of(stream));
}

void GpuBuffer::copy_from_host(const void* host, size_t bytes, size_t offset, void* stream) const {
  check_range("copy_from_host", bytes, offset);
  if (bytes == 0) return;
  const GpuContextScope scope(device_);
  cuda::call(
      cuda::driver(), cuda::driver().copy_to_device, [&] { return fmt::format("copying {} bytes to GPU {}", bytes, device_); },
      address_of(data_, offset), host, bytes, stream_of(stream));
}

void GpuBuffer::copy_to_host(void* host, size_t bytes, size_t offset, void* stream) const {
  check_range("copy_to_host", bytes, offset);
  if (bytes == 0) return;
  const GpuContextScope scope(device_);
  cuda::call(
      cuda::driver(), cuda::driver().copy_to_host, [&] { return fmt::format("copying {} bytes from GPU {}", bytes, device_); }, host,
      address_of(data_, offset), bytes, stream_of(stream));
}

GpuStream::GpuStream(int device) : device_(device) {
  const GpuContextScope scope(device);
  cuda::Stream stream = nullptr;
  cuda::call(cuda::driver(), cuda::driver().stream_create, "making a stream", &stream, cuda::kNonBlocking);
  stream_ = stream;
}

GpuStream::~GpuStream() {
  if (stream_) release(device_, [&](const cuda::Driver& driver) { driver.stream_destroy(stream_of(stream_)); });
}

GpuStream::GpuStream(GpuStream&& other) noexcept {
  *this = std::move(other);
}

GpuStream& GpuStream::operator=(GpuStream&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(stream_, other.stream_);
  return *this;
}

void GpuStream::synchronize() const {
  runtime::synchronize(device_, stream_);
}

GpuEvent::GpuEvent(int device) : device_(device) {
  const GpuContextScope scope(device);
  cuda::Event event = nullptr;
  cuda::call(cuda::driver(), cuda::driver().event_create, "making an event", &event, 0u);
  event_ = event;
}

GpuEvent::~GpuEvent() {
  if (event_) release(device_, [&](const cuda::Driver& driver) { driver.event_destroy(event_of(event_)); });
}

GpuEvent::GpuEvent(GpuEvent&& other) noexcept {
  *this = std::move(other);
}

GpuEvent& GpuEvent::operator=(GpuEvent&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(event_, other.event_);
  return *this;
}

void GpuEvent::record(void* stream) {
  const GpuContextScope scope(device_);
  cuda::call(cuda::driver(), cuda::driver().event_record, "recording an event", event_of(event_), stream_of(stream));
}

void GpuEvent::synchronize() const {
  const GpuContextScope scope(device_);
  cuda::call(cuda::driver(), cuda::driver().event_synchronize, "waiting for an event", event_of(event_));
}

double GpuEvent::milliseconds_since(const GpuEvent& start) const {
  synchronize();
  float milliseconds = 0;
  cuda::call(cuda::driver(), cuda::driver().event_elapsed, "reading the time between two events", &milliseconds, event_of(start.event_),
             event_of(event_));
  return milliseconds;
}

void synchronize(int device, void* stream) {
  const GpuContextScope scope(device);
  cuda::call(
      cuda::driver(), cuda::driver().stream_synchronize, [&] { return fmt::format("waiting for a stream of GPU {}", device); },
      stream_of(stream));
}

void synchronize(int device) {
  const GpuContextScope scope(device);
  cuda::call(cuda::driver(), cuda::driver().context_synchronize, [&] { return fmt::format("waiting for GPU {}", device); });
}

GpuMemory gpu_memory(int device) {
  const GpuContextScope scope(device);
  GpuMemory memory;
  cuda::call(
      cuda::driver(), cuda::driver().memory_info, [&] { return fmt::format("asking for the free memory of GPU {}", device); },
      &memory.free_bytes, &memory.total_bytes);
  return memory;
}

}  // namespace attune::runtime
