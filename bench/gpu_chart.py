#!/usr/bin/env python3
"""Draws the suite `main` of bench/gpu_attention.py as an SVG, and puts its tables into README.md.

  python3 bench/gpu_chart.py [RESULTS.json] [--svg docs/img/gpu-forward.svg] [--accuracy fast] [--readme]

RESULTS.json: by default the newest bench/results/gpu-*.json that holds the suite.
"""
import argparse
import html
import json
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- gpu-speed -->\n", "<!-- /gpu-speed -->"
PANEL_W, PANEL_H, GAP, LEFT, TOP = 440, 230, 56, 52, 74


def load(path):
    """The suite main of a file, or of the newest file that has one."""
    files = [path] if path else sorted((ROOT / "bench" / "results").glob("gpu-*.json"), reverse=True)
    for file in files:
        suites = json.loads(file.read_text())["suites"]
        if suites.get("main", {}).get("points"):
            return suites["main"]
    sys.exit(f"no suite 'main' in {path or 'bench/results/gpu-*.json'}")


def panels(suite):
    """{(head_dim, causal): {seq: {contender: row, or None if it failed}}}, in order."""
    result = {}
    for point in sorted(suite["points"], key=lambda p: (p["head_dim"], p["causal"], p["seq"])):
        rows = {row["contender"]: row if row["status"] == "ok" else None for row in point["rows"]}
        result.setdefault((point["head_dim"], point["causal"]), {})[point["seq"]] = rows
    return result


def length_name(seq):
    return f"{seq // 1024}k" if seq % 1024 == 0 else str(seq)


def about_line(about):
    return f"{about['gpu']}, driver {about['driver']}, PyTorch {about['torch']}, commit {about['commit']}, {about['date']}"


def svg(suite, accuracy):
    series = [("cuDNN", "cuDNN softmax", "#8b949e"), ("FA2", "FlashAttention-2 softmax", "#c9d1d9"),
              (f"Attune softmax {accuracy}", "Attune softmax", "#1f6feb"), (f"Attune sigmoid {accuracy}", "Attune sigmoid", "#e8590c")]
    groups = panels(suite)
    rates = [row["tflops"] for lengths in groups.values() for rows in lengths.values() for name, row in rows.items() if row and name in [s[0] for s in series]]
    top = math.ceil(max(rates) / 100) * 100
    lines = max(1, math.ceil(len(groups) / 2))
    width, height = 2 * (LEFT + PANEL_W) + 32, TOP + lines * (PANEL_H + GAP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="{LEFT}" y="24" font-size="16" font-weight="bold" fill="#1f2328">Attention forward, {suite["about"]["dtype"]}, TFLOP/s sustained, by sequence length</text>']
    for i, (_, label, color) in enumerate(series):
        x = LEFT + i * 190
        out.append(f'<rect x="{x}" y="38" width="12" height="12" fill="{color}"/><text x="{x + 18}" y="48" fill="#1f2328">{label}</text>')
    for i, ((dim, causal), lengths) in enumerate(groups.items()):
        x0, y0 = LEFT + (i % 2) * (PANEL_W + LEFT), TOP + (i // 2) * (PANEL_H + GAP)
        plot_top, plot_h = y0 + 22, PANEL_H - 22
        out.append(f'<text x="{x0}" y="{y0 + 10}" font-weight="bold" fill="#1f2328">head_dim {dim}, {"causal" if causal else "full"}</text>')
        for value in range(0, top + 1, 100 if top <= 500 else 200):
            y = plot_top + plot_h * (1 - value / top)
            out.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x0 + PANEL_W}" y2="{y:.1f}" stroke="#d0d7de" stroke-width="{1.5 if value == 0 else 0.7}"/>')
            out.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#57606a">{value}</text>')
        step = PANEL_W / len(lengths)
        bar = step * 0.82 / len(series)
        for j, (seq, rows) in enumerate(lengths.items()):
            for n, (name, label, color) in enumerate(series):
                if not rows.get(name):
                    continue
                rate = rows[name]["tflops"]
                h = plot_h * rate / top
                x = x0 + j * step + step * 0.09 + n * bar
                out.append(f'<rect x="{x:.1f}" y="{plot_top + plot_h - h:.1f}" width="{bar - 1:.1f}" height="{h:.1f}" fill="{color}"><title>{label}, S {seq}: {rate:.0f}</title></rect>')
            out.append(f'<text x="{x0 + (j + 0.5) * step:.1f}" y="{plot_top + plot_h + 16}" text-anchor="middle" fill="#57606a">{length_name(seq)}</text>')
    out.append(f'<text x="{LEFT}" y="{height - 10}" font-size="11" fill="#57606a">batch x seqlen = 16384, heads = 2048 / head_dim; {html.escape(about_line(suite["about"]))}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def tables(suite):
    text = [f"{about_line(suite['about'])}. Forward, {suite['about']['dtype']}, batch x seqlen = 16384, heads = 2048 / head_dim; sustained ([method](docs/benchmarks.md)). "
            "A cell is TFLOP/s, and in brackets cuDNN's time (softmax) divided by that of the row."]
    for (dim, causal), lengths in panels(suite).items():
        names = list(dict.fromkeys(name for rows in lengths.values() for name in rows))
        text.append(f"\n| head_dim {dim}, {'causal' if causal else 'full'} | " + " | ".join(f"S = {length_name(seq)}" for seq in lengths) + " | mean |")
        text.append("|---|" + "---|" * (len(lengths) + 1))
        for name in names:
            cells, ratios = [], []
            for rows in lengths.values():
                row = rows.get(name)
                ratio = row and row.get("ratio")
                ratios += [ratio] if ratio else []
                cells.append("-" if row is None else f"{row['tflops']:.0f}" + (f" ({ratio:.2f}x)" if ratio and name != "cuDNN" else ""))
            mean = geometric_mean(ratios)
            text.append(f"| {name} | " + " | ".join(cells) + f" | {'' if mean is None or name == 'cuDNN' else f'{mean:.2f}x'} |")
    return "\n".join(text)


def write_readme(text):
    """Between the markers; the first time as a section of its own before the CPU's."""
    readme = ROOT / "README.md"
    content = readme.read_text()
    if BEGIN not in content:
        place = "## Speed on the CPU\n"
        if place not in content:
            sys.exit(f"README.md: expected {BEGIN.strip()} or the heading '{place.strip()}'")
        content = content.replace(place, f"## Speed on the GPU\n{BEGIN}{END}\n\n{place}", 1)
    before, rest = content.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    readme.write_text(before + BEGIN + text + "\n" + END + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=pathlib.Path)
    parser.add_argument("--svg", type=pathlib.Path, default=ROOT / "docs" / "img" / "gpu-forward.svg", help="file to write (default docs/img/gpu-forward.svg)")
    parser.add_argument("--accuracy", default="fast", choices=("fast", "high"), help="of Attune's bars (default fast)")
    parser.add_argument("--readme", action="store_true", help="put chart and tables into README.md")
    arguments = parser.parse_args()
    suite = load(arguments.results)
    arguments.svg.parent.mkdir(parents=True, exist_ok=True)
    arguments.svg.write_text(svg(suite, arguments.accuracy))
    text = tables(suite)
    print(text)
    if arguments.readme:
        file = arguments.svg.resolve()
        picture = f"![TFLOP/s by sequence length]({file.relative_to(ROOT)})\n\n" if file.is_relative_to(ROOT) else ""
        write_readme(picture + text)


if __name__ == "__main__":
    main()
