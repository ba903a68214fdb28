#!/usr/bin/env python3
"""Attune against PyTorch on a GPU, sustained: the suites main, dims, variants, small (forward), backward, gradients and latency of docs/benchmarks.md.

  python3 bench/gpu_attention.py main dims [--accuracy fast,high] [--flex] [--seconds 0.4] [--quick]

Every contender of a point runs in the same process by turns: `seconds` of the same call back to back, then one pair of events around another such span; the order
is random, twice. Data are normal and random. Before that each contender is checked: the output is filled with NaN, then one head, drawn at random, is compared
with float64. A point of Attune's whose relative error is above 3.5e-3, or that fails, is marked BAD and makes the exit code 1; 3 means that the GPU was lost.
FLOP: 2 (head_dim + v_dim) for each pair and head, backward 2.5 times that; causal masks count half of all pairs, other masks the pairs that they keep. GB/s: q, k, v
and out once a call.
Writes $OUT/gpu-DATE-GPU.json ($OUT: bench/results by default), after every point, and prints a table of each suite. A machine without a GPU says "skipped".
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import attune_ctypes
import gpu_problems
from gpu_problems import (ALIBI_SOFT_CAP, CAP, DOCUMENT, WINDOW, AttuneBackwardContender, AttuneContender, Contender, Device, Problem, causal_mask, dense_bias_program,
                          example, flex_contender, plain_contenders, sdpa, torch_backends, torch_backward_contenders, torch_contenders)

try:
    import torch
except ModuleNotFoundError:
    torch = None

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITES = ("main", "dims", "variants", "small", "backward", "gradients", "latency")
ROUNDS = 2  # spans of a contender and point
HEAD_SIZE = 2048      # heads * head_dim of the main suite
TOKENS = 16384        # batch * seqlen


# ---- suites ------------------------------------------------------------------------------------------------------------------------------------------------

class GpuLost(RuntimeError):
    pass


class Bench:
    def __init__(self, arguments, device):
        self.arguments, self.device = arguments, device
        self.library = attune_ctypes.Library(arguments.library)
        self.accuracies = arguments.accuracy.split(",")
        self.dry = arguments.dry_run
        self.bad = 0
        self.about = {"date": datetime.date.today().isoformat(), "gpu": device.name(), "driver": device.nvml.driver, "torch": torch.__version__, "cuda": torch.version.cuda,
                      "cudnn": torch.backends.cudnn.version() if device.kind == "cuda" else None, "attune": self.library.version(), "commit": commit(),
                      "dtype": arguments.dtype, "seconds": arguments.seconds, "seed": arguments.seed}
        slug = re.sub(r"[^a-z0-9]+", "-", device.name().lower()).strip("-")
        folder = pathlib.Path(tempfile.mkdtemp(prefix="attune-dry-run-") if self.dry else os.environ.get("OUT") or ROOT / "bench" / "results")
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"gpu-{self.about['date']}-{slug}.json"

    def problem(self, *shape, **more):
        if self.dry:
            batch, seq, heads, *dims = shape
            shape = (1, min(seq, 256) if batch > 1 else max(64, seq // 64), 2, *dims)
            more = {key: 1 if key == "kv_heads" else value for key, value in more.items()}
        return Problem(self.device, self.arguments.dtype, *shape, seed=random.getrandbits(32), **more)

    def backward_problem(self, *shape):
        problem = self.problem(*shape)
        problem.dout = torch.randn(problem.batch, problem.seq, problem.heads, problem.v_dim, device=problem.q.device).to(problem.q.dtype)
        return problem

    def save(self, suite, content):
        """Into the file, beside the suites that other processes wrote."""
        known = json.loads(self.file.read_text()) if self.file.exists() else {"suites": {}}
        known["suites"][suite] = {"about": self.about, **content}
        temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known, indent=1) + "\n")
        temporary.replace(self.file)

    def measure(self, title, contenders, **labels):
        """One point: checks, then times by turns, in random orders: a chip that works hard is slower for whoever comes next, and one that has waited faster."""
        ready = [contender for contender in contenders if contender.check()]
        try:
            self.device.sync()
            last = None
            for _ in range(ROUNDS):
                order = random.sample(ready, len(ready))
                if len(order) > 1 and order[0] is last:
                    order.append(order.pop(0))
                for contender in order:
                    contender.time(self.arguments.seconds)
                last = order[-1] if order else None
            rows = [contender.finish() for contender in contenders]
        except Exception as exception:
            failures = [f"{c.row['contender']}: {c.row['message']}" for c in contenders if c.row["status"] != "ok"]
            raise GpuLost("; ".join([f"{title}: {exception}", *failures])) from exception
        base = next((row["ms"] for row in rows if row["contender"].startswith("cuDNN") and row["status"] == "ok"), None)
        for row in rows:
            row["ratio"] = base / row["ms"] if base and row["ms"] else None
        self.bad += sum(row["status"] == "BAD" for row in rows)
        print(f"{title}: " + "; ".join(f"{row['contender']} {cell(row, 'tflops', '.0f')}" for row in rows), flush=True)
        for row in rows:
            if row["status"] != "ok":
                print(f"  {row['status']} {row['contender']}: {row['message']}", flush=True)
        return {**labels, "rows": rows}

    def sweep(self, suite, cases):
        """`cases` yields functions that give a point; what they allocate is freed after each."""
        points = []
        for case in cases:
            points.append(case())
            self.save(suite, {"points": points})
            if self.device.kind == "cuda":
                torch.cuda.empty_cache()
        return points


def cell(row, key, form):
    return format(row[key], form) if row.get(key) is not None else "-"


def main_suite(bench):
    lengths = (2048, 8192) if bench.arguments.quick or bench.dry else (512, 1024, 2048, 4096, 8192, 16384)

    def point(dim, causal, seq):
        problem = bench.problem(TOKENS // seq, seq, HEAD_SIZE // dim, dim)
        contenders = torch_contenders(problem, causal) + plain_contenders(bench, problem, causal)
        return bench.measure(f"d{dim} {mask_name(causal)} {seq}", contenders, head_dim=dim, causal=causal, seq=seq)

    points = bench.sweep("main", (lambda d=d, c=c, s=s: point(d, c, s) for d in (64, 128) for c in (False, True) for s in lengths))
    print("\n" + grid(points, lambda p: f"d{p['head_dim']} {mask_name(p['causal'])}", lambda p: p["seq"]))


def backward_suite(bench):
    lengths = (2048, 8192) if bench.arguments.quick or bench.dry else (512, 1024, 2048, 4096, 8192, 16384)

    def point(dim, causal, seq):
        problem = bench.backward_problem(TOKENS // seq, seq, HEAD_SIZE // dim, dim)
        contenders = torch_backward_contenders(problem, causal)
        contenders += [AttuneBackwardContender(f"Attune {weights} {accuracy}", problem, bench.library, weights, causal, accuracy)
                       for weights in ("softmax", "sigmoid") for accuracy in bench.accuracies]
        contenders += [AttuneBackwardContender(f"Attune {weights} {bench.accuracies[0]} deterministic", problem, bench.library, weights, causal,
                                               bench.accuracies[0], deterministic=True) for weights in ("softmax", "sigmoid")]
        return bench.measure(f"backward d{dim} {mask_name(causal)} {seq}", contenders, head_dim=dim, causal=causal, seq=seq)

    points = bench.sweep("backward", (lambda d=d, c=c, s=s: point(d, c, s) for d in (64, 128) for c in (False, True) for s in lengths))
    print("\n" + grid(points, lambda p: f"d{p['head_dim']} {mask_name(p['causal'])}", lambda p: p["seq"]))


ALIBI_GAIN = """attention alibi_gain(gain: {gain}f32, slopes: {slopes}f32[heads]) {{
  score   = gain * qk * rsqrt(head_dim) - slopes[h] * (q_pos - k_pos)
  mask    = k_pos <= q_pos
  weights = softmax(score)
}}
"""


def gradients_suite(bench):
    """Backward: what gradients of parameters cost, each program with and without them; and head dims other than 64 and 128."""
    accuracy = bench.accuracies[0]

    def plain(problem, causal, weights=("softmax",)):
        return torch_backward_contenders(problem, causal) + [AttuneBackwardContender(f"Attune {kind} {accuracy}", problem, bench.library, kind, causal, accuracy) for kind in weights]

    def trained(dim):
        problem = bench.backward_problem(4, 4096, HEAD_SIZE // dim, dim)
        device, heads, seq = problem.q.device, problem.heads, problem.seq
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=device, dtype=torch.float32) / heads)
        dense = torch.randn(heads, seq, seq, device=device, dtype=problem.q.dtype)
        of_alibi = {"kept_as": "alibi", "gain": 0.75, "bias": lambda h, q_pos, k_pos: -slopes[h].double() * (q_pos - k_pos)}
        of_dense = {"kept_as": "dense", "bias": lambda h, q_pos, k_pos: dense[h, q_pos[:, 0]].double()}
        contenders = plain(problem, True)

        def add(title, text, params, trained, score):
            contenders.append(AttuneBackwardContender(f"Attune {title}", problem, bench.library, "softmax", True, accuracy, text=text, params=params, trained=trained, **score))

        for title, names in (("ALiBi", ()), ("ALiBi, gradient of a scalar", ("gain",)), ("ALiBi, gradient of a head's number", ("slopes",))):
            text = ALIBI_GAIN.format(**{name: "grad " if name in names else "" for name in ("gain", "slopes")})
            add(title, text, {"gain": 0.75, "slopes": slopes}, names, of_alibi)
        text = dense_bias_program(problem.dtype)
        add("dense bias", text, {"bias": dense}, (), of_dense)
        add("dense bias, its gradient", text.replace("(bias: ", "(bias: grad "), {"bias": dense}, ("bias",), of_dense)
        return bench.measure(f"backward d{dim} 4k causal, gradients of parameters", contenders, head_dim=dim, causal=True, seq=4096, shape=f"d{dim}")

    def other(dim, v_dim, heads, causal):
        problem = bench.backward_problem(4, 4096, heads, dim, v_dim)
        name = dims_name(dim, v_dim)
        return bench.measure(f"backward {name} {mask_name(causal)} 4096", plain(problem, causal, ("softmax", "sigmoid")), shape=name, head_dim=dim, causal=causal, seq=4096)

    shapes = [(96, 96, 20), (192, 192, 10), (192, 128, 10), (256, 256, 8)]
    cases = [lambda d=d: trained(d) for d in (64, 128)] + [lambda s=s, c=c: other(*s, c) for s in shapes for c in (False, True)]
    points = bench.sweep("gradients", iter(cases))
    print("\n" + grid(points, lambda p: mask_name(p["causal"]), lambda p: p["shape"]))


def dims_suite(bench):
    # head_dim, v_dim, heads, kv_heads
    shapes = [(96, 96, 20, 20), (192, 192, 10, 10), (192, 128, 10, 10), (256, 256, 8, 8), (128, 128, 16, 2)]

    def name(dim, v_dim, heads, kv_heads):
        return dims_name(dim, v_dim) + (f" GQA {heads}/{kv_heads}" if kv_heads != heads else "")

    def point(shape, causal):
        dim, v_dim, heads, kv_heads = shape
        problem = bench.problem(4, 4096, heads, dim, v_dim=v_dim, kv_heads=None if kv_heads == heads else kv_heads)
        contenders = torch_contenders(problem, causal) + plain_contenders(bench, problem, causal)
        return bench.measure(f"{name(*shape)} {mask_name(causal)}", contenders, shape=name(*shape), causal=causal, seq=4096)

    points = bench.sweep("dims", (lambda s=s, c=c: point(s, c) for s in shapes for c in (False, True)))
    print("\n" + grid(points, lambda p: mask_name(p["causal"]), lambda p: p["shape"]))


def variants_suite(bench):
    flex = bench.arguments.flex

    def variant(problem, name, text, reference, pairs, **more):
        return [AttuneContender(f"Attune {name} {accuracy}", problem, bench.library, text, reference, pairs, accuracy, **more) for accuracy in bench.accuracies]

    def window(dim):
        problem = bench.problem(1, 16384, HEAD_SIZE // dim, dim)
        size = min(WINDOW, problem.seq // 2)

        def mask(q_pos, k_pos):
            return (k_pos <= q_pos) & (q_pos - k_pos < size)

        def reference():
            return problem.reference("window", "softmax", mask)

        pairs = problem.seq * size - size * (size - 1) / 2
        contenders = torch_contenders(problem, True, ["cuDNN"]) + plain_contenders(bench, problem, True, ["softmax"], "causal ")
        contenders += variant(problem, "window", example("window"), reference, pairs, constants={"window": size})
        if flex:
            contenders.append(flex_contender("Flex window", problem, reference, pairs, lambda b, h, q, k: (q >= k) & (q - k < size)))
        return bench.measure(f"d{dim} 16k causal, window of {size}", contenders, variant="window", head_dim=dim, seq=16384, plain="causal softmax")

    def documents(dim):
        packed = bench.problem(1, 16384, HEAD_SIZE // dim, dim)
        length = min(DOCUMENT, packed.seq // 4)
        count = packed.seq // length
        doc = (torch.arange(packed.seq, device=packed.q.device) // length).to(torch.int32)[None]
        batched = bench.problem(count, length, HEAD_SIZE // dim, dim)
        if not bench.dry:
            batched.q, batched.k, batched.v = (tensor.view(count, length, *tensor.shape[2:]) for tensor in (packed.q, packed.k, packed.v))

        def reference():
            return packed.reference("documents", "softmax", lambda q_pos, k_pos: (k_pos <= q_pos) & (q_pos // length == k_pos // length))

        pairs = count * length * length / 2
        contenders = torch_contenders(batched, True, ["cuDNN"]) + plain_contenders(bench, batched, True, ["softmax"], "batch ")
        contenders += variant(packed, "documents", example("documents"), reference, pairs, params={"doc": doc})
        contenders += variant(packed, "packed", example("causal"), reference, pairs, offsets=list(range(0, packed.seq + 1, length)))
        if flex:
            ids = doc[0]
            contenders.append(flex_contender("Flex documents", packed, reference, pairs, lambda b, h, q, k: (q >= k) & (ids[q] == ids[k])))
        return bench.measure(f"d{dim} 16k, {count} documents of {length}, causal", contenders, variant="documents", head_dim=dim, seq=16384, plain="batch softmax")

    def alibi_soft_cap(dim):
        problem = bench.problem(2, 8192, HEAD_SIZE // dim, dim)
        slopes = 2.0 ** (-8.0 * torch.arange(1, problem.heads + 1, device=problem.q.device, dtype=torch.float32) / problem.heads)

        def reference():
            def score(s, q_pos, k_pos, h):
                return CAP * torch.tanh(s / CAP) - slopes[h].double() * (q_pos - k_pos)
            return problem.reference("alibi_soft_cap", "softmax", causal_mask, score)

        pairs = problem.all_pairs(True)
        contenders = torch_contenders(problem, True, ["cuDNN"]) + plain_contenders(bench, problem, True, ["softmax"], "causal ")
        contenders += variant(problem, "ALiBi + soft cap", ALIBI_SOFT_CAP, reference, pairs, params={"slopes": slopes, "cap": CAP})
        if flex:
            contenders.append(flex_contender("Flex ALiBi + soft cap", problem, reference, pairs, lambda b, h, q, k: q >= k,
                                             lambda s, b, h, q, k: CAP * torch.tanh(s / CAP) - slopes[h] * (q - k)))
        return bench.measure(f"d{dim} 8k causal, ALiBi + soft cap", contenders, variant="alibi_soft_cap", head_dim=dim, seq=8192, plain="causal softmax")

    def dense_bias(dim, shared):
        """A bias for each pair: of each head, which is more bytes than all else together, or shared by all heads. SDPA gets it with the causal mask in it."""
        problem = bench.problem(4, 4096, HEAD_SIZE // dim, dim)
        device, dtype = problem.q.device, problem.q.dtype
        bias = torch.randn(1 if shared else problem.heads, problem.seq, problem.seq, device=device, dtype=dtype)
        mask = bias.masked_fill(torch.ones(problem.seq, problem.seq, dtype=torch.bool, device=device).triu(1), -math.inf)[None]

        def reference():
            return problem.reference("dense_bias", "softmax", causal_mask, lambda s, q_pos, k_pos, h: s + bias[0 if shared else h, q_pos[:, 0]].double())

        pairs, backends = problem.all_pairs(True), torch_backends(problem)
        contenders = torch_contenders(problem, True, ["cuDNN"]) + plain_contenders(bench, problem, True, ["softmax"], "causal ")
        contenders += [Contender(f"{name} bias", problem, sdpa(problem, False, mask), reference, pairs, backends[name]) for name in ("efficient", "cuDNN")]
        contenders += variant(problem, "bias", dense_bias_program(problem.dtype), reference, pairs, params={"bias": bias})
        if flex:
            shown = bias[0] if shared else bias
            contenders.append(flex_contender("Flex bias", problem, reference, pairs, lambda b, h, q, k: q >= k,
                                             (lambda s, b, h, q, k: s + shown[q, k]) if shared else (lambda s, b, h, q, k: s + shown[h, q, k])))
        of = "all heads" if shared else "each head"
        return bench.measure(f"d{dim} 4k causal, a dense bias of {of}", contenders, variant=f"dense bias of {of}", head_dim=dim, seq=4096, plain="causal softmax")

    variants = [lambda f=f, d=d: f(d) for f in (window, documents, alibi_soft_cap) for d in (64, 128)]
    variants += [lambda s=s, d=d: dense_bias(d, s) for s in (False, True) for d in (64, 128)]
    points = bench.sweep("variants", iter(variants))
    print("\n" + variants_table(points))


def small_suite(bench):
    """Problems of few tiles: decode with grouped heads, and short sequences of one batch. All back ends of SDPA: the best of them is what counts."""
    decode = [(batch, 32, 8, 1, k_len, False) for batch in (1, 16) for k_len in (4096, 16384, 65536)]
    short = [(1, 16, 16, seq, seq, causal) for seq in (512, 1024) for causal in (False, True)]
    if bench.arguments.quick or bench.dry:
        decode, short = decode[:1], short[:1]

    def point(dim, batch, heads, kv_heads, q_len, k_len, causal):
        problem = bench.problem(batch, k_len, heads, dim, kv_heads=kv_heads, q_len=None if q_len == k_len else q_len)
        contenders = torch_contenders(problem, causal, ("cuDNN", "FA2", "efficient", "math")) + plain_contenders(bench, problem, causal)
        title = f"d{dim} {mask_name(causal)} batch {batch}, heads {heads}/{kv_heads}, q_len {q_len}, k_len {k_len}"
        return bench.measure(title, contenders, problem=title, head_dim=dim, batch=batch, heads=heads, kv_heads=kv_heads, q_len=q_len, k_len=k_len, causal=causal)

    points = bench.sweep("small", (lambda d=d, s=s: point(d, *s) for d in (64, 128) for s in decode + short))
    print("\n" + small_table(points))


def latency_suite(bench):
    names = sorted(path.stem for path in (ROOT / "examples").glob("*.attn"))
    dtypes, dims = ("bf16", "f16"), (64, 128)
    if bench.arguments.quick or bench.dry:
        names, dtypes, dims = ["alibi", "causal", "flash_sigmoid"], ("bf16",), (64,)
    compiles = []
    for name in names:
        for dtype in dtypes:
            for dim in dims:
                compiles.append({"program": name, "dtype": dtype, "head_dim": dim, **compile_times(bench, name, dtype, dim)})
                if compiles[-1]["status"] == "BAD":
                    bench.bad += 1
                    print(f"  BAD {name} {dtype} d{dim}: {compiles[-1]['message']}", flush=True)
                bench.save("latency", {"compiles": compiles})
    calls = host_times(bench)
    bench.save("latency", {"compiles": compiles, "host_us": calls})
    good = [row for row in compiles if "cold_ms" in row]
    print(f"\n{'latency, ms':44s} {'median':>8s} {'p95':>8s} {'worst':>8s}")
    if good:
        others = [ms for row in good for ms in row["other_lengths_ms"].values()]
        for title, values in ((f"cold: text to kernel, {len(good)} processes", [row["cold_ms"] for row in good]), ("  of it parsing and checking", [row["parse_ms"] for row in good]),
                              ("cold, tier 0: text to the quick kernel", [row["tier0_ms"] for row in good]), ("  until the tuned one is there", [row["tier0_tuned_ms"] for row in good]),
                              ("warm: kernel from disk, a new process", [row["warm_ms"] for row in good]), ("another length, same process", others)):
            print(f"{title:44s} {statistics.median(values):8.2f} {percentile(values, 95):8.2f} {max(values):8.2f}")
    print(f"kernels compiled by another length: {sum(row['new_files'] for row in good)}")
    for name, microseconds in calls.items():
        print(f"{'host time of a call, us: ' + name:44s} " + (f"{microseconds:8.2f}" if isinstance(microseconds, float) else microseconds))
    print(f"{sum(row['status'] != 'ok' for row in compiles)} of {len(compiles)} programs BAD")


def compile_times(bench, name, dtype, dim):
    """Cold, warm and tiered compilation of an example, each in a fresh process: what counts is attune_compile and attune_plan_make, not the CUDA context."""
    caches = [tempfile.mkdtemp(prefix="attune-cache-") for _ in range(2)]
    command = [sys.executable, ROOT / "bench" / "attune_ctypes.py", ROOT / "examples" / f"{name}.attn", "--library", bench.library.path, "--device", bench.device.kind,
               "--dtype", dtype, "--head-dim", dim, "--lengths", "4096,256,1000,1536,3000", "--accuracy", bench.accuracies[0]]
    times = []
    try:
        for cache, more in ((caches[0], []), (caches[0], []), (caches[1], ["--tiered"])):
            done = subprocess.run([str(word) for word in command + more], env={**os.environ, "ATTUNE_CACHE_DIR": cache}, capture_output=True, text=True, timeout=120)
            if done.returncode:
                return {"status": "BAD", "message": done.stderr.strip().split("\n")[-1][:300] or f"exit code {done.returncode}"}
            times.append(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"status": "BAD", "message": "not done after 120 s"}
    finally:
        for cache in caches:
            shutil.rmtree(cache, ignore_errors=True)
    cold, warm, tiered = times
    row = {"status": "ok", "message": "", "plan": cold["describe"], "parse_ms": cold["parse_ms"], "cold_ms": cold["parse_ms"] + cold["plan_ms"],
           "warm_ms": warm["parse_ms"] + warm["plan_ms"], "tier0_ms": tiered["parse_ms"] + tiered["plan_ms"], "tier0_tuned_ms": tiered["tuned_ms"],
           "other_lengths_ms": cold["other_lengths_ms"], "new_files": cold["new_files"]}
    if cold["new_files"] > 2:  # the kernels of small problems and of short sequences
        row.update(status="BAD", message=f"other sequence lengths compiled {cold['new_files']} kernels, expected at most 2")
    elif warm["new_files"] or warm["cached_files"] != cold["cached_files"] + cold["new_files"]:
        row.update(status="BAD", message="the second process compiled again")
    return row


def host_times(bench):
    """Host time of a call in us, of 500 calls that the GPU keeps up with; Attune's includes ctypes, SDPA's its dispatcher."""
    problem = bench.problem(1, 128, 2, 64)
    contenders = torch_contenders(problem, True) + plain_contenders(bench, problem, True)
    contenders.append(AttuneContender("Attune ALiBi + soft cap fast", problem, bench.library, ALIBI_SOFT_CAP, None, 1, "fast",
                                      params={"slopes": torch.zeros(problem.heads, device=problem.q.device)}))
    result = {}
    for contender in contenders:
        try:
            with torch.no_grad(), contender.context():
                contender.output()
                samples = []
                for _ in range(7):
                    bench.device.sync()
                    start = time.perf_counter()
                    for _ in range(500):
                        contender.call()
                    samples.append((time.perf_counter() - start) * 1e6 / 500)
            result[contender.name] = statistics.median(samples)
        except Exception as exception:
            result[contender.name] = str(exception).strip().split("\n")[0][:120]
            bench.bad += contender.ours
    return result


# ---- tables ------------------------------------------------------------------------------------------------------------------------------------------------

def mask_name(causal):
    return "causal" if causal else "full"


def dims_name(head_dim, v_dim):
    return f"d{head_dim}" + (f"/{v_dim}" if v_dim != head_dim else "")


def percentile(values, percent):
    values = sorted(values)
    return values[min(len(values) - 1, math.ceil(len(values) * percent / 100) - 1)]


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def grid(points, group, column):
    """A row for each group and contender: TFLOP/s by column, ratio to cuDNN's softmax (geometric mean), the worst error, the mean clock."""
    columns = list(dict.fromkeys(column(point) for point in points))
    width = max(6, *(len(str(name)) + 1 for name in columns))
    lines = [f"{'TFLOP/s, sustained':34s}" + "".join(f"{name:>{width}}" for name in columns) + "   x cuDNN    error   MHz"]
    rows = {}
    for point in points:
        for row in point["rows"]:
            rows.setdefault((group(point), row["contender"]), {})[column(point)] = row
    for (name, contender), cells in rows.items():
        ratios = [row["ratio"] for row in cells.values() if row.get("ratio")]
        errors = [row["error"] for row in cells.values() if row["error"] is not None]
        clocks = [row["clock_mhz"] for row in cells.values() if row.get("clock_mhz")]
        line = f"{name + ' ' + contender:34s}"
        for key in columns:
            row = cells.get(key, {"status": "-"})
            text = cell(row, "tflops", ".0f") if row["status"] == "ok" else row["status"]
            line += f"{text:>{width}}"
        line += f"{geometric_mean(ratios):10.3f}" if ratios else f"{'-':>10s}"
        lines.append(line + (f"{max(errors):9.1e}" if errors else f"{'-':>9s}") + (f"{statistics.mean(clocks):6.0f}" if clocks else f"{'-':>6s}"))
    return "\n".join(lines)


