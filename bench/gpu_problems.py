"""What gpu_attention.py times: programs, the device with its clock, problems with their float64 references, and contenders: SDPA, FlexAttention and Attune."""
import contextlib
import ctypes
import math
import pathlib
import random
import re
import statistics
import threading
import time

import attune_ctypes

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ModuleNotFoundError:
    torch = None

ROOT = pathlib.Path(__file__).resolve().parent.parent
ERROR_LIMIT = 3.5e-3  # relative norm; bf16 rounding of P and O alone gives 2.0e-3 to 2.5e-3


# ---- programs ----------------------------------------------------------------------------------------------------------------------------------------------

def example(name):
    return (ROOT / "examples" / f"{name}.attn").read_text()


def without_mask(text):
    return re.sub(r"^\s*mask\s*=.*\n", "", text, flags=re.M)


def programs():
    return {
        ("softmax", False): example("softmax"), ("softmax", True): example("causal"),
        ("sigmoid", False): without_mask(example("flash_sigmoid")), ("sigmoid", True): example("flash_sigmoid"),
    }


ALIBI_SOFT_CAP = """attention alibi_soft_cap(cap: f32 = 50, slopes: grad f32[heads]) {
  score   = cap * tanh(qk * rsqrt(head_dim) / cap) - slopes[h] * (q_pos - k_pos)
  mask    = k_pos <= q_pos
  weights = softmax(score)
}
"""


def dense_bias_program(dtype):
    return f"""attention dense_bias(bias: {dtype}[heads, q_len, k_len]) {{
  score   = qk * rsqrt(head_dim) + bias[h, q_idx, k_idx]
  mask    = k_pos <= q_pos
  weights = softmax(score)
}}
"""


CAP, WINDOW, DOCUMENT = 50.0, 1024, 1024


# ---- device ------------------------------------------------------------------------------------------------------------------------------------------------

class Nvml:
    """SM clock and power of the GPU that torch uses, sampled by a thread; nothing where there is no NVML."""

    def __init__(self, device):
        self.handle, self.samples, self.driver = None, [], None
        if device != "cuda":
            return
        try:
            self.c = ctypes.CDLL("libnvidia-ml.so.1")
            handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
            if self.c.nvmlInit_v2():
                return
            if not self.c.nvmlSystemGetDriverVersion(text, 96):
                self.driver = text.value.decode()
            uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
            if self.c.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) and self.c.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
                return
        except (OSError, AttributeError):
            return
        self.handle = handle
        threading.Thread(target=self.sample, daemon=True).start()

    def sample(self):
        value = ctypes.c_uint()
        while True:
            sm = value.value if self.c.nvmlDeviceGetClockInfo(self.handle, 1, ctypes.byref(value)) == 0 else None  # 1: SM
            power = value.value / 1e3 if self.c.nvmlDeviceGetPowerUsage(self.handle, ctypes.byref(value)) == 0 else None
            self.samples.append((time.perf_counter(), sm, power))
            time.sleep(0.02)

    def between(self, start, end):
        """(clock in MHz, power in W): medians, None where there is no sample."""
        inside = [sample for sample in self.samples if start <= sample[0] <= end]
        columns = ([sample[i] for sample in inside if sample[i] is not None] for i in (1, 2))
        return [statistics.median(column) if column else None for column in columns]


class Device:
    def __init__(self, kind):
        self.kind = kind
        if kind == "cuda":
            torch.zeros(1, device="cuda")
        self.nvml = Nvml(kind)

    def name(self):
        return torch.cuda.get_device_name(0) if self.kind == "cuda" else "cpu"

    def sync(self):
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def stream(self):
        return torch.cuda.current_stream().cuda_stream if self.kind == "cuda" else 0

    def span_ms(self, call, count):
        """Device time of a call, of `count` back to back; with the host's times of that span."""
        if self.kind == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(count):
                call()
            last.record()
            self.sync()
            end = time.perf_counter()
            total = first.elapsed_time(last)
            return total / count, end - total / 1e3, end
        start = time.perf_counter()
        for _ in range(count):
            call()
        end = time.perf_counter()
        return (end - start) * 1e3 / count, start, end

    def sustained(self, call, seconds):
        """{ms, clock_mhz, power_w} of a call, after `seconds` of the same."""
        call()
        self.sync()
        estimate, _, _ = self.span_ms(call, 3)
        count = max(3, round(seconds * 1e3 / max(estimate, 1e-3)))
        for _ in range(count):  # not waited for: the measured span follows without a gap
            call()
        ms, start, end = self.span_ms(call, count)
        clock, power = self.nvml.between(start, end)
        return {"ms": ms, "clock_mhz": clock, "power_w": power}


