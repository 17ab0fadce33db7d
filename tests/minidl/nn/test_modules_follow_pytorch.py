"""Every module beside PyTorch's: representation, parameter names and shapes, numbers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl import kernels, nn
from minidl.tensor import Tensor
from tests.minidl.nn.module_cases import CASES, build, inputs, state

FIXTURE = Path(__file__).parents[2] / "fixtures" / "modules.npz"
cases = pytest.mark.parametrize("text", CASES)


@functools.cache
def fixture() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FIXTURE) as stored:
        arrays = dict(stored)
    return json.loads(str(arrays.pop("about"))), arrays


@cases
def test_the_representation_is_pytorchs(text: str) -> None:
    assert repr(build(text, nn)) == fixture()[0][text]["repr"]


@cases
def test_the_parameters_have_pytorchs_names_shapes_and_order(text: str) -> None:
    names = [(name, list(array.shape)) for name, array in build(text, nn).state_dict().items()]
    assert names == list(map(tuple, fixture()[0][text]["state"].items()))


@pytest.mark.parametrize("text", [text for text, shapes in CASES.items() if shapes])
def test_the_numbers_are_pytorchs(text: str) -> None:
    about, arrays = fixture()
    module = build(text, nn).double()
    names = {name: tuple(shape) for name, shape in about[text]["state"].items()}
    module.load_state_dict(state(text, names), strict=False)
    with kernels.use("reference"):
        y = module(*[Tensor(a) for a in inputs(text, CASES[text])])
    assert y.shape == arrays[text].shape and y.dtype == np.float64
    np.testing.assert_allclose(y.detach().numpy(), arrays[text], rtol=1e-11, atol=1e-11)


def test_every_module_of_the_package_is_in_the_list() -> None:
    listed = " ".join(CASES)
    elsewhere = {"Module", "MultiheadAttention", "ParameterDict", "ParameterList", "StochasticDepth"}
    modules = {
        n for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.Module)
    }
    assert {name for name in modules - elsewhere if f"nn.{name}(" not in listed} == set()
