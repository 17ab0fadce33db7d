"""How Numba compiles this package's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from minidl.kernels.cpu import cache

# 'contract' lets a*b+c become one fused instruction. Nothing that reorders additions or assumes away NaN.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def jit(
    function: Callable[..., Any] | None = None, *, variant: str = "", borrows: bool = False, **options: Any
) -> Any:
    """Compile ``function`` with the project's options and keep the machine code in the project's cache.

    Args:
        function: what to compile. Functions made in a factory need a ``variant`` that tells them apart.
        variant: distinguishes functions of one name in the cache, for example ``"f32x16-14x2"``.
        borrows: the function neither makes nor returns arrays, and Numba need not count references to those given.
            It would do that with atomic instructions and, around functions inlined into loops, with calls that empty
            the vector registers.
        options: further options of ``numba.njit``, for example ``inline="always"``.
    """
    if function is None:
        return lambda f: jit(f, variant=variant, borrows=borrows, **options)
    # The symbols of machine code are named after __qualname__ and a number that counts compilations in one process.
    # Code of two processes meets in the cache, so that without this two variants may have one name: the code loaded
    # first would then run in the place of the other.
    function.__qualname__ += f".{variant}" if variant else ""
    dispatcher = numba.njit(**{**_OPTIONS, "_nrt": not borrows, **options})(function)
    cache.attach(dispatcher, variant)
    return dispatcher