# ---- problems and contenders -------------------------------------------------------------------------------------------------------------------------------

class Problem:
    """Random q [batch, q_len, heads, dim], k and v [batch, seq, kv_heads, dim], and what a head of the answer is. q_len: seq by default."""

    def __init__(self, device, dtype, batch, seq, heads, head_dim, v_dim=None, kv_heads=None, q_len=None, seed=0):
        self.batch, self.seq, self.heads, self.kv_heads = batch, seq, heads, kv_heads or heads
        self.q_len = q_len or seq
        self.head_dim, self.v_dim, self.dtype, self.device = head_dim, v_dim or head_dim, dtype, device
        generator = torch.Generator(device.kind).manual_seed(seed)

        def normal(length, count, dim):
            return torch.randn(batch, length, count, dim, device=device.kind, generator=generator).to(getattr(torch, {"bf16": "bfloat16", "f16": "float16"}[dtype]))

        self.q, self.k, self.v = normal(self.q_len, self.heads, head_dim), normal(seq, self.kv_heads, head_dim), normal(seq, self.kv_heads, self.v_dim)
        self.sample = (random.randrange(batch), random.randrange(heads))  # the head that is checked
        self.references = {}

    def shape(self):
        return attune_ctypes.Shape(self.batch, self.heads, self.kv_heads, self.q_len, self.seq, self.head_dim, self.v_dim)

    def gflop(self, pairs):
        return 2 * (self.head_dim + self.v_dim) * self.batch * self.heads * pairs / 1e9

    def gbyte(self):
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.q, self.k, self.v)) / 1e9 + self.batch * self.q_len * self.heads * self.v_dim * 2 / 1e9

    def all_pairs(self, causal):
        return self.q_len * self.seq * (0.5 if causal else 1)

    def reference(self, key, weights, mask=None, score=None):
        """The sampled head in float64 [q_len, v_dim], in blocks of queries; kept under `key`."""
        if key not in self.references:
            b, h = self.sample
            group = h // (self.heads // self.kv_heads)
            q, k, v = self.q[b, :, h].double(), self.k[b, :, group].double(), self.v[b, :, group].double()
            k_pos, blocks = torch.arange(self.seq, device=q.device)[None], []
            bias = torch.tensor(-math.log(self.seq), dtype=torch.float32).double().item()
            for first in range(0, self.q_len, 2048):
                q_pos = torch.arange(first, min(first + 2048, self.q_len), device=q.device)[:, None]
                s = q[first:first + 2048] @ k.T / math.sqrt(self.head_dim)
                s = score(s, q_pos, k_pos, h) if score else s
                keep = mask(q_pos, k_pos) if mask else None
                if weights == "softmax":
                    p = torch.softmax(s if keep is None else s.masked_fill(~keep, -math.inf), -1)
                else:
                    p = torch.sigmoid(s + bias)
                    p = p if keep is None else p * keep
                blocks.append(p @ v)
            self.references[key] = torch.cat(blocks)
        return self.references[key]

    def gradients(self, weights, causal, kept_as="", gain=1.0, bias=None):
        """(dq, dk, dv) of the sampled head for `dout` in float64, in blocks of queries; one query head for each key head.

        `gain` multiplies scores, bias(head, q_pos, k_pos) is added to them; what results is kept under `kept_as`."""
        key = ("gradients", weights, causal, kept_as)
        if key not in self.references:
            b, h = self.sample
            q, k, v, dout = (tensor[b, :, h].double() for tensor in (self.q, self.k, self.v, self.dout))
            scale, log_n = gain / math.sqrt(self.head_dim), torch.tensor(-math.log(self.seq), dtype=torch.float32).double().item()
            k_pos, dq, dk, dv = torch.arange(self.seq, device=q.device)[None], [], torch.zeros_like(k), torch.zeros_like(v)
            for first in range(0, self.seq, 2048):
                rows = slice(first, first + 2048)
                s, dp = q[rows] @ k.T * scale, dout[rows] @ v.T
                q_pos = torch.arange(self.seq, device=q.device)[rows, None]
                if bias:
                    s = s + bias(h, q_pos, k_pos)
                if causal:
                    s = s.masked_fill(~causal_mask(q_pos, k_pos), -math.inf)
                if weights == "softmax":
                    p = torch.softmax(s, -1)
                    ds = p * (dp - (p * dp).sum(-1, keepdim=True))
                else:
                    p = torch.sigmoid(s + log_n)
                    ds = p * (1 - p) * dp
                dq.append(ds @ k * scale)
                dk += ds.T @ q[rows] * scale
                dv += p.T @ dout[rows]
            self.references[key] = (torch.cat(dq), dk, dv)
        return self.references[key]

    def plain_reference(self, weights, causal):
        return self.reference((weights, causal), weights, causal_mask if causal else None)


