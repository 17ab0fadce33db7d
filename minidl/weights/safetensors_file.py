"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes.

Format: https://huggingface.co/docs/safetensors (section "Format"). The reader is stricter than NumPy needs:
the tensors must cover the rest of the file exactly, without holes or overlap, as the reference demands.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from numpy.typing import NDArray

from minidl.errors import MinidlError
from minidl.weights.dtypes import BY_SAFETENSORS, MAX_DIMENSIONS, Element, count, decode, element_of, encode
from minidl.weights.files import atomic_write, open_binary, quoted, read_array, reporting_damage, write_array
from minidl.weights.state import StateDict

MAX_HEADER = 16 << 20
"""Some 130,000 tensors. The reference takes 100 MB, of which a hostile header makes gigabytes of lists."""

_METADATA = "__metadata__"


@dataclass(frozen=True)
class _Entry:
    name: str
    element: Element
    shape: list[int]
    begin: int
    end: int


def looks_like_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with the 16 bytes `start` can be nothing else."""
    if len(start) < 10:
        return False
    # JSON's brace behind a length whose upper bytes are zero
    return start[8:9] == b"{" and start[5:8] == b"\0\0\0" and size >= 10


def read_safetensors(file: BinaryIO, size: int, path: str, native_bfloat16: bool) -> StateDict:
    """Reads an open safetensors file of `size` bytes; MinidlError when it breaks the format."""
    entries, metadata, base = _read_header(file, size, path)
    arrays: dict[str, NDArray[Any]] = {}
    for entry in entries:
        raw = read_array(file, base + entry.begin, entry.end - entry.begin, path)
        arrays[entry.name] = decode(raw, entry.element, entry.shape, native_bfloat16=native_bfloat16)
    state = StateDict(arrays, format="safetensors")
    state.metadata = metadata
    state.notes.append(f"safetensors file of {len(arrays)} tensors (the format has no checksums)")
    widened = sum(entry.element.name == "bfloat16" for entry in entries)
    if widened and not native_bfloat16:
        state.notes.append(f"{widened} bfloat16 tensors were widened to float32, exactly")
    return state


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings stored beside the tensors of a safetensors file by `save`; {} if there are none.

    Reads the header only. Raises MinidlError when the file is missing, damaged or of another format.
    """
    name = os.fspath(path)
    with open_binary(name) as (file, size), reporting_damage(name):
        return _read_header(file, size, name)[1]


def _read_header(file: BinaryIO, size: int, path: str) -> tuple[list[_Entry], dict[str, str], int]:
    """(tensors in the header's order, metadata, position of the first tensor byte)."""
    file.seek(0)
    start = file.read(8)
    if len(start) < 8:
        raise MinidlError(f"{path}: not a safetensors file, it has only {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > size - 8:
        raise MinidlError(
            f"{path}: truncated or not a safetensors file, its header should have {length} bytes "
            f"where {size - 8} are left"
        )
    if length > MAX_HEADER:
        raise MinidlError(f"{path}: its header has {length} bytes, at most {MAX_HEADER} are read")
    text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MinidlError(f"{path}: damaged, its header is not JSON ({quoted(str(error), 120)})") from None
    if not isinstance(header, dict):
        raise MinidlError(f"{path}: damaged, its header is not a JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MinidlError(f"{path}: damaged, {_METADATA} must map strings to strings")
    entries = [_entry(name, fields, path) for name, fields in header.items()]
    _check_cover(entries, size - 8 - length, path)
    return entries, metadata, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary; two entries of one name would hide a tensor."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _entry(name: str, fields: object, path: str) -> _Entry:
    where = f"{path}: damaged, tensor {quoted(name)}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise MinidlError(f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BY_SAFETENSORS:
        raise MinidlError(
            f"{path}: tensor {quoted(name)} has dtype {quoted(str(dtype)[:40])}, "
            f"expected one of {', '.join(BY_SAFETENSORS)}"
        )
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise MinidlError(f"{where} has a shape that is not a list of lengths")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise MinidlError(f"{where} has data_offsets that are not [begin, end]")
    element = BY_SAFETENSORS[dtype]
    expected = count(shape) * element.itemsize
    if expected != offsets[1] - offsets[0]:
        raise MinidlError(
            f"{where} of shape {shape} and dtype {dtype} needs {expected} bytes, "
            f"its data_offsets give {offsets[1] - offsets[0]}"
        )
    return _Entry(name, element, shape, offsets[0], offsets[1])


def _naturals(values: object) -> bool:
    """Whether `values` is a list of integers in [0, 2**63), booleans not counted as integers."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_cover(entries: list[_Entry], available: int, path: str) -> None:
    """The tensors must follow one another from byte 0 to the end of the file."""
    at = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != at:
            kind = "overlaps the tensor before it" if entry.begin < at else "leaves a hole before it"
            raise MinidlError(f"{path}: damaged, tensor {quoted(entry.name)} {kind}")
        at = entry.end
    if at != available:
        problem = "truncated" if at > available else "damaged"
        raise MinidlError(f"{path}: {problem}, its tensors need {at} bytes where {available} are left")


def save(
    state: Mapping[str, NDArray[Any]],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays to a safetensors file, all or nothing.

    state: name -> array of any shape (0-d too), strides and byte order; dtypes bool, (u)int8 to (u)int64,
    float16/32/64, ml_dtypes.bfloat16, complex64. metadata: strings to store beside them, read back by
    `load_metadata`. The same state and metadata give the same bytes; names keep their order.
    Raises TypeError or ValueError for a state or metadata that the format cannot hold, before anything is
    written, and MinidlError when the file cannot be written: an older file at `path` is then untouched.
    """
    elements = {name: _storable(name, array) for name, array in state.items()}
    # larger elements first, so that every tensor starts at a multiple of its element size
    order = sorted(elements, key=lambda name: (-elements[name].itemsize, name))
    offsets: dict[str, tuple[int, int]] = {}
    at = 0
    for name in order:
        offsets[name] = (at, at := at + count(state[name].shape) * elements[name].itemsize)
    header: dict[str, Any] = {}
    if metadata:
        header[_METADATA] = _checked_metadata(metadata)
    for name, element in elements.items():
        header[name] = {
            "dtype": element.safetensors,
            "shape": list(state[name].shape),
            "data_offsets": list(offsets[name]),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"save: names and metadata take {len(text)} bytes, at most {MAX_HEADER} can be written"
        )
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            write_array(file, encode(state[name], elements[name]))


def _storable(name: object, array: NDArray[Any]) -> Element:
    if not isinstance(name, str):
        raise TypeError(f"save: names must be strings, got {type(name).__name__}")
    if name == _METADATA:
        raise ValueError(f"save: {_METADATA!r} is the format's own name, a tensor cannot have it")
    element = element_of(name, array)
    if not element.safetensors:
        raise TypeError(f"save: {name!r} has dtype {array.dtype}, which safetensors cannot hold")
    return element


def _checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"save: metadata must map strings to strings, got {key!r}: {type(value).__name__}"
            )
    return dict(metadata)
