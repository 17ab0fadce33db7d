"""The walk over the graph: gradients from the outputs to the leaves.

A node is visited when everything that was computed from it has been: nodes are numbered as they were made, and
a heap hands out the last-made first. A gradient is dropped as soon as it was used, and so is what its node had
saved; nothing is recursive, so a chain may be as long as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from minidl.autograd.function import Function
from minidl.autograd.mode import deferring, mode, set_grad_enabled, without_autocast
from minidl.autograd.ownership import owned
from minidl.kernels import capturing

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["backward", "grad"]


def backward(
    tensor: Tensor, gradient: Tensor | None = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add the gradient of ``tensor`` to ``.grad`` of every leaf it depends on. See
    :meth:`minidl.Tensor.backward`."""
    found = _walk([(tensor, _root_gradient(tensor, gradient))], create_graph, retain_graph)
    del gradient
    with set_grad_enabled(create_graph):
        while found:
            _, entry = found.popitem()
            leaf = entry[0]
            capture = capturing.active()
            if leaf.grad is None:
                leaf.grad = owned(entry, connected=create_graph)
            elif capture is not None and not capture.has_gradient(leaf):
                capturing.refuse(
                    "backward adds to a gradient that was there before it", "call zero_grad() in the step"
                )
            else:
                leaf.grad = leaf.grad + entry[1]  # a new array: whoever holds the old one keeps its values
            if capture is not None:
                capture.set_gradient(leaf)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """Gradients of the sum of ``outputs`` with respect to ``inputs``, returned instead of stored in
    ``.grad``. Only what leads to ``inputs`` is computed.

    Args:
        outputs: tensors to differentiate.
        inputs: tensors to differentiate by; leaves or not.
        grad_outputs: a gradient for each output; ``None`` means 1 for an output of one element.
        retain_graph: keep what the graph saved, so that it can be walked again; default: the value of
            ``create_graph``.
        create_graph: record the gradients themselves, for gradients of gradients.
        allow_unused: return ``None`` for an input that the outputs do not depend on, instead of raising.

    Returns:
        One tensor for each input, of its shape and dtype, each with an array of its own (with
        ``create_graph`` as long as they differ).

    Raises:
        RuntimeError: an input does not require a gradient or is not used, or the graph was freed.
        ValueError: ``grad_outputs`` does not fit ``outputs``.
    """
    outs, ins = _several(outputs), _several(inputs)
    gos = [None] * len(outs) if grad_outputs is None else _several(grad_outputs)
    if len(gos) != len(outs):
        raise ValueError(f"grad: grad_outputs has {len(gos)} entries for {len(outs)} outputs")
    for i, t in enumerate(ins):
        if not t.requires_grad:
            raise RuntimeError(f"grad: input {i} (shape {tuple(t.shape)}) does not require a gradient")
    roots = [(t, _root_gradient(t, g)) for t, g in zip(outs, gos, strict=True)]
    del gos, grad_outputs
    keys = [id(t if t._node is None else t._node) for t in ins]
    found = _walk(roots, create_graph, create_graph if retain_graph is None else retain_graph, set(keys))
    del roots
    for i, key in enumerate(keys):
        if key not in found and not allow_unused:
            raise RuntimeError(
                f"grad: the outputs do not depend on input {i}; pass allow_unused=True to get None for it"
            )
    if not create_graph:
        found = {
            key: [None, owned(found.pop(key), connected=False)] for key in dict.fromkeys(keys) if key in found
        }
    return tuple([found[key][1] if key in found else None for key in keys])


def _several(value: Any) -> list[Any]:
    """One tensor, or a sequence of them, as a list."""
    return [value] if hasattr(value, "requires_grad") else list(value)


