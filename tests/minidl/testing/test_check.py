"""gradcheck itself: layouts, shapes, repeated inputs, kinks, steep functions, chance, reports, wrong use."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor
from minidl.autograd import Function
from minidl.testing import GradientError, gradcheck, gradgradcheck
from minidl.testing.layouts import layouts_of
from minidl.testing.slopes import slope


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(sum(shape)).standard_normal(shape), requires_grad=True)


def test_it_is_public_and_callable_twice() -> None:
    for _ in range(2):
        assert minidl.gradcheck(lambda x: x * x, [leaf(3)], second_order=True)
        assert minidl.gradgradcheck(lambda x: x * x * x, [leaf(3)])


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (), (1,), (1, 1)])
def test_inputs_of_few_elements(shape: tuple[int, ...]) -> None:
    assert gradcheck(lambda x: (x * 2 + x.sum()).exp(), [leaf(*shape)], second_order=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1],
        lambda a: np.repeat(a, 2, 1)[:, ::2],
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
)
def test_inputs_may_lie_in_memory_as_they_like(change: Any) -> None:
    x = Tensor(change(leaf(3, 4).data), requires_grad=True)
    assert gradcheck(lambda x: (x * x).sum(0) * x, [x], second_order=True)


def test_a_tensor_may_be_several_inputs() -> None:
    x, y = leaf(3), leaf(3)
    assert gradcheck(lambda a, b, c: a * b * b + c, [x, y, x], second_order=True)
    with pytest.raises(GradientError, match="gradient is wrong"):
        gradcheck(lambda a, b: a.detach() * b, [x, x])


def test_several_outputs_and_inputs_without_gradient() -> None:
    k = Tensor(np.array([1, 2, 3]))
    assert gradcheck(lambda x, k: [x * k, (x * x).sum(), k], [leaf(3), k], second_order=True)


class From(Function):
    """A function with any forward and backward."""

    saved_inputs = (0,)

    def __init__(self, forward: Any, backward: Any) -> None:
        self.f, self.b = forward, backward

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.f(x))

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return self.b(grad, x)  # type: ignore[no-any-return]


def test_elements_read_in_memory_order_are_told() -> None:
    flat = From(lambda x: x.ravel("K"), lambda g, x: g.reshape(x.shape))
    with pytest.raises(GradientError, match="inputs that are transposed in memory have other results"):
        gradcheck(lambda x: From(flat.f, flat.b)(x), [leaf(3, 4)])
    assert gradcheck(lambda x: From(flat.f, flat.b)(x), [leaf(3, 4)], layouts=False)


def test_an_operator_that_writes_into_its_input_is_told() -> None:
    def double(x: np.ndarray) -> np.ndarray:
        if x.flags.writeable:
            x *= 1.5
        return x * 2

    with pytest.raises(GradientError):
        gradcheck(lambda x: From(double, lambda g, x: g * 2)(x), [leaf(3)])


def test_the_same_tensor_twice_must_be_the_sum() -> None:
    class Once(Function):
        def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return a + (b * 0 if a is b else b)

        def backward(self, grad: Tensor) -> tuple[Tensor, Tensor]:
            return grad, grad

    with pytest.raises(GradientError, match="one tensor as input 0 and 1 has other results"):
        gradcheck(lambda a, b: Once()(a, b), [leaf(3), leaf(3)])


def test_a_gradient_that_depends_on_who_asks_is_told() -> None:
    class Muddled(Function):
        saved_inputs = (0, 1)

        def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return a * b

        def backward(self, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
            a, b = self.saved()
            both = all(self.needs_input_grad)
            return grad * b if both else grad, grad * a

    with pytest.raises(GradientError, match="input 0 has another gradient when no other needs one"):
        gradcheck(lambda a, b: Muddled()(a, b), [leaf(3), leaf(3)])


def test_a_recorded_path_with_other_values_is_told() -> None:
    def backward(g: Tensor, x: Tensor) -> Tensor:
        return g * x * (2 if not minidl.is_grad_enabled() else 2.001)

    square = lambda x: From(lambda a: a * a, backward)(x)  # noqa: E731
    assert gradcheck(square, [leaf(3)])
    with pytest.raises(GradientError, match="with create_graph the gradients are others than without"):
        gradcheck(square, [leaf(3)], second_order=True)


def test_chance_is_told_in_values_and_in_gradients() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match=r"not deterministic.*its values differ"):
        gradcheck(lambda x: x * float(rng.random()), [leaf(3)])
    noisy = lambda x: From(lambda a: a * 1.0, lambda g, x: g * (1 + 1e-9 * rng.random()))(x)  # noqa: E731
    with pytest.raises(GradientError, match=r"not deterministic.*its gradients differ"):
        gradcheck(noisy, [leaf(3)])


@pytest.mark.parametrize("distance", [0.0, 2e-7, -3e-6])
def test_a_kink_here_is_told_as_one(distance: float) -> None:
    x = Tensor(np.array([1.0, distance, -1.0]), requires_grad=True)
    with pytest.raises(GradientError, match="there is a kink here"):
        gradcheck(minidl.relu, [x])


@pytest.mark.parametrize("distance", [1e-4, -1e-3, 0.0015])
def test_a_kink_close_by_is_no_false_alarm(distance: float) -> None:
    x = Tensor(np.array([1.0, distance, -1.0]), requires_grad=True)
    assert gradcheck(minidl.relu, [x])


@pytest.mark.parametrize(
    "function",
    [lambda x: (x * 60).exp(), lambda x: (x * 200).sin(), lambda x: 1 / (x * x + 1e-4), lambda x: x * 1e9],
)
def test_steep_and_large_functions_are_no_false_alarm(function: Any) -> None:
    assert gradcheck(function, [Tensor(np.array([0.03, -0.05, 0.2]), requires_grad=True)])


@pytest.mark.parametrize("function", [lambda x: (x * 60).exp(), lambda x: (x * 200).sin()])
def test_a_slightly_wrong_gradient_of_a_steep_function_is_told(function: Any) -> None:
    class Off(Function):
        saved_inputs = (0,)

        def forward(self, x: np.ndarray) -> np.ndarray:
            return x.copy()

        def backward(self, grad: Tensor) -> Tensor:
            return grad * 1.00002

    with pytest.raises(GradientError, match="gradient is wrong"):
        gradcheck(lambda x: function(Off()(x)), [Tensor(np.array([0.03, -0.05, 0.2]), requires_grad=True)])


def test_one_wrong_element_of_many_is_found_and_shown() -> None:
    mask = np.ones((30, 40))
    mask[17, 23] = 1.01
    wrong = lambda x: From(lambda a: a * 3, lambda g, x: g * 3 * Tensor(mask))(x)  # noqa: E731
    with pytest.raises(GradientError) as error:
        gradcheck(wrong, [leaf(30, 40)])
    text = str(error.value)
    assert "direction 0: gradient" in text and "input 0, shape (30, 40)" in text
    mask = np.ones((3, 4))
    mask[1, 2] = 1.01
    with pytest.raises(GradientError, match=r"worst element \(1, 2\): value .*, gradient .*, difference"):
        gradcheck(wrong, [leaf(3, 4)])
    for word in ("values", "direction", "gradient"):
        assert f"    {word} " in text


def test_nan_gradients_are_wrong() -> None:
    with pytest.raises(GradientError):
        gradcheck(lambda x: From(lambda a: a * 1.0, lambda g, x: g * np.nan)(x), [leaf(2)])


def test_the_inputs_are_left_as_they_were() -> None:
    x, y = leaf(3), leaf(3)
    x.requires_grad_(True)
    before = x.data
    gradcheck(lambda a, b: a * b, [x, y])
    assert x.data is before and x.grad is None and x.requires_grad and y.requires_grad


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gradcheck(lambda x: x, [leaf(2).detach()]), TypeError, "no input requires a gradient"),
        (
            lambda: gradcheck(lambda x: x, [Tensor([1.0], requires_grad=True)]),
            TypeError,
            "input 0 is float32",
        ),
        (lambda: gradcheck(lambda x: x.float() * 2, [leaf(2)]), TypeError, "output 0 is float32"),
        (lambda: gradcheck(lambda x: x, [np.ones(2)]), TypeError, "input 0 expects a Tensor, got ndarray"),
        (lambda: gradcheck(lambda x: x.detach(), [leaf(2)]), GradientError, "do not require a gradient"),
        (
            lambda: gradgradcheck(
                lambda x: From(lambda a: a * a, lambda g, x: g.detach() * x.data)(x), [leaf(2)]
            ),
            GradientError,
            "not differentiable",
        ),
    ],
)
def test_wrong_use_is_told_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_layouts_hold_the_same_numbers() -> None:
    a, b = np.arange(24.0).reshape(2, 3, 4), np.arange(3.0)
    names = []
    for name, (x, y) in layouts_of([a, b], [True, False]):
        names.append(name)
        assert x.shape == a.shape and x.strides != a.strides and y is b
        if name != "broadcast":
            np.testing.assert_array_equal(x, a)
    assert names == ["transposed", "channels-last", "spread with gaps", "reversed", "broadcast"]
    assert not list(layouts_of([np.ones(()), np.ones((0, 2))], [True, True]))


def test_slopes_are_of_fourth_order() -> None:
    x = Tensor(np.array([0.4]))
    errors = [
        abs(slope(lambda: float(np.exp(3 * x.data[0])), [x], [np.ones(1)], h).value - 3 * np.exp(1.2))
        for h in (0.1, 0.05, 0.025)
    ]
    assert all(14 < a / b < 18 for a, b in itertools.pairwise(errors))
