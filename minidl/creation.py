"""Tensors from numbers: copies, constants, ranges, random values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minidl import dlpack, random
from minidl.dtypes import as_dtype, float32, int64, is_floating, scalar_dtype
from minidl.kernels import devices
from minidl.tensor import Scalar, Tensor, as_array, sizes

__all__ = [
    "arange",
    "as_tensor",
    "default_device",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "tensor",
    "zeros",
    "zeros_like",
]


_default: ContextVar[str] = ContextVar("minidl_default_device", default="cpu")


@contextmanager
def default_device(name: str) -> Iterator[None]:
    """Where new tensors are made inside a ``with`` block (in this thread) unless they are told otherwise: ``with
    minidl.default_device("cuda"): ...``. Tensors around arrays stay where the arrays are, except by :func:`tensor`.

    Raises:
        ValueError: not a device's name.
        ImportError, minidl.kernels.devices.DeviceError: the device is not there.
    """
    token = _default.set(devices.place(name).name)
    try:
        yield
    finally:
        _default.reset(token)


# --- from data ----------------------------------------------------------------------------------------------


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor around a copy of ``data``; see :class:`Tensor` for dtypes. On ``device``, else where the data is."""
    array = as_array(data, dtype)
    here = devices.of(array).name
    target = devices.canonical(device or (_default.get() if here == "cpu" else here))
    copied = devices.move(array, target)
    return Tensor(copied if copied is not array else array.copy(order="K"), requires_grad)


def _on(array: np.ndarray, device: str | None, requires_grad: bool = False) -> Tensor:
    """A tensor around a new array, moved to the device; None is the default one (:func:`default_device`)."""
    return Tensor(devices.move(array, device or _default.get()), requires_grad)


def as_tensor(data: Any, dtype: Any = None) -> Tensor:
    """``data`` itself when it is a tensor of that dtype, else a tensor that shares an array's memory if it can."""
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    return Tensor(data, dtype=dtype)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of ``array``.

    Raises:
        TypeError: not a NumPy array, or a dtype that tensors do not hold.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: array expects a numpy.ndarray, got {type(array).__name__}")
    return Tensor(array)


def from_dlpack(source: Any) -> Tensor:
    """A tensor that shares the memory of ``source``, an object of another library with ``__dlpack__`` (a PyTorch CPU
    tensor, a NumPy array).

    Raises:
        TypeError: ``source`` does not speak DLPack.
        BufferError: its memory is not in main memory, or of a dtype that NumPy does not know.
    """
    return Tensor(dlpack.take(source))


# --- constants ----------------------------------------------------------------------------------------------