class _Gradients:
    """Gradients on their way: those of nodes wait for the nodes' turn, those of leaves are found."""

    def __init__(self) -> None:
        from minidl.tensor import Tensor

        self.kind = Tensor  # an import at every node takes as long as the rest of its visit
        self.found: dict[int, list[Any]] = {}  # id -> [leaf or None, gradient]
        self.heap: list[int] = []  # minus the numbers of the waiting nodes
        self._waiting: dict[int, list[Any]] = {}  # number -> [node, gradient so far]

    def send(self, target: Function | Tensor, g: Tensor) -> None:
        """Add a gradient to what its target has so far."""
        if isinstance(target, Function):
            number = target._seq
            entry = self._waiting.get(number)
            if entry is None:
                self._waiting[number] = [target, g]
                heappush(self.heap, -number)
                return
        else:
            entry = self.found.get(id(target))
            if entry is None:
                self.found[id(target)] = [target, g]
                return
        entry[1] = entry[1] + g

    def next(self) -> list[Any]:
        """The last-made of the waiting nodes, and its gradient."""
        return self._waiting.pop(-heappop(self.heap))


def _walk(
    roots: list[tuple[Tensor, Tensor]],
    create_graph: bool,
    retain_graph: bool,
    wanted: set[int] | None = None,
    stop: bool = False,
) -> dict[int, list[Any]]:
    """Carry gradients from ``roots`` (tensor, gradient) to the leaves.

    ``wanted`` (ids of nodes and leaf tensors) limits the walk to what leads to them; with ``stop`` it ends at
    the first of them on each path, and leaves their hooks to the walk that it is a part of. Returns
    ``{id: [leaf or None, gradient]}`` of the leaves, or of what was wanted.
    """
    reach = None if wanted is None else _leading_to(roots, wanted, stop)
    gradients = _Gradients()
    found = gradients.found
    # Gradients that are not recorded may be computed together with what is added to them.
    late = nullcontext() if create_graph else deferring()
    with set_grad_enabled(create_graph), without_autocast(), late:
        while roots:
            t, g = roots.pop(0)
            gradients.send(t if t._node is None else t._node, g)
            del t, g
        while gradients.heap:
            node, g = gradients.next()
            if wanted is not None and id(node) in wanted and stop:
                found[id(node)] = [None, g]
                continue
            if node._saved is None:
                node.saved()  # says that the graph was freed
            if node._hooks:
                g = _run_hooks(node._hooks, g)
            if wanted is not None and id(node) in wanted:
                found[id(node)] = [None, g]
            if reach is None or node._seq in reach:
                _visit(node, g, gradients, wanted, reach)
                if not (retain_graph or create_graph):
                    node._free()
            del node, g  # nothing stays alive through the walk itself
        if wanted is not None:
            found = {key: entry for key, entry in found.items() if key in wanted}
        for entry in found.values():
            if entry[0] is not None and entry[0]._hooks and not stop:
                entry[1] = _run_hooks(entry[0]._hooks, entry[1])
    return found


def _visit(
    node: Function, g: Tensor, gradients: _Gradients, wanted: set[int] | None, reach: set[int] | None
) -> None:
    """Send the gradients of a node's inputs on their way."""
    if wanted is not None and reach is not None:
        grads = _prune(node, g, wanted, reach)
    elif mode.watch is not None:
        grads = _watched(node, g)
    else:
        grads = node.backward(g)
    if not isinstance(grads, tuple):
        grads = tuple(grads) if isinstance(grads, list) else (grads,)
    edges = node._edges
    if len(grads) != len(edges):
        raise RuntimeError(f"{node.name}.backward returned {len(grads)} gradients for {len(edges)} inputs")
    for position, edge in enumerate(edges):
        gi = grads[position]
        if edge is not None and gi is not None and (reach is None or _leads(edge[0], wanted, reach)):
            target, shape, dtype = edge
            if not isinstance(gi, gradients.kind):
                raise TypeError(
                    f"{node.name}.backward: gradient of input {position} expects a Tensor, "
                    f"got {type(gi).__name__}"
                )
            if gi.shape != shape or gi.dtype != dtype:
                gi = _fit(node, position, gi)
            gradients.send(target, gi)


