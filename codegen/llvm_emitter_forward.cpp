#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "codegen/llvm_emitter_kernel.h"

namespace attune::codegen {
namespace {

using runtime::CpuArgs;

// As many as the second-level cache holds: the copies of a block's keys and values are paid once for all its queries.
int forward_block_q(int head_dim, int v_dim) {
  const int widest = std::max(head_dim, v_dim);
  return widest <= 128 ? 512 : widest <= 256 ? 256 : 128;
}

// Pseudocode of one call, for softmax:
//   for each strip: Q^T = transpose(Q); O^T = 0; m = -inf; l = 0
//   for each tile of keys, for each strip that may keep some:
//     S^T = K Q^T;  score, mask, m', P^T = exp2(S^T - m'), l  (vertically);  O^T = exp2(m - m') O^T + V^T P^T
//   for each strip: O = transpose(O^T / l)
class ForwardEmitter : private KernelEmitter {
 public:
  ForwardEmitter(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options)
      : KernelEmitter(function, machine, lowered, options, forward_block_q(options.head_dim, options.v_dim),
                      choose_block_k(machine, options.head_dim, options.v_dim)),
        is_softmax_(lowered.ir.weight_kind == WeightKind::kSoftmax) {}

  void emit(runtime::CpuKernel& kernel) {
    const Ir& ir = lowered_.ir;
    if (is_softmax_) {
      std::vector<ValueId> roots = {lowered_.score2};
      if (ir.factor != kNoValue) roots.push_back(ir.factor);
      prepare(roots, ir.sink == kNoValue ? std::vector<ValueId>{} : std::vector<ValueId>{ir.sink});
    } else {
      prepare({ir.weight}, {});
    }
    lay_out();
    for_strips([&](const Strip& strip) { begin_strip(strip); });
    for_tiles([&](const Tile& tile) {
      values_.fill_columns(tile.first_k, tile.count);
      code_.if_then(any_kept(tile), [&] {
        load_tile(tile);
        for_strips([&](const Strip& strip) {
          const Kept kept = classify(strip, tile);
          code_.if_then(kept.keeps, [&] { visit(strip, tile, kept); });
        });
      });
    });
    for_strips([&](const Strip& strip) { end_strip(strip); });
    code_.b.CreateRetVoid();
    kernel.block_q = block_q_;
    kernel.scratch_bytes = layout_.size();
  }

 private:
  void lay_out() {
    const size_t lanes = machine_.lanes;
    const size_t q_row = padded(options_.head_dim), v_row = padded(options_.v_dim);
    const size_t keys = block_k_ + machine_.rows;
    q_lanes_ = scratch(layout_.reserve(4 * q_row * block_q_));
    o_lanes_ = scratch(layout_.reserve(4 * v_row * block_q_));
    row_max_ = scratch(layout_.reserve(4ul * block_q_));
    row_sum_ = scratch(layout_.reserve(4ul * block_q_));
    k_tile_ = scratch(layout_.reserve(4 * q_row * keys));
    v_tile_ = scratch(layout_.reserve(4 * v_row * keys));
    p_ = scratch(layout_.reserve(4 * lanes * keys));
    factor_ = scratch(layout_.reserve(4 * lanes * keys));
    rows_ = scratch(layout_.reserve(4 * lanes * std::max(q_row, v_row)));
    const int bytes = Code::bytes_of(options_.dtype);
    q_ = rows_of(offsetof(CpuArgs, q), offsetof(CpuArgs, q_stride), h_, bytes);
    k_ = rows_of(offsetof(CpuArgs, k), offsetof(CpuArgs, k_stride), kv_h_, bytes);
    v_ = rows_of(offsetof(CpuArgs, v), offsetof(CpuArgs, v_stride), kv_h_, bytes);
    out_ = rows_of(offsetof(CpuArgs, out), offsetof(CpuArgs, out_stride), h_, bytes);
  }

