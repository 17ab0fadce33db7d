"""Hooks on gradients, and gradients that are kept of what is not a leaf."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import minidl
from minidl import Tensor


def leaf() -> Tensor:
    return Tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)


def values(t: Tensor | None) -> list[float]:
    assert t is not None
    return [float(v) for v in t.data]


def test_hooks_run_in_order_and_can_be_removed() -> None:
    for make in (lambda x: x, lambda x: x * 1):
        x = leaf()
        y = make(x)
        y.register_hook(lambda g: g + 1)
        tenfold = y.register_hook(lambda g: g * 10)
        (y * 2).sum().backward(retain_graph=True)
        assert values(x.grad) == [30.0] * 3
        x.grad = None
        tenfold.remove()
        tenfold.remove()
        (y * 2).sum().backward()
        assert values(x.grad) == [3.0] * 3


def test_a_hook_registered_twice_is_removed_once() -> None:
    x = leaf()
    double = lambda g: g * 2  # noqa: E731
    first, _ = x.register_hook(double), x.register_hook(double)
    first.remove()
    first.remove()
    x.sum().backward()
    assert values(x.grad) == [2.0] * 3


def test_a_handle_keeps_no_graph_alive() -> None:
    x = leaf()
    y = x * 2
    handle, node = y.register_hook(lambda g: g), weakref.ref(y.grad_fn)
    gc.disable()
    try:
        del y
        assert node() is None
        handle.remove()
    finally:
        gc.enable()


def test_asking_twice_keeps_a_gradient_once_and_after_all_hooks() -> None:
    x = leaf()
    y = x * 2
    y.retain_grad()
    y.retain_grad()
    y.register_hook(lambda g: g * 3)
    y.sum().backward()
    assert values(y.grad) == [3.0] * 3 and values(x.grad) == [6.0] * 3


def test_a_kept_gradient_is_that_of_the_value_written_last() -> None:
    x = leaf()
    y = x * 2
    y.retain_grad()
    y *= 5
    (y * y).sum().backward()
    assert values(y.grad) == [20.0, -40.0, 60.0] and values(x.grad) == [200.0, -400.0, 600.0]


@pytest.mark.parametrize("second_order", [False, True])
def test_a_factor_that_no_gradient_reads_may_change(second_order: bool) -> None:
    x = leaf()
    h, w = x * 1, Tensor(np.array([[2.0], [1.0], [0.5]]))
    y = h * 0.5 + h / 4 + (h.unsqueeze(0) @ w).sum()
    with minidl.no_grad():
        h.zero_()
    (g,) = minidl.grad(y.sum(), x, create_graph=second_order)
    assert values(g) == [6.75, 3.75, 2.25]


def test_a_factor_that_a_gradient_reads_may_not() -> None:
    for function in (lambda a, b: a * b, lambda a, b: a / b, lambda a, b: a @ b):
        x, z = leaf(), leaf()
        h, k = x * 1, z * 1
        y = function(h, k)
        with minidl.no_grad():
            h.fill_(3.0)
        with pytest.raises(RuntimeError, match="changed in place"):
            y.sum().backward()


def test_what_no_gradient_reads_is_not_kept_alive() -> None:
    x = leaf()
    gc.disable()
    try:
        h = x * 2
        array = weakref.ref(h.data)
        y = h * 3.0
        del h
        assert array() is None
        y.sum().backward()
    finally:
        gc.enable()
    assert values(x.grad) == [6.0] * 3
