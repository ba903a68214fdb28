#include "codegen/llvm_emitter_values.h"

#include <llvm/IR/Intrinsics.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "codegen/eval/interpreter.h"
#include "codegen/index_bounds.h"
#include "codegen/op_table.h"
#include "runtime/cpu_kernel.h"

namespace attune::codegen {
namespace {

bool is_reduction(Op op) {
  return op == Op::k_tile_min || op == Op::k_tile_max;
}

std::vector<bool> tile_dependence(const Graph& graph) {
  std::vector<bool> result(graph.size(), false);
  for (ValueId id = 0; id < graph.size(); ++id) {
    const Node& node = graph[id];
    const bool is_tile_symbol = node.op == Op::k_symbol && static_cast<Symbol>(node.index) >= Symbol::kFirstQ;
    result[id] = is_tile_symbol || is_reduction(node.op);
    for (ValueId operand : node.operands) result[id] = result[id] || result[operand];
  }
  return result;
}

// Numbers that an operator needs to know when it is emitted: exponents.
double exponent_of(const Graph& graph, const Node& node) {
  if (node.operands.empty()) return 0;
  const Node& last = graph[node.operands.back()];
  return last.op == Op::k_constant ? last.number : 0;
}

}  // namespace

Values::Values(Code& code, const Lowered& lowered, LlvmValue args)
    : code_(code), lowered_(lowered), args_(args), is_of_tile_(tile_dependence(lowered.ir.graph)) {}

void Values::declare(const std::vector<ValueId>& element_roots, const std::vector<ValueId>& row_roots,
                     const std::vector<ValueId>& bound_roots) {
  std::vector<ValueId> all = element_roots;
  all.insert(all.end(), row_roots.begin(), row_roots.end());
  all.insert(all.end(), bound_roots.begin(), bound_roots.end());
  const std::vector<bool> needed = reachable(graph(), all);
  const std::vector<bool> in_elements = reachable(graph(), element_roots);

  std::vector<bool> row(graph().size(), false), column(graph().size(), false);
  const auto mark = [&](ValueId id) {
    if (graph()[id].op == Op::k_constant || graph()[id].op == Op::k_symbol) return;
    if (rate(id) == Rate::kRow) row[id] = true;
    if (rate(id) == Rate::kColumn) column[id] = true;
  };
  for (ValueId id : element_roots) mark(id);
  for (ValueId id = 0; id < graph().size(); ++id) {
    const Node& node = graph()[id];
    if (!needed[id]) continue;
    if (in_elements[id] && rate(id) == Rate::kElement) {
      for (ValueId operand : node.operands) mark(operand);
    }
    if (is_uniform(id)) uniforms_.push_back(id);
    if (node.op == Op::k_read || node.op == Op::k_param) params_[node.index];
    if (is_reduction(node.op)) {
      if (rate(node.operands[0]) == Rate::kRow) row_reductions_.push_back(id);
      if (rate(node.operands[0]) == Rate::kColumn) column_reductions_.push_back(id);
    }
  }
  for (ValueId id = 0; id < graph().size(); ++id) {
    if (row[id]) row_slots_.push_back(id);
    if (column[id]) column_slots_.push_back(id);
  }
}

void Values::place(LlvmValue row_slots, int row_places, LlvmValue column_slots, int column_places, LlvmValue reductions, int strips) {
  row_memory_ = row_slots;
  row_places_ = row_places;
  column_memory_ = column_slots;
  column_places_ = column_places;
  reduction_memory_ = reductions;
  strips_ = strips;
}

LlvmValue Values::tensor(LlvmValue tensors, int param) {
  return code_.b.CreateConstInBoundsGEP1_64(code_.b.getInt8Ty(), tensors, param * sizeof(runtime::CpuTensor));
}

void Values::emit_uniforms(const std::map<Symbol, LlvmValue>& leaves) {
  llvm::Type* pointer = code_.b.getPtrTy();
  const auto field = [&](size_t offset) {
    return code_.b.CreateLoad(pointer, code_.b.CreateConstInBoundsGEP1_64(code_.b.getInt8Ty(), args_, offset));
  };
  if (!params_.empty()) {
    LlvmValue tensors = field(offsetof(runtime::CpuArgs, params));
    LlvmValue dims = field(offsetof(runtime::CpuArgs, param_dims));
    for (auto& [param, address] : params_) {
      LlvmValue of_param = tensor(tensors, param);
      address.data = code_.b.CreateLoad(pointer, of_param);
      address.strides = code_.at(of_param, int64_t{offsetof(runtime::CpuTensor, strides)}, 1);
      const size_t rank = lowered_.ir.params[param].dims.size();
      for (size_t axis = 0; axis < rank; ++axis) {
        LlvmValue dim = code_.b.CreateLoad(code_.i32_type, code_.at(dims, static_cast<int64_t>(param * runtime::kCpuMaxRank + axis)));
        address.last.push_back(code_.b.CreateSub(dim, code_.i32(1)));
      }
    }
  }
  uniform_scope_.kind = Scope::Kind::kUniform;
  uniform_scope_.leaves = leaves;
  for (ValueId id : uniforms_) uniform_values_[id] = get(id, uniform_scope_);
  if (uniform_scope_.clamped) raise_flag(uniform_scope_.clamped);
}

LlvmValue Values::load_slot(LlvmValue address, Type type, bool is_vector) {
  llvm::Type* scalar = type == Type::kF32 ? code_.f32_type : code_.i32_type;
  llvm::Type* loaded = is_vector ? llvm::FixedVectorType::get(scalar, static_cast<unsigned>(code_.machine.lanes)) : scalar;
  LlvmValue value = code_.b.CreateAlignedLoad(loaded, address, llvm::Align(4));
  return type == Type::kBool ? code_.b.CreateIsNotNull(value) : value;
}

void Values::store_slot(LlvmValue value, LlvmValue address) {
  llvm::Type* type = value->getType();
  if (type->getScalarType()->isIntegerTy(1)) value = code_.b.CreateZExt(value, type->getWithNewType(code_.i32_type));
  code_.b.CreateAlignedStore(value, address, llvm::Align(4));
}

LlvmValue Values::reduce(LlvmValue vector, Op op, Type type) {
  const bool is_min = op == Op::k_tile_min;
  llvm::IRBuilder<>& b = code_.b;
  if (type == Type::kI32) {
    LlvmValue least = is_min ? b.CreateIntMinReduce(vector, true) : b.CreateIntMaxReduce(vector, true);
    return b.CreateSIToFP(least, b.getDoubleTy());
  }
  LlvmValue has_nan = b.CreateOrReduce(b.CreateFCmpUNO(vector, vector));
  LlvmValue number = is_min ? b.CreateFPMinReduce(vector) : b.CreateFPMaxReduce(vector);
  LlvmValue result = b.CreateSelect(has_nan, code_.f32(__builtin_nan("")), number);
  return b.CreateFPExt(result, b.getDoubleTy());
}

void Values::fill_rows(const std::map<Symbol, LlvmValue>& leaves, LlvmValue strip, LlvmValue first_place) {
  Scope scope;
  scope.kind = Scope::Kind::kRow;
  scope.leaves = leaves;
  for (size_t slot = 0; slot < row_slots_.size(); ++slot) {
    LlvmValue base = code_.at(row_memory_, static_cast<int64_t>(slot) * row_places_);
    store_slot(get(row_slots_[slot], scope), code_.at(base, first_place));
  }
  rows_may_clamp_ = scope.clamped != nullptr;
  if (rows_may_clamp_) {
    LlvmValue base = code_.at(row_memory_, static_cast<int64_t>(row_slots_.size()) * row_places_);
    store_slot(scope.clamped, code_.at(base, first_place));
  }
  scope.clamped = nullptr;
  for (size_t n = 0; n < row_reductions_.size(); ++n) {
    const Node& node = graph()[row_reductions_[n]];
    LlvmValue value = reduce(get(node.operands[0], scope), node.op, graph()[node.operands[0]].type);
    LlvmValue base = code_.at(reduction_memory_, static_cast<int64_t>(n) * strips_, 8);
    code_.b.CreateAlignedStore(value, code_.at(base, strip, 8), llvm::Align(8));
  }
  if (scope.clamped) raise_flag(scope.clamped);  // the mask reads all pairs
}

void Values::fill_columns(LlvmValue first_k, LlvmValue count) {
  if (column_slots_.empty() && column_reductions_.empty()) return;
  Code::Carried initial;
  LlvmMath scalar(code_, 1);
  for (ValueId id : column_reductions_) {
    const double worst = graph()[id].op == Op::k_tile_min ? INFINITY : -INFINITY;
    initial.push_back(LlvmMath::llvm_value(scalar.f64(worst)));
  }
  const Code::Carried reduced = code_.loop(code_.i32(0), count, 1, initial, [&](LlvmValue column, const Code::Carried& carried) {
    Scope scope;
    scope.kind = Scope::Kind::kColumn;
    scope.leaves[Symbol::kKIdx] = code_.b.CreateAdd(first_k, column);
    for (size_t slot = 0; slot < column_slots_.size(); ++slot) {
      LlvmValue base = code_.at(column_memory_, static_cast<int64_t>(slot) * column_places_);
      store_slot(get(column_slots_[slot], scope), code_.at(base, column));
    }
    columns_may_clamp_ = scope.clamped != nullptr;
    if (columns_may_clamp_) {
      LlvmValue base = code_.at(column_memory_, static_cast<int64_t>(column_slots_.size()) * column_places_);
      store_slot(scope.clamped, code_.at(base, column));
    }
    scope.clamped = nullptr;
    Code::Carried next;
    for (size_t n = 0; n < column_reductions_.size(); ++n) {
      const Node& node = graph()[column_reductions_[n]];
      LlvmValue value = get(node.operands[0], scope);
      const bool is_int = graph()[node.operands[0]].type == Type::kI32;
      const MathBuilder::Value x = is_int ? scalar.i32_to_f64({value}) : scalar.f32_to_f64({value});
      const MathBuilder::Value so_far{carried[n]};
      next.push_back(LlvmMath::llvm_value(node.op == Op::k_tile_min ? form_min(scalar, so_far, x) : form_max(scalar, so_far, x)));
    }
    if (scope.clamped) raise_flag(scope.clamped);
    return next;
  });
  for (size_t n = 0; n < column_reductions_.size(); ++n) column_reduction_values_[column_reductions_[n]] = reduced[n];
}

Scope Values::strip_scope(const std::map<Symbol, LlvmValue>& leaves, LlvmValue first_place) {
  Scope scope;
  scope.kind = Scope::Kind::kElement;
  scope.leaves = leaves;
  for (size_t slot = 0; slot < row_slots_.size(); ++slot) {
    LlvmValue base = code_.at(row_memory_, static_cast<int64_t>(slot) * row_places_);
    scope.memo[row_slots_[slot]] = load_slot(code_.at(base, first_place), graph()[row_slots_[slot]].type, true);
  }
  if (rows_may_clamp_) {
    LlvmValue base = code_.at(row_memory_, static_cast<int64_t>(row_slots_.size()) * row_places_);
    scope.row_clamped = load_slot(code_.at(base, first_place), Type::kBool, true);
  }
  return scope;
}

Scope Values::element_scope(const Scope& strip, LlvmValue first_k, LlvmValue column, bool may_leave) {
  Scope scope = strip;
  scope.may_leave = may_leave;
  scope.column = column;
  scope.leaves[Symbol::kKIdx] = code_.b.CreateAdd(first_k, column);
  scope.clamped = strip.row_clamped;
  if (columns_may_clamp_) {
    LlvmValue base = code_.at(column_memory_, static_cast<int64_t>(column_slots_.size()) * column_places_);
    note_clamped(scope, code_.splat(load_slot(code_.at(base, column), Type::kBool, false)));
  }
  return scope;
}

Scope Values::bounds_scope(const std::map<Symbol, LlvmValue>& leaves, LlvmValue strip) {
  Scope scope;
  scope.kind = Scope::Kind::kBounds;
  scope.leaves = leaves;
  scope.column = strip;
  return scope;
}

LlvmValue Values::scalar_of(ValueId id, Scope& scope) {
  if (!scope.is_vector()) return get(id, scope);
  const Node& node = graph()[id];
  if (node.op == Op::k_constant) {
    Scope scalar;
    return emit(id, scalar);
  }
  if (is_uniform(id)) return uniform_values_.at(id);
  if (scope.kind != Scope::Kind::kElement || rate(id) != Rate::kColumn) return nullptr;
  if (node.op == Op::k_symbol) return scope.leaves.at(static_cast<Symbol>(node.index));
  const auto slot = std::find(column_slots_.begin(), column_slots_.end(), id);
  if (slot == column_slots_.end()) return nullptr;
  LlvmValue base = code_.at(column_memory_, static_cast<int64_t>(slot - column_slots_.begin()) * column_places_);
  return load_slot(code_.at(base, scope.column), node.type, false);
}

LlvmValue Values::get(ValueId id, Scope& scope) {
  if (const auto known = scope.memo.find(id); known != scope.memo.end()) return known->second;
  LlvmValue value = nullptr;
  if (scope.is_vector()) {
    if (LlvmValue scalar = scalar_of(id, scope)) value = code_.splat(scalar);
  } else if (scope.kind != Scope::Kind::kUniform && is_uniform(id) && graph()[id].op != Op::k_constant) {
    value = uniform_values_.at(id);
  }
  if (!value) value = emit(id, scope);
  scope.memo[id] = value;
  return value;
}

LlvmValue Values::emit(ValueId id, Scope& scope) {
  const Node& node = graph()[id];
  LlvmMath builder = math(scope);
  switch (node.op) {
    case Op::k_constant:
      switch (node.type) {
        case Type::kBool:
          return LlvmMath::llvm_value(builder.boolean(node.number != 0));
        case Type::kI32:
          return LlvmMath::llvm_value(builder.i32(static_cast<int32_t>(node.number)));
        case Type::kF32:
          return LlvmMath::llvm_value(builder.f32(static_cast<float>(node.number)));
        case Type::kF64:
          return LlvmMath::llvm_value(builder.f64(node.number));
      }
      return nullptr;
    case Op::k_symbol:
      return scope.leaves.at(static_cast<Symbol>(node.index));
    case Op::k_param:
      return code_.load_as(element_of(node), params_.at(node.index).data);
    case Op::k_read:
      return emit_read(node, scope);
    case Op::k_tile_min:
    case Op::k_tile_max:
      return emit_reduction(id, scope);
    default:
      break;
  }
  std::vector<MathBuilder::Value> operands;
  for (ValueId operand : node.operands) operands.push_back({get(operand, scope)});
  const Type operand_type = graph()[node.operands[0]].type;
  return LlvmMath::llvm_value(info(node.op).llvm(builder, operands, node.type, operand_type, exponent_of(graph(), node)));
}

LlvmValue Values::emit_reduction(ValueId id, const Scope& scope) {
  if (const auto column = column_reduction_values_.find(id); column != column_reduction_values_.end()) return column->second;
  const auto row = std::find(row_reductions_.begin(), row_reductions_.end(), id);
  if (row == row_reductions_.end()) {  // of a uniform value: the value itself
    Scope copy = scope;
    const ValueId operand = graph()[id].operands[0];
    LlvmMath scalar(code_, 1);
    const MathBuilder::Value value{get(operand, copy)};
    return LlvmMath::llvm_value(graph()[operand].type == Type::kI32 ? scalar.i32_to_f64(value) : scalar.f32_to_f64(value));
  }
  LlvmValue base = code_.at(reduction_memory_, (row - row_reductions_.begin()) * int64_t{strips_}, 8);
  return code_.b.CreateAlignedLoad(code_.b.getDoubleTy(), code_.at(base, scope.column, 8), llvm::Align(8));
}

void Values::note_clamped(Scope& scope, LlvmValue condition) {
  scope.clamped = scope.clamped ? code_.b.CreateOr(scope.clamped, condition) : condition;
}

Values::Address Values::locate(const Node& node, Scope& scope, LlvmValue strides) {
  Address address;
  address.offset = code_.i64(0);
  for (size_t axis = 0; axis < node.operands.size(); ++axis) {
    const ValueId id = node.operands[axis];
    const bool depends_on_data = is_data_dependent(graph(), id);
    LlvmValue last = params_.at(node.index).last[axis];
    LlvmValue index = scalar_of(id, scope);
    const bool is_scalar = index != nullptr;
    if (!is_scalar) {
      index = get(id, scope);
      last = code_.splat(last);
    }
    if (scope.may_leave || depends_on_data) {
      LlvmValue zero = llvm::Constant::getNullValue(index->getType());
      LlvmValue inside = code_.max(code_.min(index, last), zero);
      if (depends_on_data) {
        LlvmValue differs = code_.b.CreateICmpNE(index, inside);
        note_clamped(scope, is_scalar && scope.is_vector() ? code_.splat(differs) : differs);
      }
      index = inside;
    }
    LlvmValue stride = code_.b.CreateLoad(code_.i64_type, code_.at(strides, static_cast<int64_t>(axis), 8));
    if (is_scalar) {
      address.offset = code_.b.CreateAdd(address.offset, code_.b.CreateMul(code_.wide(index), stride));
    } else {
      address.lanes.emplace_back(index, stride);
    }
  }
  return address;
}

LlvmValue Values::lane_offset(const Address& address, int lane) {
  LlvmValue offset = address.offset;
  for (const auto& [index, stride] : address.lanes) {
    LlvmValue of_lane = code_.wide(code_.b.CreateExtractElement(index, static_cast<uint64_t>(lane)));
    offset = code_.b.CreateAdd(offset, code_.b.CreateMul(of_lane, stride));
  }
  return offset;
}

LlvmValue Values::emit_read(const Node& node, Scope& scope) {
  const ParamAddress& param = params_.at(node.index);
  const dsl::ElementType element = element_of(node);
  const Address address = locate(node, scope, param.strides);
  const auto load = [&](LlvmValue offset) { return code_.load_as(element, code_.at(param.data, offset, Code::bytes_of(element))); };
  if (address.is_scalar()) {
    LlvmValue value = load(address.offset);
    return scope.is_vector() ? code_.splat(value) : value;
  }
  LlvmValue result = nullptr;
  for (int lane = 0; lane < code_.machine.lanes; ++lane) {
    LlvmValue value = load(lane_offset(address, lane));
    if (!result) {
      result = llvm::PoisonValue::get(llvm::FixedVectorType::get(value->getType(), static_cast<unsigned>(code_.machine.lanes)));
    }
    result = code_.b.CreateInsertElement(result, value, static_cast<uint64_t>(lane));
  }
  return result;
}

void Values::raise_flag(LlvmValue condition) {
  if (condition->getType()->isVectorTy()) condition = code_.b.CreateOrReduce(condition);
  code_.if_then(condition, [&] {
    LlvmValue field = code_.b.CreateConstInBoundsGEP1_64(code_.b.getInt8Ty(), args_, offsetof(runtime::CpuArgs, index_flag));
    LlvmValue flag = code_.b.CreateLoad(code_.b.getPtrTy(), field);
    llvm::StoreInst* store = code_.b.CreateAlignedStore(code_.i32(1), flag, llvm::Align(4));
    store->setAtomic(llvm::AtomicOrdering::Monotonic);
  });
}

void Values::raise_flag(Scope& scope, LlvmValue kept) {
  if (!scope.clamped) return;
  raise_flag(kept ? code_.b.CreateAnd(scope.clamped, kept) : scope.clamped);
  scope.clamped = nullptr;
}

}  // namespace attune::codegen
