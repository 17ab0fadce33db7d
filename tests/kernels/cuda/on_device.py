"""What the tests of the CUDA kernels share: the back end on the device under test, and comparison with the reference.

The tests speak of NumPy arrays. :func:`backend` moves them to the emulated device, or to the graphics card that
``pytest --device cuda`` names, and the results back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidl.kernels import devices
from minidl.kernels.cuda.tiling import has_wgmma
from minidl.kernels.reference import ReferenceBackend
from tests import target

BF16, F16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
TOLERANCE = {F32: 1e-6, F16: 2e-3, BF16: 1e-2}
"""Largest difference over largest value. A half type's result is rounded once, to 11 or 8 bits."""
REFERENCE = ReferenceBackend()


def place() -> Any:
    """The device under test, as the engine sees it."""
    return devices.place(target.name)


def device() -> Any:
    """The device under test, as launchers see it."""
    return place().device


def there(value: Any) -> Any:
    """``value`` with its NumPy arrays on the device."""
    if isinstance(value, np.ndarray):
        return place().put(value)
    return type(value)(there(v) for v in value) if isinstance(value, list | tuple) else value


def back(value: Any) -> Any:
    """``value`` with its arrays of the device in main memory."""
    if devices.is_array(value):
        return place().get(value)
    return type(value)(back(v) for v in value) if isinstance(value, list | tuple) else value


class Moving:
    """The kernels of the device under test for NumPy arrays: those that write to their arguments write to these."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Any, Any]] | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            moved, others = [there(a) for a in args], {k: there(v) for k, v in options.items()}
            result = getattr(place().backend, name)(*moved, **others)
            if "statistics" in options:
                options["statistics"][:] = back(others["statistics"])
            if name.endswith("_step"):
                pairs = list(zip(args, moved, strict=True))
                if self._waiting is None:
                    self._write_back(pairs)
                else:
                    self._waiting += pairs
            return back(result)

        return run

    def _write_back(self, pairs: list[tuple[Any, Any]]) -> None:
        for own, moved in pairs:
            if isinstance(own, np.ndarray):
                own[...] = place().get(moved)
            elif isinstance(own, list):
                self._write_back(list(zip(own, moved, strict=True)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """As the back end's: the arguments are written when the block ends."""
        self._waiting = []
        try:
            with place().backend.together():
                yield
            self._write_back(self._waiting)
        finally:
            self._waiting = None


@contextmanager
def on_hopper() -> Iterator[None]:
    """The device under test has warpgroups' instructions; a card that has none skips the test."""
    if target.name == "emulated":
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(devices._places, "emulated", devices.Emulated(90))
            yield
    elif has_wgmma(device().architecture):
        yield
    else:
        pytest.skip(f"{device().model} has no wgmma")


@functools.cache
def backend() -> Any:
    return Moving()


def wide(value: Any) -> Any:
    """A half-type array as float32, anything else as it is: the reference then computes what a kernel should."""
    return value.astype(F32) if isinstance(value, np.ndarray) and value.dtype in (F16, BF16) else value


def near(actual: Any, expected: Any, tolerance: float) -> None:
    """Shapes equal, NaN and infinity at the same places, and no difference larger than ``tolerance`` times the largest
    value."""
    assert actual.shape == expected.shape
    if actual.size:
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        finite = np.isfinite(e)
        np.testing.assert_array_equal(a[~finite], e[~finite])
        worst = np.max(np.abs(a - e)[finite], initial=0) / max(np.max(np.abs(e[finite]), initial=0), 1e-3)
        assert worst <= tolerance, f"off by {worst:.3g} of the largest value, {tolerance:.3g} allowed"


def agree(kernel: str, dtype: Any, *args: Any, tolerance: float | None = None, **options: Any) -> Any:
    """Run a kernel on the device and in the reference, in float32 there; compare all results; return the device's."""
    expected = getattr(REFERENCE, kernel)(
        *[wide(a) for a in args], **{k: wide(v) for k, v in options.items()}
    )
    before = device().launches
    actual = getattr(backend(), kernel)(*args, **options)
    assert device().launches > before, "computed by the reference, not by a kernel"
    several = isinstance(expected, tuple)
    for a, e in zip(actual if several else [actual], expected if several else [expected], strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            near(a, e, TOLERANCE[np.dtype(dtype)] if tolerance is None else tolerance)
    return actual


def normal(seed: int, dtype: Any, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
