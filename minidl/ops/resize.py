"""Images of another size: interpolation, and channels that become pixels (sub-pixel convolution)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import kernels
from minidl.autograd import Function
from minidl.ops._common import Array
from minidl.ops._windows import one
from minidl.ops.movement import permute, reshape
from minidl.ops.pool import adaptive_avg_pool2d
from minidl.ops.pool1d import adaptive_avg_pool1d
from minidl.ops.promotion import beside
from minidl.tensor import Tensor

__all__ = ["interpolate", "pixel_shuffle", "pixel_unshuffle"]

SMOOTH = {"linear": 3, "bilinear": 4, "bicubic": 4}
MODES = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "area")


class Resample(Function):
    """Along one axis, output o = sum over taps t of weight[t, o] * x[index[t, o]]."""

    def __init__(self, axis: int, index: Array, weight: Array) -> None:
        self.axis, self.index, self.weight = axis, index, weight

    def forward(self, x: Array) -> Array:
        self.size = x.shape[self.axis]
        return kernels.backend(x).resample(x, self.axis, self.index, self.weight)

    def backward(self, grad: Tensor) -> Tensor:
        return ResampleAdjoint(self.axis, self.index, self.weight, self.size)(grad)


class ResampleAdjoint(Function):
    """The adjoint of Resample."""

    def __init__(self, axis: int, index: Array, weight: Array, size: int) -> None:
        self.axis, self.index, self.weight, self.size = axis, index, weight, size

    def forward(self, gy: Array) -> Array:
        return kernels.backend(gy).resample_adjoint(gy, self.axis, self.index, self.weight, self.size)

    def backward(self, grad: Tensor) -> Tensor:
        return Resample(self.axis, self.index, self.weight)(grad)


def _cubic(x: Array, a: float) -> Array:
    """Keys' cubic convolution kernel (1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _source(size: int, out: int, scale: float, align_corners: bool) -> Array:
    """Where in the input the centre of each output lies."""
    if align_corners:
        return np.arange(out) * ((size - 1) / (out - 1) if out > 1 else 0.0)
    return (np.arange(out) + 0.5) * scale - 0.5


def _taps(size: int, out: int, mode: str, align_corners: bool, factor: float | None) -> tuple[Array, Array]:
    """(index, weight), each (T, out), of an interpolation without antialiasing, by PyTorch's formulas."""
    if mode.startswith("nearest"):
        # PyTorch computes these in float32, and the pixel chosen depends on it
        scale = np.float32(1 / factor) if factor else np.float32(size) / np.float32(out)
        offset = np.float32(0.5 if mode == "nearest-exact" else 0.0)
        source = np.floor((np.arange(out, dtype=np.float32) + offset) * scale)
        return np.minimum(source, size - 1).astype(np.int64)[None], np.ones((1, out))
    source = _source(size, out, 1 / factor if factor else size / out, align_corners)
    if mode == "bicubic":
        first = np.floor(source)
        steps = np.arange(-1, 3)[:, None]
        weight = _cubic(source - first - steps, -0.75)
        return np.clip(first + steps, 0, size - 1).astype(np.int64), weight
    source = np.maximum(source, 0)
    first = np.minimum(np.floor(source), size - 1).astype(np.int64)
    second = np.minimum(first + 1, size - 1)
    share = np.clip(source - first, 0, 1)
    return np.stack([first, second]), np.stack([1 - share, share])


def _antialiased_taps(
    size: int, out: int, mode: str, align_corners: bool, factor: float | None
) -> tuple[Array, Array]:
    """The same with the kernel widened to the input's pixels when shrinking, as Pillow does it."""
    if align_corners:
        scale = (size - 1) / (out - 1) if out > 1 else 0.0
    else:
        scale = 1 / factor if factor else size / out
    stretch = max(scale, 1.0)
    support = (2 if mode == "bicubic" else 1) * stretch
    centre = scale * (np.arange(out) + 0.5)
    low = np.maximum(np.trunc(centre - support + 0.5), 0).astype(np.int64)
    high = np.minimum(np.trunc(centre + support + 0.5), size).astype(np.int64)
    steps = np.arange(max(int((high - low).max()), 1))[:, None]
    distance = (steps + low - centre + 0.5) / stretch
    weight = _cubic(distance, -0.5) if mode == "bicubic" else np.maximum(1 - np.abs(distance), 0)
    weight = np.where(steps < high - low, weight, 0.0)
    total = weight.sum(0)
    return np.minimum(low + steps, size - 1), weight / np.where(total == 0, 1, total)


