// Values of the IR as LLVM values, each computed as often as its rate asks: uniform ones once at the function's entry, per-row ones once a
// strip of queries and per-column ones once a tile of keys (both kept in scratch slots), the rest for each key of a strip.
#pragma once

#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "codegen/llvm_emitter_code.h"
#include "codegen/llvm_emitter_math.h"
#include "codegen/lower.h"

namespace attune::codegen {

// Where values are being emitted. Copy a scope before a branch or a loop body: what is memoised there does not dominate what comes after.
struct Scope {
  enum class Kind : uint8_t { kUniform, kRow, kColumn, kBounds, kElement };
  Kind kind = Kind::kUniform;
  bool may_leave = true;               // pairs may be among them that the mask drops: their indices need not be inside tensors
  std::map<Symbol, LlvmValue> leaves;  // in the form of the scope; k_idx is a scalar in kElement
  std::unordered_map<ValueId, LlvmValue> memo;
  LlvmValue column = nullptr;   // kElement: the key's place in its tile, i32
  LlvmValue clamped = nullptr;  // whether an index that depends on data was clamped: bool, in the form of the scope; null if none can be
  LlvmValue row_clamped = nullptr;  // kElement: the same of the row's hoisted values

  bool is_vector() const { return kind == Kind::kRow || kind == Kind::kElement; }
};

class Values {
 public:
  Values(Code& code, const Lowered& lowered, LlvmValue args);

  // Declares everything that will be asked for. Element roots may be of any rate.
  void declare(const std::vector<ValueId>& element_roots, const std::vector<ValueId>& row_roots, const std::vector<ValueId>& bound_roots);

  // Scratch: slots of 4 bytes, [slot][places]; reductions of 8 bytes, [reduction][strips].
  int row_slot_count() const { return static_cast<int>(row_slots_.size()) + 1; }
  int column_slot_count() const { return static_cast<int>(column_slots_.size()) + 1; }
  int reduction_count() const { return static_cast<int>(row_reductions_.size()); }
  void place(LlvmValue row_slots, int row_places, LlvmValue column_slots, int column_places, LlvmValue reductions, int strips);

  // At the function's entry; `leaves` holds the uniform symbols.
  void emit_uniforms(const std::map<Symbol, LlvmValue>& leaves);
  // For one strip: q_idx in `leaves` is a vector; lse2 and delta where they exist. `first_place` is the strip's first row in the block.
  void fill_rows(const std::map<Symbol, LlvmValue>& leaves, LlvmValue strip, LlvmValue first_place);
  // For the tile of keys first_k .. first_k + count - 1.
  void fill_columns(LlvmValue first_k, LlvmValue count);

  // A scope for the elements of a strip: loads the strip's row slots. q_idx and the like in `leaves` as in fill_rows.
  Scope strip_scope(const std::map<Symbol, LlvmValue>& leaves, LlvmValue first_place);
  // One key of the strip: `column` is its place in the tile.
  Scope element_scope(const Scope& strip, LlvmValue first_k, LlvmValue column, bool may_leave);
  // Bounds of a tile: `leaves` holds first_q and the like; `strip` chooses the row reductions.
  Scope bounds_scope(const std::map<Symbol, LlvmValue>& leaves, LlvmValue strip);

  LlvmValue get(ValueId id, Scope& scope);

  // The place of one element of a tensor: base + (offset + sum of lane indices * strides) elements.
  struct Address {
    LlvmValue offset = nullptr;                          // i64
    std::vector<std::pair<LlvmValue, LlvmValue>> lanes;  // <lanes x i32>, i64
    bool is_scalar() const { return lanes.empty(); }
  };
  // Of a read or a param node; `strides` are CpuTensor's. Indices are clamped where the scope or the index asks for it.
  Address locate(const Node& node, Scope& scope, LlvmValue strides);
  LlvmValue lane_offset(const Address& address, int lane);
  // The element of args->params or args->param_grads, as a pointer to CpuTensor.
  LlvmValue tensor(LlvmValue tensors, int param);

  // Sets args->index_flag if `condition` (bool or vector of them).
  void raise_flag(LlvmValue condition);
  // Marks what was clamped among the kept pairs of an element scope; kept may be null: all.
  void raise_flag(Scope& scope, LlvmValue kept);

  Rate rate(ValueId id) const { return lowered_.rates[id]; }
  bool is_uniform(ValueId id) const { return rate(id) == Rate::kUniform && !is_of_tile_[id]; }

 private:
  struct ParamAddress {
    LlvmValue data = nullptr, strides = nullptr;
    std::vector<LlvmValue> last;  // dim - 1 of each axis, i32
  };

  const Graph& graph() const { return lowered_.ir.graph; }
  LlvmMath math(const Scope& scope) { return LlvmMath(code_, scope.is_vector() ? code_.machine.lanes : 1); }
  LlvmValue emit(ValueId id, Scope& scope);
  LlvmValue emit_read(const Node& node, Scope& scope);
  LlvmValue emit_reduction(ValueId id, const Scope& scope);
  // The scalar that a vector scope would splat; null if the value differs from lane to lane.
  LlvmValue scalar_of(ValueId id, Scope& scope);
  LlvmValue load_slot(LlvmValue address, Type type, bool is_vector);
  void store_slot(LlvmValue value, LlvmValue address);
  void note_clamped(Scope& scope, LlvmValue condition);
  LlvmValue reduce(LlvmValue vector, Op op, Type type);
  dsl::ElementType element_of(const Node& node) const { return lowered_.ir.params[node.index].element; }

  Code& code_;
  const Lowered& lowered_;
  LlvmValue args_;
  std::vector<bool> is_of_tile_;
  std::vector<ValueId> uniforms_, row_reductions_, column_reductions_;
  std::vector<ValueId> row_slots_, column_slots_;
  std::map<int, ParamAddress> params_;
  std::unordered_map<ValueId, LlvmValue> uniform_values_, column_reduction_values_;
  Scope uniform_scope_;
  LlvmValue row_memory_ = nullptr, column_memory_ = nullptr, reduction_memory_ = nullptr;
  int row_places_ = 0, column_places_ = 0, strips_ = 0;
  bool rows_may_clamp_ = false, columns_may_clamp_ = false;
};

}  // namespace attune::codegen
