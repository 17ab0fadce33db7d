"""Operations that come again: their launches, laid out once and run by one call.

A training step makes the same operations on arrays of the same shapes again and again. What an operation does in Python
before each of its launches (choosing kernels and tiles, sharing out the work, handing over thirty arguments) takes 15
to 40 microseconds, and five times as long in a network: its kernels have thrown the interpreter out of the caches.
So an operation is noted down as it runs::

    operation(x, w)     launch(pack, w, packed)              words of pack's arguments
                        launch(gather, x, packed, y)         words of gather's arguments
                                                             which of these words are addresses in x, w, packed or y

and from then on arrays of these shapes are put into those words, and compiled code runs the launches one after the
other. Memory that the operation takes for itself becomes a part of one workspace, and its results are new arrays.

That holds for operations whose launches depend on nothing but the key that they are noted under, and which do all that
depends on the arrays' values in launches.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels import get_num_threads
from minidl.kernels.cpu import memory, parallel, runtime
from minidl.kernels.cpu.plan import IntArray
from minidl.kernels.cpu.runtime import Kernel
from minidl.kernels.reference.checks import Array

SLOTS = 14  # arrays that a program may have: inputs, results and the workspace
MOST = 4096  # programs that are kept
# Bytes. An operation that works in more takes it piece by piece from the pool, where blocks of activations are free: a
# workspace would be memory beside them, and beside so much work its Python does not count.
LARGE = 8 << 20
UNUSED = -0x5555555555555556  # marks the words that an argument list does not reach; no address

Operation = Callable[..., Any]


class Place(NamedTuple):
    """Memory that is another one in each run."""

    start: int
    end: int
    slot: int
    offset: int  # of start, in bytes from the start of the slot


class Program:
    """The launches of one operation. Its slots are the inputs that are given, the results, and the workspace.

    Attributes:
        words: the arguments of all launches, each behind the address of its code.
        heads: for each launch its trampoline, its parts, its first word and past its last, its first patch and past
            its last.
        patches: word of a launch, slot, and bytes from the slot's start to the address that belongs there.
    """

    def __init__(
        self,
        launches: list[tuple[Kernel, tuple[Any, ...], int]],
        held: list[Array],
        places: list[Place],
        results: list[Array],
        single: bool,
        workspace: int,
    ) -> None:
        dtype = results[0].dtype
        self.single = single  # one array, not a tuple
        self.results = [(array.shape, array.dtype, array.nbytes) for array in results]
        self.workspace = ((workspace // dtype.itemsize,), dtype) if workspace else None
        self.parts = max(parts for _, _, parts in launches)
        self.unused = np.empty(0, dtype)
        words: list[int] = []
        heads: list[tuple[int, ...]] = []
        patches: list[tuple[int, ...]] = []
        block = np.empty(parallel.BLOCK_WORDS, np.int64)
        for kernel, arguments, parts in launches:
            block.fill(UNUSED)
            trampoline = kernel.pack(block, arguments)
            own = block[: np.flatnonzero(block != UNUSED)[-1] + 1].tolist()
            before = len(patches)
            for number, word in enumerate(own[1:], 1):
                patches += [
                    (number, place.slot, word - place.start + place.offset)
                    for place in places
                    if place.start <= word < place.end
                ]
            heads.append((trampoline, parts, len(words), len(words) + len(own), before, len(patches)))
            words += own
            held = [*held, *[argument for argument in arguments if isinstance(argument, np.ndarray)]]
        self.constants = [  # what launches read besides, kept alive
            array for array in held if not any(p.start <= array.ctypes.data < p.end for p in places)
        ]
        self.words, self.heads = np.array(words, np.int64), np.array(heads, np.int64)
        self.patches: IntArray = np.array(patches, np.int64).reshape(-1, 3)

    def run(self, inputs: tuple[Array | None, ...]) -> Any:
        """The results for inputs of the shapes it was noted with."""
        results = [memory.fresh(*result) for result in self.results]
        arrays = [array.reshape(-1) for array in inputs if array is not None]
        arrays += [array.reshape(-1) for array in results]
        if self.workspace is not None:
            arrays += memory.workspace(*self.workspace)
        arrays += [self.unused] * (SLOTS - len(arrays))
        if self.parts == 1 or not runtime.run_parallel(self, tuple(arrays), self.parts):
            self._run(tuple(arrays), True)
        return results[0] if self.single else tuple(results)

    def run_all(self, arrays: tuple[Array, ...], parts: int) -> None:
        """Run the launches, each of as many parts as it was noted with."""
        self._run(arrays, False)

    def _run(self, arrays: tuple[Array, ...], alone: bool) -> None:
        block, address = parallel.argument_block()
        run = parallel.patched_runner(alone)
        run(self.words, self.heads, self.patches, block, address, arrays)


class Recorder:
    """What an operation launches, and the memory that it takes."""

    def __init__(self) -> None:
        self.launches: list[tuple[Kernel, tuple[Any, ...], int]] = []
        self.made: list[Array] = []
        self.held: list[Array] = []
        self.much = False  # it works in more memory than a program may

    def add(self, function: Kernel, arguments: tuple[Any, ...], parts: int) -> None:
        """A launch begins."""
        self.launches.append((function, arguments, parts))

    def hold(self, array: Array) -> None:
        """A launch takes an array by its address."""
        self.held.append(array)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Array:
        """Memory for the operation: all of it lives until the noting ends, more than it will ever need again. What is
        large can only be a result, which is wanted again."""
        array = (memory.fresh if nbytes > LARGE else memory.unpooled)(shape, dtype, nbytes)
        self.made.append(array)
        return array

    def working(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Array:
        """Memory to work in."""
        if nbytes <= LARGE:
            return self.empty(shape, dtype, nbytes)
        self.much = True
        return memory.working(shape, dtype, nbytes)

    def program(self, inputs: list[Array], made: Any) -> Program | None:
        """The program of the operation, or None where it is to be none: arrays that share memory, too many of them, or
        too much memory to work in."""
        if self.much:
            return None
        single = not isinstance(made, tuple)
        results: list[Array] = [made] if single else list(made)
        owned = {array.ctypes.data for array in self.made}
        if any(array.ctypes.data not in owned for array in results) or not self.launches:
            return None
        spans = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in (*inputs, *results)]
        by_start = sorted(spans)
        overlap = any(start < end for (_, end), (start, _) in itertools.pairwise(by_start))
        if overlap or len(spans) >= SLOTS:
            return None
        places = [Place(start, end, slot, 0) for slot, (start, end) in enumerate(spans)]
        used, own = 0, {array.ctypes.data for array in results}
        for array in self.made:
            start = array.ctypes.data
            if start not in own:
                places.append(Place(start, start + array.nbytes, len(spans), used))
                used += -(-array.nbytes // memory.ALIGNMENT) * memory.ALIGNMENT
        if used > LARGE:
            return None
        return Program(self.launches, self.held, places, results, single, used)


class Programs:
    """The programs of a process by what they depend on."""

    def __init__(self) -> None:
        self._known: dict[Any, Program | bool] = {}  # True: seen once, False: it cannot be a program
        self._lock = threading.Lock()

    def run(self, key: Any, operation: Operation, inputs: tuple[Array | None, ...], *options: Any) -> Any:
        """``operation(*inputs, *options)``, an array or a tuple of arrays, each new and C-contiguous.

        Args:
            key: all that the operation's launches depend on: a name, shapes and dtypes, options, which inputs are None,
                the number of threads.
            operation: what is done the first time, and noted the second.
            inputs: arrays, the first of which is one, or None. They must be C-contiguous, aligned and writable, and of
                one dtype: the operation is not noted for others.
        """
        if not _ready(inputs) or runtime.recording():
            return operation(*inputs, *options)
        found = self._known.get(key)
        if type(found) is Program:
            return found.run(inputs)
        if found is None:
            with self._lock:
                if len(self._known) >= MOST:
                    self._known.clear()
                self._known[key] = True
        if not found:
            return operation(*inputs, *options)
        recorder = Recorder()
        with memory.taken_from(recorder), runtime.recorded_by(recorder):
            made = operation(*inputs, *options)
        self._known[key] = recorder.program([a for a in inputs if a is not None], made) or False
        return made


programs = Programs()


def again(name: str, operation: Operation, inputs: tuple[Array | None, ...], *options: Any) -> Any:
    """:meth:`Programs.run` of an operation that depends on nothing but name, inputs' shapes, options and threads."""
    shapes = tuple([None if array is None else array.shape for array in inputs])
    key = (name, inputs[0].dtype.char, shapes, options, get_num_threads())  # type: ignore[union-attr]
    return programs.run(key, operation, inputs, *options)


def _ready(inputs: tuple[Array | None, ...]) -> bool:
    dtype = inputs[0].dtype  # type: ignore[union-attr]
    for array in inputs:
        if array is not None and not (array.flags.carray and array.dtype == dtype and array.size):
            return False
    return True
