"""The classic bugs of CUDA, planted one at a time: each is caught, in every order of threads; the kernels without them
pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from minidl.kernels.cuda.device import Module
from minidl.kernels.emulator import EmulatedDevice, KernelFault
from tests.kernels.emulator.kernels import (
    COUNT,
    MATRIX,
    MATRIX_HEADER,
    PIPELINE,
    REDUCE,
    STENCIL,
    TRANSPOSE,
    WARP,
)
from tests.kernels.emulator.needs import emulator

pytestmark = emulator

ORDERS = (0, 1, 7)
Run = Callable[[EmulatedDevice, Module], None]


def _close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def reduce(device: EmulatedDevice, module: Module) -> None:
    x = np.random.default_rng(0).standard_normal((2, 300)).astype(np.float32)
    y = device.empty(2, np.float32)
    device.launch(module["row_sum"], 2, 128, (x, y, 300))
    _close(y, x.sum(1))


def transpose(device: EmulatedDevice, module: Module) -> None:
    x = np.random.default_rng(0).standard_normal((37, 40)).astype(np.float32)
    y = device.empty((40, 37), np.float32)
    device.launch(module["transpose"], (2, 2), (32, 8), (x, y, 37, 40))
    _close(y, x.T)


def stencil(device: EmulatedDevice, module: Module) -> None:
    x = np.random.default_rng(0).standard_normal(150).astype(np.float32)
    y = device.empty(150, np.float32)
    device.launch(module["blur"], 3, 64, (x, y, 150))
    _close(y, np.convolve(x, np.ones(3), "same"))


def count(device: EmulatedDevice, module: Module) -> None:
    x = np.random.default_rng(0).integers(0, 16, 200).astype(np.int32)
    counts = np.zeros(16, np.int32)
    device.launch(module["histogram"], 4, 64, (x, counts, 200))
    np.testing.assert_array_equal(counts, np.bincount(x, minlength=16))


def pipeline(device: EmulatedDevice, module: Module) -> None:
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    y = device.empty(64, np.float32)
    device.launch(module["column_sum"], 1, 64, (x, y, 5))
    _close(y, x.sum(0))


def warp(device: EmulatedDevice, module: Module) -> None:
    x = np.arange(32, dtype=np.float32)
    y = device.empty(32, np.float32)
    device.launch(module["neighbour"], 1, 32, (x, y))
    _close(y, np.roll(x, -1))


def matrix(device: EmulatedDevice, module: Module) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((16, 16), (8, 16)))
    d = device.empty((16, 8), np.float32)
    bits = [(v.view(np.uint32) >> 16).astype(np.uint16) for v in (a, b)]
    device.launch(module["matrix"], 1, 32, (*bits, d))
    _close(d, a @ b.T)


KERNELS: dict[str, tuple[str, Run]] = {
    "reduce": (REDUCE, reduce),
    "transpose": (TRANSPOSE, transpose),
    "stencil": (STENCIL, stencil),
    "count": (COUNT, count),
    "pipeline": (PIPELINE, pipeline),
    "warp": (WARP, warp),
    "matrix": (MATRIX, matrix),
}

# kernel, what is wrong, text, what it becomes, what the report must say
BUGS = [
    ("reduce", "a barrier is missing", "__syncthreads();", "", "race in shared memory|nobody wrote"),
    ("reduce", "memory that nobody wrote is read", "lane < warps ? part[lane] : 0.0f", "part[lane]", "nobody wrote"),
    ("reduce", "a barrier in a branch", "if (lane == 0) part[warp] = v;\n  __syncthreads();",
     "if (lane == 0) { part[warp] = v; __syncthreads(); }", "nobody wrote|race|another barrier|wait"),
    ("reduce", "a shuffle in a branch", "v = warp_sum(v);\n  const",
     "if (threadIdx.x % 32 < 20) v = warp_sum(v);\n  const",
     "never come"),
    ("reduce", "a thread that leaves before a shuffle", "float v = 0;",
     "float v = 0; if (threadIdx.x == 100) return;",
     "have ended"),
    ("reduce", "the loop runs one too far", "i < columns", "i <= columns", "past the end"),
    ("reduce", "the wrong row", "blockIdx.x * columns", "(blockIdx.x + 1) * columns", "past the end"),
    ("reduce", "the shared array is too small", "part[32]", "part[2]",
     "past the end of an array in shared memory|which has"),
    ("reduce", "every lane writes the result", "if (lane == 0) y[blockIdx.x] = v;", "y[blockIdx.x] = v;",
     "race in global memory"),
    ("reduce", "every block writes one place", "y[blockIdx.x] = v", "y[0] = v",
     "race in global memory.*nothing orders blocks"),
    ("transpose", "a barrier is missing", "__syncthreads();", "", "race in shared memory|nobody wrote"),
    ("transpose", "rows are not bounded", "if (r0 + i < rows && c < columns)", "if (c < columns)", "past the end"),
    ("transpose", "columns are not bounded on the way out", "if (c0 + i < columns && r < rows)", "if (r < rows)",
     "nobody wrote|past the end"),
    ("transpose", "rows and columns are exchanged", "(c0 + i) * rows + r", "r * columns + c0 + i",
     "differ|race|Mismatch|tolerance"),
    ("stencil", "a barrier is missing", "__syncthreads();", "", "race in shared memory|nobody wrote"),
    ("stencil", "no right border", "if (threadIdx.x == 63) line[65]", "if (threadIdx.x == 64) line[65]",
     "nobody wrote"),
    ("stencil", "the border reads before the array", "i > 0 ? x[i - 1] : 0.0f", "x[i - 1]", "before an array"),
    ("stencil", "one element of shared memory too few", "line[66]", "line[65]",
     "past the end of an array in shared memory|which has"),
    ("count", "not atomic in shared memory", "atomicAdd(&local[x[i]], 1)", "local[x[i]] += 1",
     "race in shared memory"),
    ("count", "not atomic in global memory", "atomicAdd(&counts[threadIdx.x], local[threadIdx.x])",
     "counts[threadIdx.x] += local[threadIdx.x]", "race in global memory"),
    ("count", "nobody sets it to zero", "if (threadIdx.x < 16) local[threadIdx.x] = 0;", "", "nobody wrote"),
    ("count", "a barrier too early", "  __syncthreads();\n  const int i", "  const int i",
     "race in shared memory|nobody wrote"),
    ("pipeline", "a wait too weak", "WAIT(1)", "WAIT(2)", "Mismatch|tolerance|race|nobody|waited for"),
    ("pipeline", "no commit in the loop", "    COMMIT;\n    WAIT", "    WAIT", "Mismatch|tolerance|race|waited for"),
    ("pipeline", "no barrier after the wait", "WAIT(1);\n    __syncthreads();", "WAIT(1);", "race in shared memory"),
    ("pipeline", "no barrier before the overwrite", "{\n    __syncthreads();\n    if", "{\n    if",
     "race in shared memory"),
    ("pipeline", "one row too many is fetched", "if (r + 1 < rows) fetch", "fetch", "past the end"),
    ("pipeline", "a misaligned copy", "x + (r + 1) * 64 + t)",
     "(const float*)((const char*)x + (r + 1) * 256 + t * 4 + 2))",
     "no multiple of 4"),
    ("warp", "lanes are not synchronised", "__syncwarp();", "", "race in shared memory|nobody wrote"),
    ("warp", "a neighbour beyond the warp", "(threadIdx.x + 1) % 32", "threadIdx.x + 1",
     "past the end of an array|which has"),
    ("matrix", "rows of the wrong fragment", "lane % 16][lane / 16 * 8]", "lane / 2][lane % 2 * 8]",
     "Mismatch|tolerance"),
    ("matrix", "two registers exchanged", '"r"(a[1]), "r"(a[2])', '"r"(a[2]), "r"(a[1])', "Mismatch|tolerance"),
    ("matrix", "a row that is not 16 bytes aligned", "sa[16][24]", "sa[16][20]", "no multiple of 16"),
    ("matrix", "lanes are not synchronised", "__syncwarp();", "", "race in shared memory|nobody wrote"),
]  # fmt: skip


def compiled(device: EmulatedDevice, name: str, old: str = "", new: str = "") -> Module:
    code, header = KERNELS[name][0], MATRIX_HEADER
    if old:
        assert code.count(old) + header.count(old) >= 1, old
        code, header = code.replace(old, new, 1), header.replace(old, new, 1)
    return device.compile(f"{name}.cu", code=code, headers={"mma_test.cuh": header})


@pytest.fixture(scope="module")
def devices() -> list[EmulatedDevice]:
    return [EmulatedDevice(order=order) for order in ORDERS]


@pytest.mark.parametrize("name", KERNELS)
def test_a_correct_kernel_raises_no_alarm(name: str, devices: list[EmulatedDevice]) -> None:
    for device in devices:
        KERNELS[name][1](device, compiled(device, name))


@pytest.mark.parametrize(
    ("name", "what", "old", "new", "report"), BUGS, ids=[f"{b[0]}: {b[1]}" for b in BUGS]
)
def test_a_planted_bug_is_caught(
    name: str, what: str, old: str, new: str, report: str, devices: list[EmulatedDevice]
) -> None:
    for device in devices:
        module = compiled(device, name, old, new)
        with pytest.raises((KernelFault, AssertionError), match=rf"(?is){report}"):
            KERNELS[name][1](device, module)


def test_a_race_is_reported_with_both_lines(devices: list[EmulatedDevice]) -> None:
    module = compiled(devices[0], "warp", "__syncwarp();", "")
    with pytest.raises(
        KernelFault,
        match=r"(?s)neighbour: block \(0,0,0\) thread .*(at warp\.cu:6: y\[thr.*|nobody wrote.*at warp\.cu:6)",
    ):
        warp(devices[0], module)
    module = compiled(devices[0], "count", "atomicAdd(&local[x[i]], 1)", "local[x[i]] += 1")
    with pytest.raises(KernelFault, match=r"(?s)at count\.cu:7: if .*and count\.cu:7: if"):
        count(devices[0], module)


def test_without_checks_a_race_goes_unseen_but_bounds_are_still_kept() -> None:
    device = EmulatedDevice(check=False)
    count(device, compiled(device, "count", "atomicAdd(&local[x[i]], 1)", "local[x[i]] += 1"))
    with pytest.raises(KernelFault, match="past the end"):
        reduce(device, compiled(device, "reduce", "i < columns", "i <= columns"))
