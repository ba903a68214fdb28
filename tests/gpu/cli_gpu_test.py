"""`attune run` on a GPU against the same on the CPU, in 16 bits, forward and backward, on the encoder's activations; and `attune doctor`.

  ATTUNE_BINARY=build/release/attune python3 tests/gpu/cli_gpu_test.py

Says "GPU tests skipped: ..." without a GPU. ATTUNE_GPU_DEVICE=cpu tries the test itself: both sides run on the CPU.
"""
import array
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATTUNE_BINARY", str(ROOT / "build/release/attune"))
DEVICE = os.environ.get("ATTUNE_GPU_DEVICE", "cuda")
DATA = ROOT / "examples/data/minilm"
BARS = {"bf16": 1e-2, "f16": 2e-3}  # both sides round, at places of their own


def run(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def read_npy(path):
    """The f32 elements of an array."""
    data = pathlib.Path(path).read_bytes()
    start = 10 + int.from_bytes(data[8:10], "little")
    if b"'<f4'" not in data[:start]:
        raise ValueError(f"{path}: not an array of f32")
    return array.array("f", data[start:])


def relative_error(got, want):
    if len(got) != len(want):
        raise ValueError(f"{len(got)} elements, expected {len(want)}")
    difference = math.fsum((a - b) ** 2 for a, b in zip(got, want))  # NaN stays NaN
    return math.sqrt(difference / math.fsum(b * b for b in want))


class CliOnGpu(unittest.TestCase):
    def results(self, program, device, dtype, folder, names, parameters=()):
        """Runs a program with outputs of these names; what the files hold."""
        files = {name: folder / f"{name}_{device}.npy" for name in names}
        inputs = [f"--{name}={DATA / f'layer0_{name}.npy'}" for name in "qkv"]
        if "dq" in names:
            inputs.append(f"--dout={DATA / 'layer0_out.npy'}")
        outputs = [f"--{name}={file}" for name, file in files.items()]
        done = run("run", ROOT / "examples" / program, *inputs, *outputs, *parameters, "--dtype", dtype, "--device", device)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, rf"(?m)^device +{device}")
        return {name: read_npy(file) for name, file in files.items()}

    def agree(self, program, names, parameters=()):
        for dtype, bar in BARS.items():
            with self.subTest(program=program, dtype=dtype), tempfile.TemporaryDirectory() as folder:
                got = self.results(program, DEVICE, dtype, pathlib.Path(folder), names, parameters)
                want = self.results(program, "cpu", dtype, pathlib.Path(folder), names, parameters)
                for name in names:
                    self.assertLess(relative_error(got[name], want[name]), bar, name)

    def test_softmax(self):
        self.agree("softmax.attn", ["out", "lse", "dq", "dk", "dv"])

    def test_sigmoid(self):
        self.agree("flash_sigmoid.attn", ["out", "dq", "dk", "dv"])

    def test_mask_by_a_tensor(self):
        self.agree("padding.attn", ["out"], ["--param", f"lengths={DATA / 'lengths.npy'}"])

    def test_doctor_names_the_gpu(self):
        done = run("doctor")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("sm_" if DEVICE != "cpu" else "cpu", done.stdout.lower())


def has_gpu():
    return shutil.which("nvidia-smi") is not None and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    if DEVICE != "cpu" and not has_gpu():
        print("GPU tests skipped: no GPU")
        sys.exit(0)
    unittest.main()
