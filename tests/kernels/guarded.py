"""Runs the CPU kernels on arrays that lie against a forbidden page: one element read or written outside is a
crash.

Run as ``python -m tests.kernels.guarded SIDE SEED COUNT``; SIDE is "end" (the page after an array) or "start"
(the page before it).
Numba's intrinsics check no bounds, and an access just outside an ordinary array goes unseen.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

from minidl import kernels
from minidl.kernels.cpu import memory

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


def guarded_empty(side: str) -> Any:
    """A replacement of ``memory.empty`` whose arrays touch a page without access."""
    kept: list[mmap.mmap] = []

    def empty(shape: Any, dtype: Any) -> np.ndarray:
        dtype = np.dtype(dtype)
        sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        nbytes = int(np.prod(sizes)) * dtype.itemsize
        pages = max(1, -(-nbytes // PAGE))
        block = mmap.mmap(-1, (pages + 2) * PAGE)
        kept.append(block)
        if len(kept) > 400:
            kept.pop(0)
        base = ctypes.addressof(ctypes.c_char.from_buffer(block))
        for page in (0, pages + 1):
            if _libc.mprotect(ctypes.c_void_p(base + page * PAGE), PAGE, 0):  # 0: PROT_NONE
                raise OSError(ctypes.get_errno(), "mprotect")
        offset = PAGE if side == "start" else PAGE + pages * PAGE - nbytes
        flat = np.frombuffer(block, np.uint8, nbytes, offset).view(dtype)
        flat[...] = np.nan if dtype.kind == "f" else 0  # what is read uninitialised shows
        return flat.reshape(sizes)

    return empty


def copy_of(array: np.ndarray) -> np.ndarray:
    """The same numbers in a guarded array."""
    out = memory.empty(array.shape, array.dtype)
    out[...] = array
    return out


def equal(ours: Any, theirs: Any, what: str, dtype: Any) -> None:
    """Compare with the reference; NaN from uninitialised memory fails."""
    tolerance = {4: 2e-3, 8: 1e-9, 2: 2e-2}[np.dtype(dtype).itemsize]
    for a, b in zip(ours, theirs, strict=True):
        if b is not None and a.dtype != b.dtype:
            a, b = a.astype(np.float64), b.astype(np.float64)
        if b is not None and b.size and not np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max()):
            raise SystemExit(f"{what}: differs from the reference by {np.abs(a - b).max()}")


def convolution(rng: np.random.Generator, dtype: Any) -> None:
    """One random convolution in three directions."""
    groups = int(rng.choice([1, 1, 1, 2, 4]))
    channels = groups * int(rng.choice([1, 2, 3, 4, 8, 16, 19, 32]))
    outputs = groups * int(rng.choice([1, 2, 5, 8, 16, 33, 64]))
    if rng.random() < 0.3:
        outputs = channels
    kh, kw = (int(k) for k in rng.integers(1, 5, 2))
    if rng.random() < 0.3:
        kh = kw = 1
    stride = tuple(int(s) for s in rng.integers(1, 4, 2))
    dilation = tuple(int(d) for d in rng.integers(1, 3, 2))
    pad = tuple(tuple(int(p) for p in rng.integers(0, 3, 2)) for _ in range(2))
    h = int(rng.integers(1, 20)) + dilation[0] * (kh - 1)
    w = int(rng.integers(1, 20)) + dilation[1] * (kw - 1)
    n = int(rng.integers(1, 4))
    if rng.random() < 0.3:  # what Winograd's algorithm takes, which main() asks for
        kh, kw, groups, dilation = 3, 3, 1, (1, 1)
        stride = (1, 1) if rng.random() < 0.4 else (2, 2)
        channels, outputs = (16 * int(m) for m in rng.integers(1, 6, 2))
        h, w = max(h, 3), max(w, 3)
    x = copy_of(rng.standard_normal((n, h, w, channels)).astype(dtype))
    weight = copy_of(rng.standard_normal((outputs, kh, kw, channels // groups)).astype(dtype))
    bias = copy_of(rng.standard_normal(outputs).astype(dtype))
    options = (stride, pad, dilation, groups)
    what = f"conv {x.shape} {weight.shape} stride, pad, dilation, groups {options} {np.dtype(dtype).name}"
    print(what, flush=True)
    fast = kernels.backend(x)
    with kernels.use("reference"):
        slow = kernels.backend(x)
    if dtype == np.float32 and rng.random() < 0.3:
        in_bfloat16(fast, slow, x, weight, bias, options, what)
    y = fast.conv2d(x, weight, bias, *options)
    gy = copy_of(rng.standard_normal(y.shape).astype(dtype))
    equal([y], [slow.conv2d(x, weight, bias, *options)], what, dtype)
    y = fast.conv2d(x, weight, bias, *options, relu=True, residual=gy)
    equal([y], [slow.conv2d(x, weight, bias, *options, relu=True, residual=gy)], what, dtype)
    gx = fast.conv2d_input_grad(gy, weight, (h, w), *options)
    equal([gx], [slow.conv2d_input_grad(gy, weight, (h, w), *options)], what, dtype)
    gx = fast.conv2d_input_grad(gy, weight, (h, w), *options, residual=x)
    equal([gx], [slow.conv2d_input_grad(gy, weight, (h, w), *options, residual=x)], what, dtype)
    equal(fast.channel_sums(gy, y), slow.channel_sums(gy, y), what, dtype)
    gw = fast.conv2d_weight_grad(gy, x, (kh, kw), *options)
    equal([gw], [slow.conv2d_weight_grad(gy, x, (kh, kw), *options)], what, dtype)


def in_bfloat16(
    fast: Any, slow: Any, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, options: Any, what: str
) -> None:
    """The same convolution of bfloat16 numbers."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return
    print("in bfloat16", flush=True)
    rounded = [copy_of(a.astype(bfloat16)) for a in (x, weight, bias)]
    wide = [a.astype(np.float64) for a in rounded]
    y = fast.conv2d(*rounded, *options)
    equal([y], [slow.conv2d(*wide, *options)], what, bfloat16)
    gy = copy_of(y)
    gx = fast.conv2d_input_grad(gy, rounded[1], x.shape[1:3], *options)
    equal(
        [gx], [slow.conv2d_input_grad(gy.astype(np.float64), wide[1], x.shape[1:3], *options)], what, bfloat16
    )


