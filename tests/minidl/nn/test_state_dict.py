"""Loading a state dict: all problems in one error, nothing changed by a failure, values kept exactly."""

from __future__ import annotations

import pickle

import ml_dtypes
import numpy as np
import pytest

from minidl import nn
from minidl.errors import MinidlError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2))


def numbered(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.full_like(array, i + 1) for i, (name, array) in enumerate(model.state_dict().items())}


def test_a_state_goes_in_and_comes_out_bit_for_bit() -> None:
    model, state = net(), numbered(net())
    assert model.load_state_dict(state) == ([], [])
    out = model.state_dict()
    assert list(out) == list(state)
    assert all(
        np.array_equal(out[name], state[name]) and out[name].dtype == state[name].dtype for name in state
    )


def test_the_arrays_of_a_state_dict_are_copies() -> None:
    model = net()
    state = model.state_dict()
    for array in state.values():
        array[...] = 9
    assert all(np.all(array != 9) for array in model.state_dict().values())
    state = numbered(model)
    model.load_state_dict(state)
    state["2.bias"][...] = 77
    assert model[2].bias.data.tolist() == [9, 9]


def test_every_problem_stands_in_one_error_and_nothing_is_changed() -> None:
    model, state = net(), numbered(net())
    before = model.state_dict()
    del state["0.bias"], state["1.running_var"]
    state["fc.weight"] = state["module.0.weight"] = np.zeros(1)
    state["0.weight"] = np.zeros((3, 2), dtype=np.float32)
    state["2.bias"] = np.zeros(3, dtype=np.float32)
    state["1.bias"] = np.array(["a", "b", "c"])
    with pytest.raises(nn.StateDictError) as caught:
        model.load_state_dict(state)
    error = caught.value
    assert error.missing == ["0.bias", "1.running_var"]
    assert error.unexpected == ["fc.weight", "module.0.weight"]
    assert set(error.mismatched) == {"0.weight", "1.bias", "2.bias"}
    for text in (*error.missing, *error.unexpected, *error.mismatched, "(3, 2, 1, 1)", "(3, 2)"):
        assert text in str(error)
    assert isinstance(error, MinidlError) and isinstance(error, RuntimeError)
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_short_message_counts_all_and_names_a_few() -> None:
    error = nn.StateDictError("Net", list("abcdef"), ["x"], {}, source="weights.pth")
    assert error.short(2) == "weights.pth does not fit Net: 6 missing: a, b, ...; 1 unexpected: x"


def test_not_strict_loads_what_fits_and_returns_the_rest() -> None:
    model, state = net(), numbered(net())
    del state["0.bias"]
    state["other"] = np.zeros(1)
    assert model.load_state_dict(state, strict=False) == (["0.bias"], ["other"])
    assert model.state_dict()["2.bias"].tolist() == [9, 9]
    state["2.bias"] = np.zeros(5, dtype=np.float32)
    with pytest.raises(nn.StateDictError, match=r"2\.bias \(shape \(2,\) expected, got \(5,\)\)"):
        model.load_state_dict(state, strict=False)


def test_files_older_than_num_batches_tracked_load_strictly() -> None:
    model, state = net(), numbered(net())
    del state["1.num_batches_tracked"]
    assert model.load_state_dict(state) == ([], [])
    assert model.state_dict()["1.num_batches_tracked"] == 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_widens_exactly(dtype: type) -> None:
    model, state = nn.Linear(2, 2), {}
    values = np.array([[1.5, -3e-3], [7.25, 1e-5]]).astype(dtype)
    state = {"weight": values, "bias": np.zeros(2, dtype=dtype)}
    model.load_state_dict(state)
    assert model.weight.dtype == np.float32
    assert np.array_equal(model.weight.data.astype(np.float64), values.astype(np.float64))


def test_float64_is_rounded_but_never_to_infinity() -> None:
    model = nn.Linear(1, 1)
    model.load_state_dict({"weight": np.array([[0.1]]), "bias": np.array([-np.inf])})
    assert model.weight.data == np.float32(0.1) and model.bias is not None and model.bias.data == -np.inf
    with pytest.raises(nn.StateDictError, match=r"bias .values beyond the range of float32"):
        model.load_state_dict({"weight": np.array([[0.2]]), "bias": np.array([1e300])})
    assert model.weight.data == np.float32(0.1)


def test_integers_must_be_held_exactly() -> None:
    norm = nn.BatchNorm2d(1)
    state = norm.state_dict()
    norm.load_state_dict(state | {"num_batches_tracked": np.float32(12)})
    assert norm.state_dict()["num_batches_tracked"] == 12
    for wrong in (np.float64(1.5), np.float64(np.nan), np.float64(1e30)):
        with pytest.raises(nn.StateDictError, match=r"num_batches_tracked .dtype int64 cannot hold"):
            norm.load_state_dict(state | {"num_batches_tracked": wrong})
    with pytest.raises(nn.StateDictError, match=r"weight .dtype float32 expected, got complex64"):
        norm.load_state_dict(state | {"weight": np.ones(1, dtype=np.complex64)})


def test_anything_but_a_mapping_is_refused() -> None:
    with pytest.raises(TypeError, match="state must be a dict of arrays, got list"):
        net().load_state_dict([1])
