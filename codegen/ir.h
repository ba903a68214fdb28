// The typed IR: one hash-consed graph of pure values, and the roots of one attention variant in it.
//
// Semantics. f32 values follow IEEE arithmetic at f32 (the interpreter in codegen/eval computes them in double). i32 wraps. Integer
// division and remainder are floored, and 0 by a zero divisor. f64 appears only in bounds (interval end points) and is never written by a
// user. Every value is a pure function of its operands and of the leaves: symbols, scalar parameters, tensor reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "dsl/ast.h"

namespace attune::codegen {

enum class Type : uint8_t { kBool, kI32, kF32, kF64 };
std::string_view type_name(Type type);

// Generated from op_table.def: one row an operator.
enum class Op : uint8_t {
#define ATTUNE_OP(name, ...) k_##name,
#include "codegen/op_table.def"
#undef ATTUNE_OP
  kCount
};

// Leaves other than parameters. `kind` says what the value depends on; see Rate.
enum class Symbol : uint8_t {
  // Indices of the current pair, i32.
  kB,
  kH,
  kKvH,
  kQIdx,
  kKIdx,
  // Sizes, i32; of the own sequence where sequences are packed.
  kBatch,
  kHeads,
  kKvHeads,
  kQLen,
  kKLen,
  kHeadDim,
  kVDim,
  // f32, per element: dot(q_i, k_j), and in the backward pass dP_ij = dot(dO_i, v_j).
  kQk,
  kDp,
  // f32, per row, backward pass of softmax only. kLse2 is lse * log2(e), and +inf for a row that counts as empty (so that p = 0);
  // kDelta is rowsum(dO * O).
  kLse2,
  kDelta,
  // i32, bounds only: first and last (inclusive) query and key index of the tile at hand.
  kFirstQ,
  kLastQ,
  kFirstK,
  kLastK,
  kCount
};
std::string_view symbol_name(Symbol symbol);  // as the language spells it, "first_q" and the like for the inner ones
Type symbol_type(Symbol symbol);

using ValueId = uint32_t;
inline constexpr ValueId kNoValue = ~ValueId{0};

struct Node {
  Op op = Op::k_constant;
  Type type = Type::kF32;
  std::vector<ValueId> operands;
  // Payload, by op: constant -> number (bool 0/1, i32 exact); symbol -> index = Symbol; param -> index of the scalar parameter;
  // read -> index of the tensor parameter (operands are its indices); others 0.
  double number = 0;
  int32_t index = 0;

  bool operator==(const Node&) const = default;  // NaN constants are never built
};

class Graph {
 public:
  // The id of the equal node, or of a new one; ids of operands are always smaller than the id of their user. No folding here.
  ValueId add(Node node);

  ValueId constant(Type type, double number);
  ValueId symbol(Symbol symbol);
  ValueId param(Type type, int index);
  ValueId read(Type type, int param, std::vector<ValueId> indices);
  // Type by the op's type rule; asserts that the operands fit it.
  ValueId op(Op op, std::vector<ValueId> operands);

  const Node& operator[](ValueId id) const { return nodes_[id]; }
  size_t size() const { return nodes_.size(); }

 private:
  std::vector<Node> nodes_;
  std::unordered_multimap<size_t, ValueId> by_hash_;
};

// What an element of that type loads as: f16 and bf16 as f32, u8 as i32.
Type value_type(dsl::ElementType element);

struct Param {
  std::string name;
  dsl::ElementType element = dsl::ElementType::kF32;  // of a tensor; a scalar is f32, i32 or bool
  bool is_tensor = false;
  bool is_const = false;
  bool is_grad = false;
  std::vector<ValueId> dims;         // of a tensor: i32 expressions of sizes and constants
  ValueId default_value = kNoValue;  // of a scalar: an expression of sizes (of the scalar's type), or kNoValue; const: its value
  dsl::SourceRange range;            // of the name, for messages about bindings
};

enum class WeightKind : uint8_t { kSoftmax, kPointwise };

// One variant, typed. Lets are gone (they are shared nodes), q_pos and k_pos are expanded, const parameters are constants.
struct Ir {
  std::string name;
  std::vector<Param> params;
  Graph graph;

  WeightKind weight_kind = WeightKind::kSoftmax;
  ValueId score = kNoValue;   // f32
  ValueId mask = kNoValue;    // bool; constant true where the program has none
  ValueId weight = kNoValue;  // pointwise: f32, the score is substituted
  ValueId sink = kNoValue;    // softmax: f32 or kNoValue
  ValueId factor = kNoValue;  // softmax: f32 or kNoValue; the score is substituted
};

// What a value depends on, as bits; see rates.h.
enum class Rate : uint8_t { kUniform, kRow, kColumn, kElement };
std::string_view rate_name(Rate rate);

}  // namespace attune::codegen
