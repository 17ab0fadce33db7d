"""The walk: pruning, hooks, several outputs, what operators may return, what changed since the forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl.autograd import Function


def leaf(*shape: int) -> Tensor:
    rng = np.random.default_rng(sum(shape) + 7)
    return Tensor(rng.standard_normal(shape), requires_grad=True)


class Spy(Function):
    """a * b, remembering which gradients were asked for."""

    saved_inputs = (0, 1)
    asked: tuple[bool, ...] = ()

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a * b

    def backward(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        Spy.asked = self.needs_input_grad
        a, b = self.saved()
        return grad * b, grad * a


def test_grad_computes_only_what_leads_to_its_inputs() -> None:
    a, b = leaf(3), leaf(3)
    y = Spy()(a, b).sum()
    (ga,) = minidl.grad(y, a, retain_graph=True)
    assert Spy.asked == (True, False)
    np.testing.assert_array_equal(ga.data, b.data)
    y.backward()
    assert Spy.asked == (True, True) and b.grad is not None


def test_grad_of_an_inner_tensor_and_of_a_leaf_behind_it() -> None:
    x = leaf(3)
    h = x * 2
    y = (h * h).sum()
    gh, gx = minidl.grad(y, [h, x])
    np.testing.assert_allclose(gh.data, 4 * x.data)
    np.testing.assert_allclose(gx.data, 8 * x.data)


def test_several_outputs_add_up() -> None:
    x = leaf(3)
    (g,) = minidl.grad([(x * 2).sum(), x * 3], x, [None, Tensor(np.full(3, 10.0))])
    np.testing.assert_allclose(g.data, 32.0)
    with pytest.raises(ValueError, match="2 entries for 1 outputs"):
        minidl.grad((x * 2).sum(), x, [None, None])


def test_the_same_input_may_be_asked_for_twice() -> None:
    x = leaf(2)
    g1, g2 = minidl.grad((x * 3).sum(), [x, x])
    np.testing.assert_array_equal(g1.data, g2.data)


def test_a_gradient_of_another_dtype_is_converted() -> None:
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    (x * 1.0).backward(Tensor(np.ones(2)))
    assert x.grad is not None and x.grad.dtype == np.float32


def test_a_gradient_that_an_operator_computed_in_another_dtype_is_converted() -> None:
    class Wide(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x * 2

        def backward(self, grad: Tensor) -> Tensor:
            return grad.double() * 2

    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    Wide()(x).sum().backward()
    assert x.grad is not None and x.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda g: (g, g), RuntimeError, "returned 2 gradients for 1 inputs"),
        (lambda g: g.data, TypeError, "gradient of input 0 expects a Tensor, got ndarray"),
        (lambda g: 1.0, TypeError, "gradient of input 0 expects a Tensor, got float"),
        (
            lambda g: g.reshape(1, 3),
            RuntimeError,
            r"gradient of input 0 has shape \(1, 3\), the input has \(3,\)",
        ),
    ],
)
def test_a_wrong_backward_is_told_by_name(returned: Any, error: type[Exception], message: str) -> None:
    class Odd(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x + 1

        def backward(self, grad: Tensor) -> Any:
            return returned(grad)

    with pytest.raises(error, match=f"Odd.backward.*{message}"):
        Odd()(leaf(3)).sum().backward()


def test_a_list_of_gradients_is_as_good_as_a_tuple() -> None:
    class Both(Function):
        def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return a - b

        def backward(self, grad: Tensor) -> Any:
            return [grad, -grad]

    a, b = leaf(2), leaf(2)
    Both()(a, b).sum().backward()
    assert a.grad is not None and b.grad is not None
    np.testing.assert_array_equal(b.grad.data, -1.0)


def test_an_operator_that_does_not_define_its_parts_says_so() -> None:
    class Half(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x / 2

    with pytest.raises(TypeError, match="Function does not define forward"):
        Function()(leaf(2))
    with pytest.raises(RuntimeError, match="Half is not differentiable"):
        Half()(leaf(2)).sum().backward()


def test_an_instance_is_used_for_one_call() -> None:
    node = Spy()
    node(leaf(2), leaf(2))
    with pytest.raises(RuntimeError, match="Spy: an operator's instance is used for one call"):
        node(leaf(2), leaf(2))


def test_a_saved_output_changed_in_place_is_an_error_not_a_wrong_gradient() -> None:
    y = leaf(3).exp()
    z = y.sum()
    y.detach().copy_(np.zeros(3))
    with pytest.raises(RuntimeError, match=r"Exp: its output .* was changed in place"):
        z.backward()


def test_a_saved_tensor_given_another_array_is_an_error() -> None:
    w = leaf(3)
    y = (leaf(3) * w).sum()
    w.data = np.zeros(3)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_hooks_of_nodes_that_lead_nowhere_wanted_are_not_run() -> None:
    x, w = leaf(2), leaf(2)
    h, k = x * 2, w * 3
    ran: list[str] = []
    h.register_hook(lambda g: ran.append("h"))
    k.register_hook(lambda g: ran.append("k"))
    minidl.grad((h * k).sum(), x)
    assert ran == ["h"]


def test_walking_a_part_that_another_walk_freed_is_an_error() -> None:
    x = leaf(3)
    h = x * x
    a, b = (h * 2).sum(), (h * 3).sum()
    a.backward()
    with pytest.raises(RuntimeError, match="already walked"):
        b.backward()
    with pytest.raises(RuntimeError, match="already walked"):
        minidl.grad(b, x)


def test_sums_of_gradients_have_one_order() -> None:
    def run() -> np.ndarray:
        x = Tensor(np.random.default_rng(1).standard_normal(50).astype(np.float32), requires_grad=True)
        y = sum((x * float(k)).exp() * 1e-3 for k in range(5))
        y.sum().backward()  # type: ignore[union-attr]
        assert x.grad is not None
        return x.grad.data

    first = run()
    for _ in range(3):
        np.testing.assert_array_equal(run(), first)
