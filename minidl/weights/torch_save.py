"""Writing PyTorch's zip format: a state dict that `torch.load(path, weights_only=True)` reads."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from minidl.weights.dtypes import Element, count, element_of, encode
from minidl.weights.files import atomic_write, write_array

_FOLDER = "archive"
_ALIGNMENT = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_pth(state: Mapping[str, NDArray[Any]], path: str | os.PathLike[str]) -> None:
    """Writes arrays as a PyTorch state dict (an OrderedDict of tensors), all or nothing.

    state: name -> array of any shape and strides; dtypes bool, (u)int8 to (u)int64, float16/32/64,
    ml_dtypes.bfloat16, complex64/128 (uint16/32/64 need PyTorch 2.3 to read). The same state gives the same
    bytes. `torch.load(path)` returns it with its names, order, dtypes and bits.
    Raises TypeError for what it cannot hold, before anything is written, and MinidlError when the file cannot
    be written: an older file at `path` is then untouched.
    """
    elements: dict[str, Element] = {}
    for name, array in state.items():
        if not isinstance(name, str):
            raise TypeError(f"save_pth: names must be strings, got {type(name).__name__}")
        elements[name] = element_of(name, array)
    data = b"".join(_pickle(state, elements))
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member("data.pkl"), data)
        archive.writestr(_member("byteorder"), b"little")
        for number, (name, element) in enumerate(elements.items()):
            info = _aligned(f"data/{number}", file.tell())
            info.file_size = state[name].nbytes
            with archive.open(info, "w") as member:
                write_array(member, encode(state[name], element))
        archive.writestr(_member("version"), b"3\n")


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}", _EPOCH)
    info.create_system = 3  # the same bytes on Windows
    return info


def _aligned(name: str, position: int) -> zipfile.ZipInfo:
    """A member whose data start at a multiple of 64 bytes, as PyTorch's own, so that they can be mapped."""
    info = _member(name)
    header = 30 + len(info.filename.encode()) + 4
    padding = -(position + header) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    return info


def _pickle(state: Mapping[str, NDArray[Any]], elements: Mapping[str, Element]) -> Iterator[bytes]:
    """Protocol 2, as torch.save writes it but without the memo; opcodes of CPython's pickletools."""
    yield b"\x80\x02" + _ORDERED_DICT + b"("
    for number, (name, element) in enumerate(elements.items()):
        shape = state[name].shape
        typed = bool(element.storage)
        yield _text(name)
        yield b"ctorch._utils\n_rebuild_tensor_v2\n(" if typed else b"ctorch._utils\n_rebuild_tensor_v3\n("
        # the persistent id of the storage: ("storage", type, key, device, number of elements)
        kind = f"ctorch\n{element.storage}\n" if typed else "ctorch.storage\nUntypedStorage\n"
        yield b"(" + _text("storage") + kind.encode() + _text(str(number)) + _text("cpu")
        yield _integer(count(shape) * (1 if typed else element.itemsize)) + b"tQ"
        yield _integer(0) + _integers(shape) + _integers(_strides(shape))
        yield b"\x89" + _ORDERED_DICT  # requires_grad, backward hooks
        yield b"tR" if typed else f"ctorch\n{element.name}\ntR".encode()
    yield b"u."


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """C order, counted in elements; an empty dimension counts as one, as in PyTorch."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.insert(0, step)
        step *= max(length, 1)
    return tuple(strides)


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
