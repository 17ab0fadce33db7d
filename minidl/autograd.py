"""Reverse-mode automatic differentiation: the operator class, the graph it leaves behind, and the walk over
it.

An operator is told once, as a subclass of :class:`Function`: ``forward`` computes an array from arrays,
``backward`` computes the
gradients of the inputs from the gradient of the output, *in differentiable operators*, so that gradients of
gradients need no
code of their own. The instance of an operator is the node of the graph.

The graph holds what backward needs and nothing else: a node points to the nodes its inputs came from (never
to its output, so there
are no reference cycles) and to the tensors that its class says it saves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["Function", "enable_grad", "grad", "is_grad_enabled", "no_grad", "set_grad_enabled"]

Array = Any
"""An array of any back end (NumPy now)."""


class _Mode(threading.local):
    enabled = True


_mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether operators called by this thread are recorded for backward."""
    return _mode.enabled


class set_grad_enabled(ContextDecorator):
    """Context manager and decorator: record operators (``True``) or not, in this thread."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = bool(enabled)
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._outer.append(_mode.enabled)
        _mode.enabled = self.enabled

    def __exit__(self, *_: object) -> None:
        _mode.enabled = self._outer.pop()


class no_grad(set_grad_enabled):
    """Context manager and decorator: operators inside leave no graph (and hold no memory for it)."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """Context manager and decorator: records again inside a :class:`no_grad`."""

    def __init__(self) -> None:
        super().__init__(True)


class Function:
    """One operator. Subclass it, call an instance on tensors.

    >>> class Square(Function):
    ...     saved_inputs = (0,)
    ...     def forward(self, x):
    ...         return x * x
    ...     def backward(self, grad):
    ...         (x,) = self.saved()
    ...         return grad * x * 2
    >>> y = Square()(x)

    Options of the operator are attributes of the instance, set in ``__init__``. An instance is used for one
    call.

    Class attributes:
        saved_inputs: positions of the inputs that ``backward`` reads through :meth:`saved`.
        saves_output: ``backward`` reads the output through :meth:`saved_output`.
        broadcasts: inputs were broadcast against each other; their gradients are summed back to their shapes
            by the walk.
    """

    saved_inputs: ClassVar[tuple[int, ...]] = ()
    saves_output: ClassVar[bool] = False
    broadcasts: ClassVar[bool] = False

    needs_input_grad: tuple[bool, ...] = ()
    _edges: tuple[Function | Tensor | None, ...] = ()
    _input_info: tuple[tuple[tuple[int, ...], Any] | None, ...] = ()
    _saved: tuple[tuple[Tensor | None, int], ...] | None = None
    _output: Array | None = None
    _hooks: tuple[Callable[[Tensor], Tensor | None], ...] = ()

    def forward(self, *arrays: Array) -> Array:
        """Compute the output array from the input arrays (an input that is ``None`` stays ``None``)."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def backward(self, grad: Tensor) -> Tensor | tuple[Tensor | None, ...] | None:
        """Gradients of the inputs, one each (``None`` where there is none), from the gradient of the
        output."""
        raise RuntimeError(f"{self.name} is not differentiable")

    @property
    def name(self) -> str:
        """The operator's name in messages and in ``repr`` of a tensor."""
        return type(self).__name__

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        from minidl.tensor import Tensor

        data = self.forward(*[t.data if t is not None else None for t in inputs])
        if not _mode.enabled:
            return Tensor._wrap(data)
        needs = tuple([t is not None and t.requires_grad for t in inputs])
        if not any(needs):
            return Tensor._wrap(data)
        self.needs_input_grad = needs
        edges: list[Function | Tensor | None] = []
        info: list[tuple[tuple[int, ...], Any] | None] = []
        for t in inputs:
            if t is not None and t.requires_grad:
                edges.append(t._node or t)
                info.append((t.data.shape, t.data.dtype))
            else:
                edges.append(None)
                info.append(None)
        self._edges, self._input_info = tuple(edges), tuple(info)
        saved = []
        for i in self.saved_inputs:
            t = inputs[i]
            saved.append((t, t._version[0] if t is not None else 0))
        self._saved = tuple(saved)
        if self.saves_output:
            self._output = data
        return Tensor._wrap(data, self)

    def saved(self) -> tuple[Any, ...]:
        """The inputs named by ``saved_inputs``, as they were: a tensor changed in place since is an error,
        not a wrong gradient."""
        if self._saved is None:
            raise RuntimeError(
                f"{self.name}: the graph was already walked and its saved values freed; "
                "call backward(retain_graph=True) the first time to walk it twice"
            )
        for position, (t, version) in zip(self.saved_inputs, self._saved, strict=True):
            if t is not None and t._version[0] != version:
                raise RuntimeError(
                    f"{self.name}: input {position} (shape {tuple(t.shape)}) is needed for its gradient "
                    f"but was changed in place "
                    f"after the forward pass (version {t._version[0]}, expected {version})"
                )
        return tuple([t for t, _ in self._saved])

    def saved_output(self) -> Tensor:
        """The output of this node, connected to the graph, for an operator whose class sets
        ``saves_output``."""
        from minidl.tensor import Tensor

        if self._output is None:
            self.saved()  # says why
        return Tensor._wrap(self._output, self if _mode.enabled else None)

    def _free(self) -> None:
        self._saved = None
        self._output = None


