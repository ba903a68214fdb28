#include "cli/mask_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <vector>

namespace attune::cli {
namespace {

// Plot and page in SVG units.
constexpr double kPlotSide = 640;
constexpr double kPlotMinSide = 48;  // of a mask with few rows or columns
constexpr double kLeft = 76, kTop = 92, kRight = 28, kBottom = 164;
constexpr double kMinWidth = 560;  // holds the legend
constexpr int kMaxTicks = 8;
constexpr int64_t kMaxCells = 512;  // cells a side
constexpr int kShades = 4;          // of cells with some kept pairs

struct ClassStyle {
  TileClass value;
  const char *name, *meaning, *fill;
};
// Told apart by lightness as well as by hue.
constexpr std::array<ClassStyle, 3> kClasses = {{
    {TileClass::kSkipped, "skipped", "never computed", "#eceff1"},
    {TileClass::kPartial, "partial", "computed with the mask", "#ffd98a"},
    {TileClass::kFull, "full", "computed without mask code", "#6fa8dc"},
}};
constexpr const char* kKeptFill = "#8a4b00";
constexpr double kKeptOpacity = 0.75;
constexpr const char* kInk = "#1c2329";

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
double percent(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '&') {
      result += "&amp;";
    } else {
      result += c;
    }
  }
  return result;
}

struct Counts {
  std::array<int64_t, 3> tiles{};  // by class
  int64_t all_tiles = 0, kept = 0, pairs = 0;
};

Counts count(const MaskTiles& mask) {
  Counts counts;
  for (TileClass value : mask.classes) ++counts.tiles[static_cast<size_t>(value)];
  counts.all_tiles = static_cast<int64_t>(mask.classes.size());
  counts.kept = std::count_if(mask.kept.begin(), mask.kept.end(), [](uint8_t kept) { return kept != 0; });
  counts.pairs = static_cast<int64_t>(mask.kept.size());
  return counts;
}

// A grid of small numbers; 0 is not drawn.
struct Grid {
  int64_t rows = 0, columns = 0;
  std::vector<uint8_t> values;
};

// One path in units of cells with a rectangle for each run of `value` in a row.
std::string runs_path(const Grid& grid, uint8_t value) {
  std::string path;
  for (int64_t row = 0; row < grid.rows; ++row) {
    const uint8_t* cells = grid.values.data() + row * grid.columns;
    for (int64_t begin = 0; begin < grid.columns;) {
      if (cells[begin] != value) {
        ++begin;
        continue;
      }
      int64_t end = begin;
      while (end < grid.columns && cells[end] == value) ++end;
      fmt::format_to(std::back_inserter(path), "M{} {}h{}v1h-{}z", begin, row, end - begin, end - begin);
      begin = end;
    }
  }
  return path;
}

Grid class_grid(const MaskTiles& mask, TileClass value) {
  Grid grid{ceil_div(mask.q_len, mask.block_q), ceil_div(mask.k_len, mask.block_k), {}};
  grid.values.reserve(mask.classes.size());
  for (TileClass tile : mask.classes) grid.values.push_back(tile == value);
  return grid;
}

// Cells of cell_q x cell_k pairs: 0 if none is kept, kShades if all are, between by their share. Pairs of full tiles are left out, so that
// those tiles show their own colour.
Grid kept_grid(const MaskTiles& mask, int64_t cell_q, int64_t cell_k) {
  Grid grid{ceil_div(mask.q_len, cell_q), ceil_div(mask.k_len, cell_k), {}};
  std::vector<int64_t> kept(static_cast<size_t>(grid.rows * grid.columns));
  const int64_t tile_columns = ceil_div(mask.k_len, mask.block_k);
  for (int64_t i = 0; i < mask.q_len; ++i) {
    for (int64_t j = 0; j < mask.k_len; ++j) {
      bool full = mask.classes[static_cast<size_t>((i / mask.block_q) * tile_columns + j / mask.block_k)] == TileClass::kFull;
      bool shown = !full && mask.kept[static_cast<size_t>(i * mask.k_len + j)] != 0;
      kept[static_cast<size_t>((i / cell_q) * grid.columns + j / cell_k)] += shown;
    }
  }
  for (int64_t row = 0; row < grid.rows; ++row) {
    for (int64_t column = 0; column < grid.columns; ++column) {
      int64_t area = std::min(cell_q, mask.q_len - row * cell_q) * std::min(cell_k, mask.k_len - column * cell_k);
      int64_t shade = ceil_div(kept[static_cast<size_t>(row * grid.columns + column)] * (kShades - 1), area);
      bool all = kept[static_cast<size_t>(row * grid.columns + column)] == area;
      grid.values.push_back(static_cast<uint8_t>(all ? kShades : std::min<int64_t>(shade, kShades - 1)));
    }
  }
  return grid;
}

struct Plot {
  double width = 0, height = 0;
};

