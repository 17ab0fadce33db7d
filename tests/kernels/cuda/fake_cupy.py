"""A module that stands for CuPy where there is no graphics card, so that ``cupy_device.py`` itself is run by tests.

It has what that file uses of CuPy, under CuPy's names and by CuPy's rules (read in the sources of CuPy 14): kernel
arguments are device arrays, or NumPy arrays of one element that hold a parameter's bytes; more than 48 KiB of dynamic
shared memory must be asked for; a stream that captures takes no copies from main memory, and records what is started
instead of starting it. Kernels run on the emulated device, under its checker. What a stream of its own was told happens
when somebody waits for it, so data that is used too early is still poison.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import itertools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from minidl.kernels import devices
from minidl.kernels.cuda import compiler, tuning
from minidl.kernels.cuda.device import Function as Kernel
from minidl.kernels.emulator import array as emulated
from minidl.kernels.emulator.device import _Handle, load
from minidl.kernels.emulator.recording import Recording

CARDS = 2
MEMORY = 1 << 30


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


class CUDADriverError(RuntimeError):
    """As CuPy's."""


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class Cards:
    """What a driver knows: how many cards there are (None: no driver), which is current, which streams and allocators
    are in use, how many kernels and graphs were started."""

    def __init__(self) -> None:
        self.count: int | None = CARDS
        self.device = 0
        self.streams: list[Stream] = [Stream.null]
        self.pools: list[MemoryPool] = [MemoryPool()]
        self.graphs = 0
        self.shared: dict[int, int] = {}
        self.engine = core.EngineDevice(80)


def _clone() -> ModuleType:
    """The emulated device's array module once more, its arrays called as CuPy's."""
    spec = importlib.util.spec_from_file_location("cupy._core", emulated.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


core: Any = _clone()


def _owner(array: Any) -> np.ndarray:
    """What holds the memory of an array."""
    owner: np.ndarray = array.host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner


class ndarray(core.EmulatedArray):  # type: ignore[misc]
    """As CuPy's array, as far as the engine uses it."""

    __slots__ = ()

    @property
    def device(self) -> Device:
        """The card: all arrays are of card 0, but those made beside ``Device(1)``."""
        return Device(elsewhere.get(_owner(self).ctypes.data, 0))

    @property
    def data(self) -> MemoryPointer:
        """The memory pointer."""
        return MemoryPointer(self)


ndarray.__module__, ndarray.__qualname__ = "cupy", "ndarray"
core.EmulatedArray = ndarray
core.EmulatedNumPy.ndarray = ndarray
core.OPERANDS = (ndarray, *core.OPERANDS[1:])
elsewhere: dict[int, int] = {}


class MemoryPointer:
    """As CuPy's: where an array begins."""

    def __init__(self, array: Any) -> None:
        self.array = array
        core.EngineDevice(80).address(array)  # a kernel may be given the address in a table
        self.ptr = array.host.ctypes.data

    def copy_from_host_async(self, source: int, size: int, stream: Stream) -> None:
        """Copy when the stream comes to it."""
        if stream.is_capturing():
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        if any(self.ptr in pool.addresses for pool in cards.pools[1:]):
            raise AssertionError("a constant in memory that a graph uses in turns")
        target, alive = self.ptr, weakref.ref(_owner(self.array))
        assert size == self.array.nbytes and self.array.flags.c_contiguous

        def copy() -> None:
            assert alive() is not None, "a copy to memory that was given back meanwhile"
            ctypes.memmove(target, source, size)

        stream.start(copy)


class Event:
    """As CuPy's."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.card = cards.device
        self.stream: Stream | None = None
        self.position = 0

    def record(self, stream: Stream | None = None) -> None:
        """After what the stream was told so far."""
        self.stream = stream or current()
        if self.stream.device_id not in (-1, self.card) or self.card != cards.device:
            raise CUDARuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
        self.position = self.stream.finished + len(self.stream.waiting)

    @property
    def done(self) -> bool:
        """Whether the stream has come there."""
        return self.stream is None or self.stream.finished >= self.position

    def synchronize(self) -> None:
        """Let the stream come there."""
        if self.stream is not None:
            self.stream.run_to(self.position)


class Stream:
    """As CuPy's. The null stream does everything at once, others when somebody waits for them."""

    null: Any
    numbers = itertools.count(2)

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr, self.device_id = (0, -1) if null else (next(self.numbers), cards.device)
        self.waiting: list[Callable[[], None]] = []
        self.finished = 0
        self.recording: Recording | None = None
        self.invalid = False

    def __enter__(self) -> Stream:
        if self.device_id not in (-1, cards.device):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with the current device "
                f"({cards.device})"
            )
        cards.streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        cards.streams.pop()

    def start(self, action: Callable[[], None]) -> None:
        """Do this, at once or later."""
        self.waiting.append(action)
        if self.ptr == 0:
            self.synchronize()

    def run_to(self, position: int) -> None:
        """Do what was told up to a position."""
        while self.finished < position and self.waiting:
            self.waiting.pop(0)()
            self.finished += 1

    def synchronize(self) -> None:
        """Do all."""
        self.run_to(self.finished + len(self.waiting))

    def record(self, event: Event | None = None) -> Event:
        """An event after what was told so far."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Wait for another stream."""
        event.synchronize()

    def is_capturing(self) -> bool:
        """Whether it captures."""
        if self.recording is not None and self.invalid:
            raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
        return self.recording is not None

    def begin_capture(self) -> None:
        """Record what is started from now on."""
        if self.ptr in (0, 1):
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert cards.streams[-1] is self and len(cards.pools) > 1, (
            "not the current stream, or no memory of its own"
        )
        self.recording = Recording()
        self.recording.__enter__()

    def end_capture(self) -> Graph:
        """The end of it."""
        if self.recording is None:
            raise CUDARuntimeError(
                "cudaErrorIllegalState: the operation cannot be performed in the present state"
            )
        recording, self.recording = self.recording, None
        recording.__exit__(None, None, None)
        if self.invalid:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: previous error during capture")
        return Graph(recording)


