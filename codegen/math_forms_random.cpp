// random: Philox 4x32-7, on the host and by instructions.
#include "codegen/math_forms_detail.h"
#include "codegen/philox.h"

namespace attune::codegen {

using namespace detail;

namespace {

constexpr int kUnusedBits = 8;  // of the first word; f32 holds the other 24
constexpr float kStep = 0x1p-24f;

struct Product {
  uint32_t high, low;
};

Product multiply(uint32_t x, uint32_t y) {
  const uint64_t product = static_cast<uint64_t>(x) * y;
  return {static_cast<uint32_t>(product >> 32), static_cast<uint32_t>(product)};
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const Product first = multiply(PhiloxConstants::kMultiplier0, counter[0]);
    const Product second = multiply(PhiloxConstants::kMultiplier1, counter[2]);
    counter = {second.high ^ counter[1] ^ key[0], second.low, first.high ^ counter[3] ^ key[1], first.low};
    key = {key[0] + PhiloxConstants::kWeyl0, key[1] + PhiloxConstants::kWeyl1};
  }
  return counter;
}

float random_value(uint32_t seed, uint32_t batch, uint32_t head, uint32_t q_idx, uint32_t k_idx) {
  const uint32_t word = philox4x32({batch, head, q_idx, k_idx}, {seed, 0}, kRandomRounds)[0];
  return static_cast<float>(word >> kUnusedBits) * kStep;
}

Value form_random(MathBuilder& b, Value seed, Value batch, Value head, Value q_idx, Value k_idx) {
  const auto number = [&b](uint32_t value) { return b.i32(static_cast<int32_t>(value)); };
  const Value multiplier0 = number(PhiloxConstants::kMultiplier0);
  const Value multiplier1 = number(PhiloxConstants::kMultiplier1);
  std::array<Value, 4> counter = {batch, head, q_idx, k_idx};
  for (uint32_t round = 0; round < kRandomRounds; ++round) {
    const Value key0 = b.iadd(seed, number(round * PhiloxConstants::kWeyl0));
    const Value key1 = number(round * PhiloxConstants::kWeyl1);
    const Value word0 = b.ixor(b.ixor(b.umulhi(counter[2], multiplier1), counter[1]), key0);
    const Value word2 = b.ixor(b.ixor(b.umulhi(counter[0], multiplier0), counter[3]), key1);
    counter = {word0, b.imul(counter[2], multiplier1), word2, b.imul(counter[0], multiplier0)};
  }
  return b.fmul(b.i32_to_f32(b.lshr(counter[0], b.i32(kUnusedBits))), b.f32(kStep));
}

}  // namespace attune::codegen
