"""The C ABI (api/attune_c.h) through ctypes, without any other package.

  library = Library("libattune.so")
  plan = library.compile(text).plan(Shape(1, 16, 16, 1024, 1024, 64, 64), dtype="bf16")
  call = plan.bind(q, k, v, out)      # torch tensors, or anything that has data_ptr(), dtype, shape and stride()
  call()

As a program it times one compilation in a process of its own, which the latency suite of gpu_attention.py needs:

  python3 bench/attune_ctypes.py examples/alibi.attn --head-dim 64 --lengths 1024,777
"""
import argparse
import ctypes as C
import json
import os
import pathlib
import re
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ABI_VERSION = 1
MAX_RANK = 6
DTYPES = {"f32": 0, "f16": 1, "bf16": 2, "i32": 3, "u8": 4}
DTYPE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i32": 4, "u8": 1}
TORCH_DTYPES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16", "torch.int32": "i32", "torch.uint8": "u8", "torch.bool": "u8"}
DEVICES = {"cpu": 0, "cuda": 1}
ACCURACIES = {"fast": 0, "high": 1}
STATUS = {1: "program", 2: "argument", 3: "environment", 4: "internal"}


class Tensor(C.Structure):
    _fields_ = [("data", C.c_void_p), ("dtype", C.c_int32), ("rank", C.c_int32), ("shape", C.c_int64 * MAX_RANK), ("strides", C.c_int64 * MAX_RANK)]


class Param(C.Structure):
    _fields_ = [("name", C.c_char_p), ("number", C.c_double), ("tensor", C.POINTER(Tensor))]


class Shape(C.Structure):
    _fields_ = [(name, C.c_int64) for name in ("batch", "heads", "kv_heads", "q_len", "k_len", "head_dim", "v_dim")]


class PlanOptions(C.Structure):
    _fields_ = [("size", C.c_size_t), ("dtype", C.c_int32), ("device_kind", C.c_int32), ("device_ordinal", C.c_int32), ("accuracy", C.c_int32),
                ("params", C.POINTER(Param)), ("param_count", C.c_int32), ("cu_q", C.POINTER(C.c_int32)), ("cu_k", C.POINTER(C.c_int32)),
                ("tiered", C.c_int32), ("backward", C.c_int32), ("deterministic", C.c_int32)]


class Gradient(C.Structure):
    _fields_ = [("name", C.c_char_p), ("tensor", C.POINTER(Tensor))]


class BackwardTensors(C.Structure):
    _fields_ = [("size", C.c_size_t)] + [(name, C.POINTER(Tensor)) for name in ("q", "k", "v", "out", "lse", "dout", "dq", "dk", "dv")] + [
        ("gradients", C.POINTER(Gradient)), ("gradient_count", C.c_int32)]


class AttuneError(RuntimeError):
    pass


def make_tensor(data, dtype, shape, strides=None):
    """Strides in elements; none: contiguous."""
    if strides is None:
        strides = [1] * len(shape)
        for i in reversed(range(len(shape) - 1)):
            strides[i] = strides[i + 1] * shape[i + 1]
    pad = [0] * (MAX_RANK - len(shape))
    return Tensor(data, DTYPES[dtype], len(shape), (C.c_int64 * MAX_RANK)(*shape, *pad), (C.c_int64 * MAX_RANK)(*strides, *pad))


def as_tensor(value):
    if value is None or isinstance(value, Tensor):
        return value
    return make_tensor(value.data_ptr(), TORCH_DTYPES[str(value.dtype)], list(value.shape), list(value.stride()))


def make_params(values):
    """Numbers and tensors by name -> an array of Param, which keeps what it points to."""
    params = (Param * max(1, len(values)))()
    params.keep = []
    for param, (name, value) in zip(params, values.items()):
        param.name = name.encode()
        if isinstance(value, (bool, int, float)):
            param.number = value
        else:
            tensor = as_tensor(value)
            params.keep += [value, tensor]
            param.tensor = C.pointer(tensor)
    return params


def find_library():
    """$ATTUNE_LIBRARY, else libattune.so somewhere under $BUILD (default build/release)."""
    if os.environ.get("ATTUNE_LIBRARY"):
        return os.environ["ATTUNE_LIBRARY"]
    build = ROOT / os.environ.get("BUILD", "build/release")
    found = sorted(build.glob("libattune.so")) + sorted(build.glob("*/libattune.so"))
    if not found:
        raise FileNotFoundError(f"no libattune.so in {build} or one folder below: build it, or name it in ATTUNE_LIBRARY")
    return str(found[0])


