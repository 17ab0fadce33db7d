"""Optimizer steps and element-wise kernels, the reference and the CPU back end, beside PyTorch's steps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.cases import ADAM, BACKENDS, DTYPES, RMSPROP, SGD, TOLERANCE, assert_near, stored

both = pytest.mark.parametrize("backend", BACKENDS)
types = pytest.mark.parametrize("dtype", DTYPES)


@both
@types
@pytest.mark.parametrize("name", SGD)
def test_sgd_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    case, a = SGD[name], stored(name, dtype)
    param, momentum = a["param"], case.get("momentum", 0.0)
    buffer = np.zeros_like(param) if momentum else None
    for step, grad in enumerate(a["grads"]):
        dampening = case.get("dampening", 0.0) if step else 0.0
        rest = (case.get("weight_decay", 0.0), case.get("nesterov", False))
        BACKENDS[backend].sgd_step(param, grad, buffer, case["lr"], momentum, dampening, *rest)
        assert_near(param, a["after"][step], TOLERANCE[dtype], dtype)


@both
@types
@pytest.mark.parametrize("name", ADAM)
def test_adam_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    case, a = ADAM[name], stored(name, dtype)
    param, m, v = a["param"], np.zeros_like(a["param"]), np.zeros_like(a["param"])
    beta1, beta2 = case.get("betas", (0.9, 0.999))
    # PyTorch's AdamW decays by default, its Adam does not; the cases give every decay.
    rest = (case.get("eps", 1e-8), case.get("weight_decay", 0.0), case.get("decoupled", False))
    for step, grad in enumerate(a["grads"]):
        BACKENDS[backend].adam_step(param, grad, m, v, step + 1, case["lr"], beta1, beta2, *rest)
        assert_near(param, a["after"][step], TOLERANCE[dtype], dtype)


@both
@types
@pytest.mark.parametrize("name", RMSPROP)
def test_rmsprop_equals_pytorch(name: str, dtype: str, backend: str) -> None:
    case, a = RMSPROP[name], stored(name, dtype)
    param, square, momentum = a["param"], np.zeros_like(a["param"]), case.get("momentum", 0.0)
    buffer = np.zeros_like(param) if momentum else None
    rest = (case.get("alpha", 0.99), case.get("eps", 1e-8), case.get("weight_decay", 0.0), momentum)
    for step, grad in enumerate(a["grads"]):
        BACKENDS[backend].rmsprop_step(param, grad, square, buffer, case["lr"], *rest)
        assert_near(param, a["after"][step], TOLERANCE[dtype], dtype)


@both
def test_steps_refuse_arrays_unlike_the_parameter(backend: str) -> None:
    be, p = BACKENDS[backend], np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"sgd_step: grad expects shape \(3, 4\)"):
        be.sgd_step(p, p[:2], None, 0.1, 0, 0, 0, False)
    with pytest.raises(ValueError, match="sgd_step: momentum_buf expects dtype float32, got float64"):
        be.sgd_step(p, p, p.astype(np.float64), 0.1, 0.9, 0, 0, False)
    with pytest.raises(ValueError, match="adam_step: v expects shape"):
        be.adam_step(p, p, p, p.T, 1, 0.1, 0.9, 0.999, 1e-8, 0, False)
    with pytest.raises(ValueError, match="adam_step: step expects at least 1, got 0"):
        be.adam_step(p, p, p, p, 0, 0.1, 0.9, 0.999, 1e-8, 0, False)
    with pytest.raises(ValueError, match="rmsprop_step: square_avg expects shape"):
        be.rmsprop_step(p, p, p[1:], None, 0.1, 0.9, 1e-8, 0, 0)


@both
@types
def test_relu_its_gradient_and_addition(dtype: str, backend: str) -> None:
    be = BACKENDS[backend]
    x = np.array([[-2.0, 0.0, 3.0], [np.nan, np.inf, -np.inf]], dtype)
    np.testing.assert_array_equal(be.relu(x), np.array([[0, 0, 3], [np.nan, np.inf, 0]], dtype))
    gy = np.array([[1, 2, np.inf], [4, 5, np.inf]], dtype)
    np.testing.assert_array_equal(
        be.relu_backward(gy, be.relu(x)), np.array([[0, 0, np.inf], [0, 5, 0]], dtype)
    )
    np.testing.assert_array_equal(be.add(gy, gy), 2 * gy)
    assert be.relu(x).dtype == be.relu_backward(gy, x).dtype == be.add(gy, gy).dtype == dtype
    with pytest.raises(ValueError, match=r"add: b expects shape \(2, 3\), got \(3,\)"):
        be.add(x, x[0])
    with pytest.raises(ValueError, match="relu_backward: y expects shape"):
        be.relu_backward(x, x[0])
