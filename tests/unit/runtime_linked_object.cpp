// Linked by runtime_linker_test.cpp: code, constant and writable data, calls out of the object.
#include <cstring>

static int calls = 0;
static const int kTable[4] = {1, 10, 100, 1000};

extern "C" int scaled(int x) {
  ++calls;
  return x * kTable[calls & 3];
}

extern "C" void move_bytes(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

extern "C" void fill_bytes(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
}
