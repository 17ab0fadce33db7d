"""Who holds what: memory released during the walk, no cycles, gradients that belong to their leaves alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import Tensor
from minidl.autograd import Function, ownership


def leaf(*shape: int) -> Tensor:
    rng = np.random.default_rng(sum(shape) + 7)
    return Tensor(rng.standard_normal(shape), requires_grad=True)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Counted(Function):
    """x * 2, keeping an array that counts as long as it lives."""

    saved_inputs = (0,)
    alive = 0
    most = 0

    class Array(np.ndarray):
        pass

    def forward(self, x: np.ndarray) -> np.ndarray:
        out = (x * 2).view(Counted.Array)
        Counted.alive += 1
        weakref.finalize(out, Counted.gone)
        return out

    @staticmethod
    def gone() -> None:
        Counted.alive -= 1

    def backward(self, grad: Tensor) -> Tensor:
        Counted.most = max(Counted.most, Counted.alive)
        Counted.seen.append(Counted.alive)
        (x,) = self.saved()
        return grad * 2 + x * 0

    seen: list[int] = []  # noqa: RUF012


def test_what_nodes_saved_is_released_during_the_walk(no_collector: None) -> None:
    Counted.alive, Counted.seen = 0, []
    y = leaf(3)
    for _ in range(20):
        y = Counted()(y)
    loss = y.sum()
    del y
    assert Counted.alive == 19  # the sum saves nothing, so the last one is gone already
    loss.backward()
    assert Counted.alive == 0
    # every step back lets one array go
    assert Counted.seen == sorted(Counted.seen, reverse=True) and Counted.seen[-1] <= 3


def test_gradients_in_flight_are_released_during_the_walk(no_collector: None) -> None:
    alive, most = 0, 0

    class Pass(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x + 0

        def backward(self, grad: Tensor) -> Tensor:
            nonlocal alive, most
            alive += 1
            out = grad * 1.0

            def gone() -> None:
                nonlocal alive
                alive -= 1

            weakref.finalize(out, gone)
            most = max(most, alive)
            return out

    x = leaf(2)
    y = x
    for _ in range(30):
        y = Pass()(y)
    y.sum().backward()
    del y
    assert most <= 2 and alive == 0


def test_graphs_without_backward_leave_no_cycles(no_collector: None) -> None:
    x, w = leaf(2, 3, 5, 5), leaf(4, 3, 3, 3)
    h = F.relu(F.conv2d(x, w)).exp()
    (g,) = minidl.grad((h * h).sum(), x, create_graph=True)
    (again,) = minidl.grad((g * g).sum(), w)
    refs = [weakref.ref(t._node) for t in (h, g)] + [weakref.ref(again)]
    del h, g, again
    assert [r() for r in refs] == [None] * 3


@pytest.mark.parametrize("length", [100_000])
def test_long_chains_are_built_walked_and_destroyed(length: int, no_collector: None) -> None:
    x = leaf(1)
    y = x
    for _ in range(length):
        y = y + 1.0
    node = weakref.ref(y._node)
    del y  # never walked
    assert node() is None
    y = x
    for _ in range(length):
        y = y * 1.0
    y.backward()
    assert x.grad is not None and x.grad.item() == 1.0


def test_long_chains_are_walked_with_create_graph(no_collector: None) -> None:
    x = Tensor([1.0], requires_grad=True)
    y = x
    for _ in range(30_000):
        y = y * x if len(y.shape) > 1 else y * 1.0
    y = y * y
    (g,) = minidl.grad(y, x, create_graph=True)
    (h,) = minidl.grad(g, x)
    assert (g.item(), h.item()) == (2.0, 2.0)
    node = weakref.ref(g._node)
    del y, g, h
    assert node() is None


Loss = Callable[[Tensor, Tensor], Tensor]
CASES: dict[str, Loss] = {
    "sum": lambda a, b: (a + b).sum(),
    "sum_of_same": lambda a, b: (a + a + b).sum(),
    "expand": lambda a, b: a.sum() + b.sum(),
    "reshape": lambda a, b: (a.reshape(-1) * 2 + b.reshape(-1)).sum(),
    "difference": lambda a, b: (a - b).mean(),
    "product": lambda a, b: (a * b).sum(),
    "permute": lambda a, b: (a.permute(1, 0) + b.permute(1, 0)).sum(),
    "matmul": lambda a, b: (a @ b.permute(1, 0)).sum(),
    "slice": lambda a, b: (a[:, :2] + b[:, 1:3]).sum(),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_leaves_share_memory_with_nothing(name: str, create_graph: bool) -> None:
    a, b = leaf(3, 4), leaf(3, 4)
    seen = []
    a.register_hook(seen.append)
    CASES[name](a, b).backward(create_graph=create_graph)
    assert a.grad is not None and b.grad is not None
    others = [a.data, b.data, *[g.data for g in seen]]
    assert not any(np.may_share_memory(a.grad.data, o) for o in [*others, b.grad.data])
    assert not any(np.may_share_memory(b.grad.data, o) for o in others)
    assert 0 not in a.grad.data.strides and a.grad.data.flags.writeable
    kept = b.grad.data.copy()
    a.grad.data[...] *= 1e6  # what clipping does
    np.testing.assert_array_equal(b.grad.data, kept)


def test_clipping_scales_each_gradient_once() -> None:
    a, b = leaf(3, 4), leaf(3, 4)
    (a + b).sum().backward()
    assert minidl.optim.clip_grad_norm_([a, b], 1.0) == pytest.approx(24**0.5)
    for t in (a, b):
        assert t.grad is not None
        np.testing.assert_allclose(t.grad.data, 24**-0.5, rtol=1e-5)


def test_the_gradient_that_the_user_passes_stays_his() -> None:
    a, mine = leaf(3), Tensor(np.ones(3))
    (a + 0.0).backward(mine)
    assert a.grad is not None
    a.grad.data *= 5
    np.testing.assert_array_equal(mine.data, 1.0)


def test_an_array_that_backward_returns_twice_is_not_shared() -> None:
    table = np.ones(3)

    class Constant(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x.copy()

        def backward(self, grad: Tensor) -> Tensor:
            return Tensor(table)

    a, b = leaf(3), leaf(3)
    Constant()(a).sum().backward()
    Constant()(b).sum().backward()
    assert a.grad is not None and b.grad is not None
    assert not np.may_share_memory(a.grad.data, table) and not np.may_share_memory(a.grad.data, b.grad.data)


def test_a_gradient_that_nobody_else_holds_is_not_copied() -> None:
    made: list[int] = []

    class Fresh(Function):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return x.copy()

        def backward(self, grad: Tensor) -> Tensor:
            array = np.full((4, 3), 2.0)
            made.append(array.__array_interface__["data"][0])
            return Tensor(array.T)

    a = leaf(3, 4)
    Fresh()(a).sum().backward()
    assert a.grad is not None
    if ownership._count is not None:
        assert a.grad.data.__array_interface__["data"][0] == made[0]


def test_gradients_are_copied_where_references_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_count", None)
    a, b = leaf(3), leaf(3)
    (a + b).sum().backward()
    assert a.grad is not None and b.grad is not None
    assert not np.may_share_memory(a.grad.data, b.grad.data)


def test_results_of_grad_have_arrays_of_their_own() -> None:
    a, b = leaf(3), leaf(3)
    ga, gb = minidl.grad((a + b).sum(), [a, b])
    assert not np.may_share_memory(ga.data, gb.data)


def test_accumulating_leaves_the_old_gradient_as_it_was() -> None:
    a = leaf(3)
    a.sum().backward()
    first = a.grad
    a.sum().backward()
    assert first is not None and a.grad is not None
    np.testing.assert_array_equal(first.data, 1.0)
    np.testing.assert_array_equal(a.grad.data, 2.0)


def test_a_leaf_that_is_the_loss_gets_a_gradient_of_its_own() -> None:
    a, g = leaf(3), Tensor(np.ones(3))
    a.backward(g)
    assert a.grad is not None and not np.may_share_memory(a.grad.data, g.data)
