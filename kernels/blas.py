"""The threads of the BLAS inside NumPy, which a few products still use (batched ``matmul``, half types).

``minidl.set_num_threads`` holds for it too, so that one setting limits everything that computes. NumPy's wheels
bring OpenBLAS along, whose function is found by its name; of another BLAS (Apple's Accelerate, a distribution's) the
environment variables decide, and nothing happens here.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


@functools.cache
def _library() -> Any | None:
    """The OpenBLAS that NumPy has loaded, if it is one of its own."""
    import numpy

    package = Path(numpy.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs", package / ".libs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                return ctypes.CDLL(str(path))  # the loaded library, not a second one
            except OSError:
                continue
    return None


def _function(verb: str) -> Callable[..., Any] | None:
    library = _library()
    names = (name.format(verb) for name in _NAMES)
    return next((getattr(library, name) for name in names if hasattr(library, name)), None)


def get_num_threads() -> int | None:
    """The threads that NumPy's BLAS uses; None where it cannot be asked."""
    ask = _function("get")
    return None if ask is None else int(ask())


def set_num_threads(count: int) -> None:
    """Let NumPy's BLAS use ``count`` threads, where it can be told."""
    tell = _function("set")
    if tell is not None:
        tell(count)
