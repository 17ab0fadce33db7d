"""What the operator files share: turning arguments into tensors, and checks whose messages name operator and
argument."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.tensor import Tensor

Array = Any
Pair = tuple[int, int]
Pad2d = tuple[Pair, Pair]


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """A tensor from an argument. Python numbers take the dtype of ``like`` (scalars never promote)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int, float)) and like is not None:
        dtype = like.dtype
        if isinstance(value, float) and not np.issubdtype(dtype, np.inexact):
            dtype = np.dtype(np.float32)  # an integer tensor and a float: PyTorch's default float
        return Tensor._wrap(np.asarray(value, dtype))
    return Tensor(value)


def both(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """The two operands of a binary operator, with PyTorch's promotion.

    NumPy would turn an integer and a float32 into float64; here a floating operand decides the dtype.
    """
    if isinstance(a, Tensor):
        b = as_tensor(b, a)
    elif isinstance(b, Tensor):
        a = as_tensor(a, b)
    else:
        a = as_tensor(a)
        b = as_tensor(b, a)
    if a.dtype != b.dtype:
        kinds = a.dtype.kind + b.dtype.kind
        if kinds[0] == "f" and kinds[1] in "iub":
            b = Tensor._wrap(b.data.astype(a.dtype))
        elif kinds[1] == "f" and kinds[0] in "iub":
            a = Tensor._wrap(a.data.astype(b.dtype))
    return a, b


def axes(op: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """``dim`` (None, an int or several) as a sorted tuple of non-negative axes."""
    if dim is None:
        return tuple(range(ndim))
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    out = []
    for d in dims:
        if not -ndim <= d < max(ndim, 1):
            raise IndexError(f"{op}: dim {d} is out of range for a tensor of {ndim} dimensions")
        out.append(int(d) % max(ndim, 1))
    if len(set(out)) != len(out):
        raise ValueError(f"{op}: dim {dims} names a dimension twice")
    return tuple(sorted(out)) if ndim else ()


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


def expect_floating(op: str, name: str, t: Tensor) -> None:
    """Learned operators work on floating dtypes."""
    if not np.issubdtype(t.dtype, np.floating):
        raise TypeError(f"{op}: {name} expects a floating dtype, got {t.dtype}")


def expect_same_dtype(op: str, x: Tensor, **others: Tensor | None) -> None:
    """No silent promotion between activations and parameters."""
    for name, t in others.items():
        if t is not None and t.dtype != x.dtype:
            raise TypeError(
                f"{op}: {name} has dtype {t.dtype}, x has {x.dtype}; convert one of them with .to(dtype)"
            )


def nhwc(a: Array) -> Array:
    """(N, C, H, W) -> (N, H, W, C), a view: how kernels see an activation."""
    return a.transpose(0, 2, 3, 1)


def nchw(a: Array) -> Array:
    """(N, H, W, C) -> (N, C, H, W), a view: how users see an activation."""
    return a.transpose(0, 3, 1, 2)
