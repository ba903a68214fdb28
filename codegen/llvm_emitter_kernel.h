// What the forward and the backward kernel share. Queries lie in lanes: a *strip* is as many queries as two vector registers hold, and S^T,
// P^T, O^T are [key or dim][query of the strip]. So a row statistic is a vertical operation, and every product has the form
//   C[row][lane] += A(row, step) * B[step][lane],  A(row, step) broadcast, B and C vectors,
// with `rows` x 2 registers of C in flight. A call handles a block of strips; keys come in tiles, copied to contiguous f32 rows.
#pragma once

#include "codegen/llvm_emitter.h"
#include "codegen/llvm_emitter_code.h"
#include "codegen/llvm_emitter_values.h"
#include "codegen/math_forms.h"

namespace attune::codegen {

// Byte offsets into the call's scratch memory.
class ScratchLayout {
 public:
  size_t reserve(size_t bytes);
  size_t size() const { return size_; }

 private:
  size_t size_ = 0;
};

class KernelEmitter {
 protected:
  KernelEmitter(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options, int block_q,
                int block_k);

  struct Strip {
    LlvmValue number = nullptr;       // in the block, i32
    LlvmValue first_place = nullptr;  // number * lanes
    LlvmValue first_q = nullptr, last_q = nullptr;
    LlvmValue q_idx = nullptr;  // lanes beyond last_q repeat it
    LlvmValue valid = nullptr;  // lanes up to last_q
  };
  struct Tile {
    LlvmValue first_k = nullptr, count = nullptr;
  };
  // Keys begin .. end - 1 of a tile (places in it) that a strip may keep; `keeps`: there are any; `full`: it keeps all of them.
  struct Kept {
    LlvmValue begin = nullptr, end = nullptr, keeps = nullptr, full = nullptr;
  };

  // Declares what the kernel will ask of the values, places slots in scratch, emits the uniform values.
  void prepare(std::vector<ValueId> element_roots, const std::vector<ValueId>& row_roots);

  LlvmValue field(size_t offset, llvm::Type* type);
  LlvmValue pointer_field(size_t offset) { return field(offset, code_.b.getPtrTy()); }
  // First row of (b, head) in a tensor of args: strides are i64[3] = [batch, len, head] at `strides_offset`.
  LlvmValue rows_of(size_t pointer_offset, size_t strides_offset, LlvmValue head, int bytes);
  LlvmValue row_stride(size_t strides_offset) { return field(strides_offset + 8, code_.i64_type); }
  LlvmValue scratch(size_t offset) { return code_.at(scratch_, static_cast<int64_t>(offset), 1); }

  void for_strips(llvm::function_ref<void(const Strip&)> body);
  Strip strip(LlvmValue number);
  // Tiles of keys that any query of the block may keep.
  void for_tiles(llvm::function_ref<void(const Tile&)> body);
  Kept classify(const Strip& strip, const Tile& tile);
  // Whether any strip of the block may keep a key of the tile; constant true where the tiles' range already says so.
  LlvmValue any_kept(const Tile& tile);
  std::map<Symbol, LlvmValue> row_leaves(const Strip& strip) const { return {{Symbol::kQIdx, strip.q_idx}}; }

  // rows x columns elements of storage type `type` to f32 rows of padded(columns) floats, the padding 0.
  void copy_rows(dsl::ElementType type, LlvmValue from, LlvmValue from_stride, LlvmValue rows, int columns, LlvmValue to);
  void zero_rows(LlvmValue to, LlvmValue first, LlvmValue end, LlvmValue row_floats);  // one strip wide
  // f32 [lanes][padded(columns)] <-> [padded(columns)][lanes].
  void rows_to_lanes(LlvmValue rows, int columns, LlvmValue to);
  void lanes_to_rows(LlvmValue lanes, int columns, LlvmValue to);
  void store_rows(LlvmValue from, int columns, LlvmValue rows, LlvmValue to, LlvmValue to_stride);
  int padded(int columns) const { return (columns + machine_.lanes - 1) / machine_.lanes * machine_.lanes; }

  struct Product {
    LlvmValue a = nullptr, a_row = nullptr, a_step = nullptr;  // A(row, step) = a[row * a_row + step * a_step]; strides i64
    LlvmValue b = nullptr, b_step = nullptr;
    LlvmValue c = nullptr, c_row = nullptr;
    LlvmValue steps = nullptr;  // i64
    bool accumulates = false;
    LlvmValue scale = nullptr;  // of what C holds, a vector; null: 1
  };
  void product(const Product& product, int rows);
  // Rows are rounded up to whole register tiles: A may be read and C is written up to machine.rows - 1 rows further.
  void product(const Product& product, LlvmValue rows);

  LlvmValue apply(MathForm form, LlvmValue x);  // to a strip

  const CpuMachine& machine_;
  const Lowered& lowered_;
  const CpuKernelOptions& options_;
  const int block_q_, block_k_;
  const int strips_;
  Code code_;
  LlvmValue args_, b_, h_, first_q_, end_q_, scratch_;
  LlvmValue q_len_, k_len_, kv_h_;
  Values values_;
  ScratchLayout layout_;

 private:
  void product_rows(const Product& product, int rows, LlvmValue first_row);
  void transpose(LlvmValue from, int from_rows, int from_columns, LlvmValue to);
  LlvmValue bounds_value(ValueId id, const std::map<Symbol, LlvmValue>& leaves, LlvmValue strip);
};

// Keys a tile: one tile of K and one of V should stay in the first-level cache beside a strip.
int choose_block_k(const CpuMachine& machine, int head_dim, int v_dim);

void emit_forward(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options,
                  runtime::CpuKernel& kernel);
void emit_backward(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options,
                   runtime::CpuKernel& kernel);

}  // namespace attune::codegen
