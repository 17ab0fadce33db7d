"""Convolution kernels, forward and both gradients, on the layer shapes of ResNets, beside PyTorch.

Every result is compared with PyTorch's before it is timed. GFLOP/s count a multiplication and an addition
as two; the machine's limit is measured in the same run, by multiply-adds on registers alone on all threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.timing import Timing, interleave
from minidl import kernels

DIRECTIONS = ("forward", "input gradient", "weight gradient")


@dataclass(frozen=True)
class Shape:
    """One convolution: square images and windows, padding that keeps the size at stride 1."""

    network: str
    batch: int
    size: int
    channels: int
    outputs: int
    kernel: int
    stride: int

    @property
    def name(self) -> str:
        """A row title."""
        what = f"{self.kernel}x{self.kernel}" + (f" /{self.stride}" if self.stride > 1 else "")
        return f"{self.network}: {what}, {self.channels} -> {self.outputs}, {self.size}x{self.size} x{self.batch}"

    @property
    def out_size(self) -> int:
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.out_size**2 * self.channels * self.outputs * self.kernel**2


def _shapes() -> list[Shape]:
    rows = [
        # network, batch, size, channels, outputs, kernel, stride
        ("CIFAR", 128, 32, 16, 16, 3, 1),
        ("CIFAR", 128, 32, 16, 32, 3, 2),
        ("CIFAR", 128, 16, 32, 32, 3, 1),
        ("CIFAR", 128, 16, 32, 64, 3, 2),
        ("CIFAR", 128, 8, 64, 64, 3, 1),
        ("ResNet", 16, 224, 3, 64, 7, 2),
        ("ResNet-18", 16, 56, 64, 64, 3, 1),
        ("ResNet-18", 16, 56, 64, 128, 3, 2),
        ("ResNet-18", 16, 56, 64, 128, 1, 2),
        ("ResNet-18", 16, 28, 128, 128, 3, 1),
        ("ResNet-18", 16, 28, 128, 256, 3, 2),
        ("ResNet-18", 16, 28, 128, 256, 1, 2),
        ("ResNet-18", 16, 14, 256, 256, 3, 1),
        ("ResNet-18", 16, 14, 256, 512, 3, 2),
        ("ResNet-18", 16, 14, 256, 512, 1, 2),
        ("ResNet-18", 16, 7, 512, 512, 3, 1),
        ("ResNet-50", 16, 56, 64, 64, 1, 1),
        ("ResNet-50", 16, 56, 64, 256, 1, 1),
        ("ResNet-50", 16, 56, 256, 64, 1, 1),
        ("ResNet-50", 16, 56, 256, 128, 1, 1),
        ("ResNet-50", 16, 56, 128, 128, 3, 2),
        ("ResNet-50", 16, 28, 128, 512, 1, 1),
        ("ResNet-50", 16, 56, 256, 512, 1, 2),
        ("ResNet-50", 16, 28, 512, 128, 1, 1),
        ("ResNet-50", 16, 28, 512, 256, 1, 1),
        ("ResNet-50", 16, 28, 256, 256, 3, 2),
        ("ResNet-50", 16, 14, 256, 1024, 1, 1),
        ("ResNet-50", 16, 28, 512, 1024, 1, 2),
        ("ResNet-50", 16, 14, 1024, 256, 1, 1),
        ("ResNet-50", 16, 14, 1024, 512, 1, 1),
        ("ResNet-50", 16, 14, 512, 512, 3, 2),
        ("ResNet-50", 16, 7, 512, 2048, 1, 1),
        ("ResNet-50", 16, 14, 1024, 2048, 1, 2),
        ("ResNet-50", 16, 7, 2048, 512, 1, 1),
    ]
    return [Shape(*row) for row in rows]


SHAPES = _shapes()
QUICK = [s for s in SHAPES if s.network in ("CIFAR", "ResNet-18") and s.stride == 1]


def multiply_add_limit(threads: int) -> float:
    """GFLOP/s of multiply-adds that touch registers and the L1 cache only, on ``threads`` threads: the best of 5."""
    import time

    from minidl.kernels.cpu import simd
    from minidl.kernels.cpu.plan import tile_shapes
    from minidl.kernels.cpu.runtime import kernel, launch

    shape = tile_shapes()[0]
    tile = simd.tile("float32", shape.rows, shape.vectors)
    zero, fma, store, cols = tile.zero, tile.fma, tile.store, tile.cols
    depth, repeats = 64, 20_000

    @kernel(variant=tile.name)
    def spin(a: Any, b: Any, c: Any, part: int, parts: int) -> None:
        for _ in range(repeats):
            acc = zero()
            for k in range(depth):
                acc = fma(acc, a, k, depth, b, k * cols)
            store(acc, c, part * tile_size, cols)

    tile_size = tile.rows * tile.cols
    a = np.ones(tile.rows * depth, np.float32)
    b = np.ones(depth * cols, np.float32)
    c = np.zeros(threads * tile_size, np.float32)
    best = 0.0
    for _ in range(6):  # the first compiles
        started = time.perf_counter()
        launch(spin, a, b, c, parts=threads)
        seconds = time.perf_counter() - started
        best = max(best, 2 * tile_size * depth * repeats * threads / seconds / 1e9)
    return best


def _minidl(shape: Shape, x: np.ndarray, w: np.ndarray, gy: np.ndarray) -> list[Callable[[], np.ndarray]]:
    """The three directions; images are (N, C, H, W) views of channels-last memory."""
    backend = kernels.backend(x)
    images, grads, weights = x.transpose(0, 2, 3, 1), gy.transpose(0, 2, 3, 1), w.transpose(0, 2, 3, 1)
    p = shape.kernel // 2
    place: tuple[Any, ...] = ((shape.stride,) * 2, ((p, p), (p, p)), (1, 1), 1)
    return [
        lambda: backend.conv2d(images, weights, None, *place).transpose(0, 3, 1, 2),
        lambda: backend.conv2d_input_grad(grads, weights, (shape.size,) * 2, *place).transpose(0, 3, 1, 2),
        lambda: backend.conv2d_weight_grad(grads, images, (shape.kernel,) * 2, *place).transpose(0, 3, 1, 2),
    ]


def _torch(
    torch: Any, shape: Shape, x: np.ndarray, w: np.ndarray, gy: np.ndarray, memory_format: Any
) -> list[Callable[[], Any]]:
    images, weights, grads = (torch.from_numpy(a).contiguous(memory_format=memory_format) for a in (x, w, gy))
    p, s = shape.kernel // 2, shape.stride

    def gradient(mask: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            grads, images, weights, None, [s, s], [p, p], [1, 1], False, [0, 0], 1, mask
        )

    return [
        lambda: torch.conv2d(images, weights, None, s, p),
        lambda: gradient([True, False, False])[0],
        lambda: gradient([False, True, False])[1],
    ]


def run(shape: Shape, turns: int, threads: int) -> list[tuple[str, Timing, float]]:
    """Time the directions of one shape: (direction, timing, relative difference to PyTorch)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.batch, shape.size, shape.size, shape.channels), np.float32)
    gy = rng.standard_normal((shape.batch, shape.out_size, shape.out_size, shape.outputs), np.float32)
    w = rng.standard_normal((shape.outputs, shape.channels, shape.kernel, shape.kernel), np.float32)
    x, gy = x.transpose(0, 3, 1, 2), gy.transpose(0, 3, 1, 2)
    ours = _minidl(shape, x, w, gy)
    others: dict[str, list[Callable[[], Any]]] = {}
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    if torch is not None:
        torch.set_num_threads(threads)
        others["torch NCHW"] = _torch(torch, shape, x, w, gy, torch.contiguous_format)
        others["torch NHWC"] = _torch(torch, shape, x, w, gy, torch.channels_last)
    out = []
    for d, direction in enumerate(DIRECTIONS):
        if shape.channels == 3 and direction == "input gradient":  # nobody asks for it: x is data
            continue
        error = 0.0
        result = ours[d]()
        for calls in others.values():
            expected = calls[d]().numpy()
            error = max(error, float(np.abs(result - expected).max() / np.abs(expected).max()))
        if error > 2e-5:
            raise SystemExit(f"{shape.name}, {direction}: differs from PyTorch by {error:.1e}; not timed")
        contestants: dict[str, Callable[[], object]] = {"minidl": ours[d]}
        contestants |= {name: calls[d] for name, calls in others.items()}
        out.append((direction, interleave(contestants, turns, min_seconds=0.01), error))
    return out


