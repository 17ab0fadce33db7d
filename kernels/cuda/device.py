"""What a launcher needs of a device: memory, a compiler, and a way to start a kernel.

Two classes implement :class:`Device`: :class:`minidl.kernels.cuda.cupy_device.CuPyDevice`, a graphics card, and
:class:`minidl.kernels.emulator.EmulatedDevice`, which runs the same PTX on the processor and checks every
memory access. A launcher is written against this protocol and never asks which one it has.

    module = device.compile("elementwise.cu", {"T": "float"})
    device.launch(module["add"], blocks(n, 256), 256, (a, b, c, n))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

Array = Any
Dim: TypeAlias = int | tuple[int, ...]
INT32_MAX = 2**31 - 1


class CUDAError(RuntimeError):
    """A kernel that does not compile, a launch that cannot be, or a fault that a kernel committed."""


class OutOfMemory(CUDAError, MemoryError):
    """There is no room on the device for an array."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, as PTX declares it: ``kind`` is "int", "float" or "bytes" (a struct), ``size`` in
    bytes. A pointer is an int of 8 bytes."""

    kind: str
    size: int


@dataclass(frozen=True)
class Function:
    """A compiled kernel: its name in the source (``"relu"``, ``"conv<64, 3>"``), its file, its parameters, and what
    the device made of it."""

    name: str
    source: str
    parameters: tuple[Parameter, ...]
    handle: Any


@dataclass(frozen=True)
class Module:
    """The kernels of one source file under one set of macros: ``module["name"]``."""

    source: str
    functions: Mapping[str, Function]

    def __getitem__(self, name: str) -> Function:
        if name not in self.functions:
            raise KeyError(
                f"{self.source} has no kernel {name!r}; it has {', '.join(sorted(self.functions))}"
            )
        return self.functions[name]


class Device(Protocol):
    """A place where kernels run."""

    name: str
    """As users write it: "cuda:0", "emulated"."""
    xp: Any
    """The array module whose arrays live here."""
    compute_capability: int
    """Ten times the major version plus the minor one: 80 for sm_80."""
    multiprocessors: int
    model: str
    """What the hardware is called."""
    has_clock: bool
    """Whether :meth:`elapsed` measures something."""
    shared_limit: int
    """Bytes of shared memory that one block may have, static and dynamic together."""

    @property
    def architecture(self) -> str:
        """What kernels are compiled for, as NVRTC names it: sm_90a, compute_80."""

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised C-contiguous array."""

    def address(self, array: Array) -> int:
        """The address of an array's first element, for a table of pointers that a kernel reads."""

    def compile(
        self,
        source: str,
        defines: Mapping[str, int | str] | None = None,
        instances: Sequence[str] = (),
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Module:
        """The kernels of a file in ``kernels/cuda/source``, compiled once and kept.

        Args:
            source: the file's name.
            defines: macros, ``{"TILE": 64, "T": "float"}``.
            instances: template instances to make, as the source writes them: ``["conv<64, 32>"]``. Kernels that are
                ``extern "C"`` are there without being named.
            code, headers: texts to compile under that name instead, and what they include.

        Raises:
            CUDAError: it does not compile; the message shows the compiler's words and the line.
        """

    def launch(
        self, function: Function, grid: Dim, block: Dim, args: Sequence[Any], shared_bytes: int = 0
    ) -> None:
        """Start a kernel: ``grid`` blocks of ``block`` threads, with ``shared_bytes`` of dynamic shared memory.

        ``args`` are device arrays (C-contiguous), None for a null pointer, numbers, or 0-d structured NumPy arrays for
        structs. A number is converted to the type that the kernel declares; one that does not fit is an error.

        Raises:
            TypeError, ValueError: the arguments are not the kernel's.
            CUDAError: the kernel failed.
        """

    def synchronize(self) -> None:
        """Wait until all kernels have ended."""

    def elapsed(self, run: Callable[[], None]) -> float:
        """The seconds that the kernels take which ``run`` launches: the best of a few runs, after one to warm up."""


def blocks(count: int, per_block: int) -> int:
    """How many blocks cover ``count`` items, at least one (a grid must not be empty)."""
    return max(-(-count // per_block), 1)


def three(name: str, what: str, dim: Dim, limits: tuple[int, int, int]) -> tuple[int, int, int]:
    """``dim`` with ones appended, checked against what hardware allows."""
    sizes = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    full = (*(int(s) for s in sizes), 1, 1, 1)[:3]
    if not 1 <= len(sizes) <= 3 or any(not 1 <= s <= limit for s, limit in zip(full, limits, strict=True)):
        raise ValueError(f"{name}: {what} expects 1 to 3 sizes from 1 to {limits}, got {dim!r}")
    return full[0], full[1], full[2]


def check_launch(
    function: Function, grid: Dim, block: Dim, shared_bytes: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The grid and the block as three sizes each.

    Raises:
        ValueError: sizes that no device takes.
    """
    g = three(function.name, "grid", grid, (INT32_MAX, 65535, 65535))
    b = three(function.name, "block", block, (1024, 1024, 64))
    if b[0] * b[1] * b[2] > 1024:
        raise ValueError(f"{function.name}: a block has at most 1024 threads, got {b}")
    if shared_bytes < 0:
        raise ValueError(f"{function.name}: shared_bytes expects 0 or more, got {shared_bytes}")
    return g, b


def scalar(function: Function, position: int, value: Any) -> np.ndarray:
    """``value`` as a 0-d array of exactly the bytes that parameter ``position`` declares.

    PTX does not say whether an int is signed, so the rule of this package is that kernels take ``int`` and ``long
    long``, never their unsigned twins.

    Raises:
        TypeError: a float for an int, a struct of another size, an array of numbers.
        OverflowError: an int that does not fit.
    """
    parameter = function.parameters[position]
    where = f"{function.name}: argument {position}"
    if parameter.kind == "bytes" or isinstance(value, (np.void, np.ndarray)):
        struct = np.asarray(value)
        if struct.ndim or struct.nbytes != parameter.size:
            raise TypeError(
                f"{where} expects {parameter.size} bytes, got {struct.dtype} of shape {struct.shape}"
            )
        return struct
    if not isinstance(value, (int, float, np.bool_, np.integer, np.floating)):
        raise TypeError(f"{where} expects an array or a number, got {type(value).__name__}")
    if parameter.kind == "float":
        return np.array(value, f"f{parameter.size}")
    if isinstance(value, (float, np.floating)):
        raise TypeError(f"{where} expects an int of {parameter.size} bytes, got the float {value}")
    kind = np.dtype(f"i{parameter.size}") if parameter.size > 1 else np.dtype("u1")
    limits = np.iinfo(kind)
    if not limits.min <= int(value) <= limits.max:
        raise OverflowError(f"{where} expects an int of {parameter.size} bytes, got {value}")
    return np.array(int(value), kind)


def check_count(function: Function, args: Sequence[Any]) -> None:
    """Raise TypeError unless there are as many arguments as parameters."""
    if len(args) != len(function.parameters):
        raise TypeError(
            f"{function.name} in {function.source}: expects {len(function.parameters)} arguments, got {len(args)}"
        )


def check_pointer(function: Function, position: int, array: Array) -> None:
    """Raise unless parameter ``position`` can be a pointer to this array and the array is C-contiguous."""
    where = f"{function.name}: argument {position}"
    parameter = function.parameters[position]
    if parameter != Parameter("int", 8):
        raise TypeError(f"{where} expects {parameter.kind} of {parameter.size} bytes, got an array")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{where} expects a C-contiguous array, got shape {array.shape} strides {array.strides}"
        )
