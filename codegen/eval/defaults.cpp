#include "codegen/eval/defaults.h"

#include <fmt/format.h>

#include <stdexcept>

namespace attune::codegen {
namespace {

class SizesEnv : public Env {
 public:
  explicit SizesEnv(const Sizes& sizes) : sizes_(sizes) {}
  double symbol(Symbol symbol) const override { return size_of(sizes_, symbol); }

 private:
  const Sizes& sizes_;
};

}  // namespace

int size_of(const Sizes& sizes, Symbol symbol) {
  switch (symbol) {
    case Symbol::kBatch:
      return sizes.batch;
    case Symbol::kHeads:
      return sizes.heads;
    case Symbol::kKvHeads:
      return sizes.kv_heads;
    case Symbol::kQLen:
      return sizes.q_len;
    case Symbol::kKLen:
      return sizes.k_len;
    case Symbol::kHeadDim:
      return sizes.head_dim;
    case Symbol::kVDim:
      return sizes.v_dim;
    default:
      throw std::logic_error(fmt::format("'{}' is not a size", symbol_name(symbol)));
  }
}

double default_value(const Ir& ir, const Param& param, const Sizes& sizes) {
  return Interpreter(ir.graph, {param.default_value})(SizesEnv(sizes))[0];
}

std::vector<int64_t> tensor_dims(const Ir& ir, const Param& param, const Sizes& sizes) {
  Interpreter interpreter(ir.graph, param.dims);
  std::vector<int64_t> dims;
  for (double dim : interpreter(SizesEnv(sizes))) dims.push_back(static_cast<int64_t>(dim));
  return dims;
}

}  // namespace attune::codegen
