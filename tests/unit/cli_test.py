"""The binary `attune` from outside: exit codes, exact messages, files, JSON, and numbers against references in plain Python."""
import json
import math
import os
import random
import re
import stat
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

BINARY = os.environ["ATTUNE_BINARY"]
VERSION = os.environ["ATTUNE_VERSION"]
SEED = 20261124

CAUSAL = """attention causal() {
  score = qk * rsqrt(head_dim)
  mask = k_pos <= q_pos
  weights = softmax(score)
}
"""
SIGMOID = """attention sigmoid_bias(bias: grad f32 = -log(k_len)) {
  score = qk * rsqrt(head_dim) + bias
  weights = sigmoid(score)
}
"""
ALIBI = """attention alibi(slopes: grad f32[heads], window: const i32 = 4, scale: f32 = 0.25, on: bool = true) {
  let distance = q_pos - k_pos
  score = qk * scale - slopes[h] * distance
  mask = on and distance >= 0 and distance < window
  weights = softmax(score)
}
"""
DOCUMENTS = """attention documents(doc: i32[batch, k_len], keep: u8[k_len]) {
  score = qk
  mask = doc[b, q_idx] == doc[b, k_idx] and keep[k_idx] == 1
  weights = softmax(score)
}
"""

DESCR = {"f": "<f4", "d": "<f8", "i": "<i4", "q": "<i8", "B": "|u1", "e": "<f2"}


class Array:
    """Values in C order with a shape; `code` is the struct letter of the file's type."""

    def __init__(self, shape, values, code="f"):
        self.shape, self.values, self.code = list(shape), list(values), code

    def __getitem__(self, index):
        offset = 0
        for size, i in zip(self.shape, index):
            offset = offset * size + i
        return self.values[offset]

    def add(self, index, value):
        offset = 0
        for size, i in zip(self.shape, index):
            offset = offset * size + i
        self.values[offset] += value


def zeros(shape):
    return Array(shape, [0.0] * math.prod(shape))


