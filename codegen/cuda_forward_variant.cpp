#include "codegen/cuda_forward_variant.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numbers>
#include <utility>

#include "codegen/cuda_function.h"
#include "codegen/eval/interpreter.h"
#include "codegen/fold_scale.h"
#include "codegen/simplify.h"

namespace attune::codegen {

ForwardVariant::ForwardVariant(const Lowered& lowered, const GpuKernelOptions& options, const GpuConfig& config)
    : CudaVariant(lowered, options), config_(config), score2_(lowered.score2) {
  Graph& graph = ir_.graph;
  CudaRoots roots;
  roots.element.push_back(is_softmax() ? score2_ : ir_.weight);
  if (is_softmax() && ir_.factor != kNoValue) {
    roots.element.push_back(ir_.factor);
    factor_of_score_ = reachable(graph, std::array{ir_.factor})[graph.symbol(Symbol::kQk)];
  }
  if (is_softmax() && ir_.sink != kNoValue) {
    sink2_ = fold_scale(graph, ir_.sink, std::numbers::log2e);
    simplify(graph, std::array{&sink2_});
    roots.row.push_back(sink2_);
  }
  if (!is_searched()) {
    roots.bounds = {bounds_.kept_keys.begin, bounds_.kept_keys.end, bounds_.full_keys.begin, bounds_.full_keys.end};
  }
  if (config.stale) {
    const std::vector<bool> needed = reachable(graph, std::array{score2_});
    for (ValueId id = 0; id < graph.size(); ++id)
      is_near_ = is_near_ || (needed[id] && graph[id].op == Op::k_tanh && lowered.rate(id) == Rate::kElement);
  }
  // What feeders bring is of a Pair, which the line of a block's first key has not.
  if (config.skeleton == GpuSkeleton::kSm90 && config.stale && config.feed_stages == 0) line_ = split_line(graph, score2_);
  if (line_) roots.element.insert(roots.element.end(), {line_->line, line_->slope, line_->rest});
  const ValueId weight = roots.element[0];
  place_values(std::move(roots), weight);
  if (config.feed_stages > 0) find_feeds();
}

void ForwardVariant::find_feeds() {
  std::vector<ValueId> roots = {is_softmax() ? score2_ : ir_.weight};
  if (is_softmax() && ir_.factor != kNoValue) roots.push_back(ir_.factor);
  if (is_sigmoid()) roots.insert(roots.end(), {exponent2_, half_});
  for (const ValueId read : pair_reads(ir_.graph, roots)) {
    if (std::count(config_.fed_tensors.begin(), config_.fed_tensors.end(), ir_.graph[read].index) > 0) of_pairs_.push_back(read);
  }
  if (config_.feeds_tables) fed_tables_ = table_reads(ir_, roots);
  int words = 0;
  for (const TableRead& table : fed_tables_) {
    tables_[table.read] = {fmt::format("column.tables + {}", 4 * words), table.axis};
    words += table.words;
  }
  if (!config_.feeds_columns) return;
  for (const ValueId member : values_->members(CudaScope::kColumn)) {
    const std::vector<bool> needed = reachable(ir_.graph, std::array{member});
    for (ValueId id = 0; id <= member; ++id) {
      if (!needed[id] || ir_.graph[id].op != Op::k_read || values_->rate(id) != Rate::kColumn) continue;
      fed_columns_.push_back(member);
      break;
    }
  }
  carries_outside_ = values_->may_clamp(CudaScope::kColumn);
  if (column_words() <= kMaxColumnWords) return;
  fed_columns_.clear();
  carries_outside_ = false;
}

int ForwardVariant::table_words() const {
  int words = 0;
  for (const TableRead& table : fed_tables_) words += table.words;
  return words;
}

int ForwardVariant::feed_bytes() const {
  const int bytes = pair_bytes(config_.block_n) + 4 * (column_words() * config_.block_n + table_words());
  return (bytes + kFeedUnit - 1) / kFeedUnit * kFeedUnit;
}

std::string ForwardVariant::text() const {
  std::string text = "struct Variant {\n" + constants_text() + "\n" + uniform_text() + row_text(sink2_) + column_text();
  if (feed_bytes() > 0) text += "\n" + feeds_text();
  text += "\n";
  if (is_softmax()) {
    text += element_text("score2", score2_, true);
    if (is_near_) text += element_text("score2_near", score2_, true, "float qk, bool exact, float& spread", true);
    if (line_) text += line_text();
    if (ir_.factor != kNoValue) text += element_text("factor", ir_.factor, false);
  } else {
    text += element_text("weight", ir_.weight, true) + sigmoid_text();
  }
  if (has_mask()) text += keep_text();
  text += "\n";
  if (is_searched()) {
    text += extent_text(Rate::kRow) + extent_text(Rate::kColumn) + classify_text();
    if (config_.skeleton == GpuSkeleton::kSm90)
      text += stored_text(Rate::kRow, "stored_row_extents", "p.row_extents", "p.tiles_m") +
              stored_text(Rate::kColumn, "stored_extents", "p.extents", "(p.k_len + Config::kBlockN - 1) / Config::kBlockN");
  } else {
    text += range_text("kept_keys", "q", bounds_.kept_keys) + range_text("full_keys", "q", bounds_.full_keys);
  }
  return text + "};\n";
}

std::string ForwardVariant::constants_text() const {
  return kinds_text() + fmt::format("  static constexpr bool kSink = {}, kFactor = {}, kFactorOfScore = {}, kNear = {}, kLine = {};\n",
                                    sink2_ != kNoValue, ir_.factor != kNoValue, factor_of_score_, is_near_, line_.has_value());
}

std::string ForwardVariant::line_text() const {
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, std::array{line_->slope});
  const std::string slope = writer.value(line_->slope);
  return "  // score2 = above_line + line, which is affine in k_idx.\n" + element_text("line", line_->line, true, "") +
         cuda_function(fmt::format("float slope({})", kOfCall), writer.take_statements() + cuda_return(slope)) +
         element_text("above_line", line_->rest, true, is_near_ ? "float qk, bool exact, float& spread" : "float qk", is_near_);
}

