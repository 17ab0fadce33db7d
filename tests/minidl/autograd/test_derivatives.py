"""jvp, vjp, Jacobians and Hessians against derivatives known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl.derivatives import hessian, hvp, jacobian, jvp, vjp
from minidl.testing import gradcheck

RNG = np.random.default_rng(3)
M, X, Z = RNG.standard_normal((4, 3)), RNG.standard_normal(3), RNG.standard_normal(3)


def f(x: Tensor) -> Tensor:
    return (Tensor(M) @ x).tanh()


def jacobian_of_f(x: np.ndarray) -> np.ndarray:
    return (1 - np.tanh(M @ x) ** 2)[:, None] * M  # type: ignore[no-any-return]


def test_jacobian() -> None:
    j = jacobian(f, Tensor(X))
    assert j.shape == (4, 3) and not j.requires_grad
    np.testing.assert_allclose(j.data, jacobian_of_f(X))


def test_products_from_both_sides() -> None:
    u, v = RNG.standard_normal(4), RNG.standard_normal(3)
    value, left = vjp(f, Tensor(X), Tensor(u))
    np.testing.assert_allclose(value.data, np.tanh(M @ X))
    np.testing.assert_allclose(left.data, u @ jacobian_of_f(X))
    value, right = jvp(f, Tensor(X), Tensor(v))
    np.testing.assert_allclose(value.data, np.tanh(M @ X))
    np.testing.assert_allclose(right.data, jacobian_of_f(X) @ v)
    assert not (left.requires_grad or right.requires_grad or value.requires_grad)


def test_several_inputs_and_outputs() -> None:
    def g(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return x * z, x.sum() * 2

    v = (Tensor(np.ones(3)), Tensor(np.full(3, 2.0)))
    (_, _), (a, b) = jvp(g, (Tensor(X), Tensor(Z)), v)
    np.testing.assert_allclose(a.data, Z + 2 * X)
    np.testing.assert_allclose(b.data, 6.0)
    _, (gx, gz) = vjp(g, (Tensor(X), Tensor(Z)), (Tensor(np.ones(3)), Tensor(np.array(1.0))))
    np.testing.assert_allclose(gx.data, Z + 2)
    np.testing.assert_allclose(gz.data, X)
    jx, jz = jacobian(lambda x, z: x * z, (Tensor(X), Tensor(Z)))
    np.testing.assert_allclose(jx.data, np.diag(Z))
    np.testing.assert_allclose(jz.data, np.diag(X))


def test_hessian_and_its_product() -> None:
    a = RNG.standard_normal((3, 3))

    def q(x: Tensor) -> Tensor:
        return (x * (Tensor(a) @ x)).sum() + (x**3).sum()

    expected = a + a.T + np.diag(6 * X)
    np.testing.assert_allclose(hessian(q, Tensor(X)).data, expected)
    value, product = hvp(q, Tensor(X), Tensor(Z))
    assert value.size == 1
    np.testing.assert_allclose(product.data, expected @ Z)


def test_hessian_blocks() -> None:
    blocks = hessian(lambda x, z: (x * x * z).sum(), (Tensor(X), Tensor(Z)))
    np.testing.assert_allclose(blocks[0][0].data, np.diag(2 * Z))
    np.testing.assert_allclose(blocks[0][1].data, np.diag(2 * X))
    np.testing.assert_allclose(blocks[1][0].data, np.diag(2 * X))
    np.testing.assert_array_equal(blocks[1][1].data, np.zeros((3, 3)))


def test_what_does_not_depend_gives_zeros() -> None:
    constant = Tensor(np.ones(2))
    np.testing.assert_array_equal(jacobian(lambda x: constant, Tensor(X)).data, np.zeros((2, 3)))
    np.testing.assert_array_equal(jvp(lambda x: constant, Tensor(X), Tensor(Z))[1].data, np.zeros(2))
    np.testing.assert_array_equal(hessian(lambda x: x.sum(), Tensor(X)).data, np.zeros((3, 3)))
    np.testing.assert_array_equal(hvp(lambda x: x.sum(), Tensor(X), Tensor(Z))[1].data, np.zeros(3))
    _, (gx, gz) = vjp(lambda x, z: x.sum(), (Tensor(X), Tensor(Z)))
    np.testing.assert_array_equal(gz.data, np.zeros(3))
    np.testing.assert_array_equal(gx.data, np.ones(3))


def test_derivatives_can_be_differentiated() -> None:
    x = Tensor(X, requires_grad=True)
    assert gradcheck(lambda x: jacobian(f, x, create_graph=True), [x])
    assert gradcheck(lambda x: jvp(f, x, Tensor(Z), create_graph=True)[1], [x])
    assert gradcheck(lambda x: hvp(lambda x: f(x).sum(), x, Tensor(Z), create_graph=True)[1], [x])


def test_they_work_under_no_grad_and_leave_grad_alone() -> None:
    x = Tensor(X, requires_grad=True)
    with minidl.no_grad():
        np.testing.assert_allclose(jacobian(f, x).data, jacobian_of_f(X))
    assert x.grad is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vjp(f, Tensor(X)), ValueError, "vjp: vectors may be left out for outputs of one element"),
        (lambda: jvp(f, Tensor(X), Tensor(np.ones(4))), ValueError, r"jvp: vectors has shapes \[\(4,\)\]"),
        (
            lambda: hessian(f, Tensor(X)),
            ValueError,
            r"hessian: function expects .* one element, got shape \(4,\)",
        ),
        (
            lambda: jacobian(lambda x: (x, x), Tensor(X)),
            TypeError,
            "jacobian: function expects .* one tensor, got 2",
        ),
        (lambda: jacobian(lambda x: [x.data], Tensor(X)), TypeError, "return tensors, got ndarray"),
        (lambda: vjp(f, X), TypeError, "vjp: input 0 expects a floating tensor, got float64"),
        (lambda: vjp(f, Tensor([1, 2, 3])), TypeError, "input 0 expects a floating tensor, got dtype int64"),
        (lambda: vjp(f, ()), ValueError, "at least one tensor"),
    ],
)
def test_wrong_use_is_told_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