def current() -> Stream:
    """The stream in use on the present card."""
    return next(s for s in reversed(cards.streams) if s.device_id in (-1, cards.device))


class Graph:
    """As CuPy's."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def launch(self, stream: Stream | None = None) -> None:
        """Do what was recorded."""
        cards.graphs += 1
        self.recording.replay()


class MemoryPool:
    """As CuPy's, as far as it is counted."""

    limit = MEMORY

    def __init__(self) -> None:
        self.addresses: set[int] = set()
        self.used = 0

    def malloc(self, size: int) -> None:
        """Count an array."""
        if size > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        self.used += size

    def used_bytes(self) -> int:
        """All there ever were."""
        return self.used

    def total_bytes(self) -> int:
        """The same."""
        return self.used

    def free_all_blocks(self) -> None:
        """Nothing is kept."""


@contextmanager
def using_allocator(allocator: Callable[[int], None]) -> Iterator[None]:
    """As CuPy's."""
    cards.pools.append(allocator.__self__)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        cards.pools.pop()


def empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    """As CuPy's, from the current allocator."""
    array = core.xp.empty(shape, dtype, order)
    pool = cards.pools[-1]
    pool.malloc(array.nbytes)
    if pool is not cards.pools[0]:
        pool.addresses.add(array.host.ctypes.data)
    if cards.device:
        elsewhere[array.host.ctypes.data] = cards.device
    return array