Plot plot_size(const MaskTiles& mask) {
  double longest = static_cast<double>(std::max({mask.q_len, mask.k_len, int64_t{1}}));
  auto side = [&](int64_t length) { return std::max(kPlotMinSide, kPlotSide * static_cast<double>(length) / longest); };
  return {side(mask.k_len), side(mask.q_len)};
}

// Cells may reach over the edge of the plot; the clip path cuts them.
std::string kept_layer(const MaskTiles& mask, const Plot& plot, int64_t max_cells) {
  int64_t cell_q = std::max<int64_t>(ceil_div(mask.q_len, max_cells), 1);
  int64_t cell_k = std::max<int64_t>(ceil_div(mask.k_len, max_cells), 1);
  Grid grid = kept_grid(mask, cell_q, cell_k);
  double scale_x = plot.width * static_cast<double>(cell_k) / static_cast<double>(std::max<int64_t>(mask.k_len, 1));
  double scale_y = plot.height * static_cast<double>(cell_q) / static_cast<double>(std::max<int64_t>(mask.q_len, 1));
  std::string layer = fmt::format("<g transform=\"scale({:.6g} {:.6g})\" fill=\"{}\">\n", scale_x, scale_y, kKeptFill);
  for (int shade = 1; shade <= kShades; ++shade) {
    std::string path = runs_path(grid, static_cast<uint8_t>(shade));
    if (!path.empty()) layer += fmt::format("<path opacity=\"{:.2f}\" d=\"{}\"/>\n", kKeptOpacity * shade / kShades, path);
  }
  return layer + "</g>\n";
}

std::string class_layer(const MaskTiles& mask, const Plot& plot) {
  double scale_x = plot.width * static_cast<double>(mask.block_k) / static_cast<double>(std::max<int64_t>(mask.k_len, 1));
  double scale_y = plot.height * static_cast<double>(mask.block_q) / static_cast<double>(std::max<int64_t>(mask.q_len, 1));
  std::string layer = fmt::format("<g transform=\"scale({:.6g} {:.6g})\">\n", scale_x, scale_y);
  for (const ClassStyle& style : kClasses) {
    std::string path = runs_path(class_grid(mask, style.value), 1);
    if (!path.empty()) layer += fmt::format("<path fill=\"{}\" d=\"{}\"/>\n", style.fill, path);
  }
  return layer + "</g>\n";
}

std::string tile_lines(const MaskTiles& mask, const Plot& plot) {
  std::string path;
  for (int64_t j = mask.block_k; j < mask.k_len; j += mask.block_k) {
    fmt::format_to(std::back_inserter(path), "M{:.2f} 0v{:.2f}", plot.width * static_cast<double>(j) / static_cast<double>(mask.k_len),
                   plot.height);
  }
  for (int64_t i = mask.block_q; i < mask.q_len; i += mask.block_q) {
    fmt::format_to(std::back_inserter(path), "M0 {:.2f}h{:.2f}", plot.height * static_cast<double>(i) / static_cast<double>(mask.q_len),
                   plot.width);
  }
  return path.empty() ? "" : fmt::format("<path stroke=\"#ffffff\" stroke-width=\"0.75\" fill=\"none\" d=\"{}\"/>\n", path);
}

// 1, 2 or 5 times a power of ten, or a power of two where the length is one: at most kMaxTicks steps.
int64_t tick_step(int64_t length) {
  if (length > 0 && (length & (length - 1)) == 0) return std::max<int64_t>(length / kMaxTicks, 1);
  for (int64_t power = 1;; power *= 10) {
    for (int64_t step : {power, 2 * power, 5 * power}) {
      if (length <= step * kMaxTicks) return step;
    }
  }
}

std::string ticks(const MaskTiles& mask, const Plot& plot) {
  std::string lines, labels;
  int64_t step = tick_step(mask.k_len);
  if (plot.width < kPlotSide / 4) step = std::max<int64_t>(mask.k_len, 1);
  for (int64_t j = 0; j <= mask.k_len; j += step) {
    double x = plot.width * static_cast<double>(j) / static_cast<double>(std::max<int64_t>(mask.k_len, 1));
    fmt::format_to(std::back_inserter(lines), "M{:.2f} 0v-5", x);
    fmt::format_to(std::back_inserter(labels), "<text x=\"{:.2f}\" y=\"-9\" text-anchor=\"middle\">{}</text>\n", x, j);
  }
  step = tick_step(mask.q_len);
  if (plot.height < kPlotSide / 4) step = std::max<int64_t>(mask.q_len, 1);
  for (int64_t i = 0; i <= mask.q_len; i += step) {
    double y = plot.height * static_cast<double>(i) / static_cast<double>(std::max<int64_t>(mask.q_len, 1));
    fmt::format_to(std::back_inserter(lines), "M0 {:.2f}h-5", y);
    fmt::format_to(std::back_inserter(labels), "<text x=\"-9\" y=\"{:.2f}\" text-anchor=\"end\" dominant-baseline=\"middle\">{}</text>\n",
                   y, i);
  }
  std::string result = fmt::format("<path stroke=\"{}\" fill=\"none\" d=\"{}\"/>\n<g font-size=\"11\">\n{}</g>\n", kInk, lines, labels);
  result += fmt::format("<text x=\"{:.2f}\" y=\"-27\" text-anchor=\"middle\">k_idx</text>\n", plot.width / 2);
  result += fmt::format("<text transform=\"translate(-54 {:.2f}) rotate(-90)\" text-anchor=\"middle\">q_idx</text>\n", plot.height / 2);
  return result;
}

