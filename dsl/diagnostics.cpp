#include "dsl/diagnostics.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>
#include <utility>

#include "dsl/utf8.h"

namespace attune::dsl {
namespace {

constexpr size_t kMaxColumns = 100;    // of a source line, as printed
constexpr size_t kColumnsBefore = 60;  // the caret, where the line is cut
constexpr std::string_view kCut = "...";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Walks forward through the text and knows line and column.
class Position {
 public:
  explicit Position(std::string_view text) : text_(text) {
    if (text.starts_with(kByteOrderMark)) offset_ = line_begin_ = kByteOrderMark.size();
  }

  void advance_to(size_t offset) {
    while (offset_ < std::min(offset, text_.size())) step();
  }

  size_t line() const { return line_; }
  size_t column() const { return column_; }
  // Without its line end.
  std::string_view line_text() const {
    const std::string_view rest = text_.substr(line_begin_);
    const std::string_view line = rest.substr(0, rest.find('\n'));
    return line.ends_with('\r') ? line.substr(0, line.size() - 1) : line;
  }

 private:
  void step() {
    const bool is_line_end = text_[offset_] == '\n';
    offset_ += decode_utf8(text_, offset_).bytes;
    ++column_;
    if (!is_line_end) return;
    ++line_;
    column_ = 1;
    line_begin_ = offset_;
  }

  std::string_view text_;
  size_t offset_ = 0;
  size_t line_ = 1;
  size_t column_ = 1;
  size_t line_begin_ = 0;
};

struct Located {
  const Diagnostic* error;
  size_t line;
  size_t column;
  size_t end_column;  // behind the last code point, on the same line
  std::string_view line_text;
};

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); i += decode_utf8(text, i).bytes) ++count;
  return count;
}

// In the order of the text; of equal ones the first.
std::vector<const Diagnostic*> ordered(const std::vector<Diagnostic>& errors) {
  const auto place = [](const Diagnostic* e) { return std::tie(e->range.begin, e->range.end); };
  std::vector<const Diagnostic*> result;
  for (const Diagnostic& error : errors) result.push_back(&error);
  std::sort(result.begin(), result.end(), [&](const Diagnostic* x, const Diagnostic* y) {
    return place(x) == place(y) ? x < y : place(x) < place(y);  // at one place in the order in which they were reported
  });
  std::vector<const Diagnostic*> unique;
  size_t first_here = 0;  // of those at the same place
  for (const Diagnostic* error : result) {
    if (first_here < unique.size() && place(unique[first_here]) != place(error)) first_here = unique.size();
    const bool is_known = std::any_of(unique.begin() + static_cast<std::ptrdiff_t>(first_here), unique.end(), [&](const Diagnostic* other) {
      return std::tie(other->message, other->note) == std::tie(error->message, error->note);
    });
    if (!is_known) unique.push_back(error);
  }
  return unique;
}

std::vector<Located> located(const std::vector<const Diagnostic*>& errors, std::string_view text) {
  std::vector<Located> result;
  Position position(text);
  for (const Diagnostic* error : errors) {
    position.advance_to(error->range.begin);
    const std::string_view line = position.line_text();
    const size_t line_end = static_cast<size_t>(line.data() - text.data()) + line.size();
    const size_t begin = std::min<size_t>(error->range.begin, line_end);
    const size_t end = std::clamp<size_t>(error->range.end, begin, line_end);
    const size_t columns = count_code_points(text.substr(begin, end - begin));
    result.push_back({error, position.line(), position.column(), position.column() + columns, line});
  }
  return result;
}

// One column for each code point: what would move the cursor or is no text is replaced.
std::string printable(std::string_view text, size_t offset, size_t columns) {
  std::string result;
  size_t column = 0;
  for (size_t i = 0; i < text.size() && column < offset + columns; ++column) {
    const CodePoint point = decode_utf8(text, i);
    const bool is_control = point.value < 0x20 || (point.value >= 0x7F && point.value < 0xA0);
    std::string_view shown = text.substr(i, point.bytes);
    if (!point.is_valid || is_control) shown = kReplacement;
    if (point.value == '\t') shown = " ";
    if (column >= offset) result += shown;
    i += point.bytes;
  }
  return result;
}

