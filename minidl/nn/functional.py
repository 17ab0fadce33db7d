"""The operators under PyTorch's names and argument order (``import minidl.nn.functional as F``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidl import random
from minidl.ops import (
    adaptive_avg_pool2d,
    avg_pool2d,
    batch_norm,
    conv2d,
    cross_entropy,
    linear,
    log_softmax,
    max_pool2d,
    relu,
    sigmoid,
    softmax,
    tanh,
)
from minidl.ops import mask as _mask
from minidl.ops import pad as _pad
from minidl.tensor import Tensor

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "cross_entropy",
    "dropout",
    "linear",
    "log_softmax",
    "max_pool2d",
    "pad",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each element with probability ``p`` and scale the rest by 1 / (1 - p) (Srivastava et al. 2014).

    The mask comes from the library's generator, see :func:`minidl.manual_seed`.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p expects a probability from 0 to 1, got {p}")
    if not training or p == 0.0:
        return x
    keep = random.generator().random(x.shape, np.float32) >= p
    return _mask(x, keep.astype(x.dtype) * x.dtype.type(0.0 if p == 1.0 else 1.0 / (1.0 - p)))


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """A constant border, counted from the last dimension: (left, right, top, bottom, ...)."""
    if mode != "constant":
        raise ValueError(f"pad: mode expects 'constant', got {mode!r}")
    return _pad(x, pad, value)