class Device:
    """As CuPy's."""

    attributes: ClassVar[dict[str, int]] = {
        "MultiProcessorCount": 4,
        "MaxSharedMemoryPerBlockOptin": 96 * 1024,
    }
    compute_capability = "80"
    mem_info = (MEMORY // 2, MEMORY)

    def __init__(self, device: int | None = None) -> None:
        self.id = cards.device if device is None else device
        self.before: list[int] = []

    def __enter__(self) -> Device:
        self.before.append(cards.device)
        cards.device = self.id
        return self

    def __exit__(self, *error: object) -> None:
        cards.device = self.before.pop()

    def synchronize(self) -> None:
        """Let all streams end."""
        for stream in cards.streams:
            stream.synchronize()


class Function:
    """As CuPy's: a kernel of a loaded module."""

    handles = itertools.count(1)

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.ptr = kernel, next(self.handles)

    def __call__(self, grid: Any, block: Any, args: Any, shared_mem: int = 0, stream: Any = None) -> None:
        assert type(grid) is type(block) is type(args) is tuple
        for arg in args:
            if not isinstance(arg, ndarray) and not (isinstance(arg, np.ndarray) and arg.size == 1):
                raise TypeError(f"Unsupported type {type(arg)}")
        if shared_mem > cards.shared.get(self.ptr, 48 * 1024):
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        cards.engine.launch(self.kernel, grid, block, args, shared_mem)


class Module:
    """As CuPy's; what it loads is PTX, which the driver takes as well."""

    def load(self, code: bytes) -> None:
        """Load a module."""
        source, text = code.decode().split("\0", 1)
        self.source, self.parameters = source, compiler.entry_parameters(text)
        self.library = load(text, source, compiler.sources())

    def get_function(self, symbol: str) -> Function:
        """A kernel of it."""
        return Function(Kernel(symbol, self.source, self.parameters[symbol], _Handle(self.library, symbol)))


class Runtime:
    """As ``cupy.cuda.runtime``."""

    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def getDeviceCount() -> int:
        """How many cards."""
        if cards.count is None:
            raise CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return cards.count

    @staticmethod
    def getDeviceProperties(index: int) -> dict[str, Any]:
        """The card's name."""
        return {"name": b"Fake"}

    @staticmethod
    def memGetInfo() -> tuple[int, int]:
        """Free and all bytes."""
        return Device.mem_info


Stream.null = Stream(null=True)
cards = Cards()


def module() -> ModuleType:
    """A new module ``cupy``."""
    fake = ModuleType("cupy")
    fake.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    driver = SimpleNamespace(
        CUDADriverError=CUDADriverError,
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
        funcSetAttribute=lambda pointer, name, value: cards.shared.update({pointer: value}),
    )
    cuda = SimpleNamespace(
        runtime=Runtime,
        driver=driver,
        function=SimpleNamespace(Module=Module),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        get_current_stream=current,
        get_elapsed_time=lambda begin, end: 1.0,
        alloc_pinned_memory=lambda size: bytearray(size),
        **{c.__name__: c for c in (Device, Event, Stream, MemoryPool)},
        using_allocator=using_allocator,
    )
    pinned = SimpleNamespace(free_all_blocks=lambda: None)
    names: dict[str, Any] = {
        "cuda": cuda,
        "ndarray": ndarray,
        "empty": empty,
        "get_default_memory_pool": lambda: cards.pools[0],
        "get_default_pinned_memory_pool": lambda: pinned,
        "__getattr__": lambda name: getattr(core.xp, name),
    }
    for name, value in names.items():
        setattr(fake, name, value)
    return fake


def install(patch: pytest.MonkeyPatch) -> None:
    """Let ``import cupy`` find the fake, until ``patch`` is undone; devices are found anew.

    NVRTC makes PTX instead of machine code: this machine has no use for that.
    """
    global cards
    cards = Cards()
    elsewhere.clear()

    def compile_ptx(source: str, architecture: str, *args: Any, **options: Any) -> Any:
        made = compiler.compile(source, architecture.replace("sm_", "compute_"), *args, **options)
        return dataclasses.replace(made, cubin=f"{source}\0{made.ptx}".encode())

    patch.setitem(sys.modules, "cupy", module())
    patch.setitem(sys.modules, "minidl.kernels.cuda.cupy_device", None)
    del sys.modules["minidl.kernels.cuda.cupy_device"]  # imported anew now, and once more after the undoing
    card = importlib.import_module("minidl.kernels.cuda.cupy_device")
    patch.setattr(card, "compiler", SimpleNamespace(compile=compile_ptx))
    patch.setattr(devices, "_places", {"cpu": devices.place("cpu")})
    patch.setattr(tuning, "_tables", {})
    patch.setenv("MINIDL_TUNE", "0")