def causal_mask(q_pos, k_pos):
    return k_pos <= q_pos


class Contender:
    """call() -> output [batch, q_len, heads, v_dim] of `problem`; `reference()` gives its sampled head."""

    ours = False

    def __init__(self, name, problem, call, reference, pairs, backend=None):
        self.name, self.problem, self.call, self.reference, self.backend = name, problem, call, reference, backend
        self.gflop = problem.gflop(pairs)
        self.row = {"contender": name, "status": "ok", "message": "", "error": None, "ms": None}
        self.timings = []

    def context(self):
        return sdpa_kernel(self.backend) if self.backend is not None else contextlib.nullcontext()

    def output(self):
        return self.call()

    def check(self):
        """Fills in error and status; True if the contender may be timed."""
        try:
            with torch.no_grad(), self.context():
                out = self.output()
                self.problem.device.sync()
            b, h = self.problem.sample
            want = self.reference()
            got = out.reshape(self.problem.batch, self.problem.q_len, self.problem.heads, self.problem.v_dim)
            error = ((got[b, :, h].double() - want).norm() / want.norm()).item()
            self.row["error"] = error if math.isfinite(error) else None
            if not bool(torch.isfinite(got).all()):
                self.fail("NaN or infinity in the output")
            elif not error <= ERROR_LIMIT:
                self.fail(f"relative error {error:.2e}, limit {ERROR_LIMIT:.1e}")
        except Exception as exception:  # a contender that fails is a row with its message
            self.fail(str(exception).strip().split("\n")[0][:300])
            return False
        return True

    def fail(self, message):
        self.row.update(status="BAD" if self.ours else "n/a", message=message)

    def time(self, seconds):
        with torch.no_grad(), self.context():
            self.timings.append(self.problem.device.sustained(self.call, seconds))

    def finish(self):
        if self.timings:
            row, columns = self.row, {key: [timing[key] for timing in self.timings] for key in self.timings[0]}
            row["ms"] = statistics.mean(columns["ms"])
            row["tflops"] = self.gflop / row["ms"]
            row["gb_per_s"] = self.problem.gbyte() * 1e3 / row["ms"]
            row["each"] = self.timings
            for key in ("clock_mhz", "power_w"):
                values = [value for value in columns[key] if value is not None]
                row[key] = statistics.mean(values) if values else None
        return self.row


