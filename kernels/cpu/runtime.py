"""How kernels are compiled, cached on disk, and spread over threads.

Every kernel is written as *one share of the work*::

    @kernel
    def _double(x, y, part, parts):
        first, last = share(x.size, part, parts)
        for i in range(first, last):
            y[i] = 2 * x[i]

    launch(_double, x, y, work=x.size)

``launch`` runs all shares, at the same time where that pays. A share must compute each of its output
elements in the same order of additions for every ``parts``, so that results are bit-identical for any
number of threads.

Helpers that kernels call are decorated with ``@jit``.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import parallel
from minidl.kernels.cpu.compiler import jit

# Work in units of about one multiplication or one element; a parallel launch costs a few thousand of them.
MIN_WORK_PER_PART = 16_384

SPINNING = {
    "GOMP_SPINCOUNT": "20000",
    "KMP_BLOCKTIME": "1",
}  # pauses of GNU's library, milliseconds of LLVM's

_layer_lock = threading.Lock()  # held around a parallel launch while the threading layer cannot nest
_layer = ""  # Numba's threading layer, known after the first parallel launch
_layer_pid = 0  # the process that started it
_most_threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


@jit(inline="always")
def share(count: int, part: int, parts: int) -> tuple[int, int]:
    """The half-open range of ``count`` items that belongs to share ``part`` of ``parts``."""
    return count * part // parts, count * (part + 1) // parts


class Kernel:
    """A compiled function of one share of the work.

    ``run_part(*arguments, part, parts)`` runs one share in this thread, ``run_all(arguments, parts)`` all
    of them on Numba's threads.
    """

    def __init__(self, function: Callable[..., Any], variant: str = "", borrows: bool = False) -> None:
        names = list(inspect.signature(function).parameters)
        if names[-2:] != ["part", "parts"]:
            raise TypeError(
                f"kernel: {function.__name__} must end with the arguments part, parts; it has {names}"
            )
        self.name = function.__name__
        self.__doc__ = function.__doc__
        self.run_part = jit(function, variant=variant, borrows=borrows)
        self._addresses: dict[int, int] = {}

    def pack(self, block: npt.NDArray[np.int64], arguments: tuple[Any, ...]) -> int:
        """Write the code's address and the arguments into a block; return the address of their trampoline."""
        trampoline: int = parallel.pack(block, arguments)
        code = self._addresses.get(trampoline)
        if code is None:  # types that the kernel meets for the first time
            signature = (*map(numba.typeof, arguments), types.intp, types.intp)
            code = self._addresses[trampoline] = parallel.code_address(self.run_part, signature)
        block[0] = code
        return trampoline

    def code(self, *arguments: Any) -> int:
        """The address of the code for arguments of these types, for ``parallel.call_packed``."""
        block = np.empty(parallel.BLOCK_WORDS, np.int64)
        self.pack(block, arguments)
        return int(block[0])

    def run_all(self, arguments: tuple[Any, ...], parts: int) -> None:
        """Run the shares 0..parts-1 in parallel."""
        block, address = parallel.argument_block()
        parallel.run_parts(self.pack(block, arguments), address, parts)


class Job(Protocol):
    """What runs on Numba's threads: a kernel, or a recording of many launches."""

    def run_all(self, arguments: tuple[Any, ...], parts: int) -> None:
        """Run all shares."""


class Recorder(Protocol):
    """What is told of the launches of a thread."""

    def add(self, function: Kernel, arguments: tuple[Any, ...], parts: int) -> None:
        """A launch begins."""

    def hold(self, array: npt.NDArray[Any]) -> None:
        """A launch takes an array by its address."""


class _Local(threading.local):
    recorder: Recorder | None = None


_local = _Local()


@contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Inside, this thread's launches are told to ``recorder``, and made."""
    _local.recorder = recorder
    try:
        yield
    finally:
        _local.recorder = None


def recorder() -> Any:
    """What this thread's launches are told to, if they are."""
    return _local.recorder


def recording() -> bool:
    """Whether this thread's launches are recorded: what NumPy does instead of one is not."""
    return _local.recorder is not None


def address_of(array: npt.NDArray[Any]) -> int:
    """Where an array begins, for a kernel that takes it as a number; the caller keeps the array while the kernel runs,
    a recording as long as it lives."""
    if _local.recorder is not None:
        _local.recorder.hold(array)
    return int(array.ctypes.data)


