"""What the operator files share: turning arguments into tensors, and checks whose messages name operator and
argument."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.dtypes import is_floating
from minidl.ops.deferred import Deferred
from minidl.ops.promotion import as_tensor, both, constant, floating, in_float32, widened
from minidl.tensor import Tensor

__all__ = [
    "Array",
    "Pad2d",
    "Pair",
    "as_tensor",
    "axes",
    "axis",
    "both",
    "constant",
    "expect_floating",
    "expect_images",
    "expect_same_dtype",
    "expect_tensor",
    "expect_tensors",
    "floating",
    "in_float32",
    "nchw",
    "nhwc",
    "pad2d",
    "pair",
    "widened",
]

Array = Any
Pair = tuple[int, int]
Pad2d = tuple[Pair, Pair]


def axes(op: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """``dim`` (None, an int or several) as a sorted tuple of non-negative axes."""
    if dim is None:
        return tuple(range(ndim))
    if not isinstance(dim, (int, np.integer, list, tuple)):
        raise TypeError(f"{op}: dim expects an int or several, got {dim!r}")
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    out = [axis(op, d, ndim) for d in dims]
    if len(set(out)) != len(out):
        raise ValueError(f"{op}: dim {dims} names a dimension twice")
    return tuple(sorted(out)) if ndim else ()


def axis(op: str, dim: Any, ndim: int) -> int:
    """One dimension, counted from the front; a 0-d tensor has dimension 0 (and -1), as in PyTorch.

    Raises:
        TypeError: ``dim`` is not an int.
        IndexError: there is no such dimension.
    """
    if not isinstance(dim, (int, np.integer)) or isinstance(dim, bool):
        raise TypeError(f"{op}: dim expects an int, got {dim!r}")
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise IndexError(f"{op}: dim {dim} is out of range for a tensor of {ndim} dimensions")
    return int(dim) % n


def pair(op: str, name: str, value: Any, minimum: int) -> Pair:
    """An int or a pair of ints, each at least ``minimum``."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        out = (int(value), int(value))
    else:
        try:
            h, w = value
            out = (int(h), int(w))
            if out != (h, w):
                raise ValueError
        except (TypeError, ValueError):
            raise ValueError(f"{op}: {name} expects an int or a pair of ints, got {value!r}") from None
    if min(out) < minimum:
        raise ValueError(f"{op}: {name} expects values of at least {minimum}, got {value!r}")
    return out


def pad2d(op: str, padding: Any, kernel: Pair, dilation: Pair = (1, 1)) -> Pad2d:
    """((top, bottom), (left, right)) from what a user may write for ``padding``."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding != "same":
            raise ValueError(f"{op}: padding expects 'same', 'valid' or numbers, got {padding!r}")
        total = [
            d * (k - 1) for d, k in zip(dilation, kernel, strict=True)
        ]  # PyTorch puts the odd one at the end
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    if (
        isinstance(padding, (tuple, list))
        and len(padding) == 2
        and all(isinstance(p, (tuple, list)) for p in padding)
    ):
        return pair(op, "padding", padding[0], 0), pair(op, "padding", padding[1], 0)
    vertical, horizontal = pair(op, "padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


def expect_images(op: str, x: Tensor) -> None:
    """Images are four-dimensional and floating."""
    if x.ndim != 4:
        raise ValueError(f"{op}: x expects 4 dimensions (N, C, H, W), got shape {x.shape}")
    expect_floating(op, "x", x)


def expect_tensor(op: str, name: str, value: Any) -> None:
    """An array is not taken for a tensor in silence.

    Raises:
        TypeError: it is not a tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{op}: {name} expects a Tensor, got {type(value).__name__}; minidl.tensor(...) makes one"
        )


def expect_tensors(op: str, values: Any) -> None:
    """A sequence of tensors.

    Raises:
        TypeError: it is not one, or one of its elements is something else.
    """
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{op}: tensors expects a list or tuple of Tensors, got {type(values).__name__}")
    for i, t in enumerate(values):
        expect_tensor(op, f"tensors[{i}]", t)


def expect_floating(op: str, name: str, t: Tensor) -> None:
    """Learned operators work on tensors of floating dtypes."""
    expect_tensor(op, name, t)
    if not is_floating(t.dtype):
        raise TypeError(f"{op}: {name} expects a floating dtype, got {t.dtype}")


def expect_same_dtype(op: str, x: Tensor, **others: Tensor | None) -> None:
    """No silent promotion between activations and parameters, and no silent copy between devices."""
    deferred = type(x) is Deferred  # its array must not be asked for here
    for name, t in others.items():
        if t is None:
            continue
        expect_tensor(op, name, t)
        if not deferred and type(t) is not Deferred and type(t.data) is not type(x.data):
            raise ValueError(
                f"{op}: {name} is on device {t.device}, x is on {x.device}; move one of them with .to(device)"
            )
        if t.dtype != x.dtype:
            raise TypeError(
                f"{op}: {name} has dtype {t.dtype}, x has {x.dtype}; convert one of them with .to(dtype)"
            )


def nhwc(a: Array) -> Array:
    """(N, C, H, W) -> (N, H, W, C), a view: how kernels see an activation."""
    return a.transpose(0, 2, 3, 1)


def nchw(a: Array) -> Array:
    """(N, H, W, C) -> (N, C, H, W), a view: how users see an activation."""
    return a.transpose(0, 3, 1, 2)