def _leading_to(roots: Sequence[tuple[Tensor, Tensor]], wanted: set[int], stop: bool) -> set[int]:
    """Numbers of the nodes under ``roots`` with an input from which something wanted can be reached."""
    nodes: dict[int, Function] = {}
    stack = [t._node for t, _ in roots if t._node is not None]
    while stack:
        node = stack.pop()
        if node._seq not in nodes and not (stop and id(node) in wanted):
            nodes[node._seq] = node
            stack.extend([e[0] for e in node._edges if e is not None and isinstance(e[0], Function)])
    reach: set[int] = set()
    for number in sorted(nodes):  # in the order they were made: inputs first
        node = nodes[number]
        # a freed node counts: the walk says so when it comes there
        if node._saved is None or any(e is not None and _leads(e[0], wanted, reach) for e in node._edges):
            reach.add(number)
    return reach


def _leads(target: Function | Tensor, wanted: set[int] | None, reach: set[int]) -> bool:
    if isinstance(target, Function) and target._seq in reach:
        return True
    return wanted is not None and id(target) in wanted


def _prune(node: Function, g: Tensor, wanted: set[int], reach: set[int]) -> Any:
    """``node.backward``, computing only the gradients that lead to something wanted."""
    needs = node.needs_input_grad
    node.needs_input_grad = tuple([e is not None and _leads(e[0], wanted, reach) for e in node._edges])
    try:
        return node.backward(g) if mode.watch is None else _watched(node, g)
    finally:
        node.needs_input_grad = needs


def _watched(node: Function, g: Tensor) -> Any:
    """``node.backward`` under ``detect_anomaly``."""
    watch = mode.watch
    assert watch is not None
    grads = None
    watch.enter_backward(node)
    try:
        grads = node.backward(g)
    finally:
        several = grads if isinstance(grads, (tuple, list)) else (grads,)
        watch.leave_backward(node, g, None if grads is None else several)
    return grads


def _fit(node: Function, position: int, g: Tensor) -> Tensor:
    """Undo broadcasting and promotion: the gradient of an input has the input's shape and dtype. The one
    place that does it."""
    edge = node._edges[position]
    assert edge is not None
    _, shape, dtype = edge
    if g.shape != shape:
        if not node.broadcasts:
            raise RuntimeError(
                f"{node.name}.backward: gradient of input {position} has shape {tuple(g.shape)}, the input "
                f"has {tuple(shape)}"
            )
        g = g.sum_to(shape)
    if g.dtype != dtype:
        g = g.to(dtype)
    return g


def _run_hooks(hooks: Sequence[Callable[[Tensor], Tensor | None]], g: Tensor) -> Tensor:
    for hook in hooks:
        replaced = hook(g)
        if replaced is not None:
            g = replaced
    return g


def _root_gradient(tensor: Tensor, gradient: Any) -> Tensor:
    from minidl.tensor import Tensor

    if not tensor.requires_grad:
        raise RuntimeError("backward: this tensor does not require a gradient and has no graph")
    if gradient is None:
        if tensor.size != 1:
            raise RuntimeError(
                f"backward: only a tensor of one element needs no gradient argument; this one has shape "
                f"{tuple(tensor.shape)}"
            )
        return Tensor._wrap(tensor.xp.ones(tensor.shape, tensor.dtype))
    if not isinstance(gradient, Tensor):
        gradient = Tensor(gradient, dtype=tensor.dtype)
    if tuple(gradient.shape) != tuple(tensor.shape):
        raise ValueError(
            f"backward: gradient has shape {tuple(gradient.shape)}, the tensor has {tuple(tensor.shape)}"
        )
    return gradient if gradient.dtype == tensor.dtype else gradient.to(tensor.dtype)