def _sizes(x: Tensor, size: Any, scale_factor: Any, recompute: bool | None) -> list[tuple[int, float | None]]:
    """For each spatial axis its new size, and the factor that its grid is laid by (None: the sizes' ratio)."""
    op, axes = "interpolate", x.ndim - 2
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}: exactly one of size and scale_factor must be given")
    if size is not None:
        if recompute:
            raise ValueError(f"{op}: recompute_scale_factor needs scale_factor, not size")
        given = list(size) if isinstance(size, (tuple, list)) else [size] * axes
        if len(given) != axes:
            raise ValueError(f"{op}: size expects {axes} ints for x of shape {x.shape}, got {size!r}")
        return [(one(op, "size", s, 1), None) for s in given]
    factors = list(scale_factor) if isinstance(scale_factor, (tuple, list)) else [scale_factor] * axes
    if len(factors) != axes or any(
        isinstance(f, bool) or not isinstance(f, (int, float, np.number)) or not 0 < f < math.inf
        for f in factors
    ):
        raise ValueError(f"{op}: scale_factor expects {axes} numbers > 0 (or one), got {scale_factor!r}")
    out = []
    for n, f in zip(x.shape[2:], factors, strict=True):
        scaled = math.floor(n * float(f))
        if scaled < 1:
            raise ValueError(f"{op}: scale_factor {scale_factor!r} leaves nothing of shape {x.shape}")
        out.append((scaled, None if recompute else float(f)))
    return out


def interpolate(
    x: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize signals or images, as ``torch.nn.functional.interpolate``.

    Args:
        x: (N, C, L) or (N, C, H, W), floating.
        size: the new size, an int or one for each spatial dimension.
        scale_factor: or its ratio to the old one, a number or one for each; the new size is
            floor(old * scale_factor).
        mode: "nearest" (PyTorch's, off by half a pixel), "nearest-exact" (Pillow's), "linear" (3 dimensions),
            "bilinear", "bicubic" (4 dimensions), or "area" (adaptive average pooling).
        align_corners: the centres of the corner pixels keep their place (instead of the image's edges); for
            linear, bilinear and bicubic only.
        recompute_scale_factor: lay the grid by the ratio of the sizes instead of ``scale_factor``.
        antialias: widen the kernel when shrinking, as Pillow; bilinear and bicubic only.

    Returns:
        (N, C, OL) or (N, C, OH, OW).
    """
    op = "interpolate"
    if x.ndim not in (3, 4):
        raise ValueError(f"{op}: x expects shape (N, C, L) or (N, C, H, W), got {x.shape}")
    if mode not in MODES:
        raise ValueError(f"{op}: mode expects one of {', '.join(MODES)}, got {mode!r}")
    if mode in SMOOTH and x.ndim != SMOOTH[mode]:
        raise ValueError(f"{op}: mode {mode!r} expects {SMOOTH[mode]} dimensions, got shape {x.shape}")
    if align_corners is not None and mode not in SMOOTH:
        raise ValueError(f"{op}: align_corners is for linear, bilinear and bicubic, not for {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"{op}: antialias is for bilinear and bicubic, not for {mode!r}")
    if 0 in x.shape[2:]:
        raise ValueError(f"{op}: x has no pixels, shape {x.shape}")
    plan = _sizes(x, size, scale_factor, recompute_scale_factor)
    if mode == "area":
        sizes = [n for n, _ in plan]
        return adaptive_avg_pool1d(x, sizes[0]) if x.ndim == 3 else adaptive_avg_pool2d(x, sizes)
    taps = _antialiased_taps if antialias else _taps
    for axis, (out, factor) in enumerate(plan, 2):
        if out == x.shape[axis] and (factor in (None, 1.0) or antialias or mode in ("linear", "bilinear")):
            continue  # nothing moves along this axis; with an odd factor that is PyTorch's choice
        index, weight = taps(x.shape[axis], out, mode, bool(align_corners), factor)
        x = Resample(axis, beside(index, x), beside(weight, x))(x)
    return x


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """(..., C * r * r, H, W) -> (..., C, H * r, W * r), as ``torch.nn.functional.pixel_shuffle`` (Shi et al.
    2016): channels become the pixels of r x r blocks."""
    r = one("pixel_shuffle", "upscale_factor", upscale_factor, 1)
    if x.ndim < 3 or x.shape[-3] % (r * r):
        raise ValueError(
            f"pixel_shuffle: x expects shape (..., C * {r * r}, H, W) for upscale_factor {r}, got {x.shape}"
        )
    *lead, c, h, w = x.shape
    k = len(lead)
    blocks = reshape(x, (*lead, c // (r * r), r, r, h, w))
    order = (*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return reshape(permute(blocks, order), (*lead, c // (r * r), h * r, w * r))


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """(..., C, H * r, W * r) -> (..., C * r * r, H, W), as ``torch.nn.functional.pixel_unshuffle``: the
    inverse of :func:`pixel_shuffle`."""
    r = one("pixel_unshuffle", "downscale_factor", downscale_factor, 1)
    if x.ndim < 3 or x.shape[-2] % r or x.shape[-1] % r:
        raise ValueError(
            f"pixel_unshuffle: x expects a height and width divisible by {r}, got shape {x.shape}"
        )
    *lead, c, h, w = x.shape
    k = len(lead)
    blocks = reshape(x, (*lead, c, h // r, r, w // r, r))
    order = (*range(k), k, k + 2, k + 4, k + 1, k + 3)
    return reshape(permute(blocks, order), (*lead, c * r * r, h // r, w // r))
