"""Convolution kernels, forward and both gradients, on the layer shapes of ResNets, beside PyTorch.

Every result is compared with PyTorch's, or without PyTorch with the reference kernels', before it is timed.
Multiply-adds on registers alone take turns with the kernels, so that each row has the machine's limit of its own
moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import multiply_adds
from benchmarks.others import torch_convolution
from benchmarks.report import DIRECTIONS
from benchmarks.timing import interleave
from minidl import kernels

TOLERANCE = 2e-5  # of the largest element


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
        """Of the direct algorithm, in each direction; a multiplication and an addition count as two."""
        return 2 * self.batch * self.out_size**2 * self.channels * self.outputs * self.kernel**2

    def bytes_moved(self, direction: str) -> int:
        """What a direction must at least read and write: image, output or its gradient, weight; float32."""
        side = self.size
        if (
            direction != "input gradient" and self.kernel < self.stride
        ):  # pixels between the windows are not read
            side = self.out_size * self.kernel
        images = self.batch * side**2 * self.channels
        outputs = self.batch * self.out_size**2 * self.outputs
        return 4 * (images + outputs + self.outputs * self.channels * self.kernel**2)


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
    return torch_convolution(torch, images, weights, grads, shape.stride, shape.kernel // 2)


def run(shape: Shape, turns: int, threads: int) -> Iterator[dict[str, Any]]:
    """Check and time the directions of one shape: a row for each.

    Raises:
        SystemExit: a result is wrong.
    """
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
    limit, spin_gflop = multiply_adds(threads)
    for d, direction in enumerate(DIRECTIONS):
        if shape.channels == 3 and direction == "input gradient":  # nobody asks for it: x is data
            continue
        result = ours[d]()
        expected = [calls[d]().numpy() for calls in others.values()]
        if torch is None:
            with kernels.use("reference"):
                expected = [_minidl(shape, x, w, gy)[d]()]
        difference = max(float(np.abs(result - e).max() / np.abs(e).max()) for e in expected)
        if not difference <= TOLERANCE:
            raise SystemExit(
                f"{shape.name}, {direction}: differs by {difference:.1e} of the largest; not timed"
            )
        contestants: dict[str, Callable[[], object]] = {"minidl": ours[d]}
        contestants |= {name: calls[d] for name, calls in others.items()}
        timing = interleave({**contestants, "limit": limit}, turns, min_seconds=0.01)
        yield {
            "convolution": shape.name,
            "network": shape.network,
            "direction": direction,
            "gflop": shape.flops / 1e9,
            "gbytes": shape.bytes_moved(direction) / 1e9,
            "limit": spin_gflop / min(timing.seconds["limit"]),
            "difference": difference,
            "seconds": {name: timing.seconds[name] for name in contestants},
        }


def rows(quick: bool, select: str, turns: int, threads: int) -> Iterator[dict[str, Any]]:
    """The rows of all shapes whose names hold the regular expression ``select``."""
    for shape in QUICK if quick else SHAPES:
        if re.search(select, shape.name):
            yield from run(shape, turns, threads)
