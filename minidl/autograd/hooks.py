"""Hooks on gradients, and ``retain_grad``, which is the last of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidl.autograd.function import Function
    from minidl.tensor import Tensor

__all__ = ["GradientHook", "move_retained", "register", "retain"]

Hook = Callable[["Tensor"], "Tensor | None"]


class GradientHook:
    """What ``register_hook`` returns: :meth:`remove` takes the hook away again."""

    def __init__(self, holder: Function | Tensor, hook: Hook) -> None:
        self._holder, self._hook = weakref.ref(holder), hook
        self._there = True

    def remove(self) -> None:
        """Do not call the hook any more; a second call does nothing."""
        holder = self._holder()
        if holder is not None and self._there:
            hooks = list(holder._hooks)
            hooks.remove(self._hook)
            holder._hooks = tuple(hooks)
        self._there = False


class _Retain:
    """Adds what it is given to the ``.grad`` of a tensor that is not a leaf."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)

    def __call__(self, g: Tensor) -> None:
        t = self.tensor()
        if t is not None:
            t.grad = g.clone() if t.grad is None else t.grad + g  # its own array, as a leaf's


def register(tensor: Tensor, hook: Hook) -> GradientHook:
    """Call ``hook`` with the gradient of a tensor, before the gradient is kept."""
    holder = tensor if tensor._node is None else tensor._node
    kept = tuple([h for h in holder._hooks if isinstance(h, _Retain)])
    holder._hooks = (*holder._hooks[: len(holder._hooks) - len(kept)], hook, *kept)
    return GradientHook(holder, hook)


def retain(tensor: Tensor) -> None:
    """Keep the gradient of an operator's result; once, however often it is asked for."""
    node = tensor._node
    if node is not None and not any(isinstance(h, _Retain) and h.tensor() is tensor for h in node._hooks):
        node._hooks = (*node._hooks, _Retain(tensor))


def move_retained(tensor: Tensor, old: Function | None) -> None:
    """After an operator that wrote into ``tensor``: the gradient that is kept is that of its new value."""
    if old is None or old is tensor._node:
        return
    mine = [h for h in old._hooks if isinstance(h, _Retain) and h.tensor() is tensor]
    if mine:
        old._hooks = tuple([h for h in old._hooks if h not in mine])
        retain(tensor)
