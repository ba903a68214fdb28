// Located error messages. A Diagnostics collects every error of one source text; nothing in dsl/ or codegen/ throws for a user's mistake.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attune::dsl {

// Half-open byte range of the source text.
struct SourceRange {
  uint32_t begin = 0;
  uint32_t end = 0;
};

struct Diagnostic {
  SourceRange range;
  std::string message;  // lower-case, says what was expected and found: "expected f32, found bool"
  std::string note;     // printed behind the caret, may be empty: "did you mean 'k_idx'?"
};

class Diagnostics {
 public:
  Diagnostics(std::string file_name, std::string text);

  void error(SourceRange range, std::string message, std::string note = {});
  bool ok() const { return errors_.empty(); }
  const std::vector<Diagnostic>& errors() const { return errors_; }
  const std::string& file_name() const { return file_name_; }
  std::string_view text() const { return text_; }

  // All errors in the order of the text, each as
  //   flash.attn:3:22: error: unknown name 'k_idxx'
  //     mask    = q_idx >= k_idxx
  //                        ^~~~~~ did you mean 'k_idx'?
  // Columns count Unicode code points from 1; a tab is shown as one blank; a long line is cut around the caret; identical errors
  // are printed once, and after kMaxPrinted errors the rest are counted.
  std::string render() const;
  // The same as a JSON array of {file, line, column, end_column, message, note}.
  std::string render_json() const;

  static constexpr int kMaxPrinted = 50;

 private:
  std::string file_name_;
  std::string text_;
  std::vector<Diagnostic> errors_;
};

// The name of `candidates` nearest to `name` by edit distance (insert, delete, replace, swap of neighbours), or "" if none is within
// a third of its length. Ties go to the first.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace attune::dsl