def npy_bytes(array, descr=None, fortran=False):
    shape = "(" + "".join(f"{size}, " for size in array.shape) + ")"
    header = f"{{'descr': '{descr or DESCR[array.code]}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    data = struct.pack(f"<{len(array.values)}{array.code}", *array.values)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def read_npy(path):
    with open(path, "rb") as file:
        data = file.read()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    length = struct.unpack("<H", data[8:10])[0]
    header = data[10 : 10 + length].decode()
    assert (10 + length) % 64 == 0
    descr, shape = re.fullmatch(r"\{'descr': '(.*)', 'fortran_order': False, 'shape': \((.*)\), \} *\n", header).groups()
    assert descr == "<f4", descr
    shape = [int(size) for size in shape.split(",") if size.strip()]
    values = struct.unpack(f"<{math.prod(shape)}f", data[10 + length :])
    return Array(shape, values)


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.random = random.Random(SEED)

    def path(self, name):
        return os.path.join(self.folder, name)

    def put(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return name

    def put_array(self, name, array, **header):
        self.put(name, npy_bytes(array, **header))
        return array

    def randoms(self, name, shape, scale=1.0, code="f"):
        values = [struct.unpack("<" + code, struct.pack("<" + code, self.random.gauss(0, scale)))[0] for _ in range(math.prod(shape))]
        return self.put_array(name, Array(shape, values, code))

    def attune(self, *arguments, **options):
        environment = {**os.environ, "ATTUNE_CACHE_DIR": CACHE.name}
        return subprocess.run([BINARY, *arguments], cwd=self.folder, capture_output=True, text=True, env=environment, timeout=300, **options)

    def fine(self, *arguments):
        result = self.attune(*arguments)
        self.assertEqual((result.returncode, result.stderr), (0, ""), result.stdout)
        return result.stdout

    def wrong(self, message, *arguments, code=2):
        """Exit code and the whole of standard error; nothing on standard output, no file left."""
        before = sorted(os.listdir(self.folder))
        result = self.attune(*arguments)
        self.assertEqual(result.stderr, message + "\n")
        self.assertEqual((result.returncode, result.stdout), (code, ""))
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def assert_close(self, got, want, tolerance, what):
        self.assertEqual(got.shape, want.shape, what)
        worst = max(range(len(want.values)), key=lambda i: abs(got.values[i] - want.values[i]), default=None)
        if worst is not None and not abs(got.values[worst] - want.values[worst]) <= tolerance:
            self.fail(f"{what} differs at {worst}: got {got.values[worst]}, want {want.values[worst]}, seed {SEED}")


# --- references in double ---


def forward_weights(q, k, b, h, i, group, score, keep, softmax):
    """Weights of a row and its lse."""
    scores = {}
    for j in range(k.shape[1]):
        if keep(b, h, i, j):
            qk = sum(q[b, i, h, d] * k[b, j, h // group, d] for d in range(q.shape[3]))
            scores[j] = score(qk, b, h, i, j)
    if not softmax:
        return {j: 1 / (1 + math.exp(-s)) for j, s in scores.items()}, None
    if not scores:
        return {}, -math.inf
    top = max(scores.values())
    total = sum(math.exp(s - top) for s in scores.values())
    return {j: math.exp(s - top) / total for j, s in scores.items()}, top + math.log(total)


def reference(q, k, v, score, keep, softmax, qk_factor, dout=None, param_grad=None):
    """out, lse and, with dout, dq, dk, dv. param_grad(b, h, i, j, ds) takes what flows into each score."""
    batch, q_len, heads, head_dim = q.shape
    group = heads // k.shape[2]
    v_dim = v.shape[3]
    result = {"o": zeros([batch, q_len, heads, v_dim]), "lse": zeros([batch, heads, q_len])}
    if dout:
        result.update(dq=zeros(q.shape), dk=zeros(k.shape), dv=zeros(v.shape))
    for b in range(batch):
        for h in range(heads):
            g = h // group
            for i in range(q_len):
                weights, lse = forward_weights(q, k, b, h, i, group, score, keep, softmax)
                result["lse"].add((b, h, i), lse or 0)
                for j, w in weights.items():
                    for d in range(v_dim):
                        result["o"].add((b, i, h, d), w * v[b, j, g, d])
                if not dout:
                    continue
                dp = {j: sum(dout[b, i, h, d] * v[b, j, g, d] for d in range(v_dim)) for j in weights}
                delta = sum(weights[j] * dp[j] for j in weights)
                for j, w in weights.items():
                    ds = w * (dp[j] - delta) if softmax else dp[j] * w * (1 - w)
                    if param_grad:
                        param_grad(b, h, i, j, ds)
                    for d in range(v_dim):
                        result["dv"].add((b, j, g, d), w * dout[b, i, h, d])
                    for d in range(head_dim):
                        result["dq"].add((b, i, h, d), ds * qk_factor * k[b, j, g, d])
                        result["dk"].add((b, j, g, d), ds * qk_factor * q[b, i, h, d])
    return result


class Commands(Case):
    def test_version(self):
        self.assertEqual(self.fine("--version"), f"attune {VERSION}\n")

    def test_help_of_each_command(self):
        text = self.fine("--help")
        for command in ("check", "fmt", "explain", "run", "doctor", "completion"):
            self.assertRegex(text, rf"(?m)^  {command}\s")
            own = self.fine(command, "--help")
            self.assertRegex(own, f"Examples:(\n.*)*attune {command}")
            self.assertIn(f"Usage: attune {command} ", own)
        self.assertIn("Exit codes: 0 fine, 1 the program is wrong, 2 the command or the environment is wrong.", text)
        run = self.fine("run", "--help")
        for option in "--q --k --v --out --lse --cu-q --cu-k --param --const --dout --dq --dk --dv --grad --dtype --device --accuracy --deterministic --threads --json".split():
            self.assertIn(option + " ", run)

    def test_wrong_commands(self):
        self.wrong("attune: error: expected a command\nrun 'attune --help' for the arguments")
        self.wrong("attune: error: unknown command 'chek' (did you mean 'check'?)\nrun 'attune --help' for the arguments", "chek", "p.attn")
        self.wrong("attune: error: unknown command '--verzion' (did you mean '--version'?)\nrun 'attune --help' for the arguments", "--verzion")
        self.wrong(
            "attune doctor: error: The following argument was not expected: --jsn (did you mean '--json'?)\nrun 'attune doctor --help' for the arguments",
            "doctor",
            "--jsn",
        )
        self.wrong("attune run: error: --q is required\nrun 'attune run --help' for the arguments", "run", "p.attn")

    def test_full_standard_output(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([BINARY, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stderr, "attune: error: cannot write to standard output: No space left on device\n")

    def test_doctor(self):
        text = self.fine("doctor")
        for line in ("attune", "llvm", "cpu", "cpu features", "driver", "nvrtc", "gpus", "cache"):
            self.assertRegex(text, rf"(?m)^{line}\s+\S")
        report = json.loads(self.fine("doctor", "--json"))
        self.assertEqual(report["attune_version"], VERSION)
        self.assertGreaterEqual(report["cores"], 1)
        self.assertIs(type(report["driver"]["found"]), bool)
        self.assertTrue(report["cache"]["usable"], report["cache"])
        self.assertTrue(report["cache"]["folder"].startswith(CACHE.name), report["cache"])

    def test_completion(self):
        for shell in ("bash", "zsh", "fish"):
            script = self.fine("completion", shell)
            for word in ("check", "explain", "--cu-q" if shell != "fish" else "-l cu-q", "bf16", "bounds", "npy", "attn"):
                self.assertIn(word, script)
        self.wrong("attune completion: error: expected bash, zsh or fish, found 'tcsh'", "completion", "tcsh")

    def test_bash_completion(self):
        self.put("completion.bash", self.fine("completion", "bash"))
        self.put("flash.attn", CAUSAL)
        self.put("q file.npy", "")
        self.put("notes.txt", "")
        os.mkdir(self.path("sub"))
        subprocess.run(["bash", "-n", self.path("completion.bash")], check=True)

        def complete(*words):
            """What Tab offers for the last word."""
            script = 'source completion.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _attune; printf "%s\\n" "${COMPREPLY[@]}"'
            result = subprocess.run(["bash", "-c", script, "bash", *words], cwd=self.folder, capture_output=True, text=True)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            return result.stdout.split("\n")[:-1]

        self.assertEqual(complete("attune", "ex"), ["explain"])
        self.assertEqual(complete("attune", "check", ""), ["flash.attn", "sub"])
        self.assertEqual(complete("attune", "run", "flash.attn", "--q", ""), ["q file.npy", "sub"])
        self.assertEqual(complete("attune", "run", "--dt"), ["--dtype"])
        self.assertEqual(complete("attune", "run", "--dtype", ""), ["f32", "f16", "bf16"])
        self.assertEqual(complete("attune", "run", "--dtype", "=", "b"), ["bf16"])
        self.assertEqual(complete("attune", "run", "--dtype", "="), ["f32", "f16", "bf16"])
        self.assertEqual(complete("attune", "run", "--param", "slopes", "=", "q"), ["q file.npy"])
        self.assertEqual(complete("attune", "run", "--threads", ""), [""])
        self.assertEqual(complete("attune", "explain", "--emit", "r"), ["rates", "resources"])
        self.assertEqual(complete("attune", "completion", ""), ["bash", "zsh", "fish"])
        self.assertEqual(complete("attune", "doctor", "--"), ["--help", "--json"])


class Check(Case):
    BAD = "attention bad() {\n  score = qq\n  weights = softmax(score)\n}\n"

    def test_fine(self):
        self.put("a.attn", CAUSAL)
        self.put("b.attn", SIGMOID)
        self.assertEqual(self.fine("check", "a.attn", "b.attn"), "a.attn: ok, attention causal\nb.attn: ok, attention sigmoid_bias\n")
        self.assertEqual(json.loads(self.fine("check", "a.attn", "--json")), [])

    def test_all_files_are_looked_at(self):
        self.put("bad.attn", self.BAD)
        self.put("good.attn", CAUSAL)
        result = self.attune("check", "bad.attn", "good.attn", "bad.attn")
        self.assertEqual((result.returncode, result.stdout), (1, "good.attn: ok, attention causal\n"))
        self.assertEqual(result.stderr.count("bad.attn:2:11: error: unknown name 'qq'"), 2)
        result = self.attune("check", "bad.attn", "missing.attn", "good.attn")
        self.assertEqual((result.returncode, result.stdout), (2, "good.attn: ok, attention causal\n"))
        self.assertIn("bad.attn:2:11: error: ", result.stderr)
        self.assertIn("attune check: error: cannot open 'missing.attn': No such file or directory\n", result.stderr)

    def test_json(self):
        self.put("bad.attn", self.BAD)
        result = self.attune("check", "bad.attn", "bad.attn", "--json")
        self.assertEqual((result.returncode, result.stderr), (1, ""))
        diagnostics = json.loads(result.stdout)
        self.assertEqual(len(diagnostics), 2)
        self.assertEqual([diagnostics[0][key] for key in ("file", "line", "column", "message")], ["bad.attn", 2, 11, "unknown name 'qq'"])

    def test_constants(self):
        self.put("a.attn", ALIBI)
        self.fine("check", "a.attn", "--const", "window=8")
        start = "attune check: error: --const"
        self.wrong(start + ": 'alibi' has no parameter 'windo' (did you mean 'window'?)", "check", "a.attn", "--const", "windo=8")
        self.wrong(start + " scale: 'scale: f32 = 0.25' is not const: give it with --param", "check", "a.attn", "--const", "scale=8")
        for value in ("1.5", "99999999999", "inf"):
            self.wrong(
                start + " window: expected an integer of 32 bits for 'window: const i32 = 4'", "check", "a.attn", "--const", "window=" + value
            )
        self.wrong(start + " window: expected a number for 'window: const i32 = 4'", "check", "a.attn", "--const", "window=true")
        self.wrong(start + " window: expected a number, true or false, found 'eight'", "check", "a.attn", "--const", "window=eight")

    def test_folders_and_huge_files(self):
        self.wrong(f"attune check: error: cannot read '{self.folder}': Is a directory", "check", self.folder)
        self.wrong("attune check: error: '/dev/zero' has over 16777216 bytes: that is no program", "check", "/dev/zero")


class Fmt(Case):
    def canonical(self, text):
        self.put("p.attn", text)
        return self.fine("fmt", "p.attn")

    def test_is_a_fixed_point(self):
        for text in (CAUSAL, SIGMOID, ALIBI, DOCUMENTS):
            once = self.canonical(text)
            self.assertTrue(once.endswith("}\n"))
            self.assertEqual(self.canonical(once), once)
            self.assertEqual(self.fine("fmt", "--check", "p.attn"), "")

    def test_check_and_write(self):
        self.put("p.attn", CAUSAL.replace("  ", "\t"))
        self.wrong("p.attn: not in canonical form (attune fmt shows it)", "fmt", "--check", "p.attn", code=1)
        os.chmod(self.path("p.attn"), 0o640)
        self.assertEqual(self.fine("fmt", "--write", "p.attn"), "")
        self.assertEqual(self.fine("fmt", "--check", "p.attn"), "")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("p.attn")).st_mode), 0o640)
        self.assertEqual(os.listdir(self.folder), ["p.attn"])

    def test_comments(self):
        canonical = self.canonical(CAUSAL)
        commented = "# A comment.\n\n" + canonical.replace("\n", "  # why\n", 1)
        self.put("p.attn", commented)
        self.assertEqual(self.fine("fmt", "--check", "p.attn"), "")
        self.assertEqual(self.fine("fmt", "--write", "p.attn"), "")  # nothing but comments to change
        self.put("p.attn", commented.replace("  ", "\t"))
        self.wrong(
            "attune fmt: error: --write: 'p.attn' has comments, which canonical text does not keep; --drop-comments overwrites them",
            "fmt", "--write", "p.attn",
        )  # fmt: skip
        self.fine("fmt", "--write", "--drop-comments", "p.attn")
        with open(self.path("p.attn")) as file:
            self.assertEqual(file.read(), canonical)

    def test_mistakes(self):
        self.put("p.attn", CAUSAL)
        self.wrong("attune fmt: error: --check and --write: expected one of them", "fmt", "--check", "--write", "p.attn")
        self.wrong("attune fmt: error: --drop-comments: expected together with --write", "fmt", "--drop-comments", "p.attn")
        self.wrong("attune fmt: error: cannot open 'no.attn': No such file or directory", "fmt", "no.attn")
        self.put("bad.attn", Check.BAD)
        result = self.attune("fmt", "bad.attn", "p.attn")
        self.assertEqual(result.returncode, 1)
        self.assertIn("bad.attn:2:11: error: ", result.stderr)
        self.assertTrue(result.stdout.startswith("attention causal"))


class Explain(Case):
    def test_stages(self):
        self.put("p.attn", ALIBI)
        texts = {}
        for stage in ("ast", "ir", "grad", "rates", "bounds", "llvm"):
            texts[stage] = self.fine("explain", "p.attn", "--emit", stage)
            self.assertTrue(texts[stage].endswith("\n"))
        self.assertEqual(len(set(texts.values())), 6)
        self.assertEqual(self.fine("explain", "p.attn"), texts["ir"])
        self.assertIn("alibi", texts["ast"])
        self.assertIn("define ", texts["llvm"])

    def test_picture(self):
        self.put("p.attn", ALIBI)
        arguments = ("explain", "p.attn", "--picture", "mask.svg", "--shape", "1,64,64,2,2,8,8", "--const", "window=16")
        result = self.attune(*arguments)
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        self.assertRegex(result.stderr, r"^mask\.svg: skipped \d+ .* of \d+ tiles; 904 of 4096 pairs kept \(22\.1%\)\n$")
        root = xml.etree.ElementTree.parse(self.path("mask.svg")).getroot()
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        self.assertLess(os.path.getsize(self.path("mask.svg")), 300000)
        self.assertIn("0 of 4096 pairs kept", self.attune(*arguments, "--param", "on=false").stderr)
        self.assertIn("score", self.attune(*arguments, "--emit", "ir").stdout)

    def test_picture_of_a_tensor_mask(self):
        self.put("p.attn", DOCUMENTS)
        self.put_array("doc.npy", Array([1, 8], [0, 0, 0, 1, 1, 2, 2, 2], "i"))
        self.put_array("keep.npy", Array([8], [1, 1, 1, 1, 1, 1, 1, 0], "B"))
        result = self.attune(
            "explain", "p.attn", "--shape", "1,8,8,1,1,4,4", "--picture", "m.svg", "--param", "doc=doc.npy", "--param", "keep=keep.npy"
        )
        self.assertIn("19 of 64 pairs kept", result.stderr)

    def test_mistakes(self):
        self.put("p.attn", CAUSAL)
        start = "attune explain: error: "
        self.wrong(start + "--emit: expected ast, ir, grad, rates, bounds, llvm, cuda, ptx or resources, found 'asm'", "explain", "p.attn", "--emit", "asm")
        self.wrong(start + "--dtype: expected f32, f16 or bf16, found 'f64'", "explain", "p.attn", "--dtype", "f64")
        self.wrong(start + "--backward: only --emit cuda, ptx and resources have it, found 'ir'", "explain", "p.attn", "--backward")
        self.wrong(start + "--deterministic: only --backward has it", "explain", "p.attn", "--emit", "cuda", "--deterministic")
        self.wrong(start + "--param: only --picture takes parameters", "explain", "p.attn", "--param", "a=1")
        self.wrong(start + "--shape: heads 3 is not a multiple of kv_heads 2", "explain", "p.attn", "--shape", "1,2,2,3,2,8,8")
        self.wrong(start + "--picture: 'p.attn' is also the input of FILE; name another file", "explain", "p.attn", "--picture", "p.attn")
        self.put("bad.attn", Check.BAD)
        result = self.attune("explain", "bad.attn")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("bad.attn:2:11: error: unknown name 'qq'", result.stderr)


class Run(Case):
    FILES = ("--q", "q.npy", "--k", "k.npy", "--v", "v.npy")

    def inputs(self, batch=1, q_len=5, k_len=7, heads=2, kv_heads=1, head_dim=4, v_dim=3, code="f"):
        self.q = self.randoms("q.npy", [batch, q_len, heads, head_dim], code=code)
        self.k = self.randoms("k.npy", [batch, k_len, kv_heads, head_dim], code=code)
        self.v = self.randoms("v.npy", [batch, k_len, kv_heads, v_dim], code=code)

    def run_program(self, text, *arguments):
        self.put("p.attn", text)
        return self.attune("run", "p.attn", *self.FILES, "--out", "o.npy", *arguments)

    def runs(self, text, *arguments):
        result = self.run_program(text, *arguments)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return result.stdout

    def refuses(self, message, *arguments, text=CAUSAL):
        self.put("p.attn", text)
        self.wrong("attune run: error: " + message, "run", "p.attn", *self.FILES, "--out", "o.npy", *arguments)

    def causal(self, i, j):
        return j <= i + self.k.shape[1] - self.q.shape[1]


class RunNumbers(Run):
    def check_causal(self, dtype, tolerance, code="f"):
        self.inputs(batch=2, q_len=9, k_len=13, heads=4, kv_heads=2, head_dim=8, v_dim=6, code=code)
        dout = self.randoms("do.npy", [2, 9, 4, 6], code=code)
        self.runs(
            CAUSAL, "--lse", "lse.npy", "--dout", "do.npy", "--dq", "dq.npy", "--dk", "dk.npy", "--dv", "dv.npy", "--dtype", dtype, "--threads", "2"
        )
        scale = 8**-0.5
        want = reference(
            self.q, self.k, self.v, lambda qk, *_: qk * scale, lambda b, h, i, j: self.causal(i, j), True, scale, dout
        )
        for name, array in want.items():
            self.assert_close(read_npy(self.path(name + ".npy")), array, tolerance, f"{dtype} {name}")

    def test_causal_softmax(self):
        self.check_causal("f32", 2e-5)

    def test_half_precision(self):
        self.check_causal("f16", 2e-2)
        self.check_causal("bf16", 1e-1)

    def test_f16_files(self):
        self.check_causal("f32", 2e-5, code="e")
        self.check_causal("f16", 2e-2, code="e")

    def test_sigmoid_with_gradients(self):
        self.inputs(batch=2, q_len=6, k_len=11, heads=2, kv_heads=2, head_dim=8, v_dim=8)
        dout = self.randoms("do.npy", [2, 6, 2, 8])
        arguments = ("--dout", "do.npy", "--dq", "dq.npy", "--dk", "dk.npy", "--dv", "dv.npy", "--grad", "bias=dbias.npy")
        self.put_array("bias.npy", Array([1], [-0.75]))
        for given, bias, shape in (((), -math.log(11), []), (("--param", "bias=-3.5"), -3.5, []), (("--param", "bias=bias.npy"), -0.75, [])):
            dbias = zeros([1])
            scale = 8**-0.5

            def add(b, h, i, j, ds):
                dbias.values[0] += ds

            want = reference(self.q, self.k, self.v, lambda qk, *_: qk * scale + bias, lambda *_: True, False, scale, dout, add)
            del want["lse"]
            self.runs(SIGMOID, *arguments, *given)
            for name, array in want.items():
                self.assert_close(read_npy(self.path(name + ".npy")), array, 2e-5, f"bias {bias} {name}")
            got = read_npy(self.path("dbias.npy"))
            self.assertEqual(got.shape, shape)
            self.assertAlmostEqual(got.values[0], dbias.values[0], delta=1e-4, msg=f"seed {SEED}")

    def test_tensor_parameter(self):
        self.inputs(heads=2, kv_heads=2)
        slopes = self.randoms("slopes.npy", [2])
        dout = self.randoms("do.npy", [1, 5, 2, 3])
        dslopes = zeros([2])

        def add(b, h, i, j, ds):
            dslopes.add((h,), -ds * (i + 2 - j))

        for window, scale in ((4, 0.25), (2, -1.5)):
            dslopes.values = [0.0, 0.0]
            want = reference(
                self.q, self.k, self.v, lambda qk, b, h, i, j: qk * scale - slopes[h,] * (i + 2 - j), lambda b, h, i, j: 0 <= i + 2 - j < window,
                True, scale, dout, add,
            )  # fmt: skip
            self.runs(
                ALIBI, "--param", "slopes=slopes.npy", "--param", f"scale={scale}", "--const", f"window={window}", "--lse", "lse.npy",
                "--dout", "do.npy", "--dq", "dq.npy", "--grad", "slopes=ds.npy",
            )  # fmt: skip
            for name in ("o", "lse", "dq"):
                self.assert_close(read_npy(self.path(name + ".npy")), want[name], 2e-5, f"window {window} {name}")
            self.assert_close(read_npy(self.path("ds.npy")), dslopes, 1e-4, f"window {window} slopes")
            self.assertFalse(os.path.exists(self.path("dk.npy")))

    def test_empty_rows(self):
        self.inputs()
        self.put_array("slopes.npy", Array([2], [0, 0]))
        self.runs(ALIBI, "--param", "slopes=slopes.npy", "--param", "on=false", "--lse", "lse.npy")
        self.assertEqual(set(read_npy(self.path("o.npy")).values), {0.0})
        self.assertEqual(set(read_npy(self.path("lse.npy")).values), {-math.inf})

    def test_packed_sequences(self):
        lengths_q, lengths_k = [3, 0, 5], [4, 2, 5]
        self.put_array("cq.npy", Array([4], [0, 3, 3, 8], "i"))
        self.put_array("ck.npy", Array([4], [0, 4, 6, 11], "i"))
        q = self.randoms("q.npy", [8, 2, 4])
        k = self.randoms("k.npy", [11, 1, 4])
        v = self.randoms("v.npy", [11, 1, 3])
        report = json.loads(self.runs(CAUSAL, "--cu-q", "cq.npy", "--cu-k", "ck.npy", "--lse", "lse.npy", "--json"))
        self.assertTrue(report["packed"])
        self.assertEqual((report["shape"]["batch"], report["shape"]["q_len"], report["shape"]["k_len"]), (3, 5, 5))
        want, want_lse = zeros([8, 2, 3]), zeros([2, 8])
        first_q = first_k = 0
        for q_len, k_len in zip(lengths_q, lengths_k):
            part = lambda a, first, length: Array([1, length] + a.shape[1:], a.values[first * math.prod(a.shape[1:]) :])
            got = reference(
                part(q, first_q, q_len), part(k, first_k, k_len), part(v, first_k, k_len), lambda qk, *_: qk / 2,
                lambda b, h, i, j: j <= i + k_len - q_len, True, 0.5,
            )  # fmt: skip
            want.values[first_q * 6 : (first_q + q_len) * 6] = got["o"].values
            for h in range(2):
                want_lse.values[h * 8 + first_q : h * 8 + first_q + q_len] = got["lse"].values[h * q_len : (h + 1) * q_len]
            first_q, first_k = first_q + q_len, first_k + k_len
        self.assert_close(read_npy(self.path("o.npy")), want, 2e-5, "packed o")
        self.assert_close(read_npy(self.path("lse.npy")), want_lse, 2e-5, "packed lse")

    def test_nan_and_inf_inputs(self):
        self.inputs(q_len=7)
        self.q.values[0] = math.nan
        self.put_array("q.npy", self.q)
        self.runs(CAUSAL)
        values = read_npy(self.path("o.npy")).values
        self.assertEqual([math.isnan(x) for x in values[:6]], [True] * 3 + [False] * 3)

    def test_overflow_is_told(self):
        self.inputs()
        self.q.values[0] = 1e6
        self.put_array("q.npy", self.q)
        result = self.run_program(CAUSAL, "--dtype", "f16")
        self.assertEqual(result.returncode, 0)
        self.assertEqual(result.stderr, "attune: warning: --q: 1 value is beyond the range of f16 and became inf\n")

    def test_reports(self):
        self.inputs()
        text = self.runs(CAUSAL, "--device", "cpu")
        self.assertRegex(
            text,
            r"^program   causal\n"
            r"shape     batch 1, q_len 5, k_len 7, heads 2, kv_heads 1, head_dim 4, v_dim 3\n"
            r"dtype     f32\ndevice    cpu\n"
            r"compile    +\d+\.\d{3} ms\n"
            r"forward    +\d+\.\d{3} ms +\d+\.\d\d GFLOP/s\n$",
        )
        self.randoms("do.npy", [1, 5, 2, 3])
        report = json.loads(self.runs(CAUSAL, "--json", "--dout", "do.npy", "--dv", "dv.npy"))
        self.assertEqual(report["shape"], {"batch": 1, "q_len": 5, "k_len": 7, "heads": 2, "kv_heads": 1, "head_dim": 4, "v_dim": 3})
        self.assertEqual([report[key] for key in ("program", "packed", "dtype", "device")], ["causal", False, "f32", "cpu"])
        self.assertAlmostEqual(report["forward_gflops"] * report["forward_ms"] * 1e6, 2 * 70 * 7, delta=1)
        self.assertAlmostEqual(report["backward_gflops"] * report["backward_ms"] * 1e6, 2 * 70 * 18, delta=1)

    def test_overwrites_outputs_whole(self):
        self.inputs()
        self.put("o.npy", b"x" * 100000)
        self.runs(CAUSAL)
        self.assertEqual(read_npy(self.path("o.npy")).shape, [1, 5, 2, 3])


class RunMistakes(Run):
    def setUp(self):
        super().setUp()
        self.inputs()

    def test_files_that_are_no_arrays(self):
        os.remove(self.path("q.npy"))
        self.refuses("--q: q.npy: cannot open: No such file or directory")
        self.put("q.npy", "hello, this is text")
        self.refuses("--q: q.npy: found a file that does not start as an .npy file does (an .npz archive or text?)")
        self.put("q.npy", b"\x93NUMPY\x03\x00" + bytes(100))
        self.refuses("--q: q.npy: found .npy version 3.0, expected 1.0 or 2.0")
        self.put("q.npy", npy_bytes(self.q)[:-4])
        self.refuses("--q: q.npy: found 156 bytes of data, expected 160 for f32[1, 5, 2, 4] (truncated?)")
        self.put_array("q.npy", self.q, fortran=True)
        self.refuses("--q: q.npy: found Fortran order, expected C order: convert with numpy.ascontiguousarray(a)")
        self.put_array("q.npy", self.q, descr=">f4")
        self.refuses("--q: q.npy: found big-endian f32, expected little-endian: convert with a.astype('<f4')")

    def test_dtypes(self):
        for code, name in (("d", "f64"), ("q", "i64"), ("B", "u8")):
            self.put_array("k.npy", Array([1, 7, 1, 4], [1] * 28, code))
            self.refuses(f"--k: k.npy: found dtype {name}, expected f32 or f16: convert with a.astype('float32')")
        self.inputs()
        self.refuses("--dtype: expected f32, f16 or bf16, found 'float32'", "--dtype", "float32")

    def test_shapes(self):
        self.put_array("q.npy", Array([5, 2, 4], [0] * 40))
        self.refuses(
            "--q: q.npy: found shape [5, 2, 4], expected 4 dimensions [batch, q_len, heads, head_dim]; packed sequences [total, heads, dim] need "
            "--cu-q and --cu-k"
        )
        self.inputs()
        self.put_array("k.npy", Array([1, 7, 1, 5], [0] * 35))
        self.refuses("--k: k.npy: found shape [1, 7, 1, 5], expected [batch 1 (of --q), k_len, kv_heads, head_dim 4 (of --q)]")
        self.inputs()
        self.put_array("v.npy", Array([1, 6, 1, 3], [0] * 18))
        self.refuses("--v: v.npy: found shape [1, 6, 1, 3], expected [batch 1 (of --q), k_len 7 (of --k), kv_heads 1 (of --k), v_dim]")
        self.inputs(heads=3, kv_heads=2)
        self.refuses("--k: k.npy: found 2 kv_heads, expected a divisor of the 3 heads of --q")
        self.inputs()
        self.randoms("do.npy", [1, 5, 2, 4])
        self.refuses(
            "--dout: do.npy: found shape [1, 5, 2, 4], expected [batch 1 (of --q), q_len 5 (of --q), heads 2 (of --q), v_dim 3 (of --v)]",
            "--dout", "do.npy", "--dq", "dq.npy",
        )  # fmt: skip

    def test_packed(self):
        self.put_array("c.npy", Array([2], [0, 5], "i"))
        self.refuses("--cu-q: expected --cu-q and --cu-k together", "--cu-q", "c.npy")
        self.refuses("--cu-k: expected --cu-q and --cu-k together", "--cu-k", "c.npy")
        both = ("--cu-q", "c.npy", "--cu-k", "c.npy")
        self.refuses(
            "--q: q.npy: found shape [1, 5, 2, 4], expected 3 dimensions [total_q, heads, head_dim], for --cu-q and --cu-k are given", *both
        )
        self.randoms("q.npy", [6, 2, 4])
        self.refuses("--q: q.npy: found shape [6, 2, 4], expected [total_q 5 (of --cu-q), heads, head_dim]", *both)
        self.put_array("c3.npy", Array([3], [0, 5, 6], "i"))
        self.refuses("--cu-k: c3.npy: found shape [3], expected [2] as --cu-q", "--cu-q", "c.npy", "--cu-k", "c3.npy")
        for values, message in (
            ([1, 5], "found first offset 1, expected 0"),
            ([0, 5, 4], "offset 2 falls from 5 to 4, expected offsets that do not decrease"),
            ([0], "found shape [1], expected [batch + 1] offsets"),
        ):
            self.put_array("c.npy", Array([len(values)], values, "i"))
            self.refuses("--cu-q: c.npy: " + message, *both)
        self.put_array("c.npy", Array([2], [0, 5], "q"))
        self.refuses("--cu-q: c.npy: found dtype i64, expected i32: convert with a.astype('int32')", *both)

    def test_parameters(self):
        def refuses(message, *arguments):
            self.refuses(message, *arguments, text=ALIBI)

        slopes = ("--param", "slopes=slopes.npy")
        refuses("--param: 'slopes: grad f32[heads]' has no value, expected --param slopes=FILE.npy")
        refuses("--param slopes: slopes.npy: cannot open: No such file or directory", *slopes)
        self.randoms("slopes.npy", [2])
        refuses("--param: 'alibi' has no parameter 'scales' (did you mean 'scale'?)", *slopes, "--param", "scales=1")
        refuses("--param: expected NAME=VALUE, found 'scale'", *slopes, "--param", "scale")
        refuses("--param: 'scale' is given twice", *slopes, "--param", "scale=1", "--param", "scale=2")
        for value in ("nan", "1,5", "x"):
            refuses(
                f"--param scale: expected a number that is not NaN for 'scale: f32 = 0.25', found '{value}'", *slopes, "--param", "scale=" + value
            )
        refuses("--param on: expected true or false for 'on: bool = true', found '1'", *slopes, "--param", "on=1")
        refuses("--param scale: expected a value for 'scale: f32 = 0.25', found the file 's.npy'", *slopes, "--param", "scale=s.npy")
        refuses("--param window: 'window: const i32 = 4' is fixed at compile time: give it with --const", *slopes, "--param", "window=3")
        self.put_array("slopes.npy", Array([2], [1, 2], "d"))
        refuses(
            "--param slopes: slopes.npy: found dtype f64, expected f32 or f16 for 'slopes: grad f32[heads]': convert with a.astype('float32')", *slopes
        )
        self.put_array("slopes.npy", Array([2], [1, math.nan]))
        refuses("--param slopes: slopes.npy: found NaN (element 1 of 2)", *slopes)
        self.randoms("slopes.npy", [3])
        refuses("parameter 'slopes': expected f32[2], found f32[3]", *slopes)
        self.randoms("slopes.npy", [2])
        self.randoms("do.npy", [1, 5, 2, 3])
        backward = (*slopes, "--dout", "do.npy")
        refuses("--grad scale: 'scale: f32 = 0.25' has no gradient: declare it as `grad`", *backward, "--grad", "scale=d.npy")
        refuses("--grad: 'alibi' has no parameter 'slope' (did you mean 'slopes'?)", *backward, "--grad", "slope=d.npy")

    def test_integer_tensors(self):
        self.inputs(q_len=7)
        self.put_array("keep.npy", Array([7], [1] * 7, "B"))
        self.put_array("doc.npy", Array([1, 7], [0] * 7, "q"))
        self.refuses(
            "--param doc: doc.npy: found dtype i64, expected i32 for 'doc: i32[batch, k_len]': convert with a.astype('int32')",
            "--param", "doc=doc.npy", "--param", "keep=keep.npy", text=DOCUMENTS,
        )  # fmt: skip
        self.put_array("doc.npy", Array([1, 7], [0] * 7, "i"))
        self.put_array("keep.npy", Array([7], [1] * 7, "f"))
        self.refuses(
            "--param keep: keep.npy: found dtype f32, expected u8 or bool for 'keep: u8[k_len]': convert with a.astype('uint8')",
            "--param", "doc=doc.npy", "--param", "keep=keep.npy", text=DOCUMENTS,
        )  # fmt: skip
        self.put_array("keep.npy", Array([7], [1] * 7, "B"), descr="|b1")
        self.runs(DOCUMENTS, "--param", "doc=doc.npy", "--param", "keep=keep.npy")

    def test_grad_scalar_file(self):
        self.put_array("bias.npy", Array([2], [1, 2]))
        self.refuses(
            "--param bias: bias.npy: found shape [2], expected one element for 'bias: grad f32 = -log(k_len)'",
            "--param", "bias=bias.npy", text=SIGMOID,
        )  # fmt: skip

    def test_combinations(self):
        for option in ("--dq", "--dk", "--dv"):
            self.refuses(f"{option}: a gradient needs the gradient of the output: expected --dout too", option, "d.npy")
        self.refuses("--grad: a gradient needs the gradient of the output: expected --dout too", "--grad", "bias=d.npy", text=SIGMOID)
        self.refuses("--deterministic: only the backward pass can be anything else: expected --dout too", "--deterministic")
        self.randoms("do.npy", [1, 5, 2, 3])
        self.refuses("--dout: expected at least one of --dq, --dk, --dv and --grad to write", "--dout", "do.npy")
        self.refuses("--lse: the weights of 'sigmoid_bias' are pointwise, only softmax has an lse", "--lse", "lse.npy", text=SIGMOID)
        for device in ("cuda", "cuda:1"):
            self.refuses(f"--device: '{device}': f32 runs on the CPU, expected --dtype f16 or bf16", "--device", device)
        for device in ("gpu", "cuda:", "cuda:x", "cuda0"):
            self.refuses(f"--device: expected auto, cpu or cuda[:N], found '{device}'", "--device", device)
        self.inputs()
        result = self.run_program(CAUSAL, "--device", "cuda:99", "--dtype", "bf16")
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr, r"^attune run: error: --device: 'cuda:99': (no CUDA driver: |no GPU 99: |cuInit: ).+\n$")
        self.refuses("--accuracy: expected fast or high, found 'low'", "--accuracy", "low")
        self.refuses("--threads: expected 0 (all cores) or more, found -1", "--threads", "-1")

    def test_outputs(self):
        self.refuses("--lse: 'o.npy' is already the output of --out", "--lse", "o.npy")
        self.refuses("--lse: './o.npy' is already the output of --out", "--lse", "./o.npy")
        self.refuses("--lse: 'q.npy' is also the input of --q; name another file", "--lse", "q.npy")
        self.refuses(f"--lse: cannot write 'no/lse.npy': no folder '{os.path.realpath(self.folder)}/no'", "--lse", "no/lse.npy")
        self.refuses("--lse: '/dev/null' is a device or pipe, expected a file name", "--lse", "/dev/null")
        os.mkdir(self.path("sub"))
        self.refuses("--lse: 'sub' is a folder, expected a file name", "--lse", "sub")

    def test_nothing_is_written_when_the_run_fails(self):
        self.put("o.npy", "old")
        self.put("p.attn", "attention reads(t: f32[3]) {\n  score = qk + t[k_idx]\n  weights = softmax(score)\n}\n")
        self.randoms("t.npy", [3])
        before = sorted(os.listdir(self.folder))
        result = self.attune("run", "p.attn", *self.FILES, "--out", "o.npy", "--param", "t=t.npy")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertTrue(result.stderr.startswith("attune run: error: index out of range"), result.stderr)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        with open(self.path("o.npy")) as file:
            self.assertEqual(file.read(), "old")

    def test_data_dependent_index(self):
        text = "attention gather(t: f32[3], at: i32[k_len]) {\n  score = qk + t[at[k_idx]]\n  weights = softmax(score)\n}\n"
        self.randoms("t.npy", [3])
        arguments = ("--param", "t=t.npy", "--param", "at=at.npy")
        self.put_array("at.npy", Array([7], [0, 1, 2, 0, 1, 2, 0], "i"))
        self.runs(text, *arguments)
        os.remove(self.path("o.npy"))
        self.put_array("at.npy", Array([7], [0, 1, 2, 3, 1, 2, 0], "i"))
        result = self.run_program(text, *arguments)
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertTrue(result.stderr.startswith("attune run: error: "), result.stderr)
        self.assertFalse(os.path.exists(self.path("o.npy")))

    def test_wrong_program(self):
        self.put("p.attn", Check.BAD)
        result = self.attune("run", "p.attn", *self.FILES, "--out", "o.npy")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertTrue(result.stderr.startswith("p.attn:2:11: error: unknown name 'qq'"), result.stderr)
        result = self.attune("run", "p.attn", *self.FILES, "--out", "o.npy", "--json")
        self.assertEqual((result.returncode, result.stderr), (1, ""))
        self.assertEqual(json.loads(result.stdout)[0]["message"], "unknown name 'qq'")


if __name__ == "__main__":
    CACHE = tempfile.TemporaryDirectory()
    print("seed", SEED, file=sys.stderr)
    unittest.main()
