"""The emulated device: kernels run on the processor, on arrays in main memory, with every access checked."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl.kernels.cuda import compiler
from minidl.kernels.cuda.device import (
    CUDAError,
    Dim,
    Function,
    Module,
    check_count,
    check_launch,
    check_pointer,
    scalar,
)
from minidl.kernels.emulator import build, poison
from minidl.kernels.emulator.recording import later
from minidl.kernels.emulator.translate import Translation, place_of, translate


class KernelFault(CUDAError):
    """A kernel did what it must not: the message names the thread, what it did, and the line of the CUDA source."""


class _Dim3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint32), ("y", ctypes.c_uint32), ("z", ctypes.c_uint32))


class _Options(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("check", "order", "count", "wgmma"))


class _Request(ctypes.Structure):
    _fields_ = (
        ("body", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("grid", _Dim3),
        ("block", _Dim3),
        ("static_shared", ctypes.c_uint32),
        ("dynamic_shared", ctypes.c_uint32),
        ("holes", ctypes.c_void_p),
        ("hole_count", ctypes.c_uint32),
        ("ranges", ctypes.c_void_p),
        ("range_count", ctypes.c_uint32),
        ("options", _Options),
    )


@dataclass(frozen=True)
class Traffic:
    """What one line of a kernel asked of memory.

    ``accesses`` counts instructions of a warp. ``real`` is the number of 32-byte sectors they touched (global memory)
    or of wavefronts they took (shared memory; more than one for a group of lanes is a bank conflict), ``ideal`` the
    least that the same bytes could take.
    """

    file: str
    line: int
    memory: str
    bytes_per_lane: int
    accesses: int
    ideal: int
    real: int

    def __str__(self) -> str:
        unit = "wavefronts" if self.memory == "shared" else "sectors"
        ratio = f", {self.real / self.ideal:.1f} times the ideal" if self.real > self.ideal else ""
        return (
            f"{self.file}:{self.line}: {self.accesses} {self.memory} accesses of {self.bytes_per_lane} bytes a lane, "
            f"{self.real / self.accesses:.2f} {unit} each{ratio}"
        )


@dataclass
class _Library:
    """A translated module: its library, the translation, the texts that its lines refer to."""

    dll: ctypes.CDLL
    translation: Translation
    texts: Mapping[str, str]
    constants: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Handle:
    library: _Library
    symbol: str


_running = threading.Lock()  # the runtime runs one launch at a time
_addressed: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def addressed() -> list[np.ndarray]:
    """The arrays alive whose address was asked for; other threads may ask for more meanwhile."""
    return [array for reference in _addressed.valuerefs() if (array := reference()) is not None]


class EmulatedDevice:
    """A device (see :class:`minidl.kernels.cuda.device.Device`) that needs no graphics card.

    Args:
        compute_capability: the architecture whose PTX is run: 75, 80, 86, 89, 90, ...
        check: look for races and uninitialised memory in every launch. Bounds are always checked.
        order: the order of a block's threads: 0 forward, 1 backward, any other number shuffles them with that seed.
    """

    def __init__(self, compute_capability: int = 80, *, check: bool = True, order: int = 0) -> None:
        self.name = self.model = "emulated"
        self.has_clock = False
        self.xp: Any = np
        self.compute_capability = compute_capability
        self.multiprocessors = 4
        self.architecture = f"compute_{compute_capability}" + ("a" if compute_capability == 90 else "")
        self.shared_limit = {75: 64, 90: 227}.get(compute_capability, 96) * 1024
        self.check = check
        self.order = order
        self.launches = 0
        self._modules: dict[Any, Module] = {}
        self._traffic: dict[tuple[str, int, str, int], list[int]] | None = None

    # --- memory ---------------------------------------------------------------------------------------------

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """An array that a checked launch may not read before it is written (see :mod:`.poison`)."""
        return poison.empty(shape, dtype)

    def _host(self, array: Any) -> np.ndarray:
        return array

    def address(self, array: Any) -> int:
        """The address of an array's first element, for a table of pointers that a kernel reads."""
        host = self._host(array)
        _addressed[id(host)] = host
        return int(host.ctypes.data)

    # --- kernels --------------------------------------------------------------------------------------------

    def compile(
        self,
        source: str,
        defines: Mapping[str, int | str] | None = None,
        instances: Sequence[str] = (),
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Module:
        """See :meth:`Device.compile`; ``code`` and ``headers`` as in :func:`minidl.kernels.cuda.compiler.compile`."""
        key = (
            source,
            tuple(sorted((defines or {}).items())),
            tuple(instances),
            code,
            tuple((headers or {}).items()),
        )
        if key not in self._modules:
            made = compiler.compile(source, self.architecture, defines, instances, code=code, headers=headers)
            texts = {**compiler.sources(), **(headers or {}), source: code or compiler.sources()[source]}
            library = load(made.ptx, source, texts)
            functions = {
                name: Function(name, source, made.parameters[name], _Handle(library, symbol))
                for name, symbol in made.symbols.items()
            }
            self._modules[key] = Module(source, functions)
        return self._modules[key]

    def launch(
        self, function: Function, grid: Dim, block: Dim, args: Sequence[Any], shared_bytes: int = 0
    ) -> None:
        """See :meth:`Device.launch`.

        Raises:
            KernelFault: the kernel read or wrote where it must not, raced, or waited for ever.
        """
        g, b = check_launch(function, grid, block, shared_bytes)
        check_count(function, args)
        handle: _Handle = function.handle
        translation = handle.library.translation
        total = translation.static_shared + shared_bytes
        if total > self.shared_limit:
            raise ValueError(
                f"{function.name}: {total} bytes of shared memory, the device allows {self.shared_limit} for a block"
            )
        values, arrays = self._arguments(function, args)
        arrays += addressed()

        later(lambda: self._run(function, g, b, shared_bytes, values, arrays))

    def _run(
        self,
        function: Function,
        g: tuple[int, int, int],
        b: tuple[int, int, int],
        shared_bytes: int,
        values: Sequence[np.ndarray],
        arrays: Sequence[np.ndarray],
    ) -> None:
        """Run a launch that was checked; ``values`` are the bytes of its arguments, ``arrays`` what they point to."""
        handle: _Handle = function.handle
        translation = handle.library.translation
        ranges = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
        pointers = (ctypes.c_void_p * max(len(values), 1))(*[v.ctypes.data for v in values])
        spans = np.array(sorted([*ranges, *handle.library.constants]), np.uint64).reshape(-1)
        holes = np.array(translation.holes, np.uint32).reshape(-1)
        body = getattr(handle.library.dll, f"emu_kernel_{translation.kernels[handle.symbol]}")
        options = _Options(self.check, self.order, self._traffic is not None, translation.wgmma)
        request = _Request(
            ctypes.cast(body, ctypes.c_void_p),
            ctypes.cast(pointers, ctypes.c_void_p),
            _Dim3(*g),
            _Dim3(*b),
            translation.static_shared,
            shared_bytes,
            holes.ctypes.data,
            len(holes) // 2,
            spans.ctypes.data,
            len(spans) // 2,
            options,
        )
        self.launches += 1
        with _running:
            if build.runtime().emu_launch(ctypes.byref(request)):
                raise KernelFault(self._fault(function, handle.library))
            if self._traffic is not None:
                self._collect(handle.library)

    def _arguments(
        self, function: Function, args: Sequence[Any]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The bytes of each argument, and the arrays among them."""
        values, arrays = [], []
        for position, arg in enumerate(args):
            if arg is None:
                values.append(np.zeros((), np.uint64))
            elif self._is_array(arg):
                check_pointer(function, position, arg)
                host = self._host(arg)
                values.append(np.array(host.ctypes.data, np.uint64))
                arrays.append(host)
            else:
                values.append(np.ascontiguousarray(scalar(function, position, arg)))
        return values, arrays

    def _is_array(self, arg: Any) -> bool:
        return isinstance(arg, np.ndarray) and arg.dtype.names is None

    def _fault(self, function: Function, library: _Library) -> str:
        dll = build.runtime()
        dll.emu_error.restype = ctypes.c_char_p
        site, other = ctypes.c_uint32(), ctypes.c_uint32()
        message = dll.emu_error(ctypes.byref(site), ctypes.byref(other)).decode()
        sites, texts = library.translation.sites, library.texts
        lines = [f"{function.name}: {message}"]
        for title, number in (("at", site.value), ("and", other.value)):
            if number < len(sites):
                lines.append(f"  {title:>3} {place_of(sites, number, texts)}")
        return "\n".join(lines)

    def synchronize(self) -> None:
        """Nothing to wait for: a launch returns when the kernel has ended."""

    def elapsed(self, run: Callable[[], None]) -> float:
        """The time on the processor says nothing about a card: there is no clock here."""
        raise NotImplementedError(
            "the emulated device has no clock; count_traffic measures what a kernel asks of memory"
        )

    # --- measurements ---------------------------------------------------------------------------------------

    @contextmanager
    def count_traffic(self) -> Iterator[list[Traffic]]:
        """Count sectors and bank conflicts of the launches in a ``with`` block.

        The list is filled at its end: one entry for each line and kind of access.
        """
        rows: list[Traffic] = []
        before, self._traffic = self._traffic, {}
        try:
            yield rows
        finally:
            found, self._traffic = self._traffic, before
            for (file, line, memory, size), (times, ideal, real) in sorted(found.items()):
                rows.append(Traffic(file, line, memory, size, times, ideal, real))

    def _collect(self, library: _Library) -> None:
        rows = np.zeros((4096, 6), np.uint64)
        count = build.runtime().emu_counts(rows.ctypes.data_as(ctypes.c_void_p), len(rows))
        assert self._traffic is not None
        for site, shared, size, *numbers in rows[:count].tolist():
            place, _ = library.translation.sites[site]
            key = (place.file, place.line, "shared" if shared else "global", size)
            old = self._traffic.setdefault(key, [0, 0, 0])
            for n, value in enumerate(numbers):
                old[n] += value


def load(ptx: str, name: str, texts: Mapping[str, str]) -> _Library:
    """Translate, compile and load a PTX text.

    Raises:
        CUDAError: an instruction is not known to the translator.
        ImportError: there is no C++ compiler.
    """
    translation = translate(ptx)
    build.runtime()
    dll = ctypes.CDLL(str(build.library(translation.code, "-O1", name.replace(".", "-"))))
    constants = []
    for symbol, size in translation.constants.items():
        begin = ctypes.addressof(ctypes.c_char.in_dll(dll, symbol))
        constants.append((begin, begin + size))
    return _Library(dll, translation, texts, constants)
