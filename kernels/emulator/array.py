"""Arrays of the emulated device: NumPy arrays in disguise that behave as CuPy's do.

They refuse to mix with NumPy arrays, never turn into one by themselves, give 0-d arrays where NumPy gives scalars, and
know only what CuPy knows. So an operator that forgets where its data lives fails here, on any machine, as it would on a
graphics card. :data:`xp` is their array module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.kernels.emulator.device import EmulatedDevice, fill_poison
from minidl.kernels.emulator.names import FUNCTIONS, METHODS

FROM_HOST = ("array", "asarray", "ascontiguousarray", "asanyarray", "asfortranarray")
"""Functions that take NumPy arrays and copy them to the device."""
PLAIN = (
    "result_type",
    "can_cast",
    "broadcast_shapes",
    "min_scalar_type",
    "isscalar",
    "shape",
    "ndim",
    "size",
)
"""Functions whose results are Python's or dtypes."""


def _refuse(array: np.ndarray) -> None:
    raise TypeError(
        f"a NumPy array of shape {array.shape} meets an array of the emulated device; "
        f"move one of them: tensor.to('emulated'), tensor.to('cpu')"
    )


def unwrap(value: Any) -> Any:
    """The NumPy arrays in ``value`` (an array, or a list, tuple or dict that holds some).

    Raises:
        TypeError: it holds an array of main memory.
    """
    if isinstance(value, EmulatedArray):
        return value.host
    if isinstance(value, np.ndarray):
        _refuse(value)
    if isinstance(value, list | tuple):
        return type(value)(unwrap(v) for v in value)
    if isinstance(value, dict):
        return {k: unwrap(v) for k, v in value.items()}
    return value