std::string legend(const MaskTiles& mask, double y) {
  Counts counts = count(mask);
  std::string result = fmt::format("<g transform=\"translate({} {:.2f})\">\n", kLeft, y);
  int line = 0;
  auto entry = [&](const char* fill, double opacity, const std::string& text) {
    fmt::format_to(std::back_inserter(result),
                   "<rect x=\"0\" y=\"{}\" width=\"14\" height=\"14\" fill=\"{}\" fill-opacity=\"{}\" stroke=\"{}\" stroke-width=\"0.75\"/>"
                   "<text x=\"22\" y=\"{}\">{}</text>\n",
                   line * 22, fill, opacity, kInk, line * 22 + 12, escaped(text));
    ++line;
  };
  for (const ClassStyle& style : kClasses) {
    int64_t tiles = counts.tiles[static_cast<size_t>(style.value)];
    entry(style.fill, 1,
          fmt::format("{}: {} of {} tiles ({:.1f}%), {}", style.name, tiles, counts.all_tiles, percent(tiles, counts.all_tiles),
                      style.meaning));
  }
  entry(kKeptFill, kKeptOpacity,
        fmt::format("kept pairs (drawn in partial tiles): {} of {} in all ({:.1f}%)", counts.kept, counts.pairs,
                    percent(counts.kept, counts.pairs)));
  return result + "</g>\n";
}

}  // namespace

std::string mask_picture(const std::string& program, const Shape& shape, const MaskTiles& mask) {
  Plot plot = plot_size(mask);
  double width = std::max(kLeft + plot.width + kRight, kMinWidth);
  double height = kTop + plot.height + kBottom;
  std::string title = escaped(fmt::format("mask of {}", program));
  std::string start = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\" role=\"img\" "
      "font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"{2}\">\n<title>{3}</title>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
      "<text x=\"{4}\" y=\"26\" font-size=\"17\" font-weight=\"600\">{3}</text>\n"
      "<text x=\"{4}\" y=\"46\" font-size=\"12\">q_len {5}, k_len {6}, heads {7}, batch {8}; tiles of {9} x {10} pairs</text>\n",
      width, height, kInk, title, kLeft, mask.q_len, mask.k_len, shape.heads, shape.batch, mask.block_q, mask.block_k);
  start += fmt::format(
      "<clipPath id=\"plot\"><rect width=\"{0:.2f}\" height=\"{1:.2f}\"/></clipPath>\n"
      "<g transform=\"translate({2} {3})\">\n<g clip-path=\"url(#plot)\" shape-rendering=\"crispEdges\">\n",
      plot.width, plot.height, kLeft, kTop);
  start += class_layer(mask, plot);
  std::string end = tile_lines(mask, plot) + "</g>\n" +
                    fmt::format("<rect width=\"{:.2f}\" height=\"{:.2f}\" fill=\"none\" stroke=\"{}\"/>\n", plot.width, plot.height, kInk) +
                    ticks(mask, plot) + "</g>\n" + legend(mask, kTop + plot.height + 34) + "</svg>\n";

  // A mask without long runs needs coarser cells.
  std::string kept;
  for (int64_t cells = kMaxCells; cells >= 32; cells /= 2) {
    kept = kept_layer(mask, plot, cells);
    if (start.size() + kept.size() + end.size() < kMaxPictureBytes) break;
  }
  return start + kept + end;
}

std::string mask_summary(const MaskTiles& mask) {
  Counts counts = count(mask);
  std::string result;
  for (const ClassStyle& style : kClasses) {
    int64_t tiles = counts.tiles[static_cast<size_t>(style.value)];
    fmt::format_to(std::back_inserter(result), "{}{} {} ({:.1f}%)", result.empty() ? "" : ", ", style.name, tiles,
                   percent(tiles, counts.all_tiles));
  }
  fmt::format_to(std::back_inserter(result), " of {} tiles; {} of {} pairs kept ({:.1f}%)", counts.all_tiles, counts.kept, counts.pairs,
                 percent(counts.kept, counts.pairs));
  return result;
}

}  // namespace attune::cli