def zeros(
    *shape: Any, dtype: Any = float32, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """A tensor of zeros, on ``device``."""
    return _on(np.zeros(sizes(shape), as_dtype(dtype)), device, requires_grad)


def ones(*shape: Any, dtype: Any = float32, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A tensor of ones."""
    return _on(np.ones(sizes(shape), as_dtype(dtype)), device, requires_grad)


def empty(
    *shape: Any, dtype: Any = float32, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """A tensor of elements that are not set: whatever lay in the memory."""
    return _on(np.empty(sizes(shape), as_dtype(dtype)), device, requires_grad)


def full(
    shape: Sequence[int],
    value: Scalar,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """A tensor filled with ``value``; its dtype is that of the number (bool, int64 or float32) unless given."""
    kind = scalar_dtype(value) if dtype is None else as_dtype(dtype)
    return _on(np.full(sizes(tuple(shape)), value, kind), device, requires_grad)


def _like(t: Tensor, dtype: Any) -> np.dtype[Any]:
    return t.dtype if dtype is None else as_dtype(dtype)


def zeros_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.zeros_like(t.data, _like(t, dtype)), requires_grad)


def ones_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.ones_like(t.data, _like(t, dtype)), requires_grad)


def full_like(t: Tensor, value: Scalar, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """``value`` with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.full_like(t.data, value, _like(t, dtype)), requires_grad)


def empty_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Unset elements with the shape, memory layout and (unless given) dtype of ``t``."""
    return Tensor(np.empty_like(t.data, _like(t, dtype)), requires_grad)


def eye(
    n: int, m: int | None = None, dtype: Any = float32, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """The n x m matrix (n x n unless given) with ones on its diagonal."""
    return _on(np.eye(n, m, dtype=as_dtype(dtype)), device, requires_grad)


# --- ranges -------------------------------------------------------------------------------------------------


def arange(*args: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """``arange(end)``, ``arange(start, end)`` or ``arange(start, end, step)``: from start in steps to before end.

    int64 for whole numbers, float32 when one is a float, unless given.

    Raises:
        ValueError: the step is 0, or leads away from the end.
    """
    if not 1 <= len(args) <= 3:
        raise TypeError(f"arange: expects 1 to 3 numbers (start, end, step), got {len(args)}")
    numbers = [a.item() if isinstance(a, Tensor) else a for a in args]
    start, end = (0, numbers[0]) if len(numbers) == 1 else numbers[:2]
    step = numbers[2] if len(numbers) == 3 else 1
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: no way from {start} to {end} in steps of {step}")
    whole = all(isinstance(a, (int, np.integer)) for a in numbers)
    kind = (int64 if whole else float32) if dtype is None else as_dtype(dtype)
    count = math.ceil((end - start) / step) if not whole else -((start - end) // step)
    values = (
        np.arange(count) * step + start
    )  # counted in float64: numpy.arange would round the step to float32
    return _on(values.astype(kind), device, requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    dtype: Any = float32,
    requires_grad: bool = False,
    device: str | None = None,
) -> Tensor:
    """``steps`` numbers at even distances from ``start`` to ``end``, both included."""
    if steps < 0:
        raise ValueError(f"linspace: steps expects an int >= 0, got {steps}")
    values = np.linspace(start, end, steps)
    return _on(values.astype(as_dtype(dtype)), device, requires_grad)


# --- random values, from the library's generator (minidl.manual_seed) ---------------------------------------


def _floating(op: str, dtype: Any) -> np.dtype[Any]:
    kind = as_dtype(dtype)
    if not is_floating(kind):
        raise TypeError(f"{op}: dtype expects a floating dtype, got {kind}")
    return kind


def _drawn(
    draw: Callable[[np.random.Generator], Any],
    dtype: np.dtype[Any],
    device: str | None,
    requires_grad: bool = False,
) -> Tensor:
    """What ``draw`` takes from the library's generator."""

    def make() -> np.ndarray:
        return np.asarray(draw(random.generator())).astype(dtype)

    return Tensor(random.drawn(make, devices.canonical(device or _default.get())), requires_grad)


def randn(
    *shape: Any, dtype: Any = float32, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """Standard normal numbers from the library's generator (:func:`minidl.manual_seed`)."""
    kind, size = _floating("randn", dtype), sizes(shape)
    return _drawn(lambda draw: draw.standard_normal(size), kind, device, requires_grad)


def rand(*shape: Any, dtype: Any = float32, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """Uniform numbers in [0, 1) from the library's generator (:func:`minidl.manual_seed`)."""
    kind, size = _floating("rand", dtype), sizes(shape)

    def draw(generator: np.random.Generator) -> Any:
        values = generator.random(size, np.float64 if kind == np.float64 else np.float32)
        if kind.itemsize == 2:  # rounding to fewer digits must not reach 1
            bits = 2048 if kind.kind == "f" else 256
            values = np.floor(values * bits) / np.float32(bits)
        return values

    return _drawn(draw, kind, device, requires_grad)


def randn_like(t: Tensor, dtype: Any = None) -> Tensor:
    """Standard normal numbers with the shape and (unless given) dtype of ``t``."""
    return randn(*t.shape, dtype=_like(t, dtype), device=t.device)


def rand_like(t: Tensor, dtype: Any = None) -> Tensor:
    """Uniform numbers in [0, 1) with the shape and (unless given) dtype of ``t``."""
    return rand(*t.shape, dtype=_like(t, dtype), device=t.device)


def randint(low: int, high: Any, size: Any = None, dtype: Any = int64, device: str | None = None) -> Tensor:
    """Uniform whole numbers from ``low`` to before ``high``; ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    if not low < high:
        raise ValueError(f"randint: expects low < high, got {low} and {high}")
    return _drawn(lambda draw: draw.integers(low, high, sizes((size,))), as_dtype(dtype), device)


def randperm(n: int, dtype: Any = int64, device: str | None = None) -> Tensor:
    """The numbers from 0 to before ``n`` in random order."""
    return _drawn(lambda draw: draw.permutation(n), as_dtype(dtype), device)
