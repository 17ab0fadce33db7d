"""The safetensors reader refuses what breaks the format; reader and writer agree with the safetensors package."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl import weights
from minidl.errors import MinidlError
from tests.minidl.weights import weight_cases as cases


def write(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


EVERYTHING = {**cases.small_network(), **cases.every_dtype(), "empty": np.empty((0, 3), np.float32)}
STORABLE = {name: array for name, array in EVERYTHING.items() if name != "complex128"}


def test_what_is_saved_is_loaded_bit_for_bit_in_the_same_order(tmp_path: Path) -> None:
    weights.save(STORABLE, tmp_path / "w.safetensors", {"classes": "ant,bée"})
    state = weights.load(tmp_path / "w.safetensors")
    assert list(state) == list(STORABLE)
    for name, array in STORABLE.items():
        assert (state[name].dtype, state[name].shape) == (array.dtype, array.shape), name
        assert state[name].tobytes() == array.tobytes(), name
        assert state[name].flags.writeable and state[name].flags.c_contiguous, name
    assert state.metadata == weights.load_metadata(tmp_path / "w.safetensors") == {"classes": "ant,bée"}


def test_the_safetensors_package_reads_what_is_saved(tmp_path: Path) -> None:
    numpy_reader = pytest.importorskip("safetensors.numpy")
    weights.save(STORABLE, tmp_path / "w.safetensors", {"a": "b"})
    theirs = numpy_reader.load_file(tmp_path / "w.safetensors")
    assert set(theirs) == set(STORABLE)
    for name, array in STORABLE.items():
        assert (theirs[name].dtype, theirs[name].shape) == (array.dtype, array.shape), name
        assert theirs[name].tobytes() == array.tobytes(), name


def test_what_the_safetensors_package_saves_is_read(tmp_path: Path) -> None:
    numpy_writer = pytest.importorskip("safetensors.numpy")
    numpy_writer.save_file(STORABLE, tmp_path / "w.safetensors", {"a": "b"})
    state = weights.load(tmp_path / "w.safetensors")
    assert state.metadata == {"a": "b"}
    assert all(state[name].tobytes() == array.tobytes() for name, array in STORABLE.items())


def test_bfloat16_goes_both_ways(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = cases.bfloat16_bits().view(ml_dtypes.bfloat16)
    weights.save({"w": array}, tmp_path / "w.safetensors")
    widened = weights.load(tmp_path / "w.safetensors")
    assert widened["w"].tobytes() == cases.bfloat16_as_float32().tobytes()
    assert "1 bfloat16 tensors were widened to float32, exactly" in widened.notes
    kept = weights.load(tmp_path / "w.safetensors", native_bfloat16=True)
    assert kept["w"].dtype == ml_dtypes.bfloat16 and kept["w"].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{not json", b"", "header is not JSON"),
        (b"{" + b'"a":{' * 50_000, b"", "header is not JSON"),
        (b'{"a":1,"a":2}', b"", "a name occurs twice"),
        ({"w": 3}, b"", "must have exactly dtype, shape and data_offsets"),
        ({"w": {**entry(), "extra": 1}}, b"", "must have exactly dtype, shape and data_offsets"),
        ({"w": entry(dtype="F8_E4M3")}, b"", "has dtype 'F8_E4M3', expected one of"),
        ({"w": entry(dtype=["F32"])}, b"", "has dtype"),
        ({"w": entry(shape=[-2])}, bytes(8), "a shape that is not a list of lengths"),
        ({"w": entry(shape=[2.0])}, bytes(8), "a shape that is not a list of lengths"),
        ({"w": entry(shape=[True, 2])}, bytes(8), "a shape that is not a list of lengths"),
        ({"w": entry(shape=[1] * 65)}, bytes(8), "a shape that is not a list of lengths"),
        ({"w": entry(offsets=[8, 0])}, bytes(8), "data_offsets that are not [begin, end]"),
        ({"w": entry(offsets=[0])}, bytes(8), "data_offsets that are not [begin, end]"),
        ({"w": entry(offsets=[-8, 0])}, bytes(8), "data_offsets that are not [begin, end]"),
        (
            {"w": entry(shape=[3])},
            bytes(8),
            "of shape [3] and dtype F32 needs 12 bytes, its data_offsets give 8",
        ),
        ({"w": entry(shape=[1 << 62, 1 << 62], offsets=[0, 8])}, bytes(8), "needs"),
        ({"w": entry(shape=[1 << 40], offsets=[0, 1 << 42])}, bytes(8), "truncated, its tensors need"),
        ({"w": entry()}, bytes(9), "its tensors need 8 bytes where 9 are left"),
        ({"w": entry()}, bytes(7), "truncated, its tensors need 8 bytes where 7 are left"),
        ({"v": entry(), "w": entry()}, bytes(8), "tensor 'w' overlaps the tensor before it"),
        ({"v": entry(), "w": entry(offsets=[12, 20])}, bytes(20), "tensor 'w' leaves a hole before it"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ must map strings to strings"),
        ({"__metadata__": []}, b"", "__metadata__ must map strings to strings"),
    ],
)
def test_a_header_that_breaks_the_format_is_refused(
    header: Any, data: bytes, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, header, data)
    with pytest.raises(MinidlError) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("length", [1 << 33, (1 << 64) - 1, 3])
def test_a_wrong_header_length_allocates_nothing(length: int, tmp_path: Path) -> None:
    path = write(tmp_path, {"w": entry()}, bytes(8), length)
    tracemalloc.start()
    with pytest.raises(MinidlError):
        weights.load_metadata(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_bytes_that_are_no_booleans_become_true(tmp_path: Path) -> None:
    path = write(tmp_path, {"w": entry("BOOL", [3], [0, 3])}, b"\x00\x01\xff")
    assert weights.load(path)["w"].view(np.uint8).tolist() == [0, 1, 1]


def test_key_means_nothing_for_safetensors(tmp_path: Path) -> None:
    weights.save({"w": np.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(MinidlError, match="has no entries to choose with key="):
        weights.load(tmp_path / "w.safetensors", key="w")


def test_metadata_of_another_kind_of_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MinidlError, match=r"zip\.pth: truncated or not a safetensors file"):
        weights.load_metadata(cases.FIXTURES / "zip.pth")
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(MinidlError, match="it has only 3 bytes"):
        weights.load_metadata(tmp_path / "short")
