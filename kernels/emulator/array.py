"""Arrays of the emulated device: NumPy arrays in disguise that behave as CuPy's do.

They refuse to mix with NumPy arrays, never turn into one by themselves, give 0-d arrays where NumPy gives scalars, and
know only what CuPy knows. So an operator that forgets where its data lives fails here, on any machine, as it would on a
graphics card. :data:`xp` is their array module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.kernels import capturing
from minidl.kernels.emulator import poison
from minidl.kernels.emulator.device import EmulatedDevice
from minidl.kernels.emulator.names import FUNCTIONS, METHODS
from minidl.kernels.emulator.recording import later, result_of

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
IN_PLACE = ("copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask")
"""Functions that write to their first argument and return nothing."""
METHODS_IN_PLACE = ("partition", "put", "sort")
"""Methods that write to their array and return nothing."""


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
    base = property(lambda self: wrap(self.host.base) if isinstance(self.host.base, np.ndarray) else None)
    device = "emulated"

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[EmulatedArray]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self._read("repr()"))

    def __bool__(self) -> bool:
        return bool(self._read("bool()"))

    def __int__(self) -> int:
        return int(self._read("int()"))

    def __float__(self) -> float:
        return float(self._read("float()"))

    def __index__(self) -> int:
        return self._read("an index").__index__()

    def _read(self, what: str) -> np.ndarray:
        """The elements, for the host."""
        capturing.refuse(f"{what} reads a value of the device")
        return self.host

    def __reduce__(self) -> Any:
        return EmulatedArray, (self._read("a pickle"),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.copy(order="K")

    # --- to and from main memory ----------------------------------------------------------------------------

    def get(self) -> np.ndarray:
        """A copy in main memory."""
        return self._read("a copy to main memory").copy(order="K")

    def set(self, source: np.ndarray) -> None:
        """Overwrite the elements with those of a NumPy array of the same shape and dtype."""
        if source.shape != self.shape or source.dtype != self.dtype:
            raise ValueError(
                f"set: expects {self.dtype} of shape {self.shape}, got {source.dtype} of {source.shape}"
            )
        capturing.refuse("a copy from main memory", "pass the array as an argument of the step")
        self.host[...] = source

    def item(self, *index: int) -> Any:
        """One element as a Python number."""
        return self._read("item()").item(*index)

    def tolist(self) -> Any:
        """The elements as nested lists."""
        return self._read("tolist()").tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "an array of the emulated device does not become a NumPy array by itself; use tensor.to('cpu')"
        )

    # --- elements -------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> EmulatedArray:
        host, where = self.host, unwrap(index)
        where = where if isinstance(where, tuple) else (where,)
        if any(_is_mask(i) for i in where):
            capturing.refuse(
                "an index of bools reads values of the device", "its result's shape depends on them"
            )
        if not any(i is ... for i in where):
            where = (*where, ...)  # one element is a view too, and not a copy as NumPy's scalars
        return wrap(result_of("getitem", lambda: host[where], host))

    def __setitem__(self, index: Any, value: Any) -> None:
        _change(self.host.__setitem__, (index, value), {})

    def view(self, dtype: Any) -> EmulatedArray:
        """The same memory as another dtype."""
        return EmulatedArray(self.host.view(dtype))

    def fill(self, value: Any) -> None:
        """Set every element."""
        self[...] = value

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(f"CuPy's arrays have no attribute {name!r}")
        method = getattr(self.host, name)
        if name in METHODS_IN_PLACE:
            return lambda *args, **kwargs: _change(method, args, kwargs)
        return lambda *args, **kwargs: _perform(name, method, args, kwargs, reads=self.host)

    # --- NumPy's functions on them --------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc.__name__ not in FUNCTIONS:
            raise TypeError(f"CuPy has no {ufunc.__name__}")
        if method == "at":
            raise TypeError(
                f"{ufunc.__name__}.at adds in any order on a graphics card; use the kernel scatter_add"
            )
        if any(not isinstance(x, OPERANDS) for x in inputs):
            return NotImplemented
        return _perform(ufunc.__name__, getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ not in FUNCTIONS:
            raise TypeError(f"CuPy has no {function.__name__}")
        return _call(function, args, kwargs)


OPERANDS = (EmulatedArray, np.ndarray, np.generic, int, float, bool)
"""What operators take; a NumPy array among them is refused with a sentence."""


def _is_mask(index: Any) -> bool:
    return isinstance(index, np.ndarray) and index.dtype == bool


def _change(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Call what writes to an array and returns nothing, on the arrays inside of arrays of the device, or record it."""
    hosts, options = unwrap(args), unwrap(kwargs)
    later(lambda: function(*hosts, **options))