class Library:
    def __init__(self, path=None):
        self.path = str(path or find_library())
        self.c = C.CDLL(self.path)
        self.c.attune_version.restype = self.c.attune_last_error.restype = self.c.attune_plan_describe.restype = C.c_char_p
        self.c.attune_abi_version.restype = C.c_int32
        self.c.attune_plan_workspace_size.restype = C.c_size_t
        self.c.attune_plan_workspace_size.argtypes = self.c.attune_plan_describe.argtypes = [C.c_void_p]
        self.c.attune_plan_is_tuned.restype = C.c_int32
        self.c.attune_plan_is_tuned.argtypes = self.c.attune_plan_wait_until_tuned.argtypes = [C.c_void_p]
        self.c.attune_program_release.restype = self.c.attune_plan_release.restype = None
        self.c.attune_program_release.argtypes = self.c.attune_plan_release.argtypes = [C.c_void_p]
        self.c.attune_compile.argtypes = [C.c_char_p, C.POINTER(Param), C.c_int32, C.POINTER(C.c_void_p)]
        self.c.attune_plan_make.argtypes = [C.c_void_p, C.POINTER(Shape), C.POINTER(PlanOptions), C.POINTER(C.c_void_p)]
        self.c.attune_plan_forward.argtypes = [C.c_void_p] + [C.POINTER(Tensor)] * 5 + [C.c_void_p] * 2
        self.c.attune_plan_backward_workspace_size.argtypes = [C.c_void_p, C.POINTER(C.c_size_t)]
        self.c.attune_plan_backward.argtypes = [C.c_void_p, C.POINTER(BackwardTensors)] + [C.c_void_p] * 2
        found = self.c.attune_abi_version()
        if found != ABI_VERSION:
            raise AttuneError(f"{self.path}: ABI version {found}, expected {ABI_VERSION}")

    def version(self):
        return self.c.attune_version().decode()

    def check(self, status):
        if status:
            raise AttuneError(f"{STATUS.get(status, status)} error: {(self.c.attune_last_error() or b'').decode()}")

    def compile(self, text, **constants):
        return Program(self, text, constants)


class Program:
    def __init__(self, library, text, constants):
        self.library, self.handle = library, C.c_void_p()
        library.check(library.c.attune_compile(text.encode(), make_params(constants), len(constants), C.byref(self.handle)))

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.c.attune_program_release(self.handle)

    def plan(self, shape, dtype="bf16", device="cuda", ordinal=0, accuracy="fast", params=None, cu_q=None, cu_k=None, tiered=False, backward=False,
             deterministic=False):
        return Plan(self, shape, dtype, device, ordinal, accuracy, params or {}, cu_q, cu_k, tiered, backward, deterministic)


class Plan:
    def __init__(self, program, shape, dtype, device, ordinal, accuracy, params, cu_q, cu_k, tiered, backward, deterministic):
        self.program, self.library, self.handle = program, program.library, C.c_void_p()
        self.params = make_params(params)
        offsets = [None if cu is None else (C.c_int32 * len(cu))(*cu) for cu in (cu_q, cu_k)]
        options = PlanOptions(C.sizeof(PlanOptions), DTYPES[dtype], DEVICES[device], ordinal, ACCURACIES[accuracy], self.params, len(params),
                              *(None if cu is None else C.cast(cu, C.POINTER(C.c_int32)) for cu in offsets), tiered, backward, deterministic)
        self.library.check(self.library.c.attune_plan_make(program.handle, C.byref(shape), C.byref(options), C.byref(self.handle)))

    def __del__(self):
        if getattr(self, "handle", None):
            self.library.c.attune_plan_release(self.handle)

    def describe(self):
        return (self.library.c.attune_plan_describe(self.handle) or b"").decode()

    def is_tuned(self):
        return bool(self.library.c.attune_plan_is_tuned(self.handle))

    def wait_until_tuned(self):
        self.library.check(self.library.c.attune_plan_wait_until_tuned(self.handle))

    def workspace_size(self):
        return self.library.c.attune_plan_workspace_size(self.handle)

    def backward_workspace_size(self):
        size = C.c_size_t()
        self.library.check(self.library.c.attune_plan_backward_workspace_size(self.handle, C.byref(size)))
        return size.value

    def bind_backward(self, q, k, v, out, lse, dout, dq=None, dk=None, dv=None, gradients=None, stream=0, workspace=None):
        """A backward call without arguments; out and lse are None for pointwise weights, gradients are tensors by name."""
        given = (q, k, v, out, lse, dout, dq, dk, dv)
        tensors = [as_tensor(value) for value in given]
        named = {name: as_tensor(value) for name, value in (gradients or {}).items()}
        array = (Gradient * max(1, len(named)))(*((name.encode(), C.pointer(tensor)) for name, tensor in named.items()))
        call_tensors = BackwardTensors(C.sizeof(BackwardTensors), *(None if tensor is None else C.pointer(tensor) for tensor in tensors), array, len(named))
        handle, backward, check = self.handle, self.library.c.attune_plan_backward, self.library.check
        pointer = C.byref(call_tensors)
        tail = C.c_void_p(stream), C.c_void_p(workspace.data_ptr() if workspace is not None else None)

        def call():
            status = backward(handle, pointer, *tail)
            if status:
                check(status)

        call.keep = (self, given, gradients, workspace, tensors, named, array, call_tensors)
        return call

    def bind(self, q, k, v, out, lse=None, stream=0, workspace=None):
        """A forward call without arguments; its tensors are converted once."""
        tensors = [as_tensor(value) for value in (q, k, v, out, lse)]
        pointers = [None if tensor is None else C.pointer(tensor) for tensor in tensors]
        handle, forward, check = self.handle, self.library.c.attune_plan_forward, self.library.check
        tail = C.c_void_p(stream), C.c_void_p(workspace.data_ptr() if workspace is not None else None)

        def call():
            status = forward(handle, *pointers, *tail)
            if status:
                check(status)

        call.keep = (self, q, k, v, out, lse, workspace, tensors)
        return call


