// The text of one CUDA function of a Variant: values as expressions, and the statements that they need.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "codegen/cuda_values.h"

namespace attune::codegen {

// How a read treats indices that may lie outside for pairs that do not count; those that depend on data are clamped in any case.
enum class CudaGuard : uint8_t { kNever, kAlways, kByTemplate };

// How tightly an expression binds, as in C++.
enum class CudaLevel : uint8_t { kAny, kChoice, kOr, kAnd, kCompare, kSum, kProduct, kUnary, kAtom };

struct CudaText {
  std::string text;
  CudaLevel level = CudaLevel::kAtom;

  std::string in(CudaLevel least) const { return level < least ? "(" + text + ")" : text; }
};

class CudaWriter {
 public:
  // `roots` are all that will be asked for. `given`: values that are arguments of the function, by their names there.
  CudaWriter(const CudaValues& values, CudaScope scope, CudaGuard guard, std::span<const ValueId> roots,
             const std::map<ValueId, std::string>& given = {});

  // tanh_near() where pairs have a tanh: `spread` and `exact` are arguments of the function.
  void use_near_forms() { uses_near_forms_ = true; }
  // A read of a table in shared memory, at the index of `axis`.
  struct Table {
    std::string from;  // its address
    size_t axis = 0;
  };
  void use_tables(std::map<ValueId, Table> tables) { tables_ = std::move(tables); }

  // The value as an expression; what it needs has become statements.
  std::string value(ValueId id);
  // Where the gradient of what `read` (a read or a param) gives lies, in the member of Params that `prefix` ("p.g_") and the name make; of
  // a read the indices are among the roots.
  std::string gradient_address(ValueId read, std::string_view prefix);
  // The same for a read by query and key (feeds.h).
  std::string pair_address(ValueId read, std::string_view prefix);
  // "OWNER.NAME = ...;" for a member, which is read there from now on.
  void assign(const std::string& owner, ValueId id);
  // Lines, indented by four; empties the list.
  std::string take_statements();
  // Whether an index was clamped: the function declares `bool outside = false;`.
  bool clamps() const { return clamps_; }

 private:
  const Graph& graph() const { return values_.graph(); }
  bool sees(CudaScope members) const;
  void count_uses(std::span<const ValueId> roots);
  void write(ValueId root, bool names_root);
  void name_if_shared(ValueId id, bool is_root);
  CudaText make(ValueId id);
  CudaText arithmetic(ValueId id);
  std::string form(ValueId id, std::string_view type) const;
  CudaText param(const Node& node);
  CudaText read(ValueId id);
  std::string safe_index(const Node& node, size_t axis);
  std::string address(const Node& node, std::string_view prefix, size_t axes);

  const CudaValues& values_;
  const CudaScope scope_;
  const CudaGuard guard_;
  std::map<ValueId, CudaText> text_;
  std::map<ValueId, int> uses_;
  std::map<ValueId, Table> tables_;
  std::string statements_;
  bool clamps_ = false, uses_near_forms_ = false;
};

// The function that loads an element of a tensor.
std::string_view cuda_load(dsl::ElementType element);

}  // namespace attune::codegen
