"""The element types of weights files: what they are called there and what they become as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.errors import MinidlError


@dataclass(frozen=True)
class Element:
    """An element type.

    name: PyTorch's name. code: the NumPy code of the bytes on disk, without byte order (bfloat16 travels as
    u2, bool as u1). safetensors: its name there, or "" where that format has none. storage: PyTorch's class
    of storage, or "" for the types that PyTorch writes through an untyped storage.
    """

    name: str
    code: str
    safetensors: str
    storage: str

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return int(self.code[1:])

    def wire(self, order: str = "<") -> np.dtype[Any]:
        """The NumPy dtype of the bytes on disk, in byte order `order`."""
        return np.dtype(order + self.code)


_ELEMENTS = (
    Element("float64", "f8", "F64", "DoubleStorage"),
    Element("float32", "f4", "F32", "FloatStorage"),
    Element("float16", "f2", "F16", "HalfStorage"),
    Element("bfloat16", "u2", "BF16", "BFloat16Storage"),
    Element("int64", "i8", "I64", "LongStorage"),
    Element("int32", "i4", "I32", "IntStorage"),
    Element("int16", "i2", "I16", "ShortStorage"),
    Element("int8", "i1", "I8", "CharStorage"),
    Element("uint64", "u8", "U64", ""),
    Element("uint32", "u4", "U32", ""),
    Element("uint16", "u2", "U16", ""),
    Element("uint8", "u1", "U8", "ByteStorage"),
    Element("bool", "u1", "BOOL", "BoolStorage"),
    Element("complex64", "c8", "C64", "ComplexFloatStorage"),
    Element("complex128", "c16", "", "ComplexDoubleStorage"),
)
BY_NAME = {element.name: element for element in _ELEMENTS}
BY_SAFETENSORS = {element.safetensors: element for element in _ELEMENTS if element.safetensors}
BY_STORAGE = {element.storage: element for element in _ELEMENTS if element.storage}

MAX_DIMENSIONS = 64
"""NumPy's limit."""


def element_of(name: str, array: object) -> Element:
    """The element type of an array that is about to be saved under `name`; TypeError when there is none."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"save: {name!r} must be a NumPy array, got {type(array).__name__}")
    element = BY_NAME.get(array.dtype.name)
    if element is None:
        raise TypeError(f"save: {name!r} has dtype {array.dtype}, expected one of {', '.join(BY_NAME)}")
    return element


def encode(array: NDArray[Any], element: Element) -> NDArray[Any]:
    """`array` as it stands on disk: C-contiguous, little-endian, a bfloat16 as its 16 bits. Shape kept."""
    wire = np.asarray(array, order="C")  # ascontiguousarray would make a 0-d array 1-d
    if element.name in ("bfloat16", "bool"):
        wire = wire.view(element.wire("="))
    return wire.astype(element.wire(), copy=False)


def decode(
    raw: NDArray[np.uint8],
    element: Element,
    shape: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    offset: int = 0,
    order: str = "<",
    native_bfloat16: bool = False,
    copy: bool = False,
) -> NDArray[Any]:
    """The array of `shape` inside the bytes `raw`: C-contiguous, writable, native byte order.

    offset and strides count bytes (strides None: C order) and are checked by NumPy against `raw`. bool bytes
    other than 0 become True. bfloat16 becomes float32, exactly, or with native_bfloat16 the ml_dtypes type.
    copy=False takes the memory of `raw` over where nothing has to be converted.
    """
    wire: NDArray[Any] = np.ndarray(tuple(shape), element.wire(order), raw, offset, strides)
    if element.name == "bool":
        return np.not_equal(wire, 0, out=np.empty(wire.shape, np.bool_))
    if element.name == "bfloat16":
        return _bfloat16(wire, native_bfloat16)
    native = wire.dtype.newbyteorder("=")
    if not copy and wire.dtype == native and wire.flags.c_contiguous and wire.flags.aligned:
        return wire
    return wire.astype(native, order="C")


def _bfloat16(bits: NDArray[Any], native: bool) -> NDArray[Any]:
    """Sixteen-bit patterns as float32 (the upper half of its bits: exact) or as ml_dtypes.bfloat16."""
    if native:
        return bits.astype(np.uint16, order="C").view(native_bfloat16_dtype())
    wide = np.empty(bits.shape, np.uint32)
    np.left_shift(bits, 16, out=wide, dtype=np.uint32)
    return wide.view(np.float32)


def native_bfloat16_dtype() -> np.dtype[Any]:
    """ml_dtypes.bfloat16; MinidlError when the package is not installed."""
    try:
        import ml_dtypes
    except ImportError:
        raise MinidlError(
            "native_bfloat16=True needs the package ml_dtypes: pip install 'minidl[bf16]' "
            "(without it bfloat16 is read as float32, exactly)"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


def count(shape: Sequence[int]) -> int:
    """The number of elements of `shape`, in Python integers: it cannot overflow."""
    total = 1
    for length in shape:
        total *= length
    return total
