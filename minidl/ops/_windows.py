"""What operators with windows share: images with and without a batch dimension, and one-dimensional
signals seen as images of height 1."""

from __future__ import annotations

from typing import Any

from minidl.ops._common import Pair, expect_floating, expect_tensor, pair
from minidl.ops.movement import reshape
from minidl.tensor import Tensor

LAYOUTS = {3: ("(N, C, L)", "(C, L)"), 4: ("(N, C, H, W)", "(C, H, W)")}


def with_batch(op: str, x: Tensor, ndim: int) -> tuple[Tensor, bool]:
    """x with a batch dimension, and whether it had none: (C, H, W) is a batch of one image, as in PyTorch."""
    expect_tensor(op, "x", x)
    if x.ndim not in (ndim, ndim - 1):
        full, single = LAYOUTS[ndim]
        raise ValueError(
            f"{op}: x expects {ndim} dimensions {full} (or {ndim - 1}, {single}), got shape {x.shape}"
        )
    expect_floating(op, "x", x)
    if x.ndim == ndim:
        return x, False
    return reshape(x, (1, *x.shape)), True


def without_batch(y: Tensor, single: bool) -> Tensor:
    """Undo :func:`with_batch` on a result."""
    return reshape(y, y.shape[1:]) if single else y


def as_image(x: Tensor) -> Tensor:
    """(N, C, L) -> (N, C, 1, L)."""
    return reshape(x, (*x.shape[:2], 1, x.shape[2]))


def as_signal(x: Tensor) -> Tensor:
    """(N, C, 1, L) -> (N, C, L)."""
    return reshape(x, (*x.shape[:2], x.shape[3]))


def one(op: str, name: str, value: Any, minimum: int) -> int:
    """An int, or a sequence of one int, at least ``minimum``."""
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise ValueError(f"{op}: {name} expects an int, got {value!r}")
        (value,) = value
    return pair(op, name, value, minimum)[0]


def along_width(op: str, name: str, value: Any, minimum: int, height: int) -> Pair:
    """(height, value): a one-dimensional option as an option of an image of height 1."""
    return height, one(op, name, value, minimum)


def pad1d(op: str, padding: Any) -> Any:
    """The two-dimensional padding of a one-dimensional one: "same", "valid", an int, (int,) or
    ((left, right),)."""
    if isinstance(padding, str):
        return padding
    if isinstance(padding, (tuple, list)) and len(padding) == 1 and isinstance(padding[0], (tuple, list)):
        return ((0, 0), pair(op, "padding", padding[0], 0))
    side = one(op, "padding", padding, 0)
    return ((0, 0), (side, side))