def kernel(function: Callable[..., Any] | None = None, *, variant: str = "", borrows: bool = False) -> Any:
    """Decorator: make a :class:`Kernel` of a function whose last arguments are ``part, parts``.

    variant, borrows: see :func:`jit`.
    """
    if function is None:
        return lambda f: Kernel(f, variant, borrows)
    return Kernel(function, variant, borrows)


def parts_for(work: float) -> int:
    """The number of shares worth making of ``work`` (in multiplications or elements)."""
    return max(1, min(get_num_threads(), int(work // MIN_WORK_PER_PART)))


@contextmanager
def all_parallel() -> Iterator[None]:
    """Inside, the least work is spread over the threads: what compiles the parallel launch of kernels."""
    global MIN_WORK_PER_PART
    before, MIN_WORK_PER_PART = MIN_WORK_PER_PART, 1
    try:
        yield
    finally:
        MIN_WORK_PER_PART = before


def launch(function: Kernel, *arguments: Any, work: float = float("inf"), parts: int = 0) -> None:
    """Run all shares of a kernel.

    Args:
        function: the kernel.
        arguments: its arguments without ``part`` and ``parts``.
        work: about how many multiplications or elements there are; little work stays in this thread.
        parts: how many shares to make; by default as many as threads, or fewer for little work.

    Runs in this thread alone when there is one share, in a forked child (the threads exist in the parent
    only, and OpenMP ends a child that tries; a RuntimeWarning says so once), and when another Python thread
    is inside a threading layer that cannot be entered twice.
    """
    if not parts:
        parts = get_num_threads() if work == float("inf") else parts_for(work)
    if _local.recorder is not None:
        _local.recorder.add(function, arguments, parts)
    if parts == 1 or not run_parallel(function, arguments, parts):
        for part in range(parts):
            function.run_part(*arguments, part, parts)


@contextmanager
def bounded_spinning() -> Iterator[None]:
    """OpenMP libraries that are loaded inside let their waiting threads spin for less than a millisecond.

    That bridges the time between two kernels. By default they spin for several (GNU) or 200 milliseconds (LLVM), and
    where other programs want the processors too, a spinning thread keeps the working one from running: with sixteen
    busy processes on two processors a prediction of a ResNet-18 took three times as long. Settings of the user's own
    are left alone, and the environment is as before afterwards.
    """
    if any(name in os.environ for name in ("OMP_WAIT_POLICY", *SPINNING)):
        yield
        return
    os.environ.update(SPINNING)
    try:
        yield
    finally:
        for name in SPINNING:
            os.environ.pop(name, None)


def run_parallel(function: Job, arguments: tuple[Any, ...], parts: int) -> bool:
    """Run all shares at the same time and return True, or return False where that is not safe now."""
    limit = min(get_num_threads(), _most_threads)
    if _layer_pid != os.getpid() or _layer not in ("omp", "tbb"):
        return _run_exclusively(function, arguments, parts, limit)
    if limit == 1:
        return False
    _run_limited(function, arguments, parts, limit, parallel.own_threads())
    return True


def _run_limited(function: Job, arguments: tuple[Any, ...], parts: int, limit: int, before: int) -> None:
    """Run all shares with ``limit`` of Numba's threads, of which this thread uses ``before`` otherwise."""
    if before == limit:
        function.run_all(arguments, parts)
        return
    numba.set_num_threads(limit)
    try:
        function.run_all(arguments, parts)
    finally:
        numba.set_num_threads(before)


def _run_exclusively(function: Job, arguments: tuple[Any, ...], parts: int, limit: int) -> bool:
    """run_parallel where the threading layer is not known yet or cannot be entered twice, and in a forked child."""
    global _layer, _layer_pid
    if _layer_pid and _layer_pid != os.getpid():
        _say_forked()
        return False
    if limit == 1 or not _layer_lock.acquire(blocking=False):
        return False
    try:
        with nullcontext() if _layer_pid else bounded_spinning():
            before = numba.get_num_threads()  # the first time this loads the threading layer
        if not _layer_pid:
            _layer_pid = os.getpid()
        _run_limited(function, arguments, parts, limit, before)
        if not _layer:
            _layer = numba.threading_layer()
    finally:
        _layer_lock.release()
    return True


@functools.cache
def _say_forked() -> None:
    warnings.warn(
        "minidl: this process was forked from one whose kernels had started their threads; here they run on one "
        "thread. Start processes by 'spawn' (multiprocessing.set_start_method), or fork before the first kernel runs.",
        RuntimeWarning,
        stacklevel=2,
    )


def _after_fork() -> None:
    global _layer_lock
    _layer_lock = threading.Lock()  # the old one may be held by a thread that the child does not have


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
