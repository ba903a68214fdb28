#!/usr/bin/env python3
"""Attune against PyTorch on the CPU, f32, forward and backward: softmax against scaled_dot_product_attention, sigmoid against the better of eager and
torch.compile (which needs g++).

  make release && python3 -m pip install -r bench/requirements.txt
  python3 bench/cpu_attention.py [--quick] [--readme]

The contenders run the same problem by turns, so that they see the same machine; a figure is the median of the repeats. Inputs are random. PyTorch's tensors are
[batch, heads, len, dim], which suits it best, Attune's [batch, len, heads, dim]. PyTorch's forward pass is the better of one that will be differentiated
and one that will not. FLOP: 4 b h q k d forward, half of it when causal; 2.5 times that backward. Writes bench/results/cpu-DATE-CPU.json and prints the tables;
--readme puts them into README.md.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import time

import torch
import torch._dynamo
import torch._inductor.config

torch._inductor.config.force_disable_caches = True  # generated code holds the number of threads

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH, HEADS = 1, 8


class Attune:
    """The benchmark program, one run a line."""

    def __init__(self, binary, weights, seq, dim, causal, threads):
        command = [binary, "--weights", weights, "--batch", BATCH, "--heads", HEADS, "--seq", seq, "--dim", dim, "--threads", threads]
        command += ["--causal"] if causal else []
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        times = json.loads(self.process.stdout.readline())
        return times["forward_ms"], times["backward_ms"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def sdpa(q, k, v, causal):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def sigmoid(q, k, v, causal):
    score = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) - math.log(k.shape[-2])
    weights = torch.sigmoid(score)
    return (weights.tril() if causal else weights) @ v


class Torch:
    def __init__(self, function, seq, dim, causal):
        self.function, self.causal = function, causal
        parts = [torch.randn(BATCH, HEADS, seq, dim) for _ in range(4)]
        self.q, self.k, self.v = (part.requires_grad_() for part in parts[:3])
        self.dout = parts[3]
        self.run()

    def run(self):
        start = time.perf_counter()
        with torch.no_grad():
            self.function(self.q, self.k, self.v, self.causal)
        plain = time.perf_counter()
        out = self.function(self.q, self.k, self.v, self.causal)
        middle = time.perf_counter()
        torch.autograd.grad(out, (self.q, self.k, self.v), self.dout)
        end = time.perf_counter()
        return min(plain - start, middle - plain) * 1e3, (end - middle) * 1e3


def measure(binary, weights, seq, dim, causal, threads, seconds):
    torch.set_num_threads(threads)
    torch._dynamo.reset()  # else it falls back to eager after eight shapes
    functions = {"sdpa": sdpa} if weights == "softmax" else {"eager": sigmoid, "compile": torch.compile(sigmoid, dynamic=False)}
    contenders = {"attune": Attune(binary, weights, seq, dim, causal, threads)}
    contenders.update({name: Torch(function, seq, dim, causal) for name, function in functions.items()})
    times = {name: [] for name in contenders}
    start = time.perf_counter()
    while len(times["attune"]) < 5 or (time.perf_counter() - start < seconds and len(times["attune"]) < 60):
        for name, contender in contenders.items():
            time.sleep(0.02)  # the worker threads of the one before stop spinning
            times[name].append(contender.run())
    contenders["attune"].close()
    medians = {name: [statistics.median(t[i] for t in values) for i in (0, 1)] for name, values in times.items()}
    flop = 4 * BATCH * HEADS * seq * seq * dim * (0.5 if causal else 1)
    best = [min(medians[name][i] for name in functions) for i in (0, 1)]
    rates = [flop * factor / medians["attune"][i] / 1e6 / threads for i, factor in ((0, 1), (1, 2.5))]
    return {"weights": weights, "seq": seq, "dim": dim, "causal": causal, "threads": threads, "repeats": len(times["attune"]), "median_ms": medians,
            "forward_ratio": best[0] / medians["attune"][0], "backward_ratio": best[1] / medians["attune"][1],
            "forward_gflops_per_core": rates[0], "backward_gflops_per_core": rates[1]}


def row_of(point):
    return point["weights"], "causal" if point["causal"] else "full", point["dim"], point["threads"]


def line(point):
    forward, backward = point["median_ms"]["attune"]
    return (f"{' '.join(str(part) for part in row_of(point))} S {point['seq']}: forward {forward:.2f} ms, {point['forward_gflops_per_core']:.1f} GFLOP/s a core, "
            f"{point['forward_ratio']:.2f} x PyTorch; backward {backward:.2f} ms, {point['backward_gflops_per_core']:.1f}, {point['backward_ratio']:.2f} x")


def table(points, direction):
    lengths = sorted({point["seq"] for point in points})
    cells = {(row_of(point), point["seq"]): f"{point[direction + '_gflops_per_core']:.0f} ({point[direction + '_ratio']:.2f}x)" for point in points}
    lines = [f"| {direction} | mask | head_dim | threads | " + " | ".join(f"S = {length}" for length in lengths) + " |", "|---|---|---|---|" + "---|" * len(lengths)]
    for row in dict.fromkeys(row_of(point) for point in points):
        lines.append(f"| {' | '.join(str(part) for part in row)} | " + " | ".join(cells[row, length] for length in lengths) + " |")
    return "\n".join(lines)


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def write_readme(text):
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split("<!-- cpu-speed -->\n", 1)
    _, after = rest.split("<!-- /cpu-speed -->", 1)
    readme.write_text(before + "<!-- cpu-speed -->\n" + text + "\n<!-- /cpu-speed -->" + after)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "build/release/attune_cpu_bench")
    parser.add_argument("--quick", action="store_true", help="S of 512 and 2048 only")
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each point (default 2)")
    parser.add_argument("--weights", default="softmax,sigmoid")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    points = []
    for weights in arguments.weights.split(","):
        for causal in (False, True):
            for dim in (64, 128):
                for threads in sorted({1, cores}):
                    for seq in (512, 2048) if arguments.quick else (512, 1024, 2048, 4096):
                        points.append(measure(arguments.binary, weights, seq, dim, causal, threads, arguments.seconds))
                        print(line(points[-1]), flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    date = datetime.date.today().isoformat()
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    about = {"date": date, "commit": commit, "cpu": cpu_name(), "cores": cores, "torch": torch.__version__, "batch": BATCH, "heads": HEADS, "points": points}
    name = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    (results / f"cpu-{date}-{name}.json").write_text(json.dumps(about, indent=1) + "\n")
    text = (f"{cpu_name()}, {cores} cores; PyTorch {torch.__version__}; commit {commit}, {date}. Batch {BATCH}, {HEADS} heads, f32. A cell is GFLOP/s a core of Attune, "
            f"and in brackets PyTorch's time divided by Attune's; medians of runs by turns.\n\n{table(points, 'forward')}\n\n{table(points, 'backward')}")
    print("\n" + text)
    if arguments.readme:
        write_readme(text)


if __name__ == "__main__":
    main()
