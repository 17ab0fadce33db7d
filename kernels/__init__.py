"""Arrays in, arrays out: the operators' kernels, without tensors, gradients' bookkeeping or layers.

:func:`backend` picks the back end of an array by its type. Importing this package loads no compiler: the
CPU back end, and Numba with it, is imported when the first array asks for it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minidl.kernels import blas, devices

_forced: ContextVar[str] = ContextVar("minidl_backend", default="")
_algorithm: ContextVar[str] = ContextVar("minidl_conv_algorithm", default="")
_instances: dict[str, Any] = {}
_num_threads = 0  # 0: not asked yet

NAMES = ("cpu", "reference")
CONV_ALGORITHMS = ("auto", "direct", "winograd")


def _instance(name: str) -> Any:
    """The one object of a back end, made at its first use."""
    if name not in _instances:
        if name == "cpu":
            from minidl.kernels.cpu import CPUBackend

            _instances[name] = CPUBackend()
        else:
            from minidl.kernels.reference import ReferenceBackend

            _instances[name] = ReferenceBackend()
    return _instances[name]


def backend(array: Any) -> Any:
    """The back end whose kernels work on ``array``: an object with one method for each kernel.

    Raises:
        TypeError: no back end knows this type of array.
    """
    if isinstance(array, np.ndarray | np.generic):
        return _instance(_forced.get() or "cpu")
    return devices.of(array).backend


@contextmanager
def use(name: str) -> Iterator[None]:
    """Force one back end for NumPy arrays inside a ``with`` block (in this thread): ``with
    use("reference"): ...``.

    Raises:
        ValueError: there is no back end of that name.
    """
    if name not in NAMES:
        raise ValueError(f"use: name expects one of {', '.join(NAMES)}, got {name!r}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def conv_algorithm(name: str) -> Iterator[None]:
    """Choose how convolutions are computed inside a ``with`` block (in this thread).

    ``"direct"`` adds up the products of the definition. ``"winograd"`` takes Winograd's algorithm wherever it
    applies: float32, 3x3 windows of stride 1 or 2 without dilation or groups, whole vectors of channels. It needs a
    quarter of the multiplications (stride 2: 9/16); its largest error is about four times that of ``"direct"``
    (stride 2: twice), and a NaN or an infinity spreads over the 4x4 outputs of its tile (8x8 in the input gradient
    of stride 2). ``"auto"``, the default, takes it where it is faster.
    The environment variable MINIDL_CONV_ALGORITHM sets the default.

    Raises:
        ValueError: there is no algorithm of that name.
    """
    if name not in CONV_ALGORITHMS:
        expected = ", ".join(CONV_ALGORITHMS)
        raise ValueError(f"conv_algorithm: name expects one of {expected}, got {name!r}")
    token = _algorithm.set(name)
    try:
        yield
    finally:
        _algorithm.reset(token)


def get_conv_algorithm() -> str:
    """The algorithm that :func:`conv_algorithm` or MINIDL_CONV_ALGORITHM asks for, else "auto"."""
    return _algorithm.get() or _default_conv_algorithm()


@functools.cache
def _default_conv_algorithm() -> str:
    name = os.environ.get("MINIDL_CONV_ALGORITHM", "") or "auto"
    if name not in CONV_ALGORITHMS:
        raise ValueError(f"MINIDL_CONV_ALGORITHM expects one of {', '.join(CONV_ALGORITHMS)}, got {name!r}")
    return name


def _default_num_threads() -> int:
    text = os.environ.get("MINIDL_NUM_THREADS", "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"MINIDL_NUM_THREADS expects a whole number >= 1, got {text!r}")
        return int(text)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def get_num_threads() -> int:
    """The number of threads that kernels use: MINIDL_NUM_THREADS, or the processors this process may run on."""
    global _num_threads
    if not _num_threads:
        _num_threads = _default_num_threads()
        if "MINIDL_NUM_THREADS" in os.environ:
            blas.set_num_threads(_num_threads)
    return _num_threads


def set_num_threads(count: int) -> None:
    """Let kernels, and the BLAS inside NumPy, use ``count`` threads from the next call on.

    The kernels' results do not depend on it.

    Raises:
        ValueError: ``count`` is less than 1.
    """
    global _num_threads
    if count < 1:
        raise ValueError(f"set_num_threads: count expects a whole number >= 1, got {count}")
    _num_threads = int(count)
    blas.set_num_threads(_num_threads)


def memory_stats() -> dict[str, int]:
    """What the pool of array memory holds: ``in_use``, ``cached``, ``peak`` in bytes, ``hits`` and ``misses``."""
    from minidl.kernels.cpu.memory import memory_stats as stats

    return stats()


def empty_cache() -> None:
    """Return to the system the memory that is kept for reuse."""
    from minidl.kernels.cpu.memory import empty_cache as clear

    clear()