std::string render_one(const std::string& file_name, const Located& at) {
  const size_t columns = count_code_points(at.line_text);
  size_t first = 0;  // column of the line that is printed first, from 0
  size_t shown = columns;
  if (columns > kMaxColumns) {
    first = at.column - 1 > kColumnsBefore ? at.column - 1 - kColumnsBefore : 0;
    first = std::min(first, columns - kMaxColumns);
    shown = kMaxColumns;
  }
  const std::string_view left_cut = first > 0 ? kCut : "";
  const std::string_view right_cut = first + shown < columns ? kCut : "";
  const size_t caret = std::min(at.column - 1, columns);
  const size_t end = std::min(at.end_column - 1, first + shown);
  std::string underline = "^";
  if (end > caret + 1) underline.append(end - caret - 1, '~');
  const std::string& note = at.error->note;
  return fmt::format("{}:{}:{}: error: {}\n{}{}{}\n{}{}{}{}\n", file_name, at.line, at.column, at.error->message, left_cut,
                     printable(at.line_text, first, shown), right_cut, std::string(left_cut.size() + caret - first, ' '), underline,
                     note.empty() ? "" : " ", note);
}

// Edits (insert, delete, replace, swap of neighbours) that turn one name into the other; `limit` if there are at least as many.
size_t edit_distance(std::string_view from, std::string_view to, size_t limit) {
  std::vector<size_t> before_last(to.size() + 1);
  std::vector<size_t> last(to.size() + 1);
  std::vector<size_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= from.size(); ++i) {
    std::swap(before_last, last);
    std::swap(last, row);
    row[0] = i;
    for (size_t j = 1; j <= to.size(); ++j) {
      const size_t replaced = last[j - 1] + (from[i - 1] == to[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
      const bool is_swap = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
      if (is_swap) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    // A swap goes back by two rows, for one edit.
    if (*std::min_element(row.begin(), row.end()) > limit) return limit;
  }
  return std::min(row[to.size()], limit);
}

}  // namespace

Diagnostics::Diagnostics(std::string file_name, std::string text) : file_name_(std::move(file_name)), text_(std::move(text)) {}

void Diagnostics::error(SourceRange range, std::string message, std::string note) {
  errors_.push_back({range, std::move(message), std::move(note)});
}

std::string Diagnostics::render() const {
  std::vector<const Diagnostic*> errors = ordered(errors_);
  const size_t printed = std::min<size_t>(errors.size(), kMaxPrinted);
  const size_t rest = errors.size() - printed;
  errors.resize(printed);
  std::string result;
  for (const Located& at : located(errors, text_)) result += render_one(file_name_, at);
  if (rest > 0) result += fmt::format("{}: {} more {}\n", file_name_, rest, rest == 1 ? "error" : "errors");
  return result;
}

std::string Diagnostics::render_json() const {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const Located& at : located(ordered(errors_), text_)) {
    array.push_back({{"file", file_name_},
                     {"line", at.line},
                     {"column", at.column},
                     {"end_column", at.end_column},
                     {"message", at.error->message},
                     {"note", at.error->note}});
  }
  // A file name may hold any bytes.
  return array.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  size_t nearest_distance = name.size() / 3 + 1;
  std::string_view nearest;
  for (const std::string& candidate : candidates) {
    const size_t difference = std::max(name.size(), candidate.size()) - std::min(name.size(), candidate.size());
    if (difference >= nearest_distance) continue;
    const size_t distance = edit_distance(name, candidate, nearest_distance);
    if (distance >= nearest_distance) continue;
    nearest_distance = distance;
    nearest = candidate;
  }
  return std::string(nearest);
}

}  // namespace attune::dsl
