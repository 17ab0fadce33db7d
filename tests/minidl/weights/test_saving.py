"""Files are written whole or not at all, the same bytes for the same state."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minidl import weights
from minidl.errors import MinidlError
from tests.minidl.weights import weight_cases as cases

SAVERS = [weights.save, weights.save_pth]


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize(
    "array",
    [
        np.array(3, np.int64),
        np.float32([[1, 2, 3], [4, 5, 6]]).T,
        np.arange(20, dtype=np.float32)[::-3],
        np.arange(6, dtype=">i4"),
        np.array(2.5, ">f8"),
        np.broadcast_to(np.float32(7), (2, 3)),
        np.array([[True, False]]).T,
        np.empty((2, 0), np.float16),
    ],
    ids=lambda array: f"{array.dtype.str}-{array.shape}-{array.strides}",
)
def test_any_strides_byte_order_and_shape_come_back(
    save: Callable, array: np.ndarray, tmp_path: Path
) -> None:
    save({"w": array}, tmp_path / "w")
    back = weights.load(tmp_path / "w")["w"]
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(back, array)


def test_the_pth_writer_holds_every_dtype(tmp_path: Path) -> None:
    weights.save_pth(cases.every_dtype(), tmp_path / "w.pth")
    state = weights.load(tmp_path / "w.pth")
    for name, array in cases.every_dtype().items():
        assert state[name].dtype == array.dtype and state[name].tobytes() == array.tobytes(), name


def test_the_pth_writer_keeps_bfloat16(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weights.save_pth({"w": cases.bfloat16_bits().view(ml_dtypes.bfloat16)}, tmp_path / "w.pth")
    kept = weights.load(tmp_path / "w.pth", native_bfloat16=True)["w"]
    assert kept.tobytes() == cases.bfloat16_bits().tobytes()


def test_the_pickle_is_the_one_that_pytorch_has_read(tmp_path: Path) -> None:
    # tests/fixtures/make_weight_fixtures.py loads this file with torch.load and prints the digest
    weights.save_pth({**cases.small_network(), **cases.every_dtype()}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        digest = hashlib.sha256(archive.read("archive/data.pkl")).hexdigest()
    assert digest == "c55e208d229ca37faaaa43d544adc1ab5c0e5543ea139a5f58a8847c7226c9a4"


@pytest.mark.parametrize("save", SAVERS)
def test_the_same_state_gives_the_same_bytes(save: Callable, tmp_path: Path) -> None:
    save(cases.small_network(), tmp_path / "a")
    save(cases.small_network(), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_tensor_is_aligned_to_its_element_size(tmp_path: Path) -> None:
    state = {"a": np.zeros(3, np.uint8), "b": np.zeros(3, np.float64), "c": np.zeros(1, np.float16)}
    weights.save(state, tmp_path / "w")
    data = (tmp_path / "w").read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert b'"b":{"dtype":"F64","shape":[3],"data_offsets":[0,24]}' in data


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"w": [1.0]}, TypeError, "'w' must be a NumPy array, got list"),
        ({"w": np.array([None])}, TypeError, "'w' has dtype object, expected one of"),
        ({"w": np.array(["a"])}, TypeError, "expected one of"),
        ({3: np.ones(1)}, TypeError, "names must be strings, got int"),
        ({"\ud800": np.ones(1)}, ValueError, "surrogates not allowed"),
    ],
)
def test_a_state_that_cannot_be_held_is_refused_before_anything_is_written(
    save: Callable, state: dict, error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "w").write_bytes(b"old")
    with pytest.raises(error, match=message):
        save(state, tmp_path / "w")
    assert os.listdir(tmp_path) == ["w"] and (tmp_path / "w").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("state", "metadata", "error", "message"),
    [
        ({"w": np.ones(1, np.complex128)}, None, TypeError, "complex128, which safetensors cannot hold"),
        ({"__metadata__": np.ones(1)}, None, ValueError, "is the format's own name"),
        ({}, {"a": 1}, TypeError, "metadata must map strings to strings, got 'a': int"),
        ({}, {"a": "b" * (17 << 20)}, ValueError, "names and metadata take"),
    ],
)
def test_safetensors_refuses_what_the_format_lacks(
    state: dict, metadata: dict | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        weights.save(state, tmp_path / "w", metadata)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("save", SAVERS)
def test_an_unwritable_place_is_an_error_in_one_sentence(save: Callable, tmp_path: Path) -> None:
    with pytest.raises(MinidlError, match=r"missing.w: cannot be written: No such file or directory"):
        save(cases.small_network(), tmp_path / "missing" / "w")
    with pytest.raises(MinidlError, match="is a folder, a file name was expected"):
        save(cases.small_network(), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_failure_while_writing_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "w"
    target.write_bytes(b"old")
    with (
        pytest.raises(MinidlError, match=r"w: cannot be written: No space left"),
        weights.atomic_write(target) as f,
    ):
        f.write(b"half")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyboardInterrupt), weights.atomic_write(target) as f:
        f.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["w"] and target.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="file-size limits are POSIX")
@pytest.mark.parametrize("save", ["save", "save_pth"])
def test_a_full_disk_leaves_the_old_file_and_no_trace(save: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"old")
    code = (
        "import resource, sys, numpy as np\n"
        "from minidl import weights\n"
        "from minidl.errors import MinidlError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        f"    weights.{save}({{'w': np.ones(100_000)}}, sys.argv[1])\n"
        "except MinidlError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w")], capture_output=True, text=True, check=True
    )
    assert "w: cannot be written: File too large" in done.stdout
    assert os.listdir(tmp_path) == ["w"] and (tmp_path / "w").read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_stays_a_link_and_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    weights.save({"w": np.ones(2)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert weights.load(tmp_path / "real")["w"].tolist() == [1, 1]
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "real").stat().st_mode == (tmp_path / "plain").stat().st_mode
