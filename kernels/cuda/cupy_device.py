"""A graphics card: memory, streams and launches through CuPy, kernels compiled here for its exact architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cupy
import numpy as np

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
from minidl.kernels.devices import NO_DRIVER, DeviceError, Place


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
        self._device = cupy.cuda.Device(index)
        attributes = self._device.attributes
        self.compute_capability = int(self._device.compute_capability)
        self.multiprocessors = int(attributes["MultiProcessorCount"])
        self.shared_limit = int(attributes["MaxSharedMemoryPerBlockOptin"])
        self._modules: dict[Any, Module] = {}

    @property
    def architecture(self) -> str:
        """What NVRTC compiles for: the card's own architecture with its special instructions (sm_90a), or the newest
        one before it that this NVRTC knows."""
        known = [a for a in nvrtc.architectures() if a <= self.compute_capability]
        if not known:
            raise CUDAError(
                f"NVRTC {nvrtc.version()} makes no code for {self.name} (sm_{self.compute_capability})"
            )
        return f"sm_{known[-1]}" + ("a" if known[-1] == self.compute_capability >= 90 else "")

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
                wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
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
                loaded.load(made.cubin)
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
        values = []
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
                values.append(np.uint64(0))
            else:
                values.append(scalar(function, position, arg)[()])
        with self._device:
            if shared_bytes > 48 * 1024:
                driver = cupy.cuda.driver
                limit = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                driver.funcSetAttribute(function.handle.ptr, limit, shared_bytes)
            function.handle(g, b, tuple(values), shared_mem=shared_bytes)

    def synchronize(self) -> None:
        """Wait until all kernels have ended."""
        self._device.synchronize()

    def elapsed(self, run: Callable[[], None]) -> float:
        """See :meth:`Device.elapsed`; between events of CuPy's current stream."""
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


class Card(Place):
    """A graphics card as the engine sees it."""

    xp = cupy

    def __init__(self, index: int) -> None:
        from minidl.kernels.cuda.families import Families

        self.device = CuPyDevice(index)
        self.name = self.device.name
        self._backend = Families(self.device)

    @property
    def backend(self) -> Any:
        """The CUDA back end on this card."""
        return self._backend

    def holds(self, array: Any) -> bool:
        """Whether it is an array of this card."""
        return isinstance(array, cupy.ndarray) and array.device.id == self.device.index

    def put(self, array: np.ndarray) -> Any:
        """A copy with the same strides' order; asynchronous when the array lies in pinned memory."""
        order = sorted(range(array.ndim), key=lambda d: -abs(array.strides[d]))
        dense = np.ascontiguousarray(array.transpose(order))
        out = self.device.empty(dense.shape, dense.dtype)
        with cupy.cuda.Device(self.device.index):
            out.set(dense)
        return out.transpose([order.index(d) for d in range(array.ndim)])

    def get(self, array: Any) -> np.ndarray:
        """A copy with the same strides' order."""
        order = sorted(range(array.ndim), key=lambda d: -abs(array.strides[d]))
        with cupy.cuda.Device(array.device.id):
            dense = cupy.ascontiguousarray(array.transpose(order)).get()
        return dense.transpose([order.index(d) for d in range(array.ndim)])

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
