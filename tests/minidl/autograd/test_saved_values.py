"""What backward reads again is as it was in the forward pass, or the change is reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import Tensor


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(sum(shape)).standard_normal(shape), requires_grad=True)


def put(x: Tensor, index: Any) -> Tensor:
    y = x * 1
    y[index] = x[:2] * 3
    return y


BEFORE, AFTER = np.array([[0, 1], [2, 3], [1, 0]]), np.array([[1, 0], [0, 2], [3, 2]])
ROWS, OTHERS = np.array([0, 2]), np.array([1, 0])
MASK = np.array([True, False, True])
CLASSES = np.array([0, 2, 1])
SIGNS = np.array([1, -1, 1])
WEIGHTS = np.array([0.3, 1.0, 0.5, 2.0])
PLACES = np.array([[[[0, 3], [9, 11]]]])

OPTIONS: dict[str, tuple[Callable[[Tensor, Any], Tensor], tuple[int, ...], np.ndarray, np.ndarray]] = {
    "gather": (lambda x, i: x.gather(1, i), (3, 4), BEFORE, AFTER),
    "take_along_dim": (lambda x, i: x.take_along_dim(i, 1), (3, 4), BEFORE, AFTER),
    "scatter_add": (lambda x, i: (x * 1).scatter_add(1, i, x[:, :2]), (3, 4), BEFORE, AFTER),
    "scatter": (lambda x, i: (x * 1).scatter(1, i, x[:, :2]), (3, 4), BEFORE, AFTER),
    "index_select": (lambda x, i: x.index_select(0, i), (3, 4), ROWS, OTHERS),
    "getitem": (lambda x, i: x[i], (3, 4), ROWS, OTHERS),
    "getitem, pairs": (lambda x, i: x[i, i], (3, 4), ROWS, OTHERS),
    "getitem, mask": (lambda x, i: x[i], (3,), MASK, MASK[::-1] ^ MASK[[1, 0, 2]]),
    "setitem": (put, (3,), ROWS, OTHERS),
    "where": (lambda x, i: minidl.where(i, x, x * 2), (3,), MASK, ~MASK),
    "masked_fill": (lambda x, i: x.masked_fill(i, 0.0), (3,), MASK, ~MASK),
    "repeat_interleave": (lambda x, i: x.repeat_interleave(i, 0), (3,), CLASSES, SIGNS + 1),
    "embedding": (lambda x, i: F.embedding(i, x), (3, 4), ROWS, OTHERS),
    "cross_entropy": (lambda x, i: F.cross_entropy(x, i), (3, 4), CLASSES, CLASSES[::-1]),
    "cross_entropy, weight": (
        lambda x, i: F.cross_entropy(x, CLASSES, minidl.as_tensor(i)),
        (3, 4),
        WEIGHTS,
        WEIGHTS[::-1],
    ),
    "nll_loss": (lambda x, i: F.nll_loss(x, i), (3, 4), CLASSES, CLASSES[::-1]),
    "cosine_embedding_loss": (
        lambda x, i: F.cosine_embedding_loss(x, x * 2 + 1, i, -0.9),
        (3, 4),
        SIGNS,
        -SIGNS,
    ),
    "hinge_embedding_loss": (lambda x, i: F.hinge_embedding_loss(x, i, 3.0), (3,), SIGNS, -SIGNS),
    "max_unpool2d": (lambda x, i: F.max_unpool2d(x, i, 2), (1, 1, 2, 2), PLACES, PLACES - PLACES % 2),
    "attention, mask": (
        lambda x, i: F.scaled_dot_product_attention(x, x, x, i),
        (1, 3, 4),
        np.eye(3) > 0,
        np.eye(3) == 0,
    ),
    "batch_norm, statistics": (
        lambda x, i: F.batch_norm(x, minidl.as_tensor(i), minidl.as_tensor(i) + 2),
        (3, 4),
        WEIGHTS,
        WEIGHTS[::-1],
    ),
}


@pytest.mark.parametrize("wrap", [Tensor, np.array], ids=["tensor", "array"])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_index_or_mask_may_be_reused_before_backward(name: str, wrap: Callable[[Any], Any]) -> None:
    function, shape, before, after = OPTIONS[name]
    x = leaf(*shape)

    def gradient(change: bool) -> np.ndarray:
        option = wrap(before.copy())
        y = function(x, option)
        if change:
            (option.data if isinstance(option, Tensor) else option)[...] = after
            if isinstance(option, Tensor):
                option.mark_changed()
        (g,) = minidl.grad(y, x, Tensor(np.linspace(1, 2, y.numel()).reshape(y.shape)))
        return np.asarray(g.data)

    assert np.any(before != after)
    np.testing.assert_array_equal(gradient(True), gradient(False))


def test_a_list_as_index_may_be_reused_before_backward() -> None:
    x, rows = leaf(3), [0, 2]
    y = x[rows]
    rows[0] = 1
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 0.0, 1.0]
    assert x[[]].shape == (0,)


@pytest.mark.parametrize("create_graph", [False, True])
def test_writing_to_a_fused_batch_norms_output_is_reported(create_graph: bool) -> None:
    x, w, b = leaf(4, 3, 2, 2), leaf(3), leaf(3)
    for training in (True, False):
        stats = (minidl.zeros(3, dtype=x.dtype), minidl.ones(3, dtype=x.dtype))
        y = F.batch_norm(x, *stats, w, b, training, residual=x, relu=True)
        loss = y.sum()
        with minidl.no_grad():
            y -= 1
        with pytest.raises(RuntimeError, match=r"BatchNorm: its output .* was changed in place"):
            loss.backward(create_graph=create_graph)


def test_writing_to_a_batch_norms_output_without_relu_is_harmless() -> None:
    x = leaf(4, 3)
    y = F.batch_norm(x, None, None, training=True)
    loss = y[:, 1].sum() + y[0].sum()
    with minidl.no_grad():
        y.zero_()
    loss.backward()
    assert x.grad is not None and np.abs(x.grad.data).max() > 0


def test_writing_to_an_output_between_first_and_second_order_is_reported() -> None:
    x = leaf(5)
    y = minidl.relu(x * 1)
    (g,) = minidl.grad((y * y).sum(), x, create_graph=True)
    with minidl.no_grad():
        y.fill_(-1)
    with pytest.raises(RuntimeError, match="changed in place"):
        g.sum().backward()


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_class_weights_that_require_a_gradient_are_refused(loss: Any) -> None:
    weight = Tensor(WEIGHTS, requires_grad=True)
    with pytest.raises(RuntimeError, match="weight requires a gradient but is a constant"):
        loss(leaf(3, 4), CLASSES, weight)
    with minidl.no_grad():
        loss(leaf(3, 4), CLASSES, weight)
