"""Memory shared with other libraries through DLPack (https://dmlc.github.io/dlpack/latest/python_spec.html).

NumPy speaks DLPack for the dtypes it knows. bfloat16 it does not know: its bits travel as uint16, and the dtype code in
the capsule is rewritten on the way, which the protocol leaves to whoever holds a capsule that is not consumed yet.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from minidl.dtypes import as_dtype

__all__ = ["export", "take"]

_UINT, _BFLOAT = 1, 4  # DLDataTypeCode
_CPU = 1  # DLDeviceType


class _Tensor(ctypes.Structure):
    """DLTensor, up to its dtype."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned: the tensor comes after what manages it (in DLManagedTensor it comes first)."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def _tensor_in(capsule: Any) -> _Tensor:
    """The DLTensor that an unconsumed capsule holds."""
    api = ctypes.pythonapi
    api.PyCapsule_IsValid.argtypes = api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    for name, layout in ((b"dltensor_versioned", _Versioned), (b"dltensor", _Tensor)):
        if api.PyCapsule_IsValid(capsule, name):
            found = layout.from_address(api.PyCapsule_GetPointer(capsule, name))
            return found.tensor if isinstance(found, _Versioned) else found
    raise BufferError("from_dlpack: the capsule was consumed already")


def export(array: np.ndarray, **options: Any) -> Any:
    """A capsule of the memory of ``array``; ``options`` are those of ``__dlpack__``."""
    if array.dtype.name != "bfloat16":
        return array.__dlpack__(**options)
    capsule = array.view(np.uint16).__dlpack__(**options)
    _tensor_in(capsule).code = _BFLOAT
    return capsule


class _AsBits:
    """A producer whose bfloat16 elements are announced as uint16; says whether they were."""

    def __init__(self, source: Any) -> None:
        self.source, self.bfloat16 = source, False

    def __dlpack_device__(self) -> Any:
        return self.source.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self.source.__dlpack__(**options)
        tensor = _tensor_in(capsule)
        if (tensor.code, tensor.bits) == (_BFLOAT, 16):
            tensor.code, self.bfloat16 = _UINT, True
        return capsule


def take(source: Any) -> np.ndarray:
    """An array on the memory of ``source``, an object with ``__dlpack__``.

    Raises:
        TypeError: ``source`` does not speak DLPack.
        BufferError: its memory is not in main memory, or of a dtype that NumPy does not know.
        ImportError: it holds bfloat16, and ``ml_dtypes`` is not installed.
    """
    if not hasattr(source, "__dlpack__") or not hasattr(source, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: expects an object with __dlpack__, got {type(source).__name__}")
    if source.__dlpack_device__()[0] != _CPU:
        raise BufferError(f"from_dlpack: expects memory of the CPU (1, 0), got {source.__dlpack_device__()}")
    producer = _AsBits(source)
    try:
        array = np.from_dlpack(producer)
    except RuntimeError as error:
        raise BufferError(f"from_dlpack: {error}") from None
    return array.view(as_dtype("bfloat16")) if producer.bfloat16 else array
