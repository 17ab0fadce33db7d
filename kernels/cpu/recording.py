"""Launches that are made again without Python between them.

While a thread records, every launch runs as always, and is kept: a block of its own with its arguments, and the
addresses of its code (see :mod:`minidl.kernels.cpu.parallel`). A replay is one compiled loop over these. Arrays that
launches write to lie in an arena of the recording, in which the memory of arrays that died was used again; all others
that they read are held.

Launches are all that is kept, and calls that :meth:`Recording.call` is told of: what else NumPy or Python compute is
not done again. Who replays must know that there was nothing of the kind, or compare (:mod:`minidl.replays`).
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
        self.launches = 0
        self._arena = memory.Arena()
        self._held: list[npt.NDArray[Any]] = []
        self._outputs: list[npt.NDArray[Any]] = []
        self._pending: list[tuple[int, int, int]] = []  # launches since the last call
        self._steps: list[npt.NDArray[np.int64] | Callable[[], None]] = []

    def record(self, run: Callable[[], Any]) -> Any:
        """Call a function, keep its launches, and return its result."""
        with memory.taken_from(self._arena), runtime.recorded_by(self):
            result = run()
        self._end_table()
        return result

    def add(self, function: runtime.Kernel, arguments: tuple[Any, ...], parts: int) -> None:
        """A launch of the function under way."""
        block = np.zeros(parallel.BLOCK_WORDS, np.int64)
        self._pending.append((function.pack(block, arguments), block.ctypes.data, parts))
        self._held.append(block)
        self.launches += 1
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                self.hold(argument)

    def call(self, compute: Callable[[], Any], output: npt.NDArray[Any], made: bool = True) -> None:
        """Between two launches ``output`` was computed in Python: a replay writes to it what ``compute`` returns.

        made: it was made for that, and is the recording's own.
        """
        self._end_table()
        self._steps.append(lambda: np.copyto(output, compute()))
        if made:
            self._outputs.append(output)

    def _end_table(self) -> None:
        if self._pending:
            self._steps.append(np.array(self._pending, np.int64))
            self._pending.clear()

    def hold(self, array: npt.NDArray[Any]) -> None:
        """Keep an array that a launch reads; those of the arena need not be."""
        if not self._arena.owns(array):
            self._held.append(array)

    def owns(self, array: npt.NDArray[Any]) -> bool:
        """Whether an array was made by the recording: by a launch, or by a call."""
        return self._arena.owns(array) or any(np.may_share_memory(array, output) for output in self._outputs)

    def spoil(self) -> None:
        """Write NaN to the recording's memory, but for arrays that somebody holds."""
        self._arena.spoil()

    def __call__(self) -> None:
        for step in self._steps:
            if not isinstance(step, np.ndarray):
                step()
            elif not runtime.run_parallel(self, (step,), 0):
                parallel.recorded_runner(True)(step)

    def run_all(self, arguments: tuple[Any, ...], parts: int) -> None:
        """Make the launches of a table, each of as many parts as it had."""
        parallel.recorded_runner(False)(*arguments)