def variants_table(points):
    """`of plain`: TFLOP/s of a variant over those of Attune's plain softmax at the same accuracy."""
    lines = [f"{'sustained':52s} {'ms':>8s} {'TFLOP/s':>8s} {'of plain':>9s} {'x cuDNN':>8s} {'error':>8s} {'MHz':>6s}"]
    for point in points:
        plain = {row["accuracy"]: row.get("tflops") for row in point["rows"] if row["contender"].startswith(f"Attune {point['plain']}")}
        lines.append(f"d{point['head_dim']} S {point['seq']} {point['variant']}")
        for row in point["rows"]:
            base = plain.get(row.get("accuracy"))
            share = f"{row['tflops'] / base:.3f}" if base and row.get("tflops") else "-"
            mark = f" {row['status']}" if row["status"] != "ok" else ""
            lines.append(f"  {row['contender'] + mark:50s} {cell(row, 'ms', '.3f'):>8s} {cell(row, 'tflops', '.0f'):>8s} {share:>9s} {cell(row, 'ratio', '.3f'):>8s} "
                         f"{cell(row, 'error', '.1e'):>8s} {cell(row, 'clock_mhz', '.0f'):>6s}")
    return "\n".join(lines)


def small_table(points):
    """us and GB/s; `x best`: the time of SDPA's best back end over this one's."""
    lines = [f"{'sustained':52s} {'us':>8s} {'GB/s':>8s} {'TFLOP/s':>8s} {'x best':>8s} {'error':>8s}  plan"]
    for point in points:
        best = min((row["ms"] for row in point["rows"] if "plan" not in row and row["status"] == "ok" and row["ms"]), default=None)
        lines.append(point["problem"])
        for row in point["rows"]:
            mark = f" {row['status']}" if row["status"] != "ok" else ""
            us, ratio = (f"{row['ms'] * 1e3:.1f}", f"{best / row['ms']:.2f}" if best else "-") if row["ms"] else ("-", "-")
            lines.append(f"  {row['contender'] + mark:50s} {us:>8s} {cell(row, 'gb_per_s', '.0f'):>8s} {cell(row, 'tflops', '.1f'):>8s} {ratio:>8s} "
                         f"{cell(row, 'error', '.1e'):>8s}  {row.get('plan', '')}")
    return "\n".join(lines)


