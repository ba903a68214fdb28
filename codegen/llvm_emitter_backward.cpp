#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "codegen/llvm_emitter_kernel.h"

namespace attune::codegen {
namespace {

using runtime::CpuArgs;

int backward_block_q(int head_dim, int v_dim) {
  const int widest = std::max(head_dim, v_dim);
  return widest <= 128 ? 256 : widest <= 256 ? 128 : 64;
}

// The gradient of one read of a parameter, and how it is summed before it is added to memory.
struct GradientSink {
  const ParamGradient* gradient;
  Rate rate;  // of the address
  // Uniform and per-row addresses take one sum over the keys of a strip.
  bool sums_over_keys() const { return rate == Rate::kUniform || rate == Rate::kRow; }
};

// Pseudocode of one call:
//   for each strip: Q^T, dO^T = transposes; dQ^T = 0; softmax: lse2, delta = sum(dO^T * O^T)
//   for each tile of keys:
//     for each strip that may keep some: S^T = K Q^T; dP^T = V dO^T; P^T, dS^T by the derived rule; dQ^T += K^T dS^T
//     dV += P^T dO; dK += dS^T Q, over the queries of those strips, here with lanes along the head dimension
//   for each strip: dQ = transpose(dQ^T)
class BackwardEmitter : private KernelEmitter {
 public:
  BackwardEmitter(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options)
      : KernelEmitter(function, machine, lowered, options, backward_block_q(options.head_dim, options.v_dim),
                      choose_block_k(machine, options.head_dim, options.v_dim)),
        is_softmax_(lowered.ir.weight_kind == WeightKind::kSoftmax),
        dk_(function.getArg(5)),
        dv_(function.getArg(6)) {}

  void emit(runtime::CpuKernel& kernel) {
    const Backward& backward = lowered_.backward;
    std::vector<ValueId> elements = {backward.weight, backward.dqk};
    std::vector<ValueId> rows;
    if (options_.want_param_grads) {
      for (const ParamGradient& gradient : backward.params) {
        const std::vector<ValueId>& indices = lowered_.ir.graph[gradient.read].operands;
        elements.push_back(gradient.read);
        elements.insert(elements.end(), indices.begin(), indices.end());
        if (gradient.per_element != kNoValue) {
          elements.push_back(gradient.per_element);
          sinks_.push_back({&gradient, address_rate(gradient.read)});
        }
        if (gradient.per_row != kNoValue) rows.push_back(gradient.per_row);
      }
    }
    prepare(elements, rows);
    lay_out();
    for_strips([&](const Strip& strip) { begin_strip(strip); });
    for_tiles([&](const Tile& tile) {
      values_.fill_columns(tile.first_k, tile.count);
      code_.if_then(any_kept(tile), [&] { visit(tile); });
    });
    for_strips([&](const Strip& strip) { end_strip(strip); });
    code_.b.CreateRetVoid();
    kernel.block_q = block_q_;
    kernel.scratch_bytes = layout_.size();
    kernel.dk_row = padded(options_.head_dim);
    kernel.dv_row = padded(options_.v_dim);
  }

 private:
  Rate address_rate(ValueId read) const {
    const Node& node = lowered_.ir.graph[read];
    bool row = false, column = false;
    for (ValueId index : node.operands) {
      const Rate rate = values_.rate(index);
      row = row || rate == Rate::kRow || rate == Rate::kElement;
      column = column || rate == Rate::kColumn || rate == Rate::kElement;
    }
    return row && column ? Rate::kElement : row ? Rate::kRow : column ? Rate::kColumn : Rate::kUniform;
  }

