#include "codegen/llvm_emitter_kernel.h"

#include <llvm/IR/Intrinsics.h>

#include <algorithm>
#include <cstddef>

namespace attune::codegen {
namespace {

constexpr int kTransposed = 8;  // transposes go by squares of this side
constexpr int kUnrolled = 4;    // steps of a product in one round of its loop

void append(std::vector<ValueId>& roots, std::initializer_list<ValueId> ids) {
  for (ValueId id : ids) {
    if (id != kNoValue) roots.push_back(id);
  }
}

std::vector<ValueId> bound_roots(const MaskBounds& bounds) {
  std::vector<ValueId> roots;
  append(roots,
         {bounds.may_keep, bounds.all_kept, bounds.kept_keys.begin, bounds.kept_keys.end, bounds.full_keys.begin, bounds.full_keys.end});
  return roots;
}

}  // namespace

size_t ScratchLayout::reserve(size_t bytes) {
  const size_t offset = size_;
  size_ += (bytes + runtime::kScratchAlignment - 1) / runtime::kScratchAlignment * runtime::kScratchAlignment;
  return offset;
}

int choose_block_k(const CpuMachine& machine, int head_dim, int v_dim) {
  constexpr int kTileFloats = 72 * 64;
  const int keys = std::clamp(kTileFloats / std::max(head_dim, v_dim), 16, 192);
  return std::max(keys / machine.rows, 2) * machine.rows;
}

KernelEmitter::KernelEmitter(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options,
                             int block_q, int block_k)
    : machine_(machine),
      lowered_(lowered),
      options_(options),
      block_q_(block_q),
      block_k_(block_k),
      strips_(block_q / machine.lanes),
      code_(function, machine),
      args_(function.getArg(0)),
      b_(function.getArg(1)),
      h_(function.getArg(2)),
      first_q_(function.getArg(3)),
      end_q_(function.getArg(4)),
      scratch_(function.getArg(function.arg_size() - 1)),
      values_(code_, lowered, args_) {
  llvm::FastMathFlags flags;
  flags.setAllowContract();
  code_.b.setFastMathFlags(flags);
}

LlvmValue KernelEmitter::field(size_t offset, llvm::Type* type) {
  llvm::LoadInst* load = code_.b.CreateLoad(type, code_.at(args_, static_cast<int64_t>(offset), 1));
  load->setMetadata(llvm::LLVMContext::MD_invariant_load, llvm::MDNode::get(load->getContext(), {}));
  return load;
}

void KernelEmitter::prepare(std::vector<ValueId> element_roots, const std::vector<ValueId>& row_roots) {
  append(element_roots, {lowered_.ir.mask});
  values_.declare(element_roots, row_roots, bound_roots(lowered_.bounds));
  const size_t rows = layout_.reserve(4ul * values_.row_slot_count() * block_q_);
  const size_t columns = layout_.reserve(4ul * values_.column_slot_count() * block_k_);
  const size_t reductions = layout_.reserve(8ul * values_.reduction_count() * strips_);
  values_.place(scratch(rows), block_q_, scratch(columns), block_k_, scratch(reductions), strips_);

  const auto size = [&](size_t offset) { return field(offset, code_.i32_type); };
  LlvmValue heads = size(offsetof(runtime::CpuArgs, heads));
  LlvmValue kv_heads = size(offsetof(runtime::CpuArgs, kv_heads));
  q_len_ = size(offsetof(runtime::CpuArgs, q_len));
  k_len_ = size(offsetof(runtime::CpuArgs, k_len));
  kv_h_ = code_.b.CreateUDiv(h_, code_.b.CreateUDiv(heads, kv_heads));
  values_.emit_uniforms({{Symbol::kB, b_},
                         {Symbol::kH, h_},
                         {Symbol::kKvH, kv_h_},
                         {Symbol::kBatch, size(offsetof(runtime::CpuArgs, batch))},
                         {Symbol::kHeads, heads},
                         {Symbol::kKvHeads, kv_heads},
                         {Symbol::kQLen, q_len_},
                         {Symbol::kKLen, k_len_},
                         {Symbol::kHeadDim, size(offsetof(runtime::CpuArgs, head_dim))},
                         {Symbol::kVDim, size(offsetof(runtime::CpuArgs, v_dim))}});
}

LlvmValue KernelEmitter::rows_of(size_t pointer_offset, size_t strides_offset, LlvmValue head, int bytes) {
  LlvmValue batch_stride = field(strides_offset, code_.i64_type);
  LlvmValue head_stride = field(strides_offset + 16, code_.i64_type);
  LlvmValue offset = code_.b.CreateMul(code_.wide(b_), batch_stride);
  offset = code_.b.CreateAdd(offset, code_.b.CreateMul(code_.wide(head), head_stride));
  return code_.at(pointer_field(pointer_offset), offset, bytes);
}

KernelEmitter::Strip KernelEmitter::strip(LlvmValue number) {
  Strip strip;
  strip.number = number;
  strip.first_place = code_.b.CreateNSWMul(number, code_.i32(machine_.lanes));
  strip.first_q = code_.b.CreateNSWAdd(first_q_, strip.first_place);
  LlvmValue last = code_.b.CreateNSWSub(end_q_, code_.i32(1));
  strip.last_q = code_.min(code_.b.CreateNSWAdd(strip.first_q, code_.i32(machine_.lanes - 1)), last);
  LlvmValue lanes = code_.b.CreateAdd(code_.splat(strip.first_q), code_.lane_numbers());
  strip.q_idx = code_.min(lanes, code_.splat(last));
  strip.valid = code_.b.CreateICmpSLE(lanes, code_.splat(last));
  return strip;
}

void KernelEmitter::for_strips(llvm::function_ref<void(const Strip&)> body) {
  LlvmValue rows = code_.b.CreateNSWSub(end_q_, first_q_);
  LlvmValue count = code_.b.CreateUDiv(code_.b.CreateNSWAdd(rows, code_.i32(machine_.lanes - 1)), code_.i32(machine_.lanes));
  code_.loop(code_.i32(0), count, 1, [&](LlvmValue number) { body(strip(number)); });
}

LlvmValue KernelEmitter::bounds_value(ValueId id, const std::map<Symbol, LlvmValue>& leaves, LlvmValue strip) {
  Scope scope = values_.bounds_scope(leaves, strip);
  return values_.get(id, scope);
}

void KernelEmitter::for_tiles(llvm::function_ref<void(const Tile&)> body) {
  LlvmValue begin = code_.i32(0);
  LlvmValue end = k_len_;
  if (lowered_.bounds.kind == MaskBounds::Kind::kRange) {
    LlvmValue last_q = code_.b.CreateNSWSub(end_q_, code_.i32(1));
    const std::map<Symbol, LlvmValue> leaves = {{Symbol::kFirstQ, first_q_}, {Symbol::kLastQ, last_q}};
    begin = bounds_value(lowered_.bounds.kept_keys.begin, leaves, code_.i32(0));
    end = bounds_value(lowered_.bounds.kept_keys.end, leaves, code_.i32(0));
  }
  code_.loop(begin, end, block_k_,
             [&](LlvmValue first_k) { body({first_k, code_.min(code_.i32(block_k_), code_.b.CreateNSWSub(end, first_k))}); });
}

KernelEmitter::Kept KernelEmitter::classify(const Strip& strip, const Tile& tile) {
  const MaskBounds& bounds = lowered_.bounds;
  Kept kept{code_.i32(0), tile.count, code_.b.getTrue(), code_.b.getTrue()};
  if (bounds.kind == MaskBounds::Kind::kAll) return kept;
  std::map<Symbol, LlvmValue> leaves = {{Symbol::kFirstQ, strip.first_q}, {Symbol::kLastQ, strip.last_q}};
  const auto in_tile = [&](ValueId key) {
    LlvmValue place = code_.b.CreateNSWSub(bounds_value(key, leaves, strip.number), tile.first_k);
    return code_.max(code_.min(place, tile.count), code_.i32(0));
  };
  LlvmValue in_full_range = code_.b.getFalse();
  LlvmValue in_range = code_.b.getTrue();
  if (bounds.kind == MaskBounds::Kind::kRange) {
    kept.begin = in_tile(bounds.kept_keys.begin);
    kept.end = in_tile(bounds.kept_keys.end);
    in_range = code_.b.CreateICmpSLT(kept.begin, kept.end);
    LlvmValue from_begin = code_.b.CreateICmpSLE(in_tile(bounds.full_keys.begin), kept.begin);
    in_full_range = code_.b.CreateAnd(from_begin, code_.b.CreateICmpSGE(in_tile(bounds.full_keys.end), kept.end));
  }
  leaves[Symbol::kFirstK] = code_.b.CreateNSWAdd(tile.first_k, kept.begin);
  leaves[Symbol::kLastK] = code_.b.CreateNSWSub(code_.b.CreateNSWAdd(tile.first_k, kept.end), code_.i32(1));
  kept.keeps = code_.b.CreateAnd(in_range, bounds_value(bounds.may_keep, leaves, strip.number));
  kept.full = code_.b.CreateOr(in_full_range, bounds_value(bounds.all_kept, leaves, strip.number));
  return kept;
}

LlvmValue KernelEmitter::any_kept(const Tile& tile) {
  if (lowered_.bounds.kind != MaskBounds::Kind::kTileMap) return code_.b.getTrue();
  LlvmValue rows = code_.b.CreateNSWSub(end_q_, first_q_);
  LlvmValue count = code_.b.CreateUDiv(code_.b.CreateNSWAdd(rows, code_.i32(machine_.lanes - 1)), code_.i32(machine_.lanes));
  return code_.loop(code_.i32(0), count, 1, {code_.b.getFalse()}, [&](LlvmValue number, const Code::Carried& carried) {
    return Code::Carried{code_.b.CreateOr(carried[0], classify(strip(number), tile).keeps)};
  })[0];
}

void KernelEmitter::copy_rows(dsl::ElementType type, LlvmValue from, LlvmValue from_stride, LlvmValue rows, int columns, LlvmValue to) {
  const int bytes = Code::bytes_of(type);
  const int whole = columns / machine_.lanes * machine_.lanes;
  const int row_floats = padded(columns);
  code_.loop(code_.i64(0), code_.wide(rows), 1, [&](LlvmValue row) {
    LlvmValue source = code_.at(from, code_.b.CreateMul(row, from_stride), bytes);
    LlvmValue target = code_.at(to, code_.b.CreateMul(row, code_.i64(row_floats)));
    code_.loop(code_.i64(0), code_.i64(whole), machine_.lanes, [&](LlvmValue column) {
      code_.store_strip(code_.load_as(type, code_.at(source, column, bytes), machine_.lanes), code_.at(target, column));
    });
    if (whole == columns) return;
    code_.store_strip(code_.strip(0), code_.at(target, whole));
    code_.loop(code_.i64(whole), code_.i64(columns), 1, [&](LlvmValue column) {
      code_.store_as(dsl::ElementType::kF32, code_.load_as(type, code_.at(source, column, bytes)), code_.at(target, column));
    });
  });
}

void KernelEmitter::zero_rows(LlvmValue to, LlvmValue first, LlvmValue end, LlvmValue row_floats) {
  code_.loop(code_.wide(first), code_.wide(end), 1,
             [&](LlvmValue row) { code_.store_strip(code_.strip(0), code_.at(to, code_.b.CreateMul(row, row_floats))); });
}

// from [from_rows][from_columns] to [from_columns][from_rows]; both are multiples of the square's side.
void KernelEmitter::transpose(LlvmValue from, int from_rows, int from_columns, LlvmValue to) {
  auto* square_row = llvm::FixedVectorType::get(code_.f32_type, kTransposed);
  code_.loop(code_.i64(0), code_.i64(from_columns), kTransposed, [&](LlvmValue column) {
    for (int row = 0; row < from_rows; row += kTransposed) {
      std::vector<LlvmValue> v;
      for (int i = 0; i < kTransposed; ++i) {
        LlvmValue address = code_.at(code_.at(from, int64_t{row + i} * from_columns), column);
        v.push_back(code_.b.CreateAlignedLoad(square_row, address, llvm::Align(4)));
      }
      // Three rounds of interleaving pairs that lie 4 rows apart transpose a square of 8.
      static constexpr int kLow[] = {0, 8, 1, 9, 2, 10, 3, 11};
      static constexpr int kHigh[] = {4, 12, 5, 13, 6, 14, 7, 15};
      for (int round = 0; round < 3; ++round) {
        std::vector<LlvmValue> next(kTransposed);
        for (int i = 0; i < kTransposed / 2; ++i) {
          next[2 * i] = code_.b.CreateShuffleVector(v[i], v[i + 4], kLow);
          next[2 * i + 1] = code_.b.CreateShuffleVector(v[i], v[i + 4], kHigh);
        }
        v = next;
      }
      for (int i = 0; i < kTransposed; ++i) {
        LlvmValue target = code_.b.CreateMul(code_.b.CreateAdd(column, code_.i64(i)), code_.i64(from_rows));
        code_.b.CreateAlignedStore(v[i], code_.at(code_.at(to, target), int64_t{row}), llvm::Align(4));
      }
    }
  });
}

void KernelEmitter::rows_to_lanes(LlvmValue rows, int columns, LlvmValue to) {
  transpose(rows, machine_.lanes, padded(columns), to);
}
void KernelEmitter::lanes_to_rows(LlvmValue lanes, int columns, LlvmValue to) {
  transpose(lanes, padded(columns), machine_.lanes, to);
}

void KernelEmitter::store_rows(LlvmValue from, int columns, LlvmValue rows, LlvmValue to, LlvmValue to_stride) {
  const int bytes = Code::bytes_of(options_.dtype);
  const int whole = columns / machine_.lanes * machine_.lanes;
  code_.loop(code_.i64(0), code_.wide(rows), 1, [&](LlvmValue row) {
    LlvmValue source = code_.at(from, code_.b.CreateMul(row, code_.i64(padded(columns))));
    LlvmValue target = code_.at(to, code_.b.CreateMul(row, to_stride), bytes);
    code_.loop(code_.i64(0), code_.i64(whole), machine_.lanes, [&](LlvmValue column) {
      code_.store_as(options_.dtype, code_.load_strip(code_.at(source, column)), code_.at(target, column, bytes));
    });
    code_.loop(code_.i64(whole), code_.i64(columns), 1, [&](LlvmValue column) {
      LlvmValue value = code_.load_as(dsl::ElementType::kF32, code_.at(source, column));
      code_.store_as(options_.dtype, value, code_.at(target, column, bytes));
    });
  });
}

void KernelEmitter::product_rows(const Product& p, int rows, LlvmValue first_row) {
  LlvmValue a = code_.at(p.a, code_.b.CreateMul(first_row, p.a_row));
  LlvmValue c = code_.at(p.c, code_.b.CreateMul(first_row, p.c_row));
  std::vector<LlvmValue> c_rows;
  Code::Carried sums;
  for (int row = 0; row < rows; ++row) {
    c_rows.push_back(code_.at(c, code_.b.CreateMul(code_.i64(row), p.c_row)));
    LlvmValue sum = code_.strip(0);
    if (p.accumulates) sum = code_.load_strip(c_rows.back());
    if (p.accumulates && p.scale) sum = code_.b.CreateFMul(sum, p.scale);
    sums.push_back(sum);
  }
  const auto step = [&](LlvmValue number, const Code::Carried& so_far) {
    LlvmValue b = code_.load_strip(code_.at(p.b, code_.b.CreateMul(number, p.b_step)));
    LlvmValue a_column = code_.at(a, code_.b.CreateMul(number, p.a_step));
    Code::Carried next;
    for (int row = 0; row < rows; ++row) {
      LlvmValue address = code_.at(a_column, code_.b.CreateMul(code_.i64(row), p.a_row));
      LlvmValue broadcast = code_.splat(code_.load_as(dsl::ElementType::kF32, address));
      next.push_back(code_.fma(broadcast, b, so_far[row]));
    }
    return next;
  };
  LlvmValue unrolled_end = code_.b.CreateAnd(p.steps, code_.i64(-kUnrolled));
  sums = code_.loop(code_.i64(0), unrolled_end, kUnrolled, sums, [&](LlvmValue number, const Code::Carried& carried) {
    Code::Carried next = carried;
    for (int i = 0; i < kUnrolled; ++i) next = step(code_.b.CreateAdd(number, code_.i64(i)), next);
    return next;
  });
  sums = code_.loop(unrolled_end, p.steps, 1, sums, step);
  for (int row = 0; row < rows; ++row) code_.store_strip(sums[row], c_rows[row]);
}

void KernelEmitter::product(const Product& p, int rows) {
  const int whole = rows / machine_.rows * machine_.rows;
  code_.loop(code_.i64(0), code_.i64(whole), machine_.rows, [&](LlvmValue row) { product_rows(p, machine_.rows, row); });
  if (whole < rows) product_rows(p, rows - whole, code_.i64(whole));
}

void KernelEmitter::product(const Product& p, LlvmValue rows) {
  code_.loop(code_.i64(0), rows, machine_.rows, [&](LlvmValue row) { product_rows(p, machine_.rows, row); });
}

LlvmValue KernelEmitter::apply(MathForm form, LlvmValue x) {
  LlvmMath math(code_, machine_.lanes);
  return LlvmMath::llvm_value(form(math, {x}));
}

}  // namespace attune::codegen
