"""The tensor: an array with a place in the graph.

Shapes are (N, C, H, W) for images; in memory activations are channels-last, which NumPy strides make
invisible. Arithmetic and methods are supplied by :mod:`minidl.ops`, which plugs itself in here.
"""

from __future__ import annotations

import builtins
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import autograd

if TYPE_CHECKING:
    from minidl.autograd import Function

__all__ = ["Parameter", "Tensor"]

Array = Any
Scalar = bool | int | builtins.float

_ops: Any = None
"""The module minidl.ops, once it has installed itself."""


def install_operators(ops: ModuleType) -> None:
    """Called by :mod:`minidl.ops`: its functions become the operators and methods of Tensor."""
    global _ops
    _ops = ops


def as_array(data: Any, dtype: Any) -> Array:
    """The array in ``data``, converted to ``dtype`` unless that is None; Python floats become float32."""
    if isinstance(data, Tensor):
        data = data.data
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
        return array if dtype is None else array.astype(dtype, copy=False)
    if hasattr(data, "__array_interface__") or hasattr(data, "__array__"):
        return np.asarray(data, dtype=dtype)
    array = np.asarray(data)  # Python numbers and lists: float32 for floats, as PyTorch's default
    if dtype is None and array.dtype == np.float64:
        dtype = np.float32
    if array.dtype == object:
        raise TypeError(f"Tensor: data must be numbers in a regular nested list, got {type(data).__name__}")
    return array if dtype is None else array.astype(dtype, copy=False)