  void lay_out() {
    const size_t lanes = machine_.lanes;
    q_row_ = padded(options_.head_dim);
    v_row_ = padded(options_.v_dim);
    const size_t keys = block_k_ + machine_.rows;
    const auto floats = [&](size_t count) { return scratch(layout_.reserve(4 * count)); };
    q_lanes_ = floats(size_t(q_row_) * block_q_);
    do_lanes_ = floats(size_t(v_row_) * block_q_);
    dq_lanes_ = floats(size_t(q_row_) * block_q_);
    q_rows_ = floats(size_t(q_row_) * block_q_);
    do_rows_ = floats(size_t(v_row_) * block_q_);
    lse2_ = floats(block_q_);
    delta_ = floats(block_q_);
    k_tile_ = floats(size_t(q_row_) * keys);
    v_tile_ = floats(size_t(v_row_) * keys);
    p_ = floats(keys * block_q_);
    ds_ = floats(keys * block_q_);
    rows_ = floats(lanes * std::max(q_row_, v_row_));
    lanes_ = floats(lanes * std::max(q_row_, v_row_));
    const int bytes = Code::bytes_of(options_.dtype);
    q_ = rows_of(offsetof(CpuArgs, q), offsetof(CpuArgs, q_stride), h_, bytes);
    k_ = rows_of(offsetof(CpuArgs, k), offsetof(CpuArgs, k_stride), kv_h_, bytes);
    v_ = rows_of(offsetof(CpuArgs, v), offsetof(CpuArgs, v_stride), kv_h_, bytes);
    dout_ = rows_of(offsetof(CpuArgs, dout), offsetof(CpuArgs, dout_stride), h_, bytes);
    if (options_.want_param_grads && !lowered_.backward.params.empty()) grads_ = pointer_field(offsetof(CpuArgs, param_grads));
  }

  LlvmValue of_strip(LlvmValue base, const Strip& strip, int floats_a_lane) {
    return code_.at(base, code_.b.CreateMul(code_.wide(strip.first_place), code_.i64(floats_a_lane)));
  }
  LlvmValue row_count(const Strip& strip) { return code_.b.CreateNSWAdd(code_.b.CreateNSWSub(strip.last_q, strip.first_q), code_.i32(1)); }
  LlvmValue row_at(LlvmValue base, LlvmValue stride, LlvmValue row) {
    return code_.at(base, code_.b.CreateMul(code_.wide(row), stride), Code::bytes_of(options_.dtype));
  }

  std::map<Symbol, LlvmValue> leaves(const Strip& strip) {
    std::map<Symbol, LlvmValue> result = row_leaves(strip);
    if (is_softmax_) {
      result[Symbol::kLse2] = code_.load_strip(of_strip(lse2_, strip, 1));
      result[Symbol::kDelta] = code_.load_strip(of_strip(delta_, strip, 1));
    }
    return result;
  }

  // Rows beyond the last query are zeros: 0 * 0 adds nothing to dK and dV.
  void load_rows(LlvmValue from, size_t strides_offset, const Strip& strip, int columns, LlvmValue rows, LlvmValue lanes) {
    LlvmValue stride = row_stride(strides_offset);
    LlvmValue count = row_count(strip);
    copy_rows(options_.dtype, row_at(from, stride, strip.first_q), stride, count, columns, rows);
    code_.loop(code_.i64(0), code_.i64(padded(columns)), machine_.lanes,
               [&](LlvmValue column) { zero_rows(code_.at(rows, column), count, code_.i32(machine_.lanes), code_.i64(padded(columns))); });
    rows_to_lanes(rows, columns, lanes);
  }

  void begin_strip(const Strip& strip) {
    load_rows(q_, offsetof(CpuArgs, q_stride), strip, options_.head_dim, of_strip(q_rows_, strip, q_row_),
              of_strip(q_lanes_, strip, q_row_));
    load_rows(dout_, offsetof(CpuArgs, dout_stride), strip, options_.v_dim, of_strip(do_rows_, strip, v_row_),
              of_strip(do_lanes_, strip, v_row_));
    zero_rows(of_strip(dq_lanes_, strip, q_row_), code_.i32(0), code_.i32(q_row_), code_.i64(machine_.lanes));
    if (is_softmax_) {
      load_lse(strip);
      if (lowered_.backward.uses_delta) compute_delta(strip);
    }
    values_.fill_rows(leaves(strip), strip.number, strip.first_place);
    if (options_.want_param_grads) add_row_gradients(strip);
  }

  void load_lse(const Strip& strip) {
    LlvmValue pointer = pointer_field(offsetof(CpuArgs, lse));
    constexpr size_t kStrides = offsetof(CpuArgs, lse_stride);
    const auto stride = [&](size_t axis) { return field(kStrides + 8 * axis, code_.i64_type); };
    LlvmValue base = code_.b.CreateMul(code_.wide(b_), stride(0));
    base = code_.b.CreateAdd(base, code_.b.CreateMul(code_.wide(h_), stride(1)));
    base = code_.b.CreateAdd(base, code_.b.CreateMul(code_.wide(strip.first_q), stride(2)));
    LlvmValue target = of_strip(lse2_, strip, 1);
    code_.store_strip(code_.strip(-INFINITY), target);
    code_.loop(code_.i64(0), code_.wide(row_count(strip)), 1, [&](LlvmValue row) {
      LlvmValue offset = code_.b.CreateAdd(base, code_.b.CreateMul(row, stride(2)));
      code_.store_as(dsl::ElementType::kF32, code_.load_as(dsl::ElementType::kF32, code_.at(pointer, offset)), code_.at(target, row));
    });
    LlvmValue lse = code_.load_strip(target);
    LlvmValue is_empty = code_.b.CreateFCmpOEQ(lse, code_.strip(-INFINITY));
    LlvmValue lse2 = code_.b.CreateFMul(lse, code_.strip(std::numbers::log2e));
    code_.store_strip(code_.b.CreateSelect(is_empty, code_.strip(INFINITY), lse2), target);
  }

