"""The tensor: an array with a place in the graph.

Shapes are (N, C, H, W) for images; in memory activations are channels-last, which NumPy strides make
invisible.
Arithmetic and methods are supplied by :mod:`minidl.ops`, which plugs itself in here (imports point upwards
only).
"""

from __future__ import annotations

import builtins
import copy
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import autograd, conversions, dlpack, operators
from minidl.autograd import hooks
from minidl.autograd.hooks import GradientHook
from minidl.conversions import Conversions
from minidl.dtypes import as_dtype, default_dtype, is_floating, is_supported
from minidl.kernels import capturing, devices
from minidl.methods import Methods
from minidl.operators import Operators

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
    for module in (operators, conversions):
        module.install(ops)
    for name in Methods.__annotations__:
        setattr(Tensor, name, getattr(ops, name))


def as_array(data: Any, dtype: Any) -> Array:
    """The array in ``data``, converted to ``dtype`` unless that is None; Python floats become float32.

    Raises:
        TypeError: not numbers, not a regular nested list, or a dtype that tensors do not hold.
    """
    dtype = None if dtype is None else as_dtype(dtype)
    if isinstance(data, Tensor):
        data = data.data
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
    elif devices.is_array(data):
        array = data
    elif hasattr(data, "__array_interface__") or hasattr(data, "__array__"):
        array = np.asarray(data, dtype=dtype)
    else:
        if isinstance(data, (list, tuple)) and any(isinstance(item, Tensor) for item in data):
            data = [item.tolist() if isinstance(item, Tensor) else item for item in data]
        try:
            array = np.asarray(data)  # Python numbers and lists
        except ValueError:
            raise TypeError(
                "Tensor: data must be a regular nested list, got rows of several lengths"
            ) from None
        if dtype is None and array.dtype == np.float64:
            dtype = default_dtype
    if not is_supported(array.dtype):
        raise TypeError(
            f"Tensor: data must be real numbers in a regular nested list, got {type(data).__name__} "
            f"of dtype {array.dtype}"
        )
    return array if dtype is None else array.astype(dtype, copy=False)


class Size(int):
    """A number of elements that can be called for the shape: see :attr:`Tensor.size`."""

    shape: tuple[int, ...]

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]


