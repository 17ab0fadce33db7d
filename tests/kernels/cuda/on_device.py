"""What the tests of the CUDA kernels share: the back end on the emulated device, and comparison with the reference."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

from minidl.kernels.cuda.families import Families
from minidl.kernels.emulator import EmulatedDevice
from minidl.kernels.reference import ReferenceBackend

BF16, F16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
TOLERANCE = {F32: 1e-6, F16: 2e-3, BF16: 1e-2}
"""Largest difference over largest value. A half type's result is rounded once, to 11 or 8 bits."""
REFERENCE = ReferenceBackend()


@functools.cache
def device() -> EmulatedDevice:
    return EmulatedDevice()


@functools.cache
def backend() -> Families:
    return Families(device())


def wide(value: Any) -> Any:
    """A half-type array as float32, anything else as it is: the reference then computes what a kernel should."""
    return value.astype(F32) if isinstance(value, np.ndarray) and value.dtype in (F16, BF16) else value


def near(actual: Any, expected: Any, tolerance: float) -> None:
    """Shapes equal, and no difference larger than ``tolerance`` times the largest value."""
    assert actual.shape == expected.shape
    if actual.size:
        a, e = actual.astype(np.float64), expected.astype(np.float64)
        assert np.array_equal(np.isnan(a), np.isnan(e))
        worst = np.nanmax(np.abs(a - e), initial=0) / max(np.nanmax(np.abs(e), initial=0), 1e-3)
        assert worst <= tolerance, f"off by {worst:.3g} of the largest value, {tolerance:.3g} allowed"


def agree(kernel: str, dtype: Any, *args: Any, tolerance: float | None = None, **options: Any) -> Any:
    """Run a kernel on the device and in the reference, in float32 there; compare all results; return the device's."""
    expected = getattr(REFERENCE, kernel)(
        *[wide(a) for a in args], **{k: wide(v) for k, v in options.items()}
    )
    actual = getattr(backend(), kernel)(*args, **options)
    several = isinstance(expected, tuple)
    for a, e in zip(actual if several else [actual], expected if several else [expected], strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            near(a, e, TOLERANCE[np.dtype(dtype)] if tolerance is None else tolerance)
    return actual


def normal(seed: int, dtype: Any, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