def _perform(name: str, function: Callable[..., Any], args: Any, kwargs: Any, *, reads: Any = None) -> Any:
    """The result of a function of NumPy on the arrays inside of arrays of the device, or of recording the call.

    ``reads`` is an array that it reads beside its arguments. With ``out`` among them the result is that.
    """
    out = kwargs.get("out")
    if out is not None:
        several = out if isinstance(out, tuple) else (out,)
        if any(o is None for o in several):
            raise TypeError(f"{name}: out expects an array for each result")
        _change(function, args, kwargs)
        return out if len(several) > 1 else several[0]
    hosts, options = unwrap(args), unwrap(kwargs)
    return wrap(result_of(name, lambda: function(*hosts, **options), [reads, hosts, options]))


def _call(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    name = function.__name__
    if name in PLAIN:
        return function(*unwrap(args), **unwrap(kwargs))
    if name in IN_PLACE:
        return _change(function, args, kwargs)
    if name == "empty_like":
        made = wrap(function(*unwrap(args), **unwrap(kwargs)))
        poison.fill(made.host)
        return made
    # where with a condition alone is nonzero
    return _perform("nonzero" if name == "where" and len(args) == 1 else name, function, args, kwargs)


class _Ufunc:
    """A universal function of the array module."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self.ufunc = ufunc
        self.__name__ = ufunc.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) > self.ufunc.nin:
            args, kwargs = args[: self.ufunc.nin], {**kwargs, "out": args[self.ufunc.nin :]}
        return _perform(self.__name__, self.ufunc, args, kwargs)

    def reduce(self, array: EmulatedArray, **kwargs: Any) -> Any:
        """As ``numpy.ufunc.reduce``."""
        return _perform(self.__name__, self.ufunc.reduce, (array,), kwargs)

    def reduceat(self, array: EmulatedArray, index: Any, axis: int = 0) -> Any:
        """As ``numpy.add.reduceat``; CuPy has it for no other function."""
        if self.ufunc is not np.add:
            raise TypeError(f"CuPy has no {self.__name__}.reduceat")
        return _perform(self.__name__, self.ufunc.reduceat, (array, index, axis), {})

    def accumulate(self, array: EmulatedArray, **kwargs: Any) -> Any:
        """As ``numpy.ufunc.accumulate``."""
        return _perform(self.__name__, self.ufunc.accumulate, (array,), kwargs)


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
        """An array whose memory is marked as never written; see :mod:`minidl.kernels.emulator.poison`."""
        return EmulatedArray(poison.empty(shape, dtype, order))

    @staticmethod
    def asnumpy(array: Any) -> np.ndarray:
        """A copy in main memory."""
        return array.get() if isinstance(array, EmulatedArray) else np.asarray(array)


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: _call(function, args, kwargs)


def _from_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """``asarray`` and its kin: an array of main memory is copied, one of the device is not."""

    def make(data: Any, *args: Any, **kwargs: Any) -> EmulatedArray:
        if isinstance(data, EmulatedArray) or (
            isinstance(data, list | tuple) and any(isinstance(d, EmulatedArray) for d in data)
        ):
            return _perform(function.__name__, function, (data, *args), kwargs)
        capturing.refuse("a copy from main memory", "pass the array as an argument of the step")
        return wrap(np.array(function(data, *args, **kwargs)))

    return make


xp = EmulatedNumPy()
"""The array module of the emulated device."""


class EngineDevice(EmulatedDevice):
    """The emulated device with :class:`EmulatedArray` as its arrays: what ``tensor.to("emulated")`` computes on."""

    def __init__(self, compute_capability: int = 80, *, check: bool = True, order: int = 0) -> None:
        super().__init__(compute_capability, check=check, order=order)
        self.xp = xp

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """As :meth:`EmulatedDevice.empty`."""
        return xp.empty(shape, dtype)

    def _host(self, array: Any) -> np.ndarray:
        if not isinstance(array, EmulatedArray):
            raise TypeError(f"expects an array of the emulated device, got {type(array).__qualname__}")
        return array.host

    def _is_array(self, arg: Any) -> bool:
        if isinstance(arg, np.ndarray) and arg.ndim:
            _refuse(arg)
        return isinstance(arg, EmulatedArray)
