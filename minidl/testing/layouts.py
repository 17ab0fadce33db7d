"""The same numbers, or numbers of the same shape, lying otherwise in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

__all__ = ["layouts_of"]


def _transposed(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a)


def _channels_last(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 2 else a


def _gaps(a: np.ndarray) -> np.ndarray:
    wide = np.full([2 * n + 1 for n in a.shape], np.nan)
    inner = wide[tuple(slice(1, 2 * n, 2) for n in a.shape)]
    inner[...] = a
    return inner


def _reversed(a: np.ndarray) -> np.ndarray:
    backwards = tuple(slice(None, None, -1) for _ in a.shape)
    return a[backwards].copy()[backwards]


def _broadcast(a: np.ndarray) -> np.ndarray:
    """The first row of each dimension's first half of dimensions, repeated with strides of 0."""
    first = a[tuple(slice(0, 1) if d % 2 == 0 else slice(None) for d in range(a.ndim))]
    return np.broadcast_to(first, a.shape)


_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "transposed": _transposed,
    "channels-last": _channels_last,
    "spread with gaps": _gaps,
    "reversed": _reversed,
    "broadcast": _broadcast,
}


def layouts_of(arrays: Sequence[np.ndarray], which: Sequence[bool]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(name, arrays in that layout) for each layout that differs from that of ``arrays``; only arrays whose flag
    in ``which`` is set change. "broadcast" has other values."""
    for name, change in _LAYOUTS.items():
        changed = [change(a) if w and a.ndim and a.size else a for a, w in zip(arrays, which, strict=True)]
        if any(c.strides != a.strides for c, a in zip(changed, arrays, strict=True)):
            yield name, changed