def _topological(roots: Sequence[Function]) -> list[Function]:
    """Nodes reachable from ``roots``, each before the nodes its inputs came from; iterative, so any depth
    works."""
    order: list[Function] = []
    seen: set[Function] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack: list[tuple[Function, Iterator[Any]]] = [(root, iter(root._edges))]
        while stack:
            node, edges = stack[-1]
            for edge in edges:
                if isinstance(edge, Function) and edge not in seen:
                    seen.add(edge)
                    stack.append((edge, iter(edge._edges)))
                    break
            else:
                order.append(node)
                stack.pop()
    order.reverse()
    return order


def _reaching(order: list[Function], targets: set[int]) -> set[int]:
    """Ids of the nodes of ``order`` from which a target (a node or a leaf tensor, by id) can be reached."""
    reach: set[int] = set()
    for node in reversed(order):
        if id(node) in targets or any(
            e is not None and (id(e) in targets or id(e) in reach) for e in node._edges
        ):
            reach.add(id(node))
    return reach


def _fit(node: Function, position: int, g: Tensor) -> Tensor:
    """Undo broadcasting and promotion: the gradient of an input has the input's shape and dtype. The one
    place that does it."""
    info = node._input_info[position]
    assert info is not None
    shape, dtype = info
    if g.data.shape != shape:
        if not node.broadcasts:
            raise RuntimeError(
                f"{node.name}.backward: gradient of input {position} has shape {tuple(g.shape)}, the input "
                f"has {tuple(shape)}"
            )
        g = g.sum_to(shape)
    if g.data.dtype != dtype:
        g = g.to(dtype)
    return g


def _run_hooks(hooks: Sequence[Callable[[Tensor], Tensor | None]], g: Tensor) -> Tensor:
    for hook in hooks:
        replaced = hook(g)
        if replaced is not None:
            g = replaced
    return g