// What feeder warps and those that they feed do; sm90_feed.cuh has the vocabulary.
std::string ForwardVariant::feeds_text() const {
  std::string text =
      cuda_line(2, fmt::format("static constexpr int kPairBytes = {}, kColumnWords = {}, kTableWords = {};  // of what feeders bring",
                               pair_bytes(config_.block_n), column_words(), table_words()));
  if (!of_pairs_.empty() || !fed_tables_.empty()) text += pairs_text();
  if (!fed_tables_.empty()) text += tables_text();
  if (column_words() > 0) text += columns_text();
  return text;
}

std::string ForwardVariant::pairs_text() const {
  std::string members = pair_members_text(), read;
  int offset = 0;
  for (const ValueId id : of_pairs_) {
    const std::string& name = values_->name(id);
    read += cuda_line(4, fmt::format("const float2 {} = read_pair<{}>(from, {}, group, place);", name, pair_element(id), offset));
    read += fmt::format("    pairs[0].{0} = {0}.x;\n    pairs[1].{0} = {0}.y;\n", name);
    offset += tile_bytes(id, config_.block_n);
  }
  if (!fed_tables_.empty()) {
    members += "    u32 tables;  // their address\n";
    read += "    pairs[0].tables = pairs[1].tables = from.tables;\n";
  }
  return cuda_struct("Pair : Column", members) + load_pairs_text(config_.block_n) +
         cuda_function("void read_pairs(const FedPlace& from, int group, int place, Pair (&pairs)[2])", read);
}

std::string ForwardVariant::tables_text() const {
  std::vector<ValueId> indices;
  for (const TableRead& table : fed_tables_) {
    const std::vector<ValueId>& operands = ir_.graph[table.read].operands;
    for (size_t axis = 0; axis < operands.size(); ++axis) {
      if (axis != table.axis) indices.push_back(operands[axis]);
    }
  }
  CudaWriter writer(*values_, CudaScope::kBounds, CudaGuard::kNever, indices);
  std::string store;
  int offset = 0;
  for (const TableRead& table : fed_tables_) {
    const Node& node = ir_.graph[table.read];
    const Param& param = ir_.params[static_cast<size_t>(node.index)];
    std::string address = "p.t_" + param.name;
    for (size_t axis = 0; axis < node.operands.size(); ++axis) {
      const std::string index = axis == table.axis ? "i" : fmt::format("static_cast<i64>({})", writer.value(node.operands[axis]));
      address += fmt::format(" + {} * p.t_{}_stride[{}]", index, param.name, axis);
    }
    const std::string load = fmt::format("{}({})", cuda_load(param.element), address);
    store += cuda_line(4, fmt::format("for (int i = lane; i < {}; i += kWarp)", table.words));
    store += cuda_line(
        6, fmt::format("store_shared(to + {} + 4 * i, {});", offset, node.type == Type::kI32 ? load : "__float_as_int(" + load + ")"));
    offset += 4 * table.words;
  }
  return cuda_function("void store_tables(u32 to, int lane, const Params& p, const Uniform& u)", writer.take_statements() + store);
}

std::string ForwardVariant::columns_text() const {
  std::vector<ValueId> plain = values_->members(CudaScope::kColumn);
  std::erase_if(plain, [&](ValueId id) { return std::count(fed_columns_.begin(), fed_columns_.end(), id) > 0; });
  std::string store, read, text;
  if (!plain.empty()) {
    CudaWriter writer(*values_, CudaScope::kColumn, CudaGuard::kNever, plain);
    for (const ValueId id : plain) writer.assign("column", id);
    text = cuda_function("void plain_column(int k_idx, const Params& p, const Uniform& u, Column& column)", writer.take_statements());
    read = "    plain_column(k_idx, p, u, columns[0]);\n    plain_column(k_idx + 1, p, u, columns[1]);\n";
  }
  int word = 0;
  const auto add = [&](const std::string& name, std::string_view type) {
    const std::string offset = fmt::format("{} * Config::kBlockN", 4 * word++);
    const auto as_word = [&](const std::string& value) { return type == "float" ? "__float_as_int(" + value + ")" : value; };
    const auto of_word = [&](const std::string& word) {
      return type == "float" ? "__int_as_float(" + word + ")" : type == "bool" ? word + " != 0" : word;
    };
    store += cuda_line(4, fmt::format("store_shared(to + {}, {});", offset, as_word("column." + name)));
    read += cuda_line(4, fmt::format("const int2 {} = read_shared_x2(from + {});", name, offset));
    read += cuda_line(4, fmt::format("columns[0].{} = {};", name, of_word(name + ".x")));
    read += cuda_line(4, fmt::format("columns[1].{} = {};", name, of_word(name + ".y")));
  };
  for (const ValueId id : fed_columns_) add(values_->name(id), values_->type_text(id));
  if (carries_outside_) add("outside", "bool");
  return text + cuda_function("void store_column(u32 to, const Column& column)", store) +
         cuda_function("void read_columns(u32 from, int k_idx, const Params& p, const Uniform& u, Column (&columns)[2])", read);
}

}  // namespace attune::codegen
