"""A pool of array memory.

A training step allocates the same large arrays again and again. Fresh memory of that size comes from the
operating system page by page, and every first touch of a page is a fault, which costs a memory-bound kernel
more than its own work. ``empty`` hands out memory that earlier arrays have given back instead.

The life of a block::

    empty() -> ndarray, whose base are the raw bytes of a block
                  any number of views keep the array alive;
                  when it dies, a weak reference to it puts the block on the `returned` queue,
                  and the next empty() of that size class takes it from there

A recording of launches (:class:`Arena`) takes blocks for itself and gives them back when it dies.

An array may die at any moment, also inside ``empty`` itself (the garbage collector), so its end never waits
for a lock: it appends to a deque, which is atomic, and sorts the deque only if the lock happens to be free.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
SMALL = 32 * 1024  # bytes: below this malloc is faster than any pool
WORKSPACE, LARGE_WORKSPACE = 4 << 20, 64 << 20  # bytes of the smallest blocks of working memory
WORKSPACES_IN_CACHE = 8 << 20  # bytes up to which they are of the first kind
HUGE_PAGE = (
    2 << 20
)  # bytes: what starts at a multiple, the system may map at once; NumPy asks Linux for that from 4 MiB


def _physical_memory() -> int:
    """Bytes of main memory, or 8 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 << 30


def _size_class(nbytes: int) -> int:
    """Round up to an eighth of a power of two: at most 12.5 % is wasted, and similar shapes share blocks."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _work_class(nbytes: int) -> int:
    """Round up to a power of two, so that many sizes share the few blocks that are in the caches; large sizes share one
    block, of which the pages that nobody has written to take no memory."""
    size = 1 << (nbytes - 1).bit_length()
    return max(WORKSPACE if size <= WORKSPACES_IN_CACHE else LARGE_WORKSPACE, size)


class _Bytes(np.ndarray):
    """Memory of the system. It has a class of its own because of how NumPy finds the base of a view: that of a view of
    an array in this memory is the array, and not, as it would be for a plain array of bytes, the memory. So the array
    is the last to die.
    """

    __slots__ = ("block",)
    block: _Block | None  # while it is lent


class Lender(Protocol):
    """Who lends blocks out."""

    def give_back(self, block: _Block) -> None:
        """The array that had it is dead."""


class _Block:
    """Memory of the system whose aligned part of ``size`` bytes is lent to one array after the other."""

    __slots__ = ("_borrower", "lender", "raw", "size", "start")

    def __init__(self, size: int, alignment: int = ALIGNMENT) -> None:
        self.raw = _Bytes(size + alignment, np.uint8)
        self.size, self.start = size, -self.raw.ctypes.data % alignment
        self.lender: Lender | None = None
        self._borrower: Any = None

    def lend(self, lender: Lender, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array in this memory. When it has died, and with it all its views, ``lender`` gets the block back."""
        self.lender, self.raw.block = (
            lender,
            self,
        )  # the array keeps the memory, that this, and this the lender
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, self.raw, self.start)
        self._borrower = weakref.ref(array, self._return)
        return array

    def _return(self, _: Any) -> None:
        lender, self.lender, self.raw.block, self._borrower = self.lender, None, None, None
        if lender is not None:
            lender.give_back(self)