  LlvmValue of_strip(LlvmValue base, const Strip& strip, int floats_a_lane) {
    return code_.at(base, code_.b.CreateMul(code_.wide(strip.first_place), code_.i64(floats_a_lane)));
  }
  LlvmValue row_count(const Strip& strip) { return code_.b.CreateNSWAdd(code_.b.CreateNSWSub(strip.last_q, strip.first_q), code_.i32(1)); }
  LlvmValue row_at(LlvmValue base, LlvmValue stride, LlvmValue row) {
    return code_.at(base, code_.b.CreateMul(code_.wide(row), stride), Code::bytes_of(options_.dtype));
  }

  void begin_strip(const Strip& strip) {
    values_.fill_rows(row_leaves(strip), strip.number, strip.first_place);
    LlvmValue stride = row_stride(offsetof(CpuArgs, q_stride));
    copy_rows(options_.dtype, row_at(q_, stride, strip.first_q), stride, row_count(strip), options_.head_dim, rows_);
    rows_to_lanes(rows_, options_.head_dim, of_strip(q_lanes_, strip, padded(options_.head_dim)));
    zero_rows(of_strip(o_lanes_, strip, padded(options_.v_dim)), code_.i32(0), code_.i32(padded(options_.v_dim)),
              code_.i64(machine_.lanes));
    if (!is_softmax_) return;
    code_.store_strip(code_.strip(-INFINITY), of_strip(row_max_, strip, 1));
    code_.store_strip(code_.strip(0), of_strip(row_sum_, strip, 1));
  }

  void load_tile(const Tile& tile) {
    LlvmValue k_stride = row_stride(offsetof(CpuArgs, k_stride));
    LlvmValue v_stride = row_stride(offsetof(CpuArgs, v_stride));
    copy_rows(options_.dtype, row_at(k_, k_stride, tile.first_k), k_stride, tile.count, options_.head_dim, k_tile_);
    copy_rows(options_.dtype, row_at(v_, v_stride, tile.first_k), v_stride, tile.count, options_.v_dim, v_tile_);
  }

  void visit(const Strip& strip, const Tile& tile, const Kept& kept) {
    LlvmValue begin = code_.wide(kept.begin);
    LlvmValue count = code_.b.CreateNSWSub(code_.wide(kept.end), begin);
    LlvmValue lanes = code_.i64(machine_.lanes);
    LlvmValue k_row = code_.i64(padded(options_.head_dim)), v_row = code_.i64(padded(options_.v_dim));
    LlvmValue p = code_.at(p_, code_.b.CreateMul(begin, lanes));
    product({.a = code_.at(k_tile_, code_.b.CreateMul(begin, k_row)),
             .a_row = k_row,
             .a_step = code_.i64(1),
             .b = of_strip(q_lanes_, strip, padded(options_.head_dim)),
             .b_step = lanes,
             .c = p,
             .c_row = lanes,
             .steps = code_.i64(options_.head_dim)},
            count);
    const auto weights = [&](bool is_partial) {
      return is_softmax_ ? softmax(strip, tile, kept, is_partial) : pointwise(strip, tile, kept, is_partial);
    };
    const Code::Carried scale = code_.if_else(kept.full, [&] { return weights(false); }, [&] { return weights(true); });
    product({.a = code_.at(v_tile_, code_.b.CreateMul(begin, v_row)),
             .a_row = code_.i64(1),
             .a_step = v_row,
             .b = p,
             .b_step = lanes,
             .c = of_strip(o_lanes_, strip, padded(options_.v_dim)),
             .c_row = lanes,
             .steps = count,
             .accumulates = true,
             .scale = scale.empty() ? nullptr : scale[0]},
            options_.v_dim);
  }

  LlvmValue key_row(LlvmValue base, LlvmValue key) { return code_.at(base, code_.b.CreateNSWMul(key, code_.i32(machine_.lanes))); }

