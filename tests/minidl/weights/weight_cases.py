"""The values in the fixtures of tests/fixtures/weights, by formula: tests and fixture script share them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parents[2] / "fixtures" / "weights"


def values(shape: tuple[int, ...], dtype: str = "float32", start: int = 0) -> np.ndarray:
    """Numbers that every dtype holds exactly, also bfloat16: multiples of 1/8 up to 4."""
    count = int(np.prod(shape, dtype=np.int64))
    numbers = ((np.arange(count) + start) * 7 % 31).astype(np.float64)
    kind = np.dtype(dtype).kind
    if kind == "b":
        return (numbers % 2 == 1).reshape(shape)
    if kind in "iu":
        return numbers.astype(dtype).reshape(shape)
    signed = numbers / 8 - 2
    return (signed + 1j * numbers if kind == "c" else signed).astype(dtype).reshape(shape)


def small_network() -> dict[str, np.ndarray]:
    """The state dict of a convolution, a batch norm and a classifier."""
    return {
        "conv1.weight": values((4, 3, 3, 3)),
        "bn1.weight": values((4,), start=3),
        "bn1.bias": values((4,), start=5),
        "bn1.running_mean": values((4,), start=7),
        "bn1.running_var": values((4,), start=20),
        "bn1.num_batches_tracked": np.array(42, np.int64),
        "fc.weight": values((2, 4), start=11),
        "fc.bias": values((2,), start=13),
    }


DTYPES = (
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool", "complex64", "complex128"),
)


def every_dtype() -> dict[str, np.ndarray]:
    """One array of each dtype that NumPy has."""
    return {name: values((3, 2), name) for name in DTYPES}


def bfloat16_bits() -> np.ndarray:
    """Bit patterns of bfloat16: ordinary numbers, both zeros, infinities, subnormals, the largest."""
    return np.array([0x3F80, 0xBFC0, 0x0000, 0x8000, 0x7F80, 0xFF80, 0x0001, 0x7F7F, 0x4049], np.uint16)


def bfloat16_as_float32() -> np.ndarray:
    """What they mean."""
    return (bfloat16_bits().astype(np.uint32) << np.uint32(16)).view(np.float32)


def views() -> dict[str, np.ndarray]:
    """Tensors that share a storage, lie askew in it or have unusual shapes."""
    base = values((6, 4))
    return {
        "whole": base,
        "tied": base.copy(),
        "transposed": np.ascontiguousarray(base.T),
        "rows": base[2:4].copy(),
        "column": base[:, 1].copy(),
        "every_other": base[::2, 1::2].copy(),
        "expanded": np.ascontiguousarray(np.broadcast_to(base[:1], (5, 4))),
        "scalar": base[3, 2].copy().reshape(()),
        "empty": np.empty((0, 3), np.float32),
        "channels_last": values((2, 3, 4, 5)),
    }