class _Pool:
    def __init__(self, limit: int, size_class: Callable[[int], int], alignment: int) -> None:
        self.limit = limit  # bytes kept for reuse at most
        self._size_class, self._alignment = size_class, alignment
        self._returned: deque[_Block] = deque()
        self._lock = threading.Lock()
        # Free blocks by size class; the class used longest ago comes first and is dropped first.
        self._free: OrderedDict[int, list[_Block]] = OrderedDict()
        self._in_use = self._cached = self._peak = self._hits = self._misses = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # the old one may be held by a thread that the child does not have

    def give_back(self, block: _Block) -> None:
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._collect()
            finally:
                self._lock.release()

    def _collect(self) -> None:
        """Move returned blocks to the free lists and drop what exceeds the limit. Call with the lock held."""
        while self._returned:
            block = self._returned.popleft()
            self._in_use -= block.size
            self._cached += block.size
            self._free.setdefault(block.size, []).append(block)
        while self._cached > self.limit:
            size, blocks = next(iter(self._free.items()))
            if blocks:
                blocks.pop()
                self._cached -= size
            if not blocks:
                del self._free[size]

    def take(self, size: int) -> _Block:
        """A block of this size class, in use until it is given back."""
        with self._lock:
            if self._returned:
                self._collect()
            blocks = self._free.get(size)
            block = blocks.pop() if blocks else None
            if block is None:
                self._misses += 1
            else:
                self._hits += 1
                self._cached -= size
                self._free.move_to_end(size)
            self._in_use += size
            self._peak = max(self._peak, self._in_use)
        if block is None:
            try:
                block = _Block(size, self._alignment)
            except MemoryError:
                empty_cache()  # what is kept for reuse may be just what is missing
                try:
                    block = _Block(size, self._alignment)
                except MemoryError:
                    with self._lock:
                        self._in_use -= size
                    raise
        return block

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
        return self.take(self._size_class(nbytes)).lend(self, shape, dtype)

    def clear(self) -> None:
        with self._lock:
            self._collect()
            self._free.clear()
            self._cached = 0

    def stats(self) -> dict[str, int]:
        with self._lock:
            self._collect()
            return {
                "in_use": self._in_use,
                "cached": self._cached,
                "peak": self._peak,
                "hits": self._hits,
                "misses": self._misses,
            }


