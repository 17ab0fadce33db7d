"""Launches that are made again without Python between them.

While a thread records, every launch runs as always, and is kept: a block of its own with its arguments, and the
addresses of its code (see :mod:`minidl.kernels.cpu.parallel`). A replay is one compiled loop over these. Arrays that
launches write to lie in an arena of the recording, in which the memory of arrays that died was used again; all others
that they read are held.

Launches are all that is kept: what NumPy or Python compute between them is not done again. Who replays must know that
there was nothing of the kind, or compare (:mod:`minidl.replays`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from minidl.kernels.cpu import memory, parallel, runtime


class Recording:
    """The launches of a function; calling the object makes them again, with the same results bit for bit."""

    def __init__(self) -> None:
        self._arena = memory.Arena()
        self._held: list[npt.NDArray[Any]] = []
        self._launches: list[tuple[int, int, int]] = []
        self._records = np.empty((0, 3), np.int64)

    def record(self, run: Callable[[], Any]) -> Any:
        """Call a function, keep its launches, and return its result."""
        with memory.taken_from(self._arena), runtime.recorded_by(self):
            result = run()
        self._records = np.array(self._launches, np.int64).reshape(-1, 3)
        return result

    def add(self, function: runtime.Kernel, arguments: tuple[Any, ...], parts: int) -> None:
        """A launch of the function under way."""
        block = np.zeros(parallel.BLOCK_WORDS, np.int64)
        self._launches.append((function.pack(block, arguments), block.ctypes.data, parts))
        self._held.append(block)
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                self.hold(argument)

    def hold(self, array: npt.NDArray[Any]) -> None:
        """Keep an array that a launch reads; those of the arena need not be."""
        if not self.owns(array):
            self._held.append(array)

    def owns(self, array: npt.NDArray[Any]) -> bool:
        """Whether an array lies in the recording's own memory."""
        return self._arena.owns(array)

    def spoil(self) -> None:
        """Write NaN to the recording's memory, but for arrays that somebody holds."""
        self._arena.spoil()

    def __call__(self) -> None:
        if not runtime.run_parallel(self, (), 0):
            parallel.run_recorded(self._records, True)

    def run_all(self, arguments: tuple[Any, ...], parts: int) -> None:
        """Make the launches, each of as many parts as it had."""
        parallel.run_recorded(self._records, False)
