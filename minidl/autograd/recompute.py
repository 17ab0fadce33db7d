"""Checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): a part of a network keeps
its inputs only and is computed again when its gradient is wanted."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import random
from minidl.autograd.function import Edge, Function, next_number
from minidl.autograd.mode import enable_grad, is_grad_enabled, mode
from minidl.autograd.walk import _walk

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["checkpoint"]


def checkpoint(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """``function(*args, **options)``, of which only ``args`` are kept; in backward it is computed again.

    Parameters and other tensors that ``function`` reaches without being given them get their gradients too.
    The second computation draws the same random numbers as the first and leaves running statistics alone. Works
    with :func:`minidl.grad`, with ``create_graph`` and inside other checkpoints.

    Args:
        function: a module, or any function of tensors that computes the same each time it is called.
        args, options: tensors and anything else.

    Returns:
        What ``function`` returns: a tensor, or a tuple or list of tensors of one dtype.

    Raises:
        TypeError: ``function`` returns something else.
        RuntimeError (in backward): the second computation gave other shapes, or a tensor that it reads was
            changed in between.

    >>> import minidl
    >>> x = minidl.ones(2, 3, requires_grad=True)
    >>> minidl.checkpoint(lambda x: (x * x).tanh(), x).sum().backward()
    """
    if not is_grad_enabled():
        return function(*args, **options)
    node = _Checkpoint(functools.partial(function, **options), args, random.get_state())
    proxies = node.proxies(connected=False)
    with enable_grad():
        result = node.function(*node.filled(proxies))
    outputs = _outputs(result)
    outside = _outside(outputs, proxies, node.first)
    several = not hasattr(result, "requires_grad")
    shapes = [t.shape for t in outputs]
    node.result = _flat([t.data for t in outputs]) if several else outputs[0].data
    node.outside, node.shapes = outside, shapes if several else None
    if not any(t.requires_grad for t in outputs):
        return result
    del proxies, outputs  # the graph of the first computation ends here
    joined = node.attach()
    if not several:
        return joined
    parts, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        parts.append(joined[start : start + size].reshape(shape))
        start += size
    return parts if isinstance(result, list) else tuple(parts)


class _Alias(Function):
    """A tensor itself, as a node of its own: the place where the outer graph meets the inner one."""

    def forward(self, x: Any) -> Any:
        return x

    def backward(self, grad: Tensor) -> Tensor:
        return grad


class _Checkpoint(Function):
    """The node of a checkpointed call: its inputs are the tensors in ``args`` and what ``function`` reached."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], state: dict[str, Any]) -> None:
        from minidl.tensor import Tensor

        self.function, self.args, self.state = function, list(args), state
        self.autocast = mode.autocast
        self.places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        self.saved_inputs = tuple(range(len(self.places)))  # type: ignore[misc]
        self.outside: list[Edge] = []
        self.shapes: list[tuple[int, ...]] | None = None
        self.result: Any = None
        self.first = next_number()  # what the function makes has greater numbers

    def forward(self, *_: Any) -> Any:
        result, self.result = self.result, None
        return result

    def attach(self) -> Tensor:
        """The output, with edges to the arguments and to everything that was reached besides them."""
        from minidl.tensor import Tensor

        inputs = [self.args[i] for i in self.places]
        anchor = Tensor([0.0], requires_grad=True)  # so that a call without differentiable arguments records
        out = self(*inputs, anchor)
        self._edges = (*self._edges[:-1], *self.outside)
        self.needs_input_grad = tuple(e is not None for e in self._edges)
        leaves = [e[0] for e in self.outside]
        self._versions = [(t, t._version[0], t.data) for t in leaves if not isinstance(t, Function)]
        for i in self.places:
            self.args[i] = None  # kept by _saved, which a walk frees
        return out

    def proxies(self, connected: bool) -> list[Tensor]:
        """Stand-ins for the tensor arguments: leaves, or aliases that lead to the originals."""
        tensors = self.saved() if self._saved is not None else [self.args[i] for i in self.places]
        if connected:
            return [_Alias()(t) if t.requires_grad else t for t in tensors]
        out = []
        for t in tensors:
            p = t.detach()
            p.requires_grad = t.requires_grad
            out.append(p)
        return out

    def filled(self, proxies: Sequence[Tensor]) -> list[Any]:
        args = list(self.args)
        for i, p in zip(self.places, proxies, strict=True):
            args[i] = p
        return args

    def backward(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        self.saved()
        for t, version, data in self._versions:
            if t._version[0] != version or t.data is not data:
                raise RuntimeError(
                    f"checkpoint: a tensor of shape {tuple(t.shape)} that the function reads was changed in "
                    f"place after the forward pass (version {t._version[0]}, expected {version})"
                )
        connected = is_grad_enabled()
        now, recomputing, autocast = random.get_state(), mode.recomputing, mode.autocast
        random.set_state(self.state)
        mode.recomputing, mode.autocast = True, self.autocast
        try:
            with enable_grad():
                proxies = self.proxies(connected)
                outputs = _outputs(self.function(*self.filled(proxies)))
        finally:
            mode.recomputing, mode.autocast = recomputing, autocast
            random.set_state(now)
        if [t.shape for t in outputs] != (self.shapes or [grad.shape]):
            raise RuntimeError(
                f"checkpoint: the function returned shapes {self.shapes or [grad.shape]} the first time and "
                f"{[t.shape for t in outputs]} when it was computed again"
            )
        if not any(t.requires_grad for t in outputs):
            raise RuntimeError(
                "checkpoint: computed again, the function returned nothing that requires a gradient"
            )
        targets: list[Any] = [(p._node or p) if p.requires_grad else None for p in proxies]
        targets += [target for target, _, _ in self.outside]
        wanted = {
            id(t) for t, needs in zip(targets, self.needs_input_grad, strict=True) if needs and t is not None
        }
        found = _walk(self._roots(outputs, grad), connected, connected, wanted, stop=True)
        return tuple([found[id(t)][1] if id(t) in found else None for t in targets])

    def _roots(self, outputs: Sequence[Tensor], grad: Tensor) -> list[tuple[Tensor, Tensor]]:
        if self.shapes is None:
            return [(outputs[0], grad)]
        roots, start = [], 0
        for t in outputs:
            piece = grad[start : start + t.size].reshape(t.shape)
            start += t.size
            if t.requires_grad:
                roots.append((t, piece))
        return roots

    def _free(self) -> None:
        super()._free()
        self._versions = []


def _outputs(result: Any) -> list[Tensor]:
    from minidl.tensor import Tensor

    several = list(result) if isinstance(result, (tuple, list)) else [result]
    if not several or not all(isinstance(t, Tensor) for t in several):
        kinds = ", ".join(type(t).__name__ for t in several) or "nothing"
        raise TypeError(f"checkpoint: function expects to return a tensor or a tuple of tensors, got {kinds}")
    if len({t.dtype for t in several}) > 1:
        raise TypeError(
            f"checkpoint: function expects to return tensors of one dtype, got "
            f"{', '.join(str(t.dtype) for t in several)}"
        )
    return several


def _outside(outputs: Sequence[Tensor], proxies: Sequence[Tensor], first: int) -> list[Edge]:
    """Edges from the inner graph to what it did not make and was not given: parameters, captured tensors."""
    inner = {id(p) for p in proxies}
    found: dict[int, Edge] = {}
    seen: set[int] = set()
    stack = []
    for t in outputs:
        if t._node is not None and t._node._seq > first:
            stack.append(t._node)
        elif t.requires_grad and id(t) not in inner:  # the function returned a captured tensor itself
            target = t if t._node is None else t._node
            found[id(target)] = (target, t.data.shape, t.data.dtype)
    while stack:
        node = stack.pop()
        if node._seq in seen:
            continue
        seen.add(node._seq)
        for edge in node._edges:
            if edge is None or id(edge[0]) in inner:
                continue
            if isinstance(edge[0], Function) and edge[0]._seq > first:
                stack.append(edge[0])
            else:
                found[id(edge[0])] = edge
    return list(found.values())


def _flat(arrays: Sequence[Any]) -> Any:
    return np.concatenate([a.reshape(-1) for a in arrays])