class AttuneContender(Contender):
    ours = True

    def __init__(self, name, problem, library, text, reference, pairs, accuracy, params=None, constants=None, offsets=None):
        super().__init__(name, problem, None, reference, pairs)
        self.make = lambda: self.bind(library, text, accuracy, params or {}, constants or {}, offsets)
        self.row["accuracy"] = accuracy

    def bind(self, library, text, accuracy, params, constants, offsets):
        p = self.problem
        shape, tensors = p.shape(), [p.q, p.k, p.v]
        self.out = torch.empty(p.batch, p.q_len, p.heads, p.v_dim, dtype=p.q.dtype, device=p.q.device)
        bound = [*tensors, self.out]
        if offsets:  # packed: one sequence after the other
            lengths = [b - a for a, b in zip(offsets, offsets[1:])]
            shape.batch, shape.q_len, shape.k_len = len(lengths), max(lengths), max(lengths)
            bound = [tensor.flatten(0, 1) for tensor in bound]
        plan = library.compile(text, **constants).plan(shape, p.dtype, p.device.kind, accuracy=accuracy, params=params, cu_q=offsets, cu_k=offsets)
        size = plan.workspace_size()
        workspace = torch.zeros(size, dtype=torch.uint8, device=p.q.device) if size else None
        self.row["plan"] = plan.describe()
        self.call = plan.bind(*bound, stream=p.device.stream(), workspace=workspace)

    def output(self):
        self.make()
        for _ in range(2):  # the second call sees what the first left in the workspace
            self.out.fill_(math.nan)
            self.call()
        self.problem.device.sync()
        self.first = self.out.clone()
        return self.out

    def finish(self):
        if self.timings and not torch.equal(self.first.view(torch.int16), self.out.view(torch.int16)):
            self.fail("not the same bits after the timed calls")
        return super().finish()


class BackwardContender(Contender):
    """call() -> (dq, dk, dv) of `problem` for its dout; the error is the worst of the three."""

    def __init__(self, name, problem, call, weights, causal, backend=None, **score):
        super().__init__(name, problem, call, lambda: problem.gradients(weights, causal, **score), problem.all_pairs(causal), backend)
        self.gflop *= 2.5

    def errors(self, got, want):
        b, h = self.problem.sample
        return [((tensor[b, :, h].double() - exact).norm() / exact.norm()).item() for tensor, exact in zip(got, want)]

    def check(self):
        try:
            with torch.no_grad(), self.context():
                got = self.output()
                self.problem.device.sync()
            errors = self.errors(got, self.reference())
            self.row["error"] = max(errors) if all(map(math.isfinite, errors)) else None
            if not all(bool(torch.isfinite(tensor).all()) for tensor in got):
                self.fail("NaN or infinity in a gradient")
            elif not max(errors) <= ERROR_LIMIT:
                self.fail("relative errors of dq, dk, dv " + ", ".join(f"{error:.2e}" for error in errors) + f", limit {ERROR_LIMIT:.1e}")
        except Exception as exception:
            self.fail(str(exception).strip().split("\n")[0][:300])
            return False
        return True