  void compute_delta(const Strip& strip) {
    const int bytes = Code::bytes_of(options_.dtype);
    LlvmValue out = rows_of(offsetof(CpuArgs, out), offsetof(CpuArgs, out_stride), h_, bytes);
    load_rows(out, offsetof(CpuArgs, out_stride), strip, options_.v_dim, rows_, lanes_);
    LlvmValue dout = of_strip(do_lanes_, strip, v_row_);
    LlvmValue delta =
        code_.loop(code_.i64(0), code_.i64(options_.v_dim), 1, {code_.strip(0)}, [&](LlvmValue dim, const Code::Carried& so_far) {
          LlvmValue offset = code_.b.CreateMul(dim, code_.i64(machine_.lanes));
          return Code::Carried{code_.fma(code_.load_strip(code_.at(lanes_, offset)), code_.load_strip(code_.at(dout, offset)), so_far[0])};
        })[0];
    code_.store_strip(delta, of_strip(delta_, strip, 1));
  }

  void visit(const Tile& tile) {
    LlvmValue k_stride = row_stride(offsetof(CpuArgs, k_stride));
    LlvmValue v_stride = row_stride(offsetof(CpuArgs, v_stride));
    copy_rows(options_.dtype, row_at(k_, k_stride, tile.first_k), k_stride, tile.count, options_.head_dim, k_tile_);
    copy_rows(options_.dtype, row_at(v_, v_stride, tile.first_k), v_stride, tile.count, options_.v_dim, v_tile_);
    LlvmValue rows = code_.b.CreateNSWSub(end_q_, first_q_);
    LlvmValue count = code_.b.CreateUDiv(code_.b.CreateNSWAdd(rows, code_.i32(machine_.lanes - 1)), code_.i32(machine_.lanes));
    // First strip that keeps a key of the tile, and the one after the last.
    const Code::Carried active =
        code_.loop(code_.i32(0), count, 1, {count, code_.i32(0)}, [&](LlvmValue number, const Code::Carried& carried) {
          const Strip strip = this->strip(number);
          const Kept kept = classify(strip, tile);
          return code_.if_else(
              kept.keeps,
              [&] {
                visit(strip, tile, kept);
                return Code::Carried{code_.min(carried[0], number), code_.b.CreateNSWAdd(number, code_.i32(1))};
              },
              [&] {
                LlvmValue end = code_.b.CreateNSWAdd(tile.count, code_.i32(machine_.rows));
                zero_keys(strip, code_.i32(0), end);
                return carried;
              });
        });
    code_.if_then(code_.b.CreateICmpSLT(active[0], active[1]), [&] {
      add_to_keys(tile, p_, do_rows_, v_row_, dv_, active);
      add_to_keys(tile, ds_, q_rows_, q_row_, dk_, active);
    });
  }

  LlvmValue key_row(LlvmValue base, const Strip& strip, LlvmValue key) {
    LlvmValue place = code_.b.CreateNSWAdd(code_.b.CreateNSWMul(key, code_.i32(block_q_)), strip.first_place);
    return code_.at(base, place);
  }

  void zero_keys(const Strip& strip, LlvmValue begin, LlvmValue end) {
    for (LlvmValue base : {p_, ds_}) zero_rows(code_.at(base, strip.first_place), begin, end, code_.i64(block_q_));
  }

