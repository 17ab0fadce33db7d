"""Every entry of the operator table, through every check."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import kernels
from minidl.autograd import Function
from minidl.testing import gradcheck, gradgradcheck
from minidl.testing.cases import FAMILIES, TABLE, Entry
from minidl.testing.operators import adjoint, bfloat16, close, float16, linear_inputs, run

FIXTURES = Path(__file__).parents[1] / "fixtures"
BACKENDS = ["reference", "cpu"]
entries = pytest.mark.parametrize("entry", TABLE, ids=lambda e: e.name)
smooth = pytest.mark.parametrize("entry", [e for e in TABLE if e.smooth], ids=lambda e: e.name)
backends = pytest.mark.parametrize("backend", BACKENDS)


@functools.cache
def fixtures() -> dict[str, np.ndarray]:
    results: dict[str, np.ndarray] = {}
    for family in FAMILIES:
        with np.load(FIXTURES / f"operators_{family}.npz") as stored:
            results |= dict(stored)
    return results


@entries
@backends
def test_values_and_gradients_equal_pytorchs(entry: Entry, backend: str) -> None:
    expected = fixtures()
    with kernels.use(backend):
        y, grads = run(entry, entry.inputs())
    close("output", y, expected[entry.name], 1e-11)
    for i, g in enumerate(grads):
        close(f"gradient {i}", g, expected[f"{entry.name}/grad{i}"], 1e-11)


@entries
@backends
def test_float32_stays_float32_and_close_to_float64(entry: Entry, backend: str) -> None:
    with kernels.use(backend):
        y, grads = run(entry, entry.inputs(np.float32))
    assert y.dtype == np.float32
    close("output", y, fixtures()[entry.name], 1e-5)
    for i, g in enumerate(grads):
        close(f"gradient {i}", g, fixtures()[f"{entry.name}/grad{i}"], 2e-5)


@entries
def test_half_types_stay_what_they_are_and_close_to_float64(entry: Entry) -> None:
    with np.errstate(all="ignore"):
        float16(entry)
        bfloat16(entry)


@smooth
def test_gradients_of_what_is_linear_are_adjoint(entry: Entry) -> None:
    adjoint(entry)


def test_what_is_linear_is_found_out() -> None:
    found = {
        e.name: linear_inputs(e, e.inputs())
        for e in TABLE
        if e.name.startswith(("conv2d", "gelu", "fold", "div", "relu", "attention", "batch_norm_eval"))
    }
    assert all(found[name][:2] == [0, 1] for name in found if name.startswith("conv2d"))
    assert found["fold"] == [0] and found["div"] == [0] and found["attention"] == [2]
    assert not found["gelu"] and not found["relu"] and found["batch_norm_eval"] == [0, 1, 2]


@smooth
def test_gradients_agree_with_finite_differences(entry: Entry) -> None:
    tensors = [minidl.Tensor(a, requires_grad=True) for a in entry.inputs()]
    assert gradcheck(functools.partial(entry.function, minidl, F), tensors, directions=2)


@smooth
def test_gradients_of_gradients_agree_with_finite_differences(entry: Entry) -> None:
    tensors = [minidl.Tensor(a, requires_grad=True) for a in entry.inputs()]
    function = functools.partial(entry.function, minidl, F)
    y = function(*tensors)
    tangent = minidl.Tensor(entry.output_weights(y.shape), requires_grad=True)
    grads = minidl.grad(y, tensors, grad_outputs=tangent, create_graph=True, allow_unused=True)
    assert all(g is not None for g in grads)
    assert gradgradcheck(function, tensors, directions=2)


@entries
def test_memory_layout_does_not_change_results(entry: Entry) -> None:
    plain = entry.inputs()
    strided = []
    for a in plain:  # the same numbers, every second element of a larger array with its dimensions reversed
        host = np.full(tuple(2 * n for n in a.shape[::-1]), np.nan)
        view = host[tuple(slice(None, None, 2) for _ in a.shape)].T
        view[...] = a
        strided.append(view)
    y, grads = run(entry, plain)
    y2, grads2 = run(entry, strided)
    close("output", y2, y, 1e-12)
    for g, g2 in zip(grads, grads2, strict=True):
        close("gradient", g2, g, 1e-12)


def test_names_are_unique() -> None:
    assert len({e.name for e in TABLE}) == len(TABLE)


def test_every_operator_class_is_in_the_table() -> None:
    def classes(base: type) -> set[type]:
        return {
            c
            for s in base.__subclasses__()
            for c in {s, *classes(s)}
            if c.__module__.startswith("minidl.ops.")
        }

    used: set[str] = set()
    call = Function.__call__

    def spy(self: Function, *inputs: minidl.Tensor | None) -> minidl.Tensor:
        used.add(type(self).__name__)
        return call(self, *inputs)

    Function.__call__ = spy  # type: ignore[method-assign]
    try:
        for entry in TABLE:
            tensors = [minidl.Tensor(a, requires_grad=True) for a in entry.inputs()]
            y = entry.function(minidl, F, *tensors)
            tangent = minidl.Tensor(entry.output_weights(y.shape), requires_grad=True)
            gs = minidl.grad(y, tensors, grad_outputs=tangent, create_graph=True, allow_unused=True)
            again = [g for g in gs if g is not None and g.requires_grad]
            if again:
                minidl.grad(
                    again, [*tensors, tangent], [minidl.ones_like(g) for g in again], allow_unused=True
                )
    finally:
        Function.__call__ = call  # type: ignore[method-assign]
    elsewhere = {"Cast", "Mask", "ToDevice"}  # test_autograd.py: mixed dtypes, dropout; test_devices.py
    assert {c.__name__ for c in classes(Function)} - used - elsewhere == set()