  Code::Carried pointwise(const Strip& strip, const Tile& tile, const Kept& kept, bool is_partial) {
    const Scope of_strip = values_.strip_scope(row_leaves(strip), strip.first_place);
    code_.loop(kept.begin, kept.end, 1, [&](LlvmValue key) {
      Scope scope = values_.element_scope(of_strip, tile.first_k, key, is_partial);
      scope.leaves[Symbol::kQk] = code_.load_strip(key_row(p_, key));
      LlvmValue keep = is_partial ? values_.get(lowered_.ir.mask, scope) : nullptr;
      LlvmValue weight = values_.get(lowered_.ir.weight, scope);
      if (keep) weight = code_.b.CreateSelect(keep, weight, code_.strip(0));
      code_.store_strip(weight, key_row(p_, key));
      values_.raise_flag(scope, keep);
    });
    return {};
  }

  // Gives the scale of what O^T holds so far.
  Code::Carried softmax(const Strip& strip, const Tile& tile, const Kept& kept, bool is_partial) {
    const Ir& ir = lowered_.ir;
    const Scope strip_values = values_.strip_scope(row_leaves(strip), strip.first_place);
    LlvmValue old_max = code_.load_strip(of_strip(row_max_, strip, 1));
    LlvmMath math(code_, machine_.lanes);
    LlvmValue new_max = code_.loop(kept.begin, kept.end, 1, {old_max}, [&](LlvmValue key, const Code::Carried& carried) {
      Scope scope = values_.element_scope(strip_values, tile.first_k, key, is_partial);
      scope.leaves[Symbol::kQk] = code_.load_strip(key_row(p_, key));
      LlvmValue keep = is_partial ? values_.get(ir.mask, scope) : nullptr;
      LlvmValue score = values_.get(lowered_.score2, scope);
      if (keep) score = code_.b.CreateSelect(keep, score, code_.strip(-INFINITY));
      code_.store_strip(score, key_row(p_, key));
      if (ir.factor != kNoValue) {
        LlvmValue factor = values_.get(ir.factor, scope);
        if (keep) factor = code_.b.CreateSelect(keep, factor, code_.strip(0));
        code_.store_strip(factor, key_row(factor_, key));
      }
      values_.raise_flag(scope, keep);
      return Code::Carried{LlvmMath::llvm_value(math.fmax_fast({score}, {carried[0]}))};
    })[0];
    code_.store_strip(new_max, of_strip(row_max_, strip, 1));
    // A row that has met nothing but -inf keeps the reference 0, so that its weights are 0 and not NaN.
    LlvmValue is_empty = code_.b.CreateFCmpOEQ(new_max, code_.strip(-INFINITY));
    LlvmValue reference = code_.b.CreateSelect(is_empty, code_.strip(0), new_max);
    LlvmValue sum = code_.load_strip(of_strip(row_sum_, strip, 1));
    LlvmValue scale = apply(form_exp2_nonpositive, code_.b.CreateFSub(old_max, reference));
    sum = code_.b.CreateFMul(sum, scale);
    sum = code_.loop(kept.begin, kept.end, 1, {sum}, [&](LlvmValue key, const Code::Carried& carried) {
      LlvmValue score = code_.load_strip(key_row(p_, key));
      LlvmValue weight = apply(form_exp2_nonpositive, code_.b.CreateFSub(score, reference));
      LlvmValue next = code_.b.CreateFAdd(carried[0], weight);
      if (ir.factor != kNoValue) weight = code_.b.CreateFMul(weight, code_.load_strip(key_row(factor_, key)));
      code_.store_strip(weight, key_row(p_, key));
      return Code::Carried{next};
    })[0];
    code_.store_strip(sum, of_strip(row_sum_, strip, 1));
    return {scale};
  }

  void end_strip(const Strip& strip) {
    LlvmValue o = of_strip(o_lanes_, strip, padded(options_.v_dim));
    if (is_softmax_) normalize(strip, o);
    lanes_to_rows(o, options_.v_dim, rows_);
    LlvmValue stride = row_stride(offsetof(CpuArgs, out_stride));
    store_rows(rows_, options_.v_dim, row_count(strip), row_at(out_, stride, strip.first_q), stride);
  }

