"""What stands in for the objects of a pickle: tensors not read yet, NumPy's objects, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidl.weights.dtypes import MAX_DIMENSIONS, Element, count
from minidl.weights.files import quoted

Build = Callable[[tuple[object, ...]], object]


class PickledObject:
    """A stand-in for an object that means nothing to weights (options, devices, dates): it keeps nothing."""

    __slots__ = ()

    def set_state(self, state: object) -> None:
        """Takes what a pickle would set on the object; here it is dropped."""


class StorageRef(PickledObject):
    """A piece of a storage: `numel` elements from byte `start` of the storage called `key`."""

    __slots__ = ("element", "key", "numel", "root_numel", "start")

    def __init__(self, key: str, element: Element, numel: int, start: int = 0, root_numel: int = -1) -> None:
        self.key = key
        self.element = element
        self.numel = numel
        self.start = start
        self.root_numel = numel if root_numel < 0 else root_numel

    @property
    def nbytes(self) -> int:
        """The size of this piece."""
        return self.numel * self.element.itemsize


class TensorRef(PickledObject):
    """A tensor not read yet: storage, element type; offset, size and stride counted in elements."""

    __slots__ = ("element", "offset", "size", "storage", "stride")

    def __init__(
        self,
        storage: StorageRef,
        element: Element,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> None:
        self.storage = storage
        self.element = element
        self.offset = offset
        self.size = size
        self.stride = stride


class LegacyParameter(PickledObject):
    """A Parameter as PyTorch 0.1 pickled it: an empty object whose state begins with the tensor."""

    __slots__ = ("tensor",)

    def __init__(self) -> None:
        self.tensor: TensorRef | None = None

    def set_state(self, state: object) -> None:
        """state: (tensor, requires_grad, hooks)."""
        if type(state) is tuple and state and isinstance(state[0], TensorRef):
            self.tensor = state[0]


class NumpyDtype(PickledObject):
    """A NumPy dtype. Arrays are built of plain numbers only; others (text, objects, dates) are dropped."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        if len(code) > 8 or code[:1] not in set("biufc?SUVOMm") or not (code[1:].isdigit() or code == "?"):
            raise ValueError(f"a NumPy dtype {code[:20]!r}")
        self.dtype = np.dtype(code)

    @property
    def plain(self) -> bool:
        """Whether its elements are numbers."""
        return self.dtype.kind in "biufc"

    def set_state(self, state: object) -> None:
        """state: (version, byte order, ...)."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a NumPy dtype without byte order")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if state[1] == "<" else ">")

    def array(self, shape: tuple[int, ...], data: bytes, fortran: bool) -> np.ndarray:
        """The array whose bytes are `data`, copied, native byte order."""
        if not self.plain:
            raise ValueError(f"a NumPy array of dtype {self.dtype}")
        if count(shape) * self.dtype.itemsize != len(data):
            raise ValueError(f"a NumPy array of {len(data)} bytes for shape {shape}")
        if self.dtype.kind == "b":
            return np.not_equal(np.ndarray(shape, np.uint8, data, order="F" if fortran else "C"), 0)
        array = np.ndarray(shape, self.dtype, data, order="F" if fortran else "C")
        return array.astype(self.dtype.newbyteorder("="), order="C")


class NumpyArray(PickledObject):
    """A NumPy array: empty first, filled by its state."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def set_state(self, state: object) -> None:
        """state: (version, shape, dtype, Fortran order, bytes)."""
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], NumpyDtype):
            raise ValueError("a NumPy array without its five fields")
        if state[2].plain:
            self.array = state[2].array(naturals(state[1]), as_bytes(state[4]), state[3] is True)


class AllowedGlobal:
    """An entry of the table: what a pickle's global becomes, and what calling it builds."""

    __slots__ = ("_build", "element", "name")

    def __init__(self, name: str, build: Build | None = None, element: Element | None = None) -> None:
        self.name = name
        self.element = element
        self._build = build

    def __call__(self, arguments: tuple[object, ...]) -> object:
        if self._build is None:
            raise TypeError(f"a call of {self.name}")
        return self._build(arguments)


_SCALARS = (str, int, float, bool, bytes, type(None))


def checked_key(key: object) -> object:
    """A dictionary key whose hash is cheap; TypeError or ValueError for any other.

    The hash of nested tuples is computed by recursion, in exponential time when they share their parts, and
    integers can be chosen so that all have the same hash.
    """
    parts = key if type(key) is tuple else (key,)
    if len(parts) > MAX_DIMENSIONS:
        raise ValueError("a dictionary key of many parts")
    for part in parts:
        if type(part) not in _SCALARS and not isinstance(part, PickledObject | AllowedGlobal):
            raise TypeError(f"a dictionary key of type {type(part).__name__}")
        if type(part) is int and abs(part) >= 1 << 60:
            raise ValueError("a dictionary key that is a huge integer")
    return key


def naturals(values: object) -> tuple[int, ...]:
    """A tuple or list of at most 64 integers in [0, 2**62)."""
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise ValueError("a shape that is not a short tuple")
    for value in values:
        natural(value)
    return tuple(values)


def natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"a size, stride or offset that is {short(value)}")
    return value


def short(value: object) -> str:
    """A scalar's value, or the type of anything else."""
    return quoted(str(value), 40) if type(value) in (int, float, str) else f"a {type(value).__name__}"


def as_bytes(value: object) -> bytes:
    # bytes of Python 2 that happened to be UTF-8 were read as text
    if isinstance(value, str):
        return value.encode("utf-8")
    if not isinstance(value, bytes):
        raise TypeError(f"bytes expected, got {short(value)}")
    return value