class CudaMemory:
    """Zeroed device memory by the driver alone, in the primary context."""

    def __init__(self):
        self.cuda = C.CDLL("libcuda.so.1")
        device, context = C.c_int(), C.c_void_p()
        self.check(self.cuda.cuInit(0), "cuInit")
        self.check(self.cuda.cuDeviceGet(C.byref(device), 0), "cuDeviceGet")
        self.check(self.cuda.cuDevicePrimaryCtxRetain(C.byref(context), device), "cuDevicePrimaryCtxRetain")
        self.check(self.cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")

    def check(self, status, call):
        if status:
            raise RuntimeError(f"{call}: CUDA error {status}")

    def zeros(self, size):
        pointer = C.c_uint64()
        self.check(self.cuda.cuMemAlloc_v2(C.byref(pointer), C.c_size_t(size)), "cuMemAlloc")
        self.check(self.cuda.cuMemsetD8_v2(pointer, C.c_ubyte(0), C.c_size_t(size)), "cuMemsetD8")
        return pointer.value


class HostMemory:
    def zeros(self, size):
        self.keep = getattr(self, "keep", []) + [C.create_string_buffer(size)]
        return C.addressof(self.keep[-1])


def tensor_params(text, dims, memory):
    """Zeros for each tensor parameter of a program, by its header."""
    header = re.search(r"^attention\s+\w+\s*\((.*?)\)\s*\{", text, re.M | re.S).group(1)
    params = {}
    for name, dtype, sizes in re.findall(r"(\w+)\s*:\s*(?:grad\s+|const\s+)?(\w+)\s*\[([^\]]*)\]", header):
        shape = [dims[word] if word in dims else int(word) for word in (size.strip() for size in sizes.split(","))]
        count = DTYPE_BYTES[dtype]
        for size in shape:
            count *= size
        params[name] = make_tensor(memory.zeros(count), dtype, shape)
    return params


def files_in(folder):
    return sorted(str(path) for path in pathlib.Path(folder).rglob("*") if path.is_file()) if folder else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--library")
    parser.add_argument("--device", default="cuda", choices=DEVICES)
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--accuracy", default="fast", choices=ACCURACIES)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--tiered", action="store_true", help="begin with a quick kernel; tuned_ms is when the tuned one is there")
    parser.add_argument("--lengths", default="1024", help="comma-separated; the first one compiles, the others are plans of the same program")
    arguments = parser.parse_args()
    text = arguments.program.read_text()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    memory = CudaMemory() if arguments.device == "cuda" else HostMemory()
    library = Library(arguments.library)
    cache = os.environ.get("ATTUNE_CACHE_DIR")

    def shape_of(length):
        return Shape(1, 8, 8, length, length, arguments.head_dim, arguments.head_dim)

    def plan(program, length):
        shape = shape_of(length)
        params = tensor_params(text, {name: getattr(shape, name) for name, _ in Shape._fields_}, memory)
        start = time.perf_counter()
        made = program.plan(shape, arguments.dtype, arguments.device, accuracy=arguments.accuracy, params=params, tiered=arguments.tiered)
        return made, (time.perf_counter() - start) * 1e3

    start = time.perf_counter()
    program = library.compile(text)
    parse_ms = (time.perf_counter() - start) * 1e3
    first, plan_ms = plan(program, lengths[0])
    first.wait_until_tuned()
    tuned_ms = (time.perf_counter() - start) * 1e3
    before = files_in(cache)
    others = [plan(program, length) for length in lengths[1:]]
    print(json.dumps({"parse_ms": parse_ms, "plan_ms": plan_ms, "tuned_ms": tuned_ms, "describe": first.describe(), "cached_files": len(before),
                      "other_lengths_ms": {length: ms for length, (_, ms) in zip(lengths[1:], others)}, "new_files": len(set(files_in(cache)) - set(before))}))


if __name__ == "__main__":
    try:
        main()
    except AttuneError as error:
        sys.exit(" ".join(str(error).split()))
