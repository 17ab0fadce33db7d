"""Half types are for storage: kernels that add read them as float32 and round their results once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

K = TypeVar("K", bound=Callable[..., Any])


def is_half(array: Any) -> bool:
    """Whether the array holds float16 or bfloat16 numbers."""
    dtype = getattr(array, "dtype", None)
    return dtype is not None and dtype.name in ("float16", "bfloat16")


def in_float32(kernel: K) -> K:
    """Decorator of a kernel (a method of arrays that returns an array): half-type arrays come as float32, and the
    result is rounded to their type. In float16 a sum stops growing at 2048 ones, in bfloat16 at 256."""

    @functools.wraps(kernel)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        half = next((a.dtype for a in (*args, *options.values()) if is_half(a)), None)
        if half is None:
            return kernel(self, *args, **options)

        def wide(a: Any) -> Any:
            return a.astype("float32") if is_half(a) else a

        y = kernel(self, *[wide(a) for a in args], **{k: wide(a) for k, a in options.items()})
        with np.errstate(over="ignore"):  # what is too large is infinite
            return y.astype(half)

    return run  # type: ignore[return-value]
