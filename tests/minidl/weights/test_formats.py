"""Every file format is read as PyTorch reads it (tests/fixtures/make_weight_fixtures.py wrote the files)."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from minidl import weights
from minidl.errors import MinidlError
from minidl.weights.state import StateDict
from tests.minidl.weights import weight_cases as cases

NETWORK_FILES = (
    *("zip.pth", "zip_protocol4.pth", "zip_big_endian.pth", "stream.pth", "stream_protocol1.pth"),
    *("tar.pth", "tar_python2.pth", "checkpoint.pth", "checkpoint_stream.pth"),
)


def assert_same(state: StateDict, expected: dict[str, np.ndarray]) -> None:
    assert list(state) == list(expected)
    for name, array in expected.items():
        assert state[name].dtype == array.dtype, name
        assert state[name].shape == array.shape, name
        assert state[name].tobytes() == array.tobytes(), name
        assert state[name].flags.c_contiguous and state[name].flags.writeable, name
        assert state[name].dtype.isnative, name


@pytest.mark.parametrize("file", NETWORK_FILES)
def test_a_state_dict_is_read_bit_for_bit(file: str) -> None:
    assert_same(weights.load(cases.FIXTURES / file), cases.small_network())


@pytest.mark.parametrize("file", ["views.pth", "views_stream.pth"])
def test_views_of_a_storage_become_arrays_of_their_own(file: str) -> None:
    state = weights.load(cases.FIXTURES / file)
    assert_same(state, cases.views())
    state["whole"][:] = 99
    assert_same(StateDict({**state, "whole": cases.views()["whole"]}, format="zip"), cases.views())


def test_every_dtype_is_read() -> None:
    assert_same(weights.load(cases.FIXTURES / "dtypes.pth"), cases.every_dtype())


def test_parameters_and_tensors_with_attributes_are_read_as_tensors() -> None:
    expected = {name: array for name, array in cases.small_network().items() if array.ndim}
    expected |= {"tagged": cases.values((3,)), "plain": cases.values((3,), start=1)}
    assert_same(weights.load(cases.FIXTURES / "parameters.pth"), expected)


@pytest.mark.parametrize("file", ["bfloat16.pth", "bfloat16_stream.pth"])
def test_bfloat16_is_widened_exactly_and_reported(file: str) -> None:
    state = weights.load(cases.FIXTURES / file)
    assert_same(state, {"w": cases.bfloat16_as_float32()})
    assert "1 bfloat16 tensors were widened to float32, exactly" in state.notes


def test_bfloat16_is_kept_on_demand() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    state = weights.load(cases.FIXTURES / "bfloat16.pth", native_bfloat16=True)
    assert state["w"].dtype == ml_dtypes.bfloat16
    assert state["w"].tobytes() == cases.bfloat16_bits().tobytes()
    assert not any("widened" in note for note in state.notes)


def test_bfloat16_on_demand_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MinidlError, match=r"pip install 'minidl\[bf16\]'"):
        weights.load(cases.FIXTURES / "bfloat16.pth", native_bfloat16=True)


def test_notes_say_what_was_found_renamed_and_ignored() -> None:
    state = weights.load(cases.FIXTURES / "checkpoint.pth")
    assert state.format == "zip"
    assert state.notes[0] == "PyTorch zip archive, version 3, checksums of the tensors verified"
    assert state.notes[1] == "tensors found under 'state_dict'"
    assert state.notes[2].startswith("ignored: 'epoch', 'arch', 'optimizer', 'best_acc1', 'best_prec1'")
    assert state.notes[3] == "prefix 'module.' removed from all 8 names"


@pytest.mark.parametrize(
    ("file", "format", "note"),
    [
        ("zip.pth", "zip", "PyTorch zip archive, version 3, checksums of the tensors verified"),
        ("stream.pth", "stream", "PyTorch legacy stream (the format has no checksums)"),
        ("tar.pth", "tar", "PyTorch legacy tar archive (the format has no checksums)"),
    ],
)
def test_the_format_is_found_by_content(file: str, format: str, note: str, tmp_path) -> None:
    renamed = tmp_path / "weights.jpg"
    renamed.write_bytes((cases.FIXTURES / file).read_bytes())
    state = weights.load(renamed)
    assert state.format == format
    assert state.notes == [note]
    assert state.metadata == {}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_plain_pickle_of_numpy_arrays_is_read(protocol: int, tmp_path) -> None:
    expected = {**cases.every_dtype(), "fortran": np.asfortranarray(cases.values((3, 4)))}
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps({"model": expected, "iteration": 3}, protocol))
    if protocol < 2:
        with pytest.raises(MinidlError):  # nothing but PyTorch's own streams begins without a PROTO opcode
            weights.load(path)
        return
    state = weights.load(path)
    assert state.format == "pickle"
    assert_same(state, {**expected, "fortran": np.ascontiguousarray(expected["fortran"])})


def test_importing_the_package_needs_only_numpy() -> None:
    code = (
        "import sys, minidl.weights\n"
        "loaded = [m for m in ('numba', 'cupy', 'PIL', 'torch', 'ml_dtypes', 'safetensors') if m in sys.modules]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