class AttuneBackwardContender(BackwardContender):
    """text, params, trained: a program of its own (default: the plain one), its parameters, and those of them that get a gradient."""

    ours = True

    def __init__(self, name, problem, library, weights, causal, accuracy, deterministic=False, text=None, params=None, trained=(), **score):
        super().__init__(name, problem, None, weights, causal, **score)
        self.make = lambda: self.bind(library, text or programs()[weights, causal], weights, accuracy, deterministic, params or {}, trained)
        self.row["accuracy"] = accuracy
        self.row["deterministic"] = deterministic

    def bind(self, library, text, weights, accuracy, deterministic, params, trained):
        p = self.problem
        plan = library.compile(text).plan(p.shape(), p.dtype, p.device.kind, accuracy=accuracy, params=params, backward=True, deterministic=deterministic)
        self.row["plan"] = plan.describe()
        softmax = weights == "softmax"
        out = torch.empty(p.batch, p.seq, p.heads, p.v_dim, dtype=p.q.dtype, device=p.q.device)
        lse = torch.empty(p.batch, p.heads, p.seq, dtype=torch.float32, device=p.q.device) if softmax else None
        plan.bind(p.q, p.k, p.v, out, lse, stream=p.device.stream())()
        size = plan.backward_workspace_size()
        workspace = torch.zeros(size, dtype=torch.uint8, device=p.q.device) if size else None
        self.row["workspace_bytes"] = size
        named = {name: torch.empty(getattr(params[name], "shape", ()), dtype=torch.float32, device=p.q.device) for name in trained}
        self.gradients = [*(torch.empty_like(tensor) for tensor in (p.q, p.k, p.v)), *named.values()]
        self.call = plan.bind_backward(p.q, p.k, p.v, out if softmax else None, lse, p.dout, *self.gradients[:3], gradients=named, stream=p.device.stream(),
                                       workspace=workspace)

    def output(self):
        self.make()
        for _ in range(2):  # the second call sees what the first left in the workspace
            for tensor in self.gradients:
                tensor.fill_(math.nan)
            self.call()
        return self.gradients

    def finish(self):
        if self.timings:
            self.problem.device.sync()
            error = max(self.errors(self.gradients, self.reference()))
            if not error <= ERROR_LIMIT:
                self.fail(f"relative error {error:.2e} after the timed calls")
        return super().finish()


def torch_backward_contenders(problem, causal, names=("cuDNN", "FA2")):
    backends = torch_backends(problem)
    return [BackwardContender(name, problem, sdpa_backward(problem, causal), "softmax", causal, backends[name]) for name in names]


def sdpa_backward(problem, causal):
    state = {}

    def call():
        if not state:
            with torch.enable_grad():
                state["inputs"] = [tensor.transpose(1, 2).detach().requires_grad_() for tensor in (problem.q, problem.k, problem.v)]
                state["out"] = torch.nn.functional.scaled_dot_product_attention(*state["inputs"], is_causal=causal)
        gradients = torch.autograd.grad(state["out"], state["inputs"], problem.dout.transpose(1, 2), retain_graph=True)
        return [tensor.transpose(1, 2) for tensor in gradients]

    return call


def sdpa(problem, causal, mask=None):
    gqa = {"enable_gqa": True} if problem.kv_heads != problem.heads else {}
    q, k, v = (tensor.transpose(1, 2) for tensor in (problem.q, problem.k, problem.v))

    def call():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, **gqa).transpose(1, 2)

    return call


def torch_backends(problem):
    backends = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FA2": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
    return {name: None for name in backends} if problem.device.kind == "cpu" else backends


def torch_contenders(problem, causal, names=("cuDNN", "FA2")):
    backends = torch_backends(problem)
    return [Contender(name, problem, sdpa(problem, causal), lambda: problem.plain_reference("softmax", causal), problem.all_pairs(causal), backends[name])
            for name in names]


def plain_contenders(bench, problem, causal, weights=("softmax", "sigmoid"), prefix=""):
    return [AttuneContender(f"Attune {prefix}{kind} {accuracy}", problem, bench.library, programs()[kind, causal],
                            lambda kind=kind: problem.plain_reference(kind, causal), problem.all_pairs(causal), accuracy)
            for kind in weights for accuracy in bench.accuracies]


def flex_contender(name, problem, reference, pairs, mask_mod, score_mod=None):
    """FlexAttention, compiled for this shape; its first call is in the row as first_call_s."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    torch._dynamo.reset()
    q, k, v = (tensor.transpose(1, 2) for tensor in (problem.q, problem.k, problem.v))
    compiled = torch.compile(flex_attention, dynamic=False)
    state = {}

    def call():
        if not state:
            start = time.perf_counter()
            state["mask"] = create_block_mask(mask_mod, None, None, problem.seq, problem.seq, device=problem.device.kind)
            compiled(q, k, v, score_mod=score_mod, block_mask=state["mask"])
            problem.device.sync()
            contender.row["first_call_s"] = time.perf_counter() - start
        return compiled(q, k, v, score_mod=score_mod, block_mask=state["mask"]).transpose(1, 2)

    contender = Contender(name, problem, call, reference, pairs)
    return contender