  void visit(const Strip& strip, const Tile& tile, const Kept& kept) {
    LlvmValue begin = code_.wide(kept.begin);
    LlvmValue count = code_.b.CreateNSWSub(code_.wide(kept.end), begin);
    const auto against_keys = [&](LlvmValue keys, int dims, LlvmValue lanes, LlvmValue result) {
      LlvmValue row = code_.i64(padded(dims));
      product({.a = code_.at(keys, code_.b.CreateMul(begin, row)),
               .a_row = row,
               .a_step = code_.i64(1),
               .b = of_strip(lanes, strip, padded(dims)),
               .b_step = code_.i64(machine_.lanes),
               .c = key_row(result, strip, kept.begin),
               .c_row = code_.i64(block_q_),
               .steps = code_.i64(dims)},
              count);
    };
    against_keys(k_tile_, options_.head_dim, q_lanes_, p_);
    against_keys(v_tile_, options_.v_dim, do_lanes_, ds_);
    // Outside of what the strip keeps, and where the products wrote more rows than asked for.
    zero_keys(strip, code_.i32(0), kept.begin);
    zero_keys(strip, kept.end, code_.b.CreateNSWAdd(tile.count, code_.i32(machine_.rows)));
    LlvmValue is_whole = code_.b.CreateICmpEQ(row_count(strip), code_.i32(machine_.lanes));
    code_.if_else(
        code_.b.CreateAnd(kept.full, is_whole), [&] { return elements(strip, tile, kept, false); },
        [&] { return elements(strip, tile, kept, true); });
    LlvmValue row = code_.i64(q_row_);
    product({.a = code_.at(k_tile_, code_.b.CreateMul(begin, row)),
             .a_row = code_.i64(1),
             .a_step = row,
             .b = key_row(ds_, strip, kept.begin),
             .b_step = code_.i64(block_q_),
             .c = of_strip(dq_lanes_, strip, q_row_),
             .c_row = code_.i64(machine_.lanes),
             .steps = count,
             .accumulates = true},
            options_.head_dim);
  }

  // S^T and dP^T to P^T and dS^T, in place.
  Code::Carried elements(const Strip& strip, const Tile& tile, const Kept& kept, bool is_partial) {
    const Backward& backward = lowered_.backward;
    const Scope strip_values = values_.strip_scope(leaves(strip), strip.first_place);
    Code::Carried sums;
    for (const GradientSink& sink : sinks_) {
      if (sink.sums_over_keys()) sums.push_back(code_.strip(0));
    }
    sums = code_.loop(kept.begin, kept.end, 1, sums, [&](LlvmValue key, const Code::Carried& carried) {
      Scope scope = values_.element_scope(strip_values, tile.first_k, key, is_partial);
      scope.leaves[Symbol::kQk] = code_.load_strip(key_row(p_, strip, key));
      scope.leaves[Symbol::kDp] = code_.load_strip(key_row(ds_, strip, key));
      LlvmValue keep = is_partial ? code_.b.CreateAnd(values_.get(lowered_.ir.mask, scope), strip.valid) : nullptr;
      const auto kept_only = [&](LlvmValue value) { return keep ? code_.b.CreateSelect(keep, value, code_.strip(0)) : value; };
      code_.store_strip(kept_only(values_.get(backward.weight, scope)), key_row(p_, strip, key));
      code_.store_strip(kept_only(values_.get(backward.dqk, scope)), key_row(ds_, strip, key));
      Code::Carried next;
      for (const GradientSink& sink : sinks_) {
        LlvmValue value = kept_only(values_.get(sink.gradient->per_element, scope));
        if (sink.sums_over_keys()) {
          next.push_back(code_.b.CreateFAdd(carried[next.size()], value));
        } else {
          add_gradient(*sink.gradient, value, scope);
        }
      }
      values_.raise_flag(scope, keep);
      return next;
    });
    size_t number = 0;
    for (const GradientSink& sink : sinks_) {
      if (!sink.sums_over_keys()) continue;
      Scope scope = strip_values;
      add_gradient(*sink.gradient, sums[number++], scope);
    }
    return {};
  }