  void normalize(const Strip& strip, LlvmValue o) {
    LlvmValue row_max = code_.load_strip(of_strip(row_max_, strip, 1));
    LlvmValue sum = code_.load_strip(of_strip(row_sum_, strip, 1));
    LlvmValue scale = code_.strip(1);
    LlvmMath math(code_, machine_.lanes);
    if (lowered_.ir.sink != kNoValue) {
      Scope scope;
      scope.kind = Scope::Kind::kRow;
      scope.leaves = row_leaves(strip);
      LlvmValue sink = code_.b.CreateFMul(values_.get(lowered_.ir.sink, scope), code_.strip(std::numbers::log2e));
      if (scope.clamped) values_.raise_flag(scope.clamped);
      LlvmValue reference = LlvmMath::llvm_value(math.fmax_fast({sink}, {row_max}));
      LlvmValue is_empty = code_.b.CreateFCmpOEQ(reference, code_.strip(-INFINITY));
      LlvmValue safe = code_.b.CreateSelect(is_empty, code_.strip(0), reference);
      scale = apply(form_exp2_nonpositive, code_.b.CreateFSub(row_max, safe));
      sum = code_.b.CreateFAdd(code_.b.CreateFMul(sum, scale), apply(form_exp2_nonpositive, code_.b.CreateFSub(sink, safe)));
      row_max = reference;
    }
    LlvmValue is_empty = code_.b.CreateFCmpOEQ(sum, code_.strip(0));
    LlvmValue inverse = code_.b.CreateSelect(is_empty, code_.strip(0), code_.b.CreateFDiv(scale, sum));
    code_.loop(code_.i64(0), code_.i64(options_.v_dim), 1, [&](LlvmValue dim) {
      LlvmValue address = code_.at(o, code_.b.CreateMul(dim, code_.i64(machine_.lanes)));
      code_.store_strip(code_.b.CreateFMul(code_.load_strip(address), inverse), address);
    });
    LlvmValue log2_sum = code_.b.CreateFAdd(row_max, apply(form_log2, sum));
    LlvmValue lse = code_.b.CreateFMul(log2_sum, code_.strip(std::numbers::ln2));
    lse = code_.b.CreateSelect(is_empty, code_.strip(-INFINITY), lse);
    store_lse(strip, lse);
  }

  void store_lse(const Strip& strip, LlvmValue lse) {
    LlvmValue pointer = pointer_field(offsetof(CpuArgs, lse));
    code_.if_then(code_.b.CreateIsNotNull(pointer), [&] {
      code_.store_strip(lse, rows_);
      // [batch, head, len]
      constexpr size_t kStrides = offsetof(CpuArgs, lse_stride);
      const auto stride = [&](size_t axis) { return field(kStrides + 8 * axis, code_.i64_type); };
      LlvmValue base = code_.b.CreateMul(code_.wide(b_), stride(0));
      base = code_.b.CreateAdd(base, code_.b.CreateMul(code_.wide(h_), stride(1)));
      base = code_.b.CreateAdd(base, code_.b.CreateMul(code_.wide(strip.first_q), stride(2)));
      code_.loop(code_.i64(0), code_.wide(row_count(strip)), 1, [&](LlvmValue row) {
        LlvmValue value = code_.load_as(dsl::ElementType::kF32, code_.at(rows_, row));
        LlvmValue offset = code_.b.CreateAdd(base, code_.b.CreateMul(row, stride(2)));
        code_.store_as(dsl::ElementType::kF32, value, code_.at(pointer, offset));
      });
    });
  }

  const bool is_softmax_;
  LlvmValue q_ = nullptr, k_ = nullptr, v_ = nullptr, out_ = nullptr;
  LlvmValue q_lanes_ = nullptr, o_lanes_ = nullptr, row_max_ = nullptr, row_sum_ = nullptr;
  LlvmValue k_tile_ = nullptr, v_tile_ = nullptr, p_ = nullptr, factor_ = nullptr;
  LlvmValue rows_ = nullptr;
};

}  // namespace

void emit_forward(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options,
                  runtime::CpuKernel& kernel) {
  ForwardEmitter(function, machine, lowered, options).emit(kernel);
}

}  // namespace attune::codegen