class Tensor:
    """An n-dimensional array that operators can be differentiated through.

    Args:
        data: a NumPy array (shared, not copied; its dtype is kept), a Tensor, a number or a nested list
            (floats become float32).
        requires_grad: record operators on this tensor and give it a ``.grad`` in backward; floating dtypes
            only.
        dtype: convert to this NumPy dtype.
    """

    __slots__ = ("__weakref__", "_hooks", "_node", "_version", "data", "grad", "requires_grad")
    __array_ufunc__ = None  # ndarray + Tensor is Tensor.__radd__

    data: Array
    grad: Tensor | None
    requires_grad: bool
    _node: Function | None
    _version: list[int]
    _hooks: tuple[Callable[[Tensor], Tensor | None], ...]

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        self.data = as_array(data, dtype)
        self.grad = None
        self._node = None
        self._version = [0]
        self._hooks = ()
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_(True)

    @staticmethod
    def _wrap(data: Array, node: Function | None = None) -> Tensor:
        """A tensor around an operator's result, without checks."""
        t = Tensor.__new__(Tensor)
        t.data = data if isinstance(data, np.ndarray) else np.asarray(data)
        t.grad = None
        t._node = node
        t._version = [0]
        t._hooks = ()
        t.requires_grad = node is not None
        return t

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return int(self.data.ndim)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.data.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the elements."""
        return self.data.dtype

    @property
    def device(self) -> str:
        """Where the array lives: ``"cpu"``."""
        return "cpu"

    @property
    def xp(self) -> Any:
        """The array module of ``data`` (NumPy)."""
        return np

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operator made this tensor."""
        return self._node is None

    @property
    def T(self) -> Tensor:
        """The tensor with its dimensions reversed."""
        return self.permute(*range(self.ndim - 1, -1, -1))

    def numel(self) -> int:
        """Number of elements."""
        return self.size

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        text = np.array2string(
            np.asarray(self.data), separator=", ", precision=4, threshold=200, prefix="tensor("
        )
        parts = [text]
        if self.dtype not in (np.float32, np.int64, np.bool_):
            parts.append(f"dtype={self.dtype}")
        if self._node is not None:
            parts.append(f"grad_fn=<{self._node.name}>")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"the truth value of a tensor of shape {self.shape} is ambiguous; use .any() or .all() of "
                f"its array"
            )
        return bool(self.data.reshape(())[()])

    def __float__(self) -> builtins.float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if not np.issubdtype(self.dtype, np.integer):
            raise TypeError(f"only integer tensors can be an index, got {self.dtype}")
        return int(self.item())

    # --- out of the engine ----------------------------------------------------------------------------------

    def item(self) -> Any:
        """The only element as a Python number."""
        if self.size != 1:
            raise ValueError(f"item: a tensor of shape {self.shape} has {self.size} elements, expected 1")
        return self.data.reshape(()).item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return self.data.tolist()

    def numpy(self) -> np.ndarray:
        """The array itself, not a copy. A tensor that requires a gradient must be detached first."""
        if self.requires_grad:
            raise RuntimeError("numpy: this tensor requires a gradient; use .detach().numpy()")
        return self.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def detach(self) -> Tensor:
        """The same array without a graph."""
        t = Tensor._wrap(self.data)
        t._version = self._version
        return t

    def clone(self) -> Tensor:
        """A copy of the elements; differentiable."""
        return _ops.clone(self)

    # --- the graph ------------------------------------------------------------------------------------------

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Start or stop recording operators on this leaf; returns it."""
        if requires_grad and not np.issubdtype(self.dtype, np.floating):
            raise TypeError(f"requires_grad: only floating tensors can require a gradient, got {self.dtype}")
        if self._node is not None and not requires_grad:
            raise RuntimeError("requires_grad_: this tensor was made by a recorded operator; use .detach()")
        self.requires_grad = bool(requires_grad)
        return self

    def backward(
        self, gradient: Tensor | None = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add d(self)/d(leaf) to ``.grad`` of each leaf that requires a gradient.

        Args:
            gradient: gradient of the final value with respect to this tensor, same shape; may be left out for
                one element.
            retain_graph: keep the values saved for backward, to walk the graph again.
            create_graph: record the gradients, for gradients of gradients (implies ``retain_graph``).
        """
        autograd.backward(self, gradient, retain_graph, create_graph)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> None:
        """Call ``hook(gradient)`` when this tensor's gradient is known; a returned tensor replaces it."""
        if not self.requires_grad:
            raise RuntimeError("register_hook: this tensor does not require a gradient")
        holder = self._node if self._node is not None else self
        holder._hooks = (*holder._hooks, hook)

    def retain_grad(self) -> None:
        """Keep ``.grad`` of a tensor that is not a leaf."""
        if self._node is None:
            return
        ref = weakref.ref(self)

        def keep(g: Tensor) -> None:
            t = ref()
            if t is not None:
                t.grad = g.detach()

        self.register_hook(keep)

    # --- in place, outside the graph ------------------------------------------------------------------------

    def mark_changed(self) -> None:
        """Tell the graph that ``data`` was written to: a saved tensor changed since is then an error instead
        of a wrong gradient."""
        self._version[0] += 1

    def __setitem__(self, index: Any, value: Any) -> None:
        if autograd.is_grad_enabled() and (
            self.requires_grad or (isinstance(value, Tensor) and value.requires_grad)
        ):
            raise RuntimeError("assignment to elements is not recorded; do it under no_grad() or use where()")
        self.data[_plain_index(index)] = value.data if isinstance(value, Tensor) else value
        self.mark_changed()

    def copy_(self, source: Any) -> Tensor:
        """Overwrite the elements with those of ``source`` (same shape), outside the graph."""
        array = source.data if isinstance(source, Tensor) else np.asarray(source)
        if tuple(array.shape) != self.shape:
            raise ValueError(f"copy_: source has shape {tuple(array.shape)}, expected {self.shape}")
        self.data[...] = array
        self.mark_changed()
        return self

    # --- conversion -----------------------------------------------------------------------------------------

    def to(self, target: Any) -> Tensor:
        """To a dtype (differentiable), or to a device (``"cpu"`` is the one there is)."""
        if isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda", "gpu", "mps"):
            if target.split(":")[0] != "cpu":
                raise ValueError(
                    f"to: device {target!r} is not available; this version of minidl computes on 'cpu'"
                )
            return self
        return _ops.cast(self, np.dtype(target))

    def float(self) -> Tensor:
        """To float32."""
        return self.to(np.float32)

    def double(self) -> Tensor:
        """To float64."""
        return self.to(np.float64)

    # --- arithmetic -----------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return _ops.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _ops.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return _ops.sub(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return _ops.sub(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return _ops.mul(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return _ops.mul(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return _ops.div(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _ops.div(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return _ops.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return _ops.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return _ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return _ops.matmul(other, self)

    def __neg__(self) -> Tensor:
        return _ops.neg(self)

    def __abs__(self) -> Tensor:
        return _ops.abs(self)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return _ops.compare(np.equal, self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return _ops.compare(np.not_equal, self, other)

    def __lt__(self, other: Any) -> Tensor:
        return _ops.compare(np.less, self, other)

    def __le__(self, other: Any) -> Tensor:
        return _ops.compare(np.less_equal, self, other)

    def __gt__(self, other: Any) -> Tensor:
        return _ops.compare(np.greater, self, other)

    def __ge__(self, other: Any) -> Tensor:
        return _ops.compare(np.greater_equal, self, other)

    # --- functions as methods -------------------------------------------------------------------------------

    def exp(self) -> Tensor:
        """Elementwise exponential."""
        return _ops.exp(self)

    def log(self) -> Tensor:
        """Elementwise natural logarithm."""
        return _ops.log(self)

    def sqrt(self) -> Tensor:
        """Elementwise square root."""
        return _ops.sqrt(self)

    def tanh(self) -> Tensor:
        """Elementwise hyperbolic tangent."""
        return _ops.tanh(self)

    def sigmoid(self) -> Tensor:
        """Elementwise logistic function."""
        return _ops.sigmoid(self)

    def relu(self) -> Tensor:
        """Elementwise max(x, 0)."""
        return _ops.relu(self)

    def abs(self) -> Tensor:
        """Elementwise absolute value."""
        return _ops.abs(self)

    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """Sum over dimensions (all when ``None``)."""
        return _ops.sum(self, dim, keepdim)

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """Mean over dimensions (all when ``None``)."""
        return _ops.mean(self, dim, keepdim)

    def var(
        self, dim: int | Sequence[int] | None = None, correction: int = 1, keepdim: bool = False
    ) -> Tensor:
        """Variance over dimensions, divided by n - ``correction``."""
        return _ops.var(self, dim, correction, keepdim)

    def max(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """Maximum over dimensions; ties share the gradient evenly. (Values only; see :meth:`argmax`.)"""
        return _ops.max(self, dim, keepdim)

    def min(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """Minimum over dimensions; ties share the gradient evenly."""
        return _ops.neg(_ops.max(_ops.neg(self), dim, keepdim))

    def argmax(self, dim: int | None = None) -> Tensor:
        """Index of the first maximum, int64; not differentiable."""
        return Tensor._wrap(self.data.argmax(dim))

    def softmax(self, dim: int = -1) -> Tensor:
        """exp(x) over its sum along ``dim``."""
        return _ops.softmax(self, dim)

    def log_softmax(self, dim: int = -1) -> Tensor:
        """Logarithm of the softmax along ``dim``."""
        return _ops.log_softmax(self, dim)

    def sum_to(self, shape: tuple[int, ...]) -> Tensor:
        """Sum over the dimensions that broadcasting from ``shape`` would have added or stretched."""
        return _ops.sum_to(self, shape)

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in (N, C, H, W) order with another shape; one size may be -1."""
        return _ops.reshape(self, sizes(shape))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Merge the dimensions from ``start_dim`` to ``end_dim``."""
        return _ops.flatten(self, start_dim, end_dim)

    def permute(self, *dims: Any) -> Tensor:
        """Reorder the dimensions."""
        return _ops.permute(self, sizes(dims))

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """Swap two dimensions."""
        return _ops.transpose(self, dim0, dim1)

    def expand(self, *shape: Any) -> Tensor:
        """Repeat dimensions of size 1 to ``shape`` without copying; -1 keeps a size."""
        return _ops.expand(self, sizes(shape))

    def squeeze(self, dim: int | None = None) -> Tensor:
        """Drop dimensions of size 1 (all, or ``dim``)."""
        return _ops.squeeze(self, dim)

    def unsqueeze(self, dim: int) -> Tensor:
        """Insert a dimension of size 1."""
        return _ops.unsqueeze(self, dim)

    def __getitem__(self, index: Any) -> Tensor:
        return _ops.getitem(self, _plain_index(index))


class Parameter(Tensor):
    """A tensor that a module trains: it requires a gradient unless frozen."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, dtype: Any = None) -> None:
        super().__init__(data, requires_grad, dtype)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


autograd.install_tensor(Tensor)


def sizes(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    if len(args) == 1 and not isinstance(args[0], (int, np.integer)):
        args = tuple(args[0])
    return tuple(int(a) for a in args)


def _plain_index(index: Any) -> Any:
    """Tensors inside an index become arrays."""
    if isinstance(index, Tensor):
        return index.data
    if isinstance(index, tuple):
        return tuple(_plain_index(i) for i in index)
    return index