def others(rng: np.random.Generator, dtype: Any) -> None:
    """Random products, norms and pools."""
    m, k, o = (int(v) for v in rng.integers(1, 70, 3))
    a, b = (copy_of(rng.standard_normal(s).astype(dtype)) for s in ((m, k), (o, k)))
    print(f"linear {a.shape} {b.shape} {np.dtype(dtype).name}", flush=True)
    fast = kernels.backend(a)
    with kernels.use("reference"):
        slow = kernels.backend(a)
    equal([fast.linear(a, b, None)], [slow.linear(a, b, None)], "linear", dtype)
    equal([fast.matmul(a, b.T)], [slow.matmul(a, b.T)], "matmul", dtype)
    n, h, w, c = (
        int(v) for v in (rng.integers(1, 4), rng.integers(2, 12), rng.integers(2, 12), rng.integers(1, 70))
    )
    x, gy = (copy_of(rng.standard_normal((n, h, w, c)).astype(dtype)) for _ in range(2))
    print(f"norm and pool {x.shape}", flush=True)
    mean, var = fast.batch_norm_stats(x)
    equal([mean, var], slow.batch_norm_stats(x), "batch_norm_stats", dtype)
    scale, rstd = (
        copy_of(rng.uniform(0.5, 1, c).astype(dtype)),
        copy_of((1 / np.sqrt(var + 1e-5)).astype(dtype)),
    )
    y = fast.batch_norm_apply(x, scale, mean, gy, True)
    equal([y], [slow.batch_norm_apply(x, scale, mean, gy, True)], "batch_norm_apply", dtype)
    args = (gy, x, mean, rstd, scale, y, True)
    equal(fast.batch_norm_backward(*args), slow.batch_norm_backward(*args), "batch_norm_backward", dtype)
    window = ((2, 2), (1, 2), ((1, 0), (0, 1)), (1, 1))
    out_hw = (h + 1 - 1, (w + 1 - 2) // 2 + 1)
    y, index = fast.max_pool2d(x, *window, out_hw)
    equal([y, index], slow.max_pool2d(x, *window, out_hw), "max_pool2d", dtype)
    g = copy_of(rng.standard_normal(y.shape).astype(dtype))
    equal(
        [fast.max_pool2d_scatter(g, index, (h, w), window)],
        [slow.max_pool2d_scatter(g, index, (h, w))],
        "max_pool2d_scatter",
        dtype,
    )
    equal([fast.adaptive_avg_pool2d(x, (2, 1))], [slow.adaptive_avg_pool2d(x, (2, 1))], "adaptive", dtype)


def main() -> None:
    """Run COUNT random cases of each kind."""
    side, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    memory.empty = guarded_empty(side)
    memory.workspace = lambda sizes, dtype: [memory.empty(size, dtype) for size in sizes]
    rng = np.random.default_rng(seed)
    with kernels.conv_algorithm("winograd"):
        for i in range(count):
            dtype = np.float64 if i % 4 == 3 else np.float32
            convolution(rng, dtype)
            if i % 3 == 0:
                others(rng, dtype)
    print("done")


if __name__ == "__main__":
    main()
