"""The operator class. Its instances are the nodes of the graph.

A node points to the nodes that its inputs came from (never to its output, so there are no reference cycles) and
to the tensors that its class says it saves. Nodes are numbered as they are made: an operator's inputs exist
before it does, so the numbers are a topological order, and the walk needs no other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from minidl.autograd.mode import mode

if TYPE_CHECKING:
    from minidl.tensor import Tensor

__all__ = ["Function"]

Array = Any
"""An array of any back end (NumPy now)."""

Edge = tuple["Function | Tensor", tuple[int, ...], Any]
"""Where an input came from (a node, or a leaf), its shape and its dtype."""

next_number = itertools.count(1).__next__
"""The number of the next node."""

_Tensor: Any = None


def install_tensor(tensor_class: type[Tensor]) -> None:
    """Called by :mod:`minidl.tensor`, which imports this module (imports point upwards only)."""
    global _Tensor
    _Tensor = tensor_class


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
    call. ``docs/custom-operators.md`` explains how to write one.

    Class attributes:
        saved_inputs: positions of the inputs that ``backward`` reads through :meth:`saved`.
        saved_for: of a saved input that only one gradient reads, the position of that gradient's input: where it
            needs none, :meth:`saved` gives None, and the input may be changed or forgotten.
        saves_output: ``backward`` reads the output through :meth:`saved_output` (an instance may set its own).
        broadcasts: inputs were broadcast against each other; their gradients are summed back to their shapes
            by the walk.
    """

    saved_inputs: ClassVar[tuple[int, ...]] = ()
    saved_for: ClassVar[dict[int, int]] = {}
    saves_output: bool = False
    broadcasts: ClassVar[bool] = False

    needs_input_grad: tuple[bool, ...] = ()
    """One for each input: whether its gradient is asked for. ``backward`` may return None where it is not."""

    _edges: tuple[Edge | None, ...] = ()
    _seq: int = 0
    # (tensor, its version, its array) of each saved input; None before the call and after the graph was freed
    _saved: tuple[tuple[Tensor | None, int, Array], ...] | None = None
    _kept: tuple[Array, list[int], int] | None = None
    _hooks: tuple[Callable[[Tensor], Tensor | None], ...] = ()
    made_at: str | None = None
    """The line of the caller's code that called the operator, when recorded under ``detect_anomaly``."""

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
        try:
            arrays = [None if t is None else t.data for t in inputs]
            if mode.witness is None:
                data = self.forward(*arrays)
            else:
                data = mode.witness.compute(self.forward, inputs, arrays)
        except ValueError:
            if self.broadcasts:  # in the operator's words rather than in the array library's
                expect_broadcast(self.name.lower(), *[t.data.shape for t in inputs if t is not None])
            raise
        if mode.watch is not None:
            mode.watch.forward(self, inputs, data)
        if not mode.enabled:
            return _Tensor._wrap(data)
        needs = tuple([t is not None and t.requires_grad for t in inputs])
        if True not in needs:
            return _Tensor._wrap(data)
        if self._seq:
            raise RuntimeError(f"{self.name}: an operator's instance is used for one call; make a new one")
        self.needs_input_grad = needs
        self._edges = tuple(
            [
                ((t if t._node is None else t._node), t.data.shape, t.data.dtype)
                if t is not None and t.requires_grad
                else None
                for t in inputs
            ]
        )
        self._seq = next_number()
        saved = self.saved_inputs
        only = self.saved_for
        self._saved = (
            tuple([_keep(inputs[i] if i not in only or needs[only[i]] else None) for i in saved])
            if saved
            else ()
        )
        out: Tensor = _Tensor._wrap(data, self)
        if self.saves_output:
            self._kept = (out.data, out._version, 0)
        return out

    def saved(self) -> tuple[Any, ...]:
        """The inputs named by ``saved_inputs``, as they were: a tensor changed in place since is an error,
        not a wrong gradient."""
        kept = self._saved
        if kept is None:
            raise RuntimeError(
                f"{self.name}: the graph was already walked and its saved values freed; "
                "call backward(retain_graph=True) the first time to walk it twice"
            )
        for i, (t, version, data) in enumerate(kept):
            if t is not None and (t._version[0] != version or t.data is not data):
                raise RuntimeError(
                    f"{self.name}: input {self.saved_inputs[i]} (shape {tuple(t.shape)}) is needed for its "
                    f"gradient but was changed in place after the forward pass "
                    f"(version {t._version[0]}, expected {version})"
                )
        return tuple([t for t, _, _ in kept])

    def saved_output(self) -> Tensor:
        """The output of this node, connected to the graph, for an operator whose class sets
        ``saves_output``."""
        data = self._output
        assert self._kept is not None
        out: Tensor = _Tensor._wrap(data, self if mode.enabled else None)
        out._version = self._kept[1]
        return out

    @property
    def _output(self) -> Array:
        """The output's array as it was, for an operator whose class sets ``saves_output``."""
        if self._kept is None:
            self.saved()  # says why
            raise RuntimeError(f"{self.name}: the class does not set saves_output")
        data, version, expected = self._kept
        if version[0] != expected:
            raise RuntimeError(
                f"{self.name}: its output (shape {tuple(data.shape)}) is needed for its gradient but was "
                f"changed in place after the forward pass (version {version[0]}, expected {expected})"
            )
        return data

    def _free(self) -> None:
        """Give up what backward needed, and the graph behind this node."""
        self._saved = self._kept = None
        self._edges = ()


def expect_broadcast(op: str, *shapes: tuple[int, ...]) -> None:
    """Shapes of operands must fit together elementwise.

    Raises:
        ValueError: they do not.
    """
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        named = " and ".join(str(tuple(s)) for s in shapes)
        raise ValueError(f"{op}: shapes {named} do not broadcast") from None


def _keep(t: Tensor | None) -> tuple[Tensor | None, int, Array]:
    return (None, 0, None) if t is None else (t, t._version[0], t.data)
