"""Random zeros, of elements, channels or whole samples, drawn from the library's generator
(:func:`minidl.manual_seed`)."""

from __future__ import annotations

import numpy as np

from minidl import random
from minidl.ops._common import expect_floating
from minidl.ops.elementwise import mask
from minidl.tensor import Tensor

__all__ = ["dropout", "dropout1d", "dropout2d", "stochastic_depth"]


def _drop(op: str, x: Tensor, p: float, training: bool, shape: tuple[int, ...]) -> Tensor:
    """x with shares of it zeroed: one draw for each element of ``shape``, which broadcasts to x."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{op}: p expects a probability from 0 to 1, got {p}")
    expect_floating(op, "x", x)
    if not training or p == 0.0:
        return x

    def draw() -> np.ndarray:
        keep = random.generator().random(shape, np.float32) >= p
        return keep.astype(x.dtype) * x.dtype.type(0.0 if p == 1.0 else 1.0 / (1.0 - p))

    return mask(x, np.broadcast_to(random.drawn(draw, x.device), x.shape))


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability ``p`` and scale the rest by 1 / (1 - p) (Srivastava et al. 2014).

    The mask comes from the library's generator, see :func:`minidl.manual_seed`.
    """
    return _drop("dropout", x, p, training, x.shape)


def _channels(op: str, x: Tensor, p: float, training: bool, ndim: int, layout: str) -> Tensor:
    if x.ndim not in (ndim, ndim - 1):
        raise ValueError(f"{op}: x expects {ndim} dimensions {layout} or one sample, got shape {x.shape}")
    spatial = ndim - 2
    return _drop(op, x, p, training, (*x.shape[: x.ndim - spatial], *[1] * spatial))


def dropout1d(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L) with probability ``p``, scale the rest by 1 / (1 - p)."""
    return _channels("dropout1d", x, p, training, 3, "(N, C, L)")


def dropout2d(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero whole channels of (N, C, H, W) or (C, H, W) with probability ``p``, scale the rest by 1 / (1 - p)
    (Tompson et al. 2015)."""
    return _channels("dropout2d", x, p, training, 4, "(N, C, H, W)")


def stochastic_depth(x: Tensor, p: float, mode: str = "row", training: bool = True) -> Tensor:
    """Zero the branch x of whole samples with probability ``p``, scale the rest by 1 / (1 - p) (Huang et al.
    2016), as ``torchvision.ops.stochastic_depth``; also known as drop path.

    ``mode="row"`` draws for each sample (dimension 0), ``"batch"`` once for all.
    """
    if mode not in ("row", "batch"):
        raise ValueError(f"stochastic_depth: mode expects 'row' or 'batch', got {mode!r}")
    if x.ndim == 0:
        raise ValueError("stochastic_depth: x expects at least 1 dimension, got a scalar")
    samples = x.shape[0] if mode == "row" else 1
    return _drop("stochastic_depth", x, p, training, (samples, *[1] * (x.ndim - 1)))