def _walk(
    roots: Sequence[tuple[Tensor, Tensor]],
    create_graph: bool,
    retain_graph: bool,
    on_leaf: Callable[[Tensor, Tensor], None],
    targets: dict[int, Tensor] | None = None,
) -> dict[int, Tensor]:
    """Carry gradients from ``roots`` (tensor, gradient) towards the leaves.

    ``targets`` (ids of nodes or leaf tensors) limits the walk to what leads to them; their gradients are
    returned by id.
    """
    pending: dict[int, Tensor] = {}
    captured: dict[int, Tensor] = {}
    leaves: dict[int, tuple[Tensor, Tensor]] = {}

    def send(edge: Function | Tensor, g: Tensor) -> None:
        if isinstance(edge, Function):
            old = pending.get(id(edge))
            pending[id(edge)] = g if old is None else old + g
        else:
            before = leaves.get(id(edge))
            leaves[id(edge)] = (edge, g if before is None else before[1] + g)

    order = _topological([t._node for t, _ in roots if t._node is not None])
    reach = None if targets is None else _reaching(order, set(targets))
    with set_grad_enabled(create_graph):
        for t, g in roots:
            send(t._node or t, g)
        order.reverse()
        while order:  # popped as it goes, so that the walk itself keeps nothing alive
            node = order.pop()
            g = pending.pop(id(node), None)  # type: ignore[arg-type]
            if g is None:
                continue
            if node._saved is None:
                node.saved()  # says that the graph was freed
            g = _run_hooks(node._hooks, g)
            if targets is not None and id(node) in targets:
                captured[id(node)] = g
            if reach is not None and not any(
                e is not None and (id(e) in reach or id(e) in targets)  # type: ignore[operator]
                for e in node._edges
            ):
                continue
            grads = node.backward(g)
            if not isinstance(grads, tuple):
                grads = (grads,)
            if len(grads) != len(node._edges):
                raise RuntimeError(
                    f"{node.name}.backward returned {len(grads)} gradients for {len(node._edges)} inputs"
                )
            for position, (edge, gi) in enumerate(zip(node._edges, grads, strict=True)):
                if edge is not None and gi is not None:
                    send(edge, _fit(node, position, gi))
            if not (retain_graph or create_graph):
                node._free()
                if targets is None:
                    node._edges = tuple([None] * len(node._edges))
            del node, g, grads
        for leaf, g in leaves.values():
            g = _run_hooks(leaf._hooks, g)
            if targets is not None:
                if id(leaf) in targets:
                    captured[id(leaf)] = g
            else:
                on_leaf(leaf, g)
    return captured


def backward(
    tensor: Tensor, gradient: Tensor | None = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add the gradient of ``tensor`` to ``.grad`` of every leaf it depends on. See
    :meth:`minidl.Tensor.backward`."""
    root = (tensor, _root_gradient(tensor, gradient))

    def accumulate(leaf: Tensor, g: Tensor) -> None:
        if leaf.grad is None:
            leaf.grad = g if create_graph else g.detach()
        else:
            leaf.grad = leaf.grad + g

    _walk([root], create_graph, retain_graph, accumulate)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """Gradients of the sum of ``outputs`` with respect to ``inputs``, returned instead of stored in
    ``.grad``.

    Args:
        outputs: tensors to differentiate.
        inputs: tensors to differentiate by; leaves or not.
        grad_outputs: a gradient for each output; ``None`` means 1 for an output of one element.
        retain_graph: keep what the graph saved, so that it can be walked again; default: the value of
            ``create_graph``.
        create_graph: record the gradients themselves, for gradients of gradients.
        allow_unused: return ``None`` for an input that the outputs do not depend on, instead of raising.
    """
    from minidl.tensor import Tensor

    outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    ins = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if isinstance(grad_outputs, Tensor) or grad_outputs is None:
        gos: list[Tensor | None] = [grad_outputs] if grad_outputs is not None else [None] * len(outs)
    else:
        gos = list(grad_outputs)
    if len(gos) != len(outs):
        raise ValueError(f"grad: grad_outputs has {len(gos)} entries for {len(outs)} outputs")
    for i, t in enumerate(ins):
        if not t.requires_grad:
            raise RuntimeError(f"grad: input {i} (shape {tuple(t.shape)}) does not require a gradient")
    roots = [(t, _root_gradient(t, g)) for t, g in zip(outs, gos, strict=True)]
    keys = [id(t._node or t) for t in ins]
    found = _walk(
        roots,
        create_graph,
        create_graph if retain_graph is None else retain_graph,
        lambda *_: None,
        dict(zip(keys, ins, strict=True)),
    )
    result = [found.get(k) for k in keys]
    for i, g in enumerate(result):
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: the outputs do not depend on input {i}; pass allow_unused=True to get None for it"
            )
    return tuple(result)


def _root_gradient(tensor: Tensor, gradient: Tensor | None) -> Tensor:
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
    return gradient
