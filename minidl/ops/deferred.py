"""Tensors that are computed when somebody looks at them, so that what follows can join in.

A batch norm, the addition of a shortcut and a ReLU are one pass over memory when one kernel does all three,
and three passes when each is done before the next is known. So inside the call of a module a batch norm
returns a :class:`Deferred`: a tensor that knows its shape, and how to become an array. ``relu`` and ``+``
of a deferred tensor are deferred themselves. The first look at the array runs the chain::

    y = bn(x)          Deferred: batch norm of x
    z = relu(y)        Deferred: y, then ReLU
    conv(z)            reads z.data. Nobody else holds y: one kernel, batch norm with ReLU. Otherwise y is
                       computed, and z is the ReLU of it: nothing is computed twice, and y keeps its place in
                       the graph.

Whatever the forward pass is written like, its results, graph and gradients are those of the same operators
run one by one; only the moment differs. It never shows: the outermost module call settles all that is still
deferred before it returns, and so does every operator that writes in place.

Convolutions are deferred for the bias and ReLU that follow them, and the walk over the graph defers their input
gradients: where a second gradient reaches the same tensor, both are added as the kernel writes its result.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

import numpy as np

from minidl.autograd.mode import mode, settle
from minidl.tensor import Tensor

__all__ = ["Deferred", "Recipe", "add_in_place", "alone", "continued", "defer", "may_defer", "statistics"]

CROWDED = 256  # deferred tensors listed before the dead ones are dropped from the list

_data: Any = Tensor.__dict__["data"]  # the slot; it holds the recipe until the array is there
_getrefcount: Any = getattr(sys, "getrefcount", None)  # CPython's


class Recipe:
    """How a deferred tensor becomes an array.

    Attributes:
        shape, dtype: of the result.
        open_to_residual, open_to_relu: what may still join in, in this order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    open_to_residual: bool = True
    open_to_relu: bool = True

    def __init__(self) -> None:
        self.recording = mode.enabled  # whether the operators are recorded, as when they were called

    def finish(self, residual: Tensor | None, relu: bool) -> Tensor:
        """Run it: [relu](result [+ residual]) as a tensor in the graph."""
        raise NotImplementedError(f"{type(self).__name__} does not define finish")

    def want_statistics(self) -> list[Any]:
        """A list that may hold mean and biased variance of each channel of the result once it is there: a kernel that
        makes the result can add them up on the way."""
        return []


def _late(name: str) -> Any:
    """An attribute of Tensor that is there once the recipe has run."""
    slot: Any = Tensor.__dict__[name]

    def read(self: Deferred) -> Any:
        _compute(self)
        return slot.__get__(self)

    def write(self: Deferred, value: Any) -> None:
        _compute(self)
        slot.__set__(self, value)

    return property(read, write)


class Deferred(Tensor):
    """A tensor without its array; it turns into a plain Tensor at the first look at anything but its shape
    and dtype."""

    __slots__ = ()

    data = _late("data")
    requires_grad = _late("requires_grad")
    _node = _late("_node")

    @property
    def recipe(self) -> Recipe:
        recipe: Recipe = _data.__get__(self)
        return recipe

    @property
    def shape(self) -> tuple[int, ...]:
        return self.recipe.shape

    @property
    def ndim(self) -> int:
        return len(self.recipe.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.recipe.dtype

    def __reduce__(self) -> Any:
        _compute(self)
        return self.__reduce__()  # a plain Tensor's now


class Step(Recipe):
    """A deferred tensor, then + residual, then ReLU."""

    def __init__(self, source: Deferred, residual: Tensor | None, relu: bool) -> None:
        super().__init__()
        self.source, self.residual, self.relu = source, residual, relu
        before = source.recipe
        self.shape, self.dtype = before.shape, before.dtype
        self.open_to_residual = before.open_to_residual and residual is None and not relu
        self.open_to_relu = before.open_to_relu and not relu

    def finish(self, residual: Tensor | None, relu: bool) -> Tensor:
        residual, relu = self.residual if residual is None else residual, self.relu or relu
        if alone(self):
            return self.source.recipe.finish(residual, relu)
        from minidl.ops.arithmetic import Add, ReLU

        y: Tensor = self.source
        y = y if residual is None else Add()(y, residual)
        return ReLU()(y) if relu else y


def alone(recipe: Any) -> bool:
    """Whether ``recipe.source`` is still deferred and nobody but the recipe can look at it any more."""
    return (
        type(recipe.source) is Deferred and _getrefcount is not None and _getrefcount(recipe.source) == _ALONE
    )


def may_defer() -> bool:
    """Whether this thread is inside a module's call or a walk, and nobody watches the single operators."""
    return mode.deferring and mode.watch is None


def defer(recipe: Recipe) -> Tensor:
    """A tensor that is computed by ``recipe``."""
    t = Deferred.__new__(Deferred)
    _data.__set__(t, recipe)
    t.grad = None
    t._version = [0, 0]
    t._hooks = ()
    pending = mode.pending
    if len(pending) >= CROWDED:
        pending[:] = [ref for ref in pending if type(ref()) is Deferred]
    pending.append(weakref.ref(t))
    return t


def continued(x: Tensor, residual: Tensor | None, relu: bool) -> Tensor | None:
    """[relu](x [+ residual]) deferred, or None where x is not to be continued so."""
    if type(x) is not Deferred or not may_defer() or x.recipe.recording is not mode.enabled:
        return None
    recipe = x.recipe
    if residual is not None:
        if not recipe.open_to_residual or recipe.shape != residual.shape or recipe.dtype != residual.dtype:
            return None
    elif not recipe.open_to_relu:
        return None
    return defer(Step(x, residual, relu))


def statistics(x: Tensor) -> list[Any]:
    """Mean and biased variance (C,) of each channel of x, which is computed, if its kernel had them to give."""
    wanted = x.recipe.want_statistics() if type(x) is Deferred else []
    x.data  # noqa: B018 - computes it
    return wanted


def add_in_place(x: Tensor, residual: Tensor) -> bool:
    """Let a deferred x become x + residual, still deferred; False where that cannot be."""
    kept: list[Tensor] = []  # x and what it is made of; others may be made of x, and want its present value
    part: Any = x
    while type(part) is Deferred:
        kept.append(part)
        part = getattr(part.recipe, "source", None)
    mode.pending[:] = [ref for ref in mode.pending if not any(ref() is t for t in kept)]
    settle()
    mode.pending.extend([weakref.ref(t) for t in reversed(kept)])
    if type(x) is not Deferred or x is residual:
        return False
    before = defer(x.recipe)
    after = continued(before, residual, False)
    if type(after) is not Deferred:
        return False
    _data.__set__(x, after.recipe)
    return True


def _compute(t: Deferred) -> None:
    """Run the recipe; t is a plain Tensor afterwards."""
    recipe = t.recipe
    outer, mode.enabled = mode.enabled, recipe.recording
    try:
        y = recipe.finish(None, False)
    finally:
        mode.enabled = outer
    t.__class__ = Tensor  # type: ignore[assignment]
    t.data, t._node, t.requires_grad, t._version = y.data, y._node, y.requires_grad, y._version


_example = Recipe()
_example.source = object()  # type: ignore[attr-defined]
_ALONE = 0 if _getrefcount is None else _getrefcount(_example.source)  # type: ignore[attr-defined]
