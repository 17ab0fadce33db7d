"""What a captured CUDA graph is, on the emulated device: calls that are kept instead of made, and made at each replay.

Results of a recorded call exist at once, filled with poison, and hold values only after a replay, as on a card.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from minidl.kernels import capturing
from minidl.kernels.emulator import poison

READS_SHAPE = frozenset(
    [
        "array2string",
        "array_repr",
        "array_str",
        "bincount",
        "nonzero",
        "flatnonzero",
        "argwhere",
        "unique",
        "unique_all",
        "unique_counts",
        "unique_inverse",
        "unique_values",
        "union1d",
        "intersect1d",
        "setdiff1d",
        "setxor1d",
        "extract",
        "compress",
        "trim_zeros",
        "array_equal",
        "array_equiv",
        "allclose",
    ]
)
"""Functions whose result, or its shape, the host must read from the device."""


class Recording:
    """Calls made inside its ``with`` block, by this thread, are kept."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        _local.recording = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _local.recording = None

    def replay(self) -> None:
        """Make all calls, in order."""
        for call in self.calls:
            call()


class _Local(threading.local):
    recording: Recording | None = None


_local = _Local()


def later(call: Callable[[], Any]) -> None:
    """Make a call that writes in place; inside a recording keep it instead."""
    recording = _local.recording
    if recording is None:
        call()
    else:
        recording.calls.append(call)


def result_of(name: str, call: Callable[[], Any], inputs: Any) -> Any:
    """The result of a call; in a recording its arrays are poison, and each replay computes them again.

    Args:
        name: of the function, for errors.
        call: computes from NumPy arrays.
        inputs: an array, or containers of arrays, that the call reads. What is a view of them is no copy on replay.
    """
    recording = _local.recording
    if recording is None:
        return call()
    if name in READS_SHAPE:
        capturing.refuse(f"{name} reads values of the device", "its result's shape depends on them")
    with np.errstate(all="ignore"):
        result = _solid(call())
    given, found = _arrays(inputs), _arrays(result)
    made = {i: a for i, a in enumerate(found) if a.size and not any(np.may_share_memory(a, g) for g in given)}
    if made:

        def again() -> None:
            with np.errstate(all="ignore"):
                values = _arrays(_solid(call()))
            for i, array in made.items():
                array[...] = values[i]

        recording.calls.append(again)
        for array in made.values():
            spoil(array)
    return result


def spoil(array: np.ndarray) -> None:
    """Fill an array of any strides: floats with poison, integers with 0, since other calls may take them for indices
    while the recording is made."""
    pattern = np.zeros(1, array.dtype)
    if array.dtype.kind not in "iub":
        poison.fill(pattern)
    array[...] = pattern[0]


def _solid(value: Any) -> Any:
    """``value`` with NumPy's scalars as arrays, whose elements can be written anew."""
    if isinstance(value, np.generic):
        return np.array(value)
    if isinstance(value, list | tuple):
        items = [_solid(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _arrays(value: Any) -> list[np.ndarray]:
    """The arrays in an array, or in containers of arrays, in order."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, list | tuple):
        return [a for v in value for a in _arrays(v)]
    if isinstance(value, dict):
        return [a for v in value.values() for a in _arrays(v)]
    return []