def table(quick: bool, turns: int, threads: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Markdown lines and JSON rows of all shapes and directions."""
    limit = multiply_add_limit(threads)
    lines = [
        f"Multiply-add limit: {limit:.0f} GFLOP/s on {threads} threads.",
        "",
        "| convolution | direction | minidl ms | GFLOP/s | of the limit | fastest PyTorch | ms | times as fast |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    rows: list[dict[str, Any]] = []
    for shape in QUICK if quick else SHAPES:
        for direction, timing, error in run(shape, turns, threads):
            ours = timing.median("minidl")
            speed = shape.flops / ours / 1e9
            text = f"| {shape.name} | {direction} | {ours * 1e3:.2f} | {speed:.0f} | {speed / limit:.0%} |"
            row: dict[str, Any] = {
                "convolution": shape.name,
                "direction": direction,
                "gflops": speed,
                "limit": limit,
                "difference": error,
                "seconds": timing.seconds,
            }
            others = [name for name in timing.seconds if name != "minidl"]
            if others:
                best = timing.fastest(others)
                middle, low, high = timing.ratio("minidl", best)
                row |= {"fastest": best, "ratio": middle, "quartiles": [low, high]}
                text += f" {best} | {timing.median(best) * 1e3:.2f} | {middle:.2f} ({low:.2f}-{high:.2f}) |"
            else:
                text += " not installed | | |"
            print(text, flush=True)
            lines.append(text)
            rows.append(row)
    ratios = sorted(row["ratio"] for row in rows if "ratio" in row)
    if ratios:
        middle = ratios[len(ratios) // 2]
        geometric = float(np.exp(np.mean(np.log(ratios))))
        summary = (
            f"Times as fast as the fastest PyTorch: median {middle:.2f}, geometric mean {geometric:.2f}, "
            f"lowest {ratios[0]:.2f}, highest {ratios[-1]:.2f}."
        )
        print(summary, flush=True)
        lines += ["", summary]
    return lines, rows
