"""Anomaly mode names the operator and the caller's line that made a NaN."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl.autograd.anomaly import AnomalyError, detect_anomaly

FILE = r"test_anomaly\.py:\d+ in "


def test_a_nan_made_forward_is_named_with_its_line() -> None:
    x = Tensor(np.array([1.0, -1.0]))
    with (
        detect_anomaly(),
        pytest.raises(AnomalyError, match=r"Log made NaN \(1 of 2 elements, the first at \(1,\)\)") as e,
    ):
        (x * 2).log()
    assert "test_a_nan_made_forward_is_named_with_its_line: (x * 2).log()" in str(e.value)


def test_a_nan_made_backward_names_the_forward_line() -> None:
    x = Tensor(np.array([0.0, 1.0]), requires_grad=True)
    with (
        detect_anomaly(),
        pytest.raises(AnomalyError, match=r"Div made NaN.* in the gradient of Sqrt, which was") as e,
    ):
        y = x.sqrt()
        (y * 0).sum().backward()
    assert "y = x.sqrt()" in str(e.value)


class Broken(minidl.Function):
    """Its gradient is made without operators."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x + 1

    def backward(self, grad: Tensor) -> Tensor:
        return Tensor(np.full(grad.shape, np.nan))


def test_a_nan_that_no_operator_made_is_found_in_the_gradient() -> None:
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    message = (
        r"Broken.backward made NaN \(4 of 4 elements, the first at \(0, 0\)\) in the gradient of input 0"
    )
    with detect_anomaly(), pytest.raises(AnomalyError, match=message) as e:
        y = Broken()(x)
        y.sum().backward()
    assert "y = Broken()(x)" in str(e.value)
    with detect_anomaly(), pytest.raises(AnomalyError, match=message):
        minidl.grad(Broken()(x).sum(), x)


def test_who_only_passes_a_nan_on_is_not_blamed() -> None:
    x = Tensor(np.array([np.nan, 1.0]), requires_grad=True)
    with detect_anomaly():
        (x * 2 + 1).sum().backward()


def test_operators_of_the_gradient_name_what_is_differentiated() -> None:
    x = Tensor(np.array([0.0]), requires_grad=True)
    with detect_anomaly(), pytest.raises(AnomalyError) as e:
        (x.sqrt() * 0).sum().backward(create_graph=True)
    assert "in the gradient of Sqrt" in str(e.value) or "Sqrt.backward" in str(e.value)


def test_infinities_are_reported_when_asked() -> None:
    x = Tensor(np.array([0.0]), requires_grad=True)
    with detect_anomaly():
        x.log()
    with detect_anomaly(check_inf=True), pytest.raises(AnomalyError, match="Log made infinity"):
        x.log()


def test_a_node_made_outside_is_named_without_a_line() -> None:
    x = Tensor(np.array([0.0]), requires_grad=True)
    y = Broken()(x).sum()
    with detect_anomaly(), pytest.raises(AnomalyError, match="a line outside of detect_anomaly"):
        y.backward()


def test_it_ends_with_its_block_and_holds_for_one_thread() -> None:
    bad = Tensor(np.array([-1.0]))
    failed = []

    def other() -> None:
        try:
            bad.log()
        except AnomalyError:
            failed.append(True)

    with detect_anomaly():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    bad.log()
    assert not failed

    @detect_anomaly()
    def decorated() -> Tensor:
        return bad.log()

    with pytest.raises(AnomalyError, match=FILE + "decorated"):
        decorated()
    bad.log()


def test_an_error_inside_backward_leaves_the_mode_usable() -> None:
    class Fails(minidl.Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x + 1

        def backward(self, grad: Tensor) -> Tensor:
            raise ZeroDivisionError

    x = Tensor(np.array([-1.0]), requires_grad=True)
    with detect_anomaly():
        with pytest.raises(ZeroDivisionError):
            Fails()(x).backward()
        with pytest.raises(AnomalyError) as e:
            x.log()
    assert "in the gradient of" not in str(e.value)
