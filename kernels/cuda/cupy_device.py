"""A graphics card: memory, streams and launches through CuPy, kernels compiled here for its exact architecture."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import cupy
import numpy as np

from minidl.kernels import capturing
from minidl.kernels.cuda import compiler, nvrtc
from minidl.kernels.cuda.device import (
    CUDAError,
    Dim,
    Function,
    Module,
    OutOfMemory,
    check_count,
    check_launch,
    check_pointer,
    scalar,
)
from minidl.kernels.devices import NO_DRIVER, DeviceError, Place, dense, memory_order


class CuPyDevice:
    """A device (see :class:`minidl.kernels.cuda.device.Device`) that is a graphics card.

    Raises:
        DeviceError: there is no driver or no card of this number.
    """

    def __init__(self, index: int = 0) -> None:
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(NO_DRIVER.format(reason=error)) from None
        if not 0 <= index < count:
            raise DeviceError(f"there is no device 'cuda:{index}'; this machine has {count} graphics cards")
        self.index = index
        self.name = f"cuda:{index}"
        self.xp = cupy
        self.model = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()
        self.has_clock = True
        self.launches = 0
        self._device = cupy.cuda.Device(index)
        attributes = self._device.attributes
        self.compute_capability = int(self._device.compute_capability)
        self.multiprocessors = int(attributes["MultiProcessorCount"])
        self.shared_limit = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self._modules: dict[Any, Module] = {}
        self._shared: dict[int, int] = {}  # by function: the dynamic shared memory that it was allowed

    @property
    def architecture(self) -> str:
        """What NVRTC compiles for: the card's own architecture with its special instructions (sm_90a), or the newest
        one before it that this NVRTC knows. Machine code of that runs on the card where both are of one generation;
        else it is PTX, which the driver translates (compute_90 for a card that is newer than this NVRTC)."""
        known = [a for a in nvrtc.architectures() if a <= self.compute_capability]
        if not known:
            raise CUDAError(
                f"NVRTC {'.'.join(map(str, nvrtc.version()))} makes no code for {self.name} "
                f"(sm_{self.compute_capability})"
            )
        newest = max(known)
        if newest // 10 != self.compute_capability // 10:
            return f"compute_{newest}"
        return f"sm_{newest}" + ("a" if newest == self.compute_capability >= 90 else "")

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array from CuPy's pool.

        Raises:
            OutOfMemory: there is no room; the message says for how much, and what is taken.
        """
        with self._device:
            try:
                return cupy.empty(shape, dtype)
            except cupy.cuda.memory.OutOfMemoryError:
                free, total = self._device.mem_info
                sizes = shape if isinstance(shape, tuple) else (shape,)
                wanted = math.prod(sizes) * np.dtype(dtype).itemsize
                pool = cupy.get_default_memory_pool()
                raise OutOfMemory(
                    f"{self.name}: no room for {wanted / 2**20:.1f} MiB (shape {shape}, {np.dtype(dtype)}): "
                    f"{pool.used_bytes() / 2**20:.1f} MiB in use by arrays, {free / 2**20:.1f} of "
                    f"{total / 2**20:.1f} MiB free on the card; use a smaller batch"
                ) from None

    def address(self, array: Any) -> int:
        """The address of an array's first element, for a table of pointers that a kernel reads."""
        return int(array.data.ptr)

    def compile(
        self,
        source: str,
        defines: Mapping[str, int | str] | None = None,
        instances: Sequence[str] = (),
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Module:
        """See :meth:`Device.compile`."""
        key = (
            source,
            tuple(sorted((defines or {}).items())),
            tuple(instances),
            code,
            tuple((headers or {}).items()),
        )
        if key not in self._modules:
            made = compiler.compile(source, self.architecture, defines, instances, code=code, headers=headers)
            with self._device:
                loaded = cupy.cuda.function.Module()
                loaded.load(made.cubin or made.ptx.encode())
                functions = {
                    name: Function(name, source, made.parameters[name], loaded.get_function(symbol))
                    for name, symbol in made.symbols.items()
                }
            self._modules[key] = Module(source, functions)
        return self._modules[key]

    def launch(
        self, function: Function, grid: Dim, block: Dim, args: Sequence[Any], shared_bytes: int = 0
    ) -> None:
        """See :meth:`Device.launch`. Returns before the kernel has ended, on CuPy's current stream."""
        g, b = check_launch(function, grid, block, shared_bytes)
        check_count(function, args)
        values: list[Any] = []  # CuPy takes a NumPy array of one element as its bytes
        for position, arg in enumerate(args):
            if isinstance(arg, cupy.ndarray):
                check_pointer(function, position, arg)
                if arg.device.id != self.index:
                    raise ValueError(
                        f"{function.name}: argument {position} is on cuda:{arg.device.id}, "
                        f"the kernel runs on {self.name}"
                    )
                values.append(arg)
            elif arg is None:
                values.append(np.zeros((), np.uint64))
            else:
                values.append(scalar(function, position, arg))
        with self._device:
            try:
                self._allow(function, shared_bytes)
                function.handle(g, b, tuple(values), shared_mem=shared_bytes)
                self.launches += 1
            except cupy.cuda.driver.CUDADriverError as error:
                raise CUDAError(
                    f"{function.name}: not started on {self.name} with grid {g}, block {b}, "
                    f"{shared_bytes} bytes of shared memory: {error}"
                ) from None

    def _allow(self, function: Function, shared_bytes: int) -> None:
        """Let a kernel have more dynamic shared memory than the 48 KiB of old; that must be asked for once."""
        if shared_bytes > self.shared_limit:
            raise ValueError(
                f"{function.name}: {shared_bytes} bytes of shared memory, {self.name} allows {self.shared_limit} "
                f"for a block"
            )
        pointer = function.handle.ptr
        if shared_bytes > self._shared.get(pointer, 32 * 1024):  # static shared memory counts too
            driver = cupy.cuda.driver
            limit = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            driver.funcSetAttribute(pointer, limit, shared_bytes)
            self._shared[pointer] = shared_bytes

    def synchronize(self) -> None:
        """Wait until all kernels have ended."""
        self._device.synchronize()

    def elapsed(self, run: Callable[[], None]) -> float:
        """See :meth:`Device.elapsed`; between events of CuPy's current stream."""
        capturing.refuse("the choice of a kernel by timing", "run the step once before with these shapes")
        with self._device:
            run()
            times = []
            for _ in range(5):
                begin, end = cupy.cuda.Event(), cupy.cuda.Event()
                begin.record()
                run()
                end.record()
                end.synchronize()
                times.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3)
        return min(times)