def wrap(value: Any) -> Any:
    """The reverse: NumPy arrays and scalars become arrays of the device."""
    if isinstance(value, np.ndarray):
        return EmulatedArray(value)
    if isinstance(value, np.generic):
        return EmulatedArray(np.asarray(value))
    if isinstance(value, list | tuple):
        items = [wrap(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class EmulatedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of the emulated device; ``host`` is the NumPy array that holds its elements."""

    __slots__ = ("__weakref__", "host")

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    # --- what it is -----------------------------------------------------------------------------------------

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    T = property(lambda self: EmulatedArray(self.host.T))
    base = property(lambda self: None if self.host.base is None else wrap(self.host.base))
    device = "emulated"

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[EmulatedArray]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __float__(self) -> float:
        return float(self.host)

    def __index__(self) -> int:
        return self.host.__index__()

    def __reduce__(self) -> Any:
        return EmulatedArray, (self.host,)

    def __deepcopy__(self, memo: dict[int, Any]) -> EmulatedArray:
        return EmulatedArray(self.host.copy(order="K"))

    # --- to and from main memory ----------------------------------------------------------------------------

    def get(self) -> np.ndarray:
        """A copy in main memory."""
        return self.host.copy(order="K")

    def set(self, source: np.ndarray) -> None:
        """Overwrite the elements with those of a NumPy array of the same shape and dtype."""
        if source.shape != self.shape or source.dtype != self.dtype:
            raise ValueError(
                f"set: expects {self.dtype} of shape {self.shape}, got {source.dtype} of {source.shape}"
            )
        self.host[...] = source

    def item(self, *index: int) -> Any:
        """One element as a Python number."""
        return self.host.item(*index)

    def tolist(self) -> Any:
        """The elements as nested lists."""
        return self.host.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "an array of the emulated device does not become a NumPy array by itself; use tensor.to('cpu')"
        )

    # --- elements -------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> EmulatedArray:
        return wrap(self.host[unwrap(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[unwrap(index)] = unwrap(value)

    def view(self, dtype: Any) -> EmulatedArray:
        """The same memory as another dtype."""
        return EmulatedArray(self.host.view(dtype))

    def fill(self, value: Any) -> None:
        """Set every element."""
        self.host.fill(unwrap(value))

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(f"CuPy's arrays have no attribute {name!r}")
        method = getattr(self.host, name)
        return lambda *args, **kwargs: wrap(method(*unwrap(args), **unwrap(kwargs)))

    # --- NumPy's functions on them --------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc.__name__ not in FUNCTIONS:
            raise TypeError(f"CuPy has no {ufunc.__name__}")
        if method != "at" and any(not isinstance(x, OPERANDS) for x in inputs):
            return NotImplemented
        result = getattr(ufunc, method)(*unwrap(inputs), **unwrap(kwargs))
        return kwargs["out"][0] if kwargs.get("out") is not None else wrap(result)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ not in FUNCTIONS:
            raise TypeError(f"CuPy has no {function.__name__}")
        return _call(function, args, kwargs)


OPERANDS = (EmulatedArray, np.ndarray, np.generic, int, float, bool)
"""What operators take; a NumPy array among them is refused with a sentence."""


def _call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    result = function(*unwrap(args), **unwrap(kwargs))
    return result if function.__name__ in PLAIN else wrap(result)


class _Ufunc:
    """A universal function of the array module."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self.ufunc = ufunc
        self.__name__ = ufunc.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        result = self.ufunc(*unwrap(args), **unwrap(kwargs))
        return out if isinstance(out, EmulatedArray) else wrap(result)

    def at(self, array: EmulatedArray, index: Any, *values: Any) -> None:
        """As ``numpy.ufunc.at``."""
        self.ufunc.at(unwrap(array), unwrap(index), *unwrap(values))

    def reduce(self, array: EmulatedArray, **kwargs: Any) -> Any:
        """As ``numpy.ufunc.reduce``."""
        return wrap(self.ufunc.reduce(unwrap(array), **unwrap(kwargs)))

    def reduceat(self, array: EmulatedArray, index: Any, axis: int = 0) -> Any:
        """As ``numpy.ufunc.reduceat``."""
        return wrap(self.ufunc.reduceat(unwrap(array), unwrap(index), axis))

    def accumulate(self, array: EmulatedArray, **kwargs: Any) -> Any:
        """As ``numpy.ufunc.accumulate``."""
        return wrap(self.ufunc.accumulate(unwrap(array), **unwrap(kwargs)))


class EmulatedNumPy:
    """The array module of the emulated device: NumPy's functions as far as CuPy has them."""

    ndarray = EmulatedArray
    __name__ = "minidl.kernels.emulator.array.xp"

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name, None)
        if isinstance(found, type | float | type(None)) or name in ("e", "pi", "finfo", "iinfo", "errstate"):
            if found is None and name != "newaxis":
                raise AttributeError(f"neither NumPy nor CuPy has {name!r}")
            return found
        if name not in FUNCTIONS:
            raise AttributeError(f"CuPy has no {name!r}, so code for every device cannot use it")
        made: Any
        if isinstance(found, np.ufunc):
            made = _Ufunc(found)
        elif name in FROM_HOST:
            made = _from_host(found)
        else:
            made = _function(found)
        setattr(self, name, made)
        return made

    def empty(self, shape: Any, dtype: Any = np.float64, order: str = "C") -> EmulatedArray:
        """An array whose memory is marked as never written; see :data:`minidl.kernels.emulator.device.POISON`."""
        host = np.empty(shape, dtype)
        if host.dtype != object:
            fill_poison(host)
        return EmulatedArray(host)

    @staticmethod
    def asnumpy(array: Any) -> np.ndarray:
        """A copy in main memory."""
        return array.get() if isinstance(array, EmulatedArray) else np.asarray(array)


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: _call(function, args, kwargs)


def _from_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """``asarray`` and its kin: an array of main memory is copied, one of the device is not."""

    def make(data: Any, *args: Any, **kwargs: Any) -> EmulatedArray:
        if isinstance(data, EmulatedArray):
            return wrap(function(data.host, *args, **kwargs))
        if isinstance(data, list | tuple):
            return wrap(
                function([unwrap(d) if isinstance(d, EmulatedArray) else d for d in data], *args, **kwargs)
            )
        return wrap(np.array(function(data, *args, **kwargs)))

    return make


xp = EmulatedNumPy()
"""The array module of the emulated device."""


class EngineDevice(EmulatedDevice):
    """The emulated device with :class:`EmulatedArray` as its arrays: what ``tensor.to("emulated")`` computes on."""

    def __init__(self, compute_capability: int = 80, *, check: bool = True, order: int = 0) -> None:
        super().__init__(compute_capability, check=check, order=order)
        self.xp = xp

    def _host(self, array: Any) -> np.ndarray:
        if not isinstance(array, EmulatedArray):
            raise TypeError(f"expects an array of the emulated device, got {type(array).__qualname__}")
        return array.host

    def _is_array(self, arg: Any) -> bool:
        if isinstance(arg, np.ndarray) and arg.ndim:
            _refuse(arg)
        return isinstance(arg, EmulatedArray)
