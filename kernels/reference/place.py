"""An array put into a larger one: padding, and the gradient of slices."""

from __future__ import annotations

from typing import Any

from minidl.kernels.reference.checks import Array


def memory_order(x: Array) -> tuple[int, ...]:
    """The axes of x from the outermost in memory to the innermost."""
    if not x.size:
        return tuple(range(x.ndim))
    return tuple(sorted(range(x.ndim), key=lambda axis: (-abs(x.strides[axis]), axis)))


def empty_in_order(empty: Any, x: Array, shape: tuple[int, ...]) -> Array:
    """An uninitialised array of ``shape`` from the back end's ``empty``, with its axes in the order of x's in memory
    (channels-last stays channels-last)."""
    order = memory_order(x)
    out: Array = empty(tuple(shape[axis] for axis in order), x.dtype)
    return out.transpose(sorted(range(x.ndim), key=order.__getitem__))


class Placing:
    """The placing family of the reference back end."""

    xp: Any
    empty: Any

    def place(self, x: Array, shape: tuple[int, ...], index: tuple[slice, ...], value: float = 0) -> Array:
        """An array of ``shape``, its axes in the order of x's in memory: value everywhere but at ``index``, a slice for
        each axis, where x is."""
        out = empty_in_order(self.empty, x, shape)
        out[...] = value
        out[index] = x
        return out
