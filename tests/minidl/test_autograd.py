"""The graph: modes, memory, errors, hooks, versions, promotion."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import Tensor
from minidl.autograd import Function
from minidl.autograd.mode import mode
from minidl.testing import GradientError, gradcheck, gradgradcheck


def leaf(*shape: int, dtype: type = np.float64) -> Tensor:
    rng = np.random.default_rng(sum(shape) + 7)
    return Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)


def test_gradients_add_up_over_uses_and_over_calls() -> None:
    x = leaf(3)
    y = x * 2 + x * x
    y.sum().backward()
    (x * 3).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 + 2 * x.data + 3)


def test_a_diamond_is_walked_once_per_node() -> None:
    calls = 0

    class Count(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x * 1.0

        def backward(self, grad: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return grad

    x = leaf(2)
    h = Count()(x)
    (h * h + h).sum().backward()
    assert calls == 1


def test_a_chain_of_100000_nodes_works_and_is_freed() -> None:
    x = leaf(1)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1.0
    y = y.detach()


def test_no_grad_and_enable_grad_nest_and_are_per_thread() -> None:
    x = leaf(2)
    seen = []
    with minidl.no_grad():
        assert not (x * 2).requires_grad
        with minidl.enable_grad():
            assert (x * 2).requires_grad
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
        assert not minidl.is_grad_enabled()
    assert minidl.is_grad_enabled() and seen == [True]


@pytest.mark.parametrize(
    ("decorator", "setting"),
    [(minidl.no_grad(), "enabled"), (minidl.autocast("f16"), "autocast"), (minidl.detect_anomaly(), "watch")],
)
def test_a_decorated_function_may_run_in_several_threads_at_once(decorator: Any, setting: str) -> None:
    entered = threading.Barrier(2)
    first_left = threading.Event()
    kept: dict[str, bool] = {}

    @decorator
    def run(name: str) -> None:
        entered.wait(10)
        if name == "second":
            assert first_left.wait(10)

    def call(name: str) -> None:
        outer = object()  # each thread's own
        setattr(mode, setting, outer)
        run(name)
        kept[name] = getattr(mode, setting) is outer
        if name == "first":
            first_left.set()

    threads = [threading.Thread(target=call, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept == {"first": True, "second": True}


def test_graphs_are_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        x, w = leaf(2, 3, 5, 5), leaf(4, 3, 3, 3)
        h = F.relu(F.conv2d(x, w))
        refs = [weakref.ref(h), weakref.ref(h._node)]
        loss = (F.max_pool2d(h, 2).exp() * h.mean()).sum()
        refs += [weakref.ref(loss), weakref.ref(loss._node)]
        loss.backward()
        del h, loss
        assert [r() for r in refs] == [None] * 4
        y = (x * x).sum()  # never walked
        ref = weakref.ref(y._node)
        del y
        assert ref() is None
    finally:
        gc.enable()


def test_walking_twice_is_an_error_unless_the_graph_is_retained() -> None:
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 4 * x.data)
    with pytest.raises(RuntimeError, match=r"already walked.*retain_graph=True"):
        y.backward()


def test_a_saved_tensor_changed_in_place_is_an_error_not_a_wrong_gradient() -> None:
    x, w = leaf(3), leaf(3)
    y = (x * w).sum()
    with minidl.no_grad():
        w.copy_(np.zeros(3))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_gradients_of_frozen_inputs_are_not_computed() -> None:
    x, w = leaf(1, 2, 4, 4), leaf(3, 2, 3, 3)
    w.requires_grad_(False)
    y = F.conv2d(x, w)
    assert y._node.needs_input_grad == (True, False, False)
    y.sum().backward()
    assert w.grad is None and x.grad is not None
    x.requires_grad_(False)
    assert not F.conv2d(x, w).requires_grad


def test_grad_returns_gradients_and_leaves_grad_alone() -> None:
    x, w = leaf(3), leaf(3)
    h = x * w
    gx, gh = minidl.grad((h * h).sum(), [x, h])
    np.testing.assert_allclose(gx.data, 2 * x.data * w.data**2)
    np.testing.assert_allclose(gh.data, 2 * h.data)
    assert x.grad is None and w.grad is None
    with pytest.raises(RuntimeError, match="do not depend on input 0"):
        minidl.grad((x * 2).sum(), w)
    assert minidl.grad((x * 2).sum(), w, allow_unused=True) == (None,)


def test_hooks_see_and_replace_gradients() -> None:
    x = leaf(2)
    h = x * 3
    h.retain_grad()
    h.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    h.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 31.0)
    np.testing.assert_allclose(h.grad.numpy(), 10.0)  # kept after all hooks, as in PyTorch


def test_promotion_follows_pytorch_and_scalars_never_promote() -> None:
    x = leaf(2, dtype=np.float32)
    assert (
        (x + 1.5).dtype == np.float32 and (2.0 * x / 3).dtype == np.float32 and (x**2.5).dtype == np.float32
    )
    wide = Tensor(np.ones(2), requires_grad=True)
    y = x * wide
    assert y.dtype == np.float64
    y.sum().backward()
    assert x.grad.dtype == np.float32 and wide.grad.dtype == np.float64
    assert (Tensor([1, 2]) + 1.5).dtype == np.float32
    assert (Tensor([1, 2]) / 2).dtype == np.float32
    assert (np.float64(2) * x).dtype in (np.float32, np.float64)
    assert Tensor([1.5]).dtype == np.float32 and Tensor(np.ones(1)).dtype == np.float64


def test_numpy_arrays_on_the_left_make_tensors() -> None:
    x = leaf(2)
    assert isinstance(np.ones(2) * x, Tensor) and isinstance(np.ones((1, 2)) @ x, Tensor)


def test_leaving_the_graph_needs_detach() -> None:
    x = leaf(2)
    with pytest.raises(RuntimeError, match="detach"):
        x.numpy()
    assert x.detach().numpy() is x.data
    assert np.asarray(x.detach()) is x.data


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.backward(), RuntimeError, "one element"),
        (lambda x: x.backward(Tensor(np.ones(3))), ValueError, r"shape \(3,\), the tensor has \(2, 2\)"),
        (lambda x: Tensor([1, 2], requires_grad=True), TypeError, "only floating"),
        (lambda x: x.reshape(3), ValueError, r"shape \(2, 2\).*does not fit"),
        (lambda x: x.sum(2), IndexError, "dim 2 is out of range"),
        (lambda x: x.sum((0, 0)), ValueError, "twice"),
        (lambda x: x @ Tensor(np.ones((3, 2))), ValueError, "inner sizes"),
        (lambda x: x.permute(0, 0), ValueError, "not an order"),
        (lambda x: x.expand(3, 2), ValueError, "does not expand"),
        (lambda x: x.__setitem__(0, 1.0), RuntimeError, "a leaf that requires a gradient"),
        (lambda x: bool(x), ValueError, "ambiguous"),
        (lambda x: x.item(), ValueError, "4 elements"),
        (lambda x: x.to("mps"), ValueError, "not available"),
        (lambda x: minidl.cat([x, Tensor(np.ones((3, 3)))]), ValueError, "does not join"),
        (lambda x: minidl.where(x, x, x), TypeError, "dtype bool"),
        (lambda x: F.conv2d(x, x), ValueError, "conv2d: x expects 4 dimensions"),
        (
            lambda x: F.linear(x, Tensor(np.ones((2, 3)))),
            ValueError,
            "linear: weight expects 3 input features",
        ),
        (lambda x: F.linear(x.detach().float(), x), TypeError, "weight has dtype float64, x has float32"),
        (
            lambda x: F.cross_entropy(x, np.array([0, 2])),
            ValueError,
            r"target 2 is not a class index in \[0, 2\)",
        ),
        (lambda x: F.cross_entropy(x, np.array([0.0, 1.0])), TypeError, "integer class indices"),
        (lambda x: F.cross_entropy(x, np.array([0])), ValueError, "expect a target of shape"),
        (lambda x: F.batch_norm(x, None, None), ValueError, "needed when not training"),
        (
            lambda x: F.batch_norm(x[:1], None, None, training=True),
            ValueError,
            "more than one value per channel",
        ),
        (lambda x: F.dropout(x, 1.5), ValueError, "probability"),
    ],
)
def test_wrong_use_is_told_by_name(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(leaf(2, 2))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "weight expects 8 input channels, x has 3"),
        ({"groups": 3}, "groups expects a divisor of the 4 output channels"),
        ({"stride": 0}, "stride expects values of at least 1"),
        ({"stride": (1, 2, 3)}, "stride expects an int or a pair"),
        ({"padding": -1}, "padding expects values of at least 0"),
        ({"padding": "full"}, "'same', 'valid' or numbers"),
    ],
)
def test_wrong_convolutions_are_told_by_name(options: dict, message: str) -> None:
    x = Tensor(np.zeros((1, 8 if options and "groups" not in options else 3, 5, 5)))
    with pytest.raises(ValueError, match=message):
        F.conv2d(x, Tensor(np.zeros((4, 8, 3, 3))), **options)


def test_convolution_kernel_larger_than_the_input_is_told() -> None:
    with pytest.raises(ValueError, match=r"7x7 kernel.*larger than the padded input of 5x5"):
        F.conv2d(Tensor(np.zeros((1, 3, 5, 5))), Tensor(np.zeros((4, 3, 7, 7))))


def test_batch_norm_moves_its_statistics_only_in_training() -> None:
    x = leaf(4, 3, 2, 2)
    mean, var = Tensor(np.zeros(3)), Tensor(np.ones(3))
    F.batch_norm(x, mean, var)
    assert not mean.data.any() and (var.data == 1).all()
    F.batch_norm(x, mean, var, training=True, momentum=0.25)
    np.testing.assert_allclose(mean.data, 0.25 * x.data.mean((0, 2, 3)))
    np.testing.assert_allclose(var.data, 0.75 + 0.25 * x.data.var((0, 2, 3), ddof=1))


def test_frozen_batch_norm_backpropagates_to_its_input() -> None:
    x = leaf(4, 3, 2, 2)
    gradcheck(
        lambda x: F.batch_norm(x, Tensor(np.full(3, 0.3)), Tensor(np.full(3, 2.0))), [x], second_order=True
    )


def test_dropout_masks_scale_and_follow_the_seed() -> None:
    x = minidl.ones(100, 100, requires_grad=True)
    minidl.manual_seed(3)
    y = F.dropout(x, 0.25)
    minidl.manual_seed(3)
    assert (F.dropout(x, 0.25).data == y.data).all()
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(y.data.mean() - 1) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.data)
    assert F.dropout(x, 0.5, training=False) is x
    assert not F.dropout(x, 1.0).data.any()


def test_activations_keep_channels_last_memory() -> None:
    x, w = leaf(2, 3, 6, 6), leaf(4, 3, 3, 3)
    y = F.conv2d(x, w)
    for t in (y, F.relu(y), y + 1, y * y, F.max_pool2d(y, 2), F.pad(y, (1, 1, 1, 1)), y[:, :, ::2, ::2] * 1):
        assert t.data.transpose(0, 2, 3, 1).flags.c_contiguous


class Wrong(Function):
    """x * x with a gradient that a test corrupts."""

    saved_inputs = (0,)

    def __init__(self, corrupt: object) -> None:
        self.corrupt = corrupt

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x * x

    def backward(self, grad: Tensor) -> Tensor:
        (x,) = self.saved()
        return self.corrupt(grad, x)  # type: ignore[no-any-return, operator]


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda g, x: -(g * x * 2),
        lambda g, x: g * x,
        lambda g, x: x * 2,
        lambda g, x: g * x * 2.00002,
        lambda g, x: g * x * 2 + 1e-5,
        lambda g, x: (g * x * 2).sum() + x * 0,
        lambda g, x: g.permute(1, 0).reshape(3, 3) * x * 2,
        lambda g, x: g * x * 2 * Tensor(np.array([1.0, 1.0, 0.0])),
        lambda g, x: g * x * Tensor(np.full((3, 3), np.nan)),
        lambda g, x: g * x * 2 * Tensor((np.arange(9).reshape(3, 3) != 4) * 1.0),
    ],
)
def test_gradcheck_fails_on_wrong_gradients(corrupt: object) -> None:
    with pytest.raises(GradientError, match="gradient is wrong"):
        gradcheck(lambda x: Wrong(corrupt)(x), [leaf(3, 3)])


def test_gradcheck_fails_on_a_gradient_that_is_cut_off_from_its_graph() -> None:
    with pytest.raises(GradientError):
        gradgradcheck(lambda x: Wrong(lambda g, x: g * x.detach() * 2)(x), [leaf(3, 3)])


def test_gradcheck_tells_a_kink_from_a_wrong_gradient() -> None:
    x = Tensor(np.array([1.0, 0.0, -1.0]), requires_grad=True)
    with pytest.raises(GradientError, match="kink"):
        gradcheck(F.relu, [x])


def test_gradcheck_needs_float64() -> None:
    with pytest.raises(TypeError, match="float64"):
        gradcheck(F.relu, [leaf(3, dtype=np.float32)])


def test_importing_minidl_is_quick_and_loads_no_back_end() -> None:
    code = (
        "import sys, minidl; bad = [m for m in ('numba', 'cupy', 'PIL', 'matplotlib', 'rich') if m in "
        "sys.modules];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