  // Adds `value` to the gradient of the read, lane after lane where the address differs from lane to lane.
  void add_gradient(const ParamGradient& gradient, LlvmValue value, Scope& scope) {
    LlvmValue tensor = values_.tensor(grads_, gradient.param);
    LlvmValue data = code_.b.CreateLoad(code_.b.getPtrTy(), tensor);
    const LlvmValue clamped_before = scope.clamped;
    code_.if_then(code_.b.CreateIsNotNull(data), [&] {
      Scope inner = scope;
      const Values::Address address =
          values_.locate(lowered_.ir.graph[gradient.read], inner, code_.at(tensor, int64_t{offsetof(runtime::CpuTensor, strides)}, 1));
      const auto add = [&](LlvmValue offset, LlvmValue term) {
        LlvmValue place = code_.at(data, offset);
        LlvmValue sum = code_.b.CreateFAdd(code_.load_as(dsl::ElementType::kF32, place), term);
        code_.store_as(dsl::ElementType::kF32, sum, place);
      };
      if (address.is_scalar()) {
        llvm::IRBuilder<>::FastMathFlagGuard guard(code_.b);
        llvm::FastMathFlags flags = code_.b.getFastMathFlags();
        flags.setAllowReassoc();
        code_.b.setFastMathFlags(flags);
        LlvmValue sum = code_.b.CreateFAddReduce(code_.f32(0), value);
        add(address.offset, sum);
        return;
      }
      for (int lane = 0; lane < machine_.lanes; ++lane) {
        add(values_.lane_offset(address, lane), code_.b.CreateExtractElement(value, static_cast<uint64_t>(lane)));
      }
    });
    scope.clamped = clamped_before;  // the read of the value itself has already noted it
  }

  void add_row_gradients(const Strip& strip) {
    for (const ParamGradient& gradient : lowered_.backward.params) {
      if (gradient.per_row == kNoValue) continue;
      Scope scope;
      scope.kind = Scope::Kind::kRow;
      scope.leaves = leaves(strip);
      LlvmValue value = values_.get(gradient.per_row, scope);
      value = code_.b.CreateSelect(strip.valid, value, code_.strip(0));
      scope.clamped = nullptr;
      add_gradient(gradient, value, scope);
    }
  }

  // sums[key][dim] += sum over the active strips' queries of weights[key][query] * rows[query][dim].
  void add_to_keys(const Tile& tile, LlvmValue weights, LlvmValue rows, int row_floats, LlvmValue sums, const Code::Carried& active) {
    LlvmValue first = code_.b.CreateMul(code_.wide(active[0]), code_.i64(machine_.lanes));
    LlvmValue queries = code_.b.CreateMul(code_.wide(code_.b.CreateNSWSub(active[1], active[0])), code_.i64(machine_.lanes));
    LlvmValue target = code_.at(sums, code_.b.CreateMul(code_.wide(tile.first_k), code_.i64(row_floats)));
    LlvmValue source = code_.at(rows, code_.b.CreateMul(first, code_.i64(row_floats)));
    code_.loop(code_.i64(0), code_.i64(row_floats), machine_.lanes, [&](LlvmValue column) {
      product({.a = code_.at(weights, first),
               .a_row = code_.i64(block_q_),
               .a_step = code_.i64(1),
               .b = code_.at(source, column),
               .b_step = code_.i64(row_floats),
               .c = code_.at(target, column),
               .c_row = code_.i64(row_floats),
               .steps = queries,
               .accumulates = true},
              code_.wide(tile.count));
    });
  }

  void end_strip(const Strip& strip) {
    LlvmValue pointer = pointer_field(offsetof(CpuArgs, dq));
    code_.if_then(code_.b.CreateIsNotNull(pointer), [&] {
      lanes_to_rows(of_strip(dq_lanes_, strip, q_row_), options_.head_dim, rows_);
      LlvmValue dq = rows_of(offsetof(CpuArgs, dq), offsetof(CpuArgs, dq_stride), h_, Code::bytes_of(options_.dtype));
      LlvmValue stride = row_stride(offsetof(CpuArgs, dq_stride));
      store_rows(rows_, options_.head_dim, row_count(strip), row_at(dq, stride, strip.first_q), stride);
    });
  }

  const bool is_softmax_;
  LlvmValue dk_, dv_;
  std::vector<GradientSink> sinks_;
  int q_row_ = 0, v_row_ = 0;
  LlvmValue q_ = nullptr, k_ = nullptr, v_ = nullptr, dout_ = nullptr, grads_ = nullptr;
  LlvmValue q_lanes_ = nullptr, do_lanes_ = nullptr, dq_lanes_ = nullptr, q_rows_ = nullptr, do_rows_ = nullptr;
  LlvmValue lse2_ = nullptr, delta_ = nullptr;
  LlvmValue k_tile_ = nullptr, v_tile_ = nullptr, p_ = nullptr, ds_ = nullptr;
  LlvmValue rows_ = nullptr, lanes_ = nullptr;
};

}  // namespace

void emit_backward(llvm::Function& function, const CpuMachine& machine, const Lowered& lowered, const CpuKernelOptions& options,
                   runtime::CpuKernel& kernel) {
  BackwardEmitter(function, machine, lowered, options).emit(kernel);
}

}  // namespace attune::codegen