class Tensor(Operators, Conversions, Methods):
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
    _version: list[
        int
    ]  # how often it was written to; whether it has views. Shared by all views of one memory
    _hooks: tuple[Callable[[Tensor], Tensor | None], ...]

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        self.data = as_array(data, dtype)
        self.grad = None
        self._node = None
        self._version = [0, 0]
        self._hooks = ()
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_(True)

    @staticmethod
    def _wrap(data: Array, node: Function | None = None) -> Tensor:
        """A tensor around an operator's result, without checks."""
        t = Tensor.__new__(Tensor)
        t.data = np.asarray(data) if isinstance(data, np.generic) else data
        t.grad = None
        t._node = node
        t._version = [0, 0]
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
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the elements."""
        return self.data.dtype

    @property
    def device(self) -> str:
        """Where the array lives: ``"cpu"``, ``"cuda:0"``, ``"emulated"``."""
        return devices.of(self.data).name

    @property
    def xp(self) -> Any:
        """The array module of ``data``: NumPy, CuPy, or the emulated device's."""
        return devices.module_of(self.data)

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operator made this tensor."""
        return self._node is None

    @property
    def T(self) -> Tensor:
        """The tensor with its dimensions reversed."""
        return self.permute(*range(self.ndim - 1, -1, -1))

    @property
    def mT(self) -> Tensor:
        """The tensor with its last two dimensions swapped: each matrix transposed."""
        return self.transpose(-2, -1)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.data.dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return int(self.data.nbytes)

    @property
    def grad_fn(self) -> Function | None:
        """The recorded operator that made this tensor; None for a leaf."""
        return self._node

    @property
    def size(self) -> Size:
        """The number of elements, as NumPy's ``size``; called, as PyTorch's: ``size()`` is the shape, ``size(dim)`` the
        size of one dimension."""
        size = Size(self.data.size)
        size.shape = self.shape
        return size

    def dim(self) -> int:
        """Number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """Number of elements."""
        return int(self.data.size)

    def stride(self) -> tuple[int, ...]:
        """Elements between neighbours along each dimension."""
        return tuple([n // self.data.itemsize for n in self.data.strides])

    def is_contiguous(self) -> bool:
        """Whether the elements lie in memory in the order of their indices."""
        return bool(self.data.flags.c_contiguous)

    def is_floating_point(self) -> bool:
        """Whether the dtype is a float (bfloat16 included)."""
        return is_floating(self.data.dtype)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        capturing.reads(self.data, "repr()")
        array = devices.host(self.data)
        if array.dtype.kind == "V":  # bfloat16, which NumPy would print without a point
            array = array.astype(np.float32)
        parts = [np.array2string(array, separator=", ", precision=4, threshold=1000, prefix="tensor(")]
        if array.size == 0 and array.ndim != 1:
            parts.append(f"size={self.shape}")
        if self.dtype not in (np.float32, np.int64, np.bool_):
            parts.append(f"dtype={self.dtype}")
        if self.device != "cpu":
            parts.append(f"device='{self.device}'")
        if self._node is not None:
            parts.append(f"grad_fn=<{self._node.name}>")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else format(repr(self), spec)

    def __contains__(self, value: Any) -> bool:
        found = self == value
        capturing.reads(found.data, "a search for a value")
        return bool(found.data.any())

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError(
                f"the truth value of a tensor of shape {self.shape} is ambiguous; use .any() or .all()"
            )
        capturing.reads(self.data, "bool()")
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
        if self.data.size != 1:
            raise ValueError(f"item: a tensor of shape {self.shape} has {self.numel()} elements, expected 1")
        capturing.reads(self.data, "item()")
        return self.data.reshape(()).item()

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        capturing.reads(self.data, "tolist()")
        return self.data.tolist()

    def numpy(self) -> np.ndarray:
        """The array itself, not a copy. A tensor that requires a gradient must be detached first."""
        if self.requires_grad:
            raise RuntimeError("numpy: this tensor requires a gradient; use .detach().numpy()")
        if not isinstance(self.data, np.ndarray):
            raise TypeError(f"numpy: this tensor is on {self.device}; use .cpu().numpy()")
        capturing.reads(self.data, "numpy()")
        return self.data

    def __array__(self, dtype: Any = None, copy: builtins.bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"__array__: {array.dtype} to {np.dtype(dtype)} needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        """A DLPack capsule of the same memory, for ``from_dlpack`` of NumPy, PyTorch and others."""
        if self.requires_grad:
            raise BufferError("__dlpack__: this tensor requires a gradient; use .detach()")
        capturing.reads(self.data, "__dlpack__()")
        return dlpack.export(self.data, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(1, 0): main memory, in DLPack's numbering."""
        return self.data.__dlpack_device__()

    def detach(self) -> Tensor:
        """The same array without a graph."""
        t = Tensor._wrap(self.data)
        t._version = self._version
        return t

    def detach_(self) -> Tensor:
        """Cut this tensor itself off from its graph; returns it."""
        self._node, self.requires_grad = None, False
        return self

    def __reduce__(self) -> Any:
        return _restore, (type(self), self._own_array("pickle"), self.requires_grad, self.grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        array = self._own_array("deepcopy").copy(order="K")
        grad = copy.deepcopy(self.grad, memo)
        memo[id(self)] = t = _restore(type(self), array, self.requires_grad, grad)
        return t

    def _own_array(self, action: str) -> Array:
        if self._node is not None:
            raise RuntimeError(f"{action}: this tensor was made by a recorded operator; use .detach() first")
        return self.data

    def clone(self) -> Tensor:
        """A copy of the elements; differentiable."""
        return _ops.clone(self)

    # --- the graph ------------------------------------------------------------------------------------------

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Start or stop recording operators on this leaf; returns it."""
        if requires_grad and not is_floating(self.dtype):
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

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> GradientHook:
        """Call ``hook(gradient)`` when this tensor's gradient is known; a returned tensor replaces it.

        The result's ``remove()`` takes the hook away again.
        """
        if not self.requires_grad:
            raise RuntimeError("register_hook: this tensor does not require a gradient")
        return hooks.register(self, hook)

    def retain_grad(self) -> None:
        """Keep ``.grad`` of a tensor that is not a leaf: what its hooks made of the gradient."""
        hooks.retain(self)

    def mark_changed(self) -> None:
        """Tell the graph that ``data`` was written to: a saved tensor changed since is then an error instead
        of a wrong gradient. In a captured step every replay writes to it again."""
        self._version[0] += 1
        capture = capturing.active()
        if capture is not None:
            capture.changes(self._version)

    def __setitem__(self, index: Any, value: Any) -> None:
        _ops.setitem(self, _plain_index(index, self.data), value)

    # --- methods whose arguments differ from those of the functions; all others: minidl.methods ---------------

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in (N, C, H, W) order with another shape; one size may be -1."""
        return _ops.reshape(self, sizes(shape))

    view = reshape

    def permute(self, *dims: Any) -> Tensor:
        """Reorder the dimensions."""
        return _ops.permute(self, sizes(dims))

    def expand(self, *shape: Any) -> Tensor:
        """Repeat dimensions of size 1 to ``shape`` without copying; -1 keeps a size."""
        return _ops.expand(self, sizes(shape))

    def expand_as(self, other: Tensor) -> Tensor:
        """Expanded to the shape of another tensor."""
        return _ops.expand(self, other.shape)

    def view_as(self, other: Tensor) -> Tensor:
        """Reshaped to the shape of another tensor."""
        return _ops.reshape(self, other.shape)

    def __getitem__(self, index: Any) -> Tensor:
        return _ops.getitem(self, _plain_index(index, self.data))


class Parameter(Tensor):
    """A tensor that a module trains: it requires a gradient unless frozen."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, dtype: Any = None) -> None:
        super().__init__(data, requires_grad, dtype)

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


autograd.install_tensor(Tensor)


def _restore(kind: type[Tensor], array: Array, requires_grad: bool, grad: Tensor | None) -> Tensor:
    """A tensor from what ``pickle`` or ``deepcopy`` kept of it."""
    t = kind(array, requires_grad=requires_grad)
    t.grad = grad
    return t


def sizes(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    if len(args) == 1 and not isinstance(args[0], (int, np.integer)):
        args = tuple(args[0])
    return tuple(int(a) for a in args)


def _plain_index(index: Any, array: Array) -> Any:
    """Tensors inside an index become arrays on the device of ``array``."""
    if isinstance(index, Tensor):
        index = index.data
    if isinstance(index, tuple):
        return tuple(_plain_index(i, array) for i in index)
    if isinstance(index, np.ndarray) and not isinstance(array, np.ndarray):
        return devices.like(index, array)
    return index