_pool = _Pool(_physical_memory() // 4, _size_class, ALIGNMENT)
_workspaces = _Pool(_physical_memory() // 4, _work_class, HUGE_PAGE)


class Source(Protocol):
    """Where a thread's arrays come from instead of the pool."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
        """An uninitialised array."""

    def working(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
        """The same, for :func:`workspace`."""


@contextmanager
def taken_from(source: Source) -> Iterator[None]:
    """Inside, all that this thread takes by :func:`empty` comes from ``source``."""
    _local.arena = source
    try:
        yield
    finally:
        _local.arena = None


class Arena:
    """Memory of one recording: blocks that nobody else is given while it lives, so that what was recorded with their
    addresses can be done again. Arrays that die inside the recording leave their block to those after them.
    See :func:`taken_from`.
    """

    def __init__(self) -> None:
        self._pool = _pool
        self._blocks: list[_Block] = []  # those of the pool; small ones are the system's
        self._free: dict[int, list[_Block]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
        """An uninitialised array, a small one too."""
        size = _size_class(nbytes)
        free = self._free.get(size)
        if free:
            block = free.pop()
        elif size < SMALL:
            block = _Block(size)
        else:
            block = self._pool.take(size)
            self._blocks.append(block)
        return block.lend(self, shape, dtype)

    def working(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
        """An uninitialised array in a block that many sizes share."""
        return self.empty(shape, dtype, _work_class(nbytes))

    def give_back(self, block: _Block) -> None:
        """An array's block is free for the next one."""
        self._free.setdefault(block.size, []).append(block)

    def owns(self, array: npt.NDArray[Any]) -> bool:
        """Whether an array lies here."""
        base: Any = array
        while base is not None and not isinstance(base, _Bytes):
            base = getattr(base, "base", None)
        return base is not None and base.block is not None and base.block.lender is self

    def spoil(self) -> None:
        """Fill what no array looks at with NaN of every float format."""
        for blocks in self._free.values():
            for block in blocks:
                own = block.raw.view(np.ndarray)[block.start : block.start + block.size]
                own.view(np.uint16).fill(0x7FF8)

    def __del__(self) -> None:
        for block in self._blocks:  # arrays keep the arena alive: there are none any more
            self._pool.give_back(block)


class _Local(threading.local):
    arena: Source | None = None


_local = _Local()


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialised C-contiguous array from the pool.

    Args:
        shape: the array's shape, or the length of a vector.
        dtype: any plain NumPy dtype.

    Returns:
        An array whose memory returns to the pool with its last view. Arrays of 32 KiB and more start at a
        multiple of 64 bytes; smaller ones are ordinary ``numpy.empty`` arrays.

    Raises:
        ValueError: a dimension is negative.
        MemoryError: the system has no more memory, even after the pool gave up what it kept.
    """
    kind = np.dtype(dtype)
    dims = (shape,) if isinstance(shape, int) else tuple(map(int, shape))
    nbytes = kind.itemsize
    for n in dims:
        if n < 0:
            raise ValueError(f"empty: shape expects dimensions >= 0, got {dims}")
        nbytes *= n
    arena = _local.arena
    if arena is None and nbytes < SMALL:
        return np.empty(dims, kind)
    # Object arrays hold references that nobody would release; custom dtypes have no portable typestr.
    if not nbytes or kind.kind not in "biufc" or not kind.isbuiltin:
        return np.empty(dims, kind)
    return (_pool if arena is None else arena).empty(dims, kind, nbytes)


def fresh(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
    """:func:`empty` of so many bytes, of a plain dtype, whatever :func:`taken_from` says."""
    return np.empty(shape, dtype) if nbytes < SMALL else _pool.empty(shape, dtype, nbytes)


def working(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
    """An uninitialised array among the workspaces, whatever :func:`taken_from` says."""
    return _workspaces.empty(shape, dtype, nbytes)


class _System:
    """Keeps nothing: what is given back returns to the system."""

    def give_back(self, block: _Block) -> None:
        """It is not kept."""


_system = _System()


def unpooled(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> npt.NDArray[Any]:
    """An uninitialised aligned array of so many bytes, of a plain dtype, whose memory nobody keeps after it."""
    return _Block(nbytes).lend(_system, shape, dtype)


def zeros(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Like :func:`empty`, filled with zeros."""
    out = empty(shape, dtype)
    out.fill(0)
    return out


def workspace(sizes: tuple[int, ...], dtype: npt.DTypeLike) -> list[npt.NDArray[Any]]:
    """Uninitialised vectors for a kernel to work in, cut from one block of memory.

    Kernels that run one after the other get the same block whatever they need, so that it is in the caches already:
    of arrays from :func:`empty`, each size lies elsewhere.

    Args:
        sizes: the vectors' lengths.
        dtype: of all of them.

    Returns:
        one vector for each size, each at a multiple of 64 bytes; the block is free when the last of them dies.
    """
    kind = np.dtype(dtype)
    line = ALIGNMENT // kind.itemsize
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // line) * line)
    nbytes = starts[-1] * kind.itemsize
    source = working if _local.arena is None else _local.arena.working
    block = source((starts[-1],), kind, nbytes)
    return [block[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def memory_stats() -> dict[str, int]:
    """What the pool holds, with the memory that kernels work in.

    Returns:
        ``in_use`` (by arrays and recordings), ``cached`` and ``peak`` (of ``in_use``) in bytes, ``hits`` and ``misses``
        in requests.
    """
    arrays, work = _pool.stats(), _workspaces.stats()
    return {name: count + work[name] for name, count in arrays.items()}


def empty_cache() -> None:
    """Return to the system the memory that is kept for reuse."""
    _pool.clear()
    _workspaces.clear()


def set_cache_limit(nbytes: int) -> None:
    """Keep at most ``nbytes`` for reuse (a quarter of the main memory unless set)."""
    if nbytes < 0:
        raise ValueError(f"set_cache_limit: nbytes expects a number >= 0, got {nbytes}")
    for pool in (_pool, _workspaces):
        pool.limit = nbytes
        pool.stats()