class _Thread(threading.local):
    recording = False


class CardStream:
    """A stream of CuPy's together with its card: CuPy wants the card to be the current one for all that is asked of a
    stream, and would record on another card's stream otherwise."""

    def __init__(self, card: Any, stream: Any) -> None:
        self.card, self.stream = card, stream

    def __enter__(self) -> CardStream:
        self.card.__enter__()
        self.stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.__exit__(*error)
        self.card.__exit__(*error)

    def synchronize(self) -> None:
        """Wait, in Python, until everything started on it has ended."""
        with self.card:
            self.stream.synchronize()

    def record(self) -> Any:
        """The event after what was started on it so far."""
        with self.card:
            return self.stream.record()

    def wait_event(self, event: Any) -> None:
        """What is started on it from now on waits for the event."""
        with self.card:
            self.stream.wait_event(event)


class Card(Place):
    """A graphics card as the engine sees it."""

    xp = cupy

    def __init__(self, index: int) -> None:
        from minidl.kernels.cuda.families import Families

        self.device = CuPyDevice(index)
        self.name = self.device.name
        self._backend = Families(self.device)
        with cupy.cuda.Device(index):
            self._copies = cupy.cuda.Stream(non_blocking=True)
        self._under_way: deque[tuple[Any, Any]] = deque()
        self._under_way_lock = threading.Lock()
        self._thread = _Thread()

    @property
    def backend(self) -> Any:
        """The CUDA back end on this card."""
        return self._backend

    def holds(self, array: Any) -> bool:
        """Whether it is an array of this card."""
        return isinstance(array, cupy.ndarray) and array.device.id == self.device.index

    def put(self, array: np.ndarray) -> Any:
        """A copy with the same strides' order. It may still be under way, in order with what is started here."""
        order = memory_order(array)
        turned = array.transpose(order)
        with cupy.cuda.Device(self.device.index), self._outside():
            out = self.device.empty(turned.shape, turned.dtype)
        self._copy(out, turned)
        return out.transpose(np.argsort(order).tolist()) if order else out

    def get(self, array: Any) -> np.ndarray:
        """A copy with the same strides' order."""
        capturing.refuse("a copy to main memory")
        order = memory_order(array)
        with cupy.cuda.Device(array.device.id):
            turned: np.ndarray = array.transpose(order).get()
        return turned.transpose(np.argsort(order).tolist()) if order else turned

    def write(self, target: Any, source: np.ndarray) -> None:
        """Through pinned memory, so that ``source`` may be changed at once."""
        self._copy(*dense(self.name, target, source))

    def _outside(self) -> Any:
        """In a recorded step, memory that is not its own, which is taken in turns by what it computes."""
        if not self._thread.recording:
            return nullcontext()
        return cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc)

    def _copy(self, target: Any, source: np.ndarray) -> None:
        """Copy to a C-contiguous array of the source's shape, in order with what is started here. While a step is
        recorded, the copy is no part of it: it is made at once, and its target lives as long as the step."""
        if not source.size:
            return
        staged = self.staging(source.shape, target.dtype)
        staged[...] = source
        step = capturing.active()
        with cupy.cuda.Device(self.device.index):
            if not self._thread.recording:
                stream = cupy.cuda.get_current_stream()
                target.data.copy_from_host_async(staged.ctypes.data, staged.nbytes, stream)
                self._keep(stream, staged)
            else:
                target.data.copy_from_host_async(staged.ctypes.data, staged.nbytes, self._copies)
                self._copies.synchronize()
                if step is not None:
                    step.hold(target)

    def staging(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array in pinned memory, from CuPy's pool."""
        count = math.prod(shape)
        with cupy.cuda.Device(self.device.index):
            memory = cupy.cuda.alloc_pinned_memory(max(count * np.dtype(dtype).itemsize, 1))
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def send(self, array: np.ndarray) -> Callable[[], Any]:
        """Copy on a stream of its own, beside the kernels."""
        order = memory_order(array)
        turned = np.asarray(array.transpose(order), order="C")
        with cupy.cuda.Device(self.device.index):
            out = self.device.empty(turned.shape, turned.dtype)
            # The memory may have been another array's until now: what reads that was started before.
            self._copies.wait_event(cupy.cuda.get_current_stream().record())
            if turned.size:
                out.data.copy_from_host_async(turned.ctypes.data, turned.nbytes, self._copies)
            arrived = self._keep(self._copies, turned, out)
        copy = out.transpose(np.argsort(order).tolist()) if order else out

        def receive() -> Any:
            with cupy.cuda.Device(self.device.index):
                cupy.cuda.get_current_stream().wait_event(arrived)
            return copy

        return receive

    def _keep(self, stream: Any, *arrays: Any) -> Any:
        """Keep what a copy reads, and a target whose memory would serve other streams, until the card has made it;
        returns the event that says so."""
        event = stream.record(cupy.cuda.Event(disable_timing=True))
        with self._under_way_lock:
            while self._under_way and self._under_way[0][0].done:
                self._under_way.popleft()
            self._under_way.append((event, arrays))
        return event

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Capture what ``run`` starts as a CUDA graph, on a stream and with memory of its own.

        Raises:
            CaptureError: CuPy or the driver refused something.
        """
        pool = cupy.cuda.MemoryPool()
        with cupy.cuda.Device(self.device.index) as device:
            device.synchronize()
            stream = cupy.cuda.Stream(non_blocking=True)
            with stream, cupy.cuda.using_allocator(pool.malloc):
                stream.begin_capture()
                self._thread.recording = True
                try:
                    result = run()
                    graph = stream.end_capture()
                except BaseException as error:
                    self._abandon(stream)
                    refused = isinstance(error, RuntimeError | ValueError) and "captur" in str(error).lower()
                    if not refused or isinstance(error, capturing.CaptureError):
                        raise
                    raise capturing.CaptureError(f"the step cannot be captured: {error}") from error
                finally:
                    self._thread.recording = False
        return result, partial(self._launch_graph, graph, pool, stream)

    def _launch_graph(self, graph: Any, *memory: Any) -> None:
        """Start a graph; ``memory`` is what must live as long as it."""
        with cupy.cuda.Device(self.device.index):
            graph.launch()

    @staticmethod
    def _abandon(stream: Any) -> None:
        """End a capture that failed, also one that an error made invalid: the driver goes on with it until it is
        ended."""
        try:
            stream.end_capture()
        except RuntimeError:
            return  # as expected: of what failed no graph is made

    def stream(self, current: bool = False) -> Any:
        """CuPy's streams, with their card."""
        with cupy.cuda.Device(self.device.index) as card:
            found = cupy.cuda.get_current_stream() if current else cupy.cuda.Stream(non_blocking=True)
        return CardStream(card, found)

    def synchronize(self) -> None:
        """Wait for the card."""
        self.device.synchronize()

    def memory_stats(self) -> dict[str, int]:
        """Bytes of CuPy's memory pool, and of the card."""
        pool = cupy.get_default_memory_pool()
        with cupy.cuda.Device(self.device.index):
            free, total = cupy.cuda.runtime.memGetInfo()
            used, held = pool.used_bytes(), pool.total_bytes()
        return {"in_use": used, "cached": held - used, "free_on_card": free, "total_on_card": total}

    def empty_cache(self) -> None:
        """Give CuPy's cached memory back to the card, and its pinned memory to the system."""
        with cupy.cuda.Device(self.device.index):
            cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()