def commit():
    if os.environ.get("ATTUNE_COMMIT"):
        return os.environ["ATTUNE_COMMIT"]
    try:
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", choices=SUITES, metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--library", help="libattune.so (default: $ATTUNE_LIBRARY, else the one under $BUILD or build/release)")
    parser.add_argument("--accuracy", default="fast,high", help="of Attune's plans (default fast,high)")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f16"))
    parser.add_argument("--seconds", type=float, default=0.4, help="length of a span (default 0.4)")
    parser.add_argument("--flex", action="store_true", help="variants: time FlexAttention too, which compiles for seconds a point")
    parser.add_argument("--quick", action="store_true", help="fewer points of main and latency")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU, to check this script and the library")
    arguments = parser.parse_args()
    if torch is None:
        print("skipped: no PyTorch")
        return 0
    if not arguments.dry_run and not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return 0
    arguments.seed = random.getrandbits(32) if arguments.seed is None else arguments.seed
    random.seed(arguments.seed)
    if arguments.dry_run:
        gpu_problems.ERROR_LIMIT, arguments.seconds = 8e-3, 0.001
        print("dry run: tiny shapes on the CPU, one SDPA under the names of its back ends; the figures mean nothing")
    bench = Bench(arguments, Device("cpu" if arguments.dry_run else "cuda"))
    print(", ".join(f"{key} {value}" for key, value in bench.about.items()), flush=True)
    try:
        for suite in dict.fromkeys(arguments.suites):
            {"main": main_suite, "dims": dims_suite, "variants": variants_suite, "small": small_suite, "backward": backward_suite, "gradients": gradients_suite,
             "latency": latency_suite}[suite](bench)
    except GpuLost as error:
        print(f"BAD the GPU was lost, the rest was not run: {error}")
        return 3
    print(f"{bench.bad} BAD; {bench.file}")
    return 1 if bench.bad else 0


if __name__ == "__main__":
    sys.exit(main())
