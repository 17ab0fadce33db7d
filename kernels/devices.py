"""Where arrays live: main memory, graphics cards, the emulated device. One object for each, found by array or name.

``"cpu"``; ``"cuda"`` (card 0) or ``"cuda:1"``; ``"emulated"``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any

NO_CUPY = (
    "graphics cards need CuPy, which is not installed: pip install 'minidl[cuda13]' (or minidl[cuda12] for an older "
    "driver)"
)
NO_DRIVER = "CuPy is installed, but finds no usable graphics card: {reason}"


class DeviceError(RuntimeError):
    """A device that is not there."""


class InOrder:
    """The only stream of a device that does everything at once: there is nothing to wait for. Methods as CuPy's."""

    def __enter__(self) -> InOrder:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was changed."""

    def synchronize(self) -> None:
        """All is done."""

    def record(self) -> None:
        """The event after which nothing is left."""

    def wait_event(self, event: Any) -> None:
        """It has happened."""


class Place:
    """A device as the engine sees it: its array module ``xp``, its kernels, the way to and from main memory."""

    name: str
    xp: Any
    launches_only: bool = False
    """A recording runs what it records and keeps launches of kernels alone: values may be read on the way, and are not
    read again by a replay."""

    @property
    def backend(self) -> Any:
        """The object whose methods are the kernels."""
        raise NotImplementedError

    def holds(self, array: Array) -> bool:
        """Whether this array lives here."""
        raise NotImplementedError

    def put(self, array: np.ndarray) -> Array:
        """A copy here of an array in main memory, with its memory layout."""
        raise NotImplementedError

    def get(self, array: Array) -> np.ndarray:
        """A copy in main memory of an array here, with its memory layout."""
        raise NotImplementedError

    def write(self, target: Array, source: np.ndarray) -> None:
        """Overwrite an array here with one in main memory of its shape, dtype and strides. ``source`` may be changed
        once this has returned; the copy may still be under way, in order with what is started on the device."""
        raise NotImplementedError

    def staging(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised C-contiguous array in main memory that the device copies from without waiting (pinned)."""
        return np.empty(shape, dtype)

    def send(self, array: np.ndarray) -> Callable[[], Array]:
        """Begin to copy an array (of :meth:`staging`, else the copy waits) to the device, beside what runs there.

        Returns:
            a function that gives the copy: what is started after its call waits until the copy has arrived.
        """
        copy = self.put(array)
        return lambda: copy

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Call ``run`` and record what it would have started here, or starts (``launches_only``).

        Returns:
            its result, whose arrays are filled by every replay, and the function that replays.
        """
        raise NotImplementedError

    def stream(self, current: bool = False) -> Any:
        """A new order of work beside the others, or the one in use now: a context manager in which work is started
        there, with CuPy's ``synchronize``, ``record`` and ``wait_event``."""
        return InOrder()

    def synchronize(self) -> None:
        """Wait until everything that was started has ended."""

    def memory_stats(self) -> dict[str, int]:
        """Bytes of array memory: ``in_use``, and ``cached`` for reuse."""
        return {}

    def empty_cache(self) -> None:
        """Give memory kept for reuse back to the system."""


class Main(Place):
    """Main memory: NumPy arrays."""

    name = "cpu"
    xp = np
    launches_only = True

    @property
    def backend(self) -> Any:
        """The CPU back end, or the one that ``kernels.use`` forces."""
        from minidl import kernels

        return kernels.backend(np.empty(0))

    def holds(self, array: Array) -> bool:
        """Every NumPy array lives here."""
        return isinstance(array, np.ndarray | np.generic)

    def put(self, array: np.ndarray) -> Array:
        """The array itself."""
        return array

    def get(self, array: Array) -> np.ndarray:
        """The array itself."""
        return array

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Launches of the CPU back end: the second result is a :class:`minidl.kernels.cpu.recording.Recording`."""
        from minidl.kernels.cpu.recording import Recording

        recording = Recording()
        return recording.record(run), recording

    def memory_stats(self) -> dict[str, int]:
        """See :func:`minidl.kernels.memory_stats`."""
        from minidl import kernels

        return kernels.memory_stats()

    def empty_cache(self) -> None:
        """See :func:`minidl.kernels.empty_cache`."""
        from minidl import kernels

        kernels.empty_cache()


class Emulated(Place):
    """The emulated device: arrays in main memory that behave as if they were not, kernels run under a checker.
    ``compute_capability``: of the architecture that kernels are compiled for, 90 for Hopper."""

    name = "emulated"

    def __init__(self, compute_capability: int = 80) -> None:
        from minidl.kernels.cuda import nvrtc
        from minidl.kernels.cuda.families import Families
        from minidl.kernels.emulator import build
        from minidl.kernels.emulator.array import EmulatedArray, EngineDevice, xp

        nvrtc.library()  # raises ImportError with what to install
        build.compiler()
        self.xp = xp
        self.device = EngineDevice(compute_capability)
        self._array = EmulatedArray
        self._backend = Families(self.device)

    @property
    def backend(self) -> Any:
        """The CUDA back end over the emulated device."""
        return self._backend

    def holds(self, array: Array) -> bool:
        """Whether it is an array of the emulated device."""
        return isinstance(array, self._array)

    def put(self, array: np.ndarray) -> Array:
        """A copy with the same strides' order."""
        return self._array(array.copy(order="K"))

    def get(self, array: Array) -> np.ndarray:
        """A copy with the same strides' order."""
        return array.get()

    def write(self, target: Array, source: np.ndarray) -> None:
        """At once."""
        dense(self.name, target.host, source)
        target.host[...] = source

    def send(self, array: np.ndarray) -> Callable[[], Array]:
        """The copy is made when the returned function is called; a kernel that reads it before that is stopped, since
        nobody has written to it."""
        copy = self.xp.empty_like(self._array(array))

        def receive() -> Array:
            copy.host[...] = array
            return copy

        return receive

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Launches and NumPy's calls are kept in order, and made by the replay."""
        from minidl.kernels.emulator.recording import Recording

        recording = Recording()
        with recording:
            result = run()
        return result, recording.replay

    def memory_stats(self) -> dict[str, int]:
        """Its arrays are main memory's, which is not counted apart; ``launches`` is the number of kernels run."""
        return {"launches": self.device.launches}


def memory_order(array: Any) -> list[int]:
    """The axes from the largest stride to the smallest, so that the transposed array is C-contiguous if it is dense."""
    return sorted(range(array.ndim), key=lambda d: (-abs(array.strides[d]), -array.shape[d]))


def dense(name: str, target: Array, source: np.ndarray) -> tuple[Array, np.ndarray]:
    """Both transposed to the order of ``source`` in memory, in which ``target`` is C-contiguous.

    Raises:
        ValueError: ``target``, on the device of that name, has another shape, dtype or order in memory.
    """
    if target.shape == source.shape and target.dtype == source.dtype:
        order = memory_order(source)
        turned = target.transpose(order)
        if turned.flags.c_contiguous:
            return turned, source.transpose(order)
    raise ValueError(
        f"a copy to {name}: the array there is {target.dtype} {target.shape}, strides {target.strides}, the source "
        f"{source.dtype} {source.shape}, strides {source.strides}"
    )


_places: dict[str, Place] = {"cpu": Main()}


def canonical(name: Any) -> str:
    """The full name of a device: ``"cuda"`` is ``"cuda:0"``.

    Raises:
        ValueError: not a device's name.
    """
    m = re.fullmatch(r"(cpu|emulated|cuda(?::(\d+))?)", name) if isinstance(name, str) else None
    if m is None:
        raise ValueError(f"device {name!r} is not available: expects 'cpu', 'cuda', 'cuda:1' or 'emulated'")
    return f"cuda:{int(m[2] or 0)}" if name.startswith("cuda") else name


def is_name(value: Any) -> bool:
    """Whether a string is meant as a device and not as a dtype."""
    return isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda", "emulated", "gpu", "mps")


def place(name: str) -> Place:
    """The device of that name.

    Raises:
        ValueError: not a device's name.
        ImportError: a package that it needs is not installed; the message says which.
        DeviceError: there is no such card, or no driver.
    """
    full = canonical(name)
    if full not in _places:
        if full == "emulated":
            _places[full] = Emulated()
        else:
            if importlib.util.find_spec("cupy") is None:
                raise ImportError(NO_CUPY)
            from minidl.kernels.cuda.cupy_device import Card

            _places[full] = Card(int(full.removeprefix("cuda:")))
    return _places[full]


def of(array: Array) -> Place:
    """The device that an array lives on.

    Raises:
        TypeError: not an array of any device.
    """
    if isinstance(array, np.ndarray | np.generic):
        return _places["cpu"]
    module = type(array).__module__
    if module == "minidl.kernels.emulator.array":
        return place("emulated")
    if module.split(".")[0] == "cupy" and hasattr(array, "device"):
        return place(f"cuda:{array.device.id}")
    kind = type(array)
    raise TypeError(
        f"backend: array expects numpy.ndarray or an array of a device, got {kind.__module__}.{kind.__qualname__}"
    )


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array of a device other than main memory."""
    module = type(value).__module__
    if module == "minidl.kernels.emulator.array":
        return type(value).__name__ == "EmulatedArray"
    return module.split(".")[0] == "cupy" and type(value).__name__ == "ndarray"


def module_of(array: Array) -> Any:
    """The array module of an array: NumPy for main memory."""
    return np if isinstance(array, np.ndarray | np.generic) else of(array).xp


def host(array: Array) -> np.ndarray:
    """The array in main memory: itself if it is there, else a copy."""
    return array if isinstance(array, np.ndarray) else of(array).get(array)


def move(array: Array, name: str) -> Array:
    """The array on the device of that name: itself if it is there, else a copy.

    Raises:
        As :func:`place`.
    """
    target = place(name)
    return array if target.holds(array) else target.put(host(array))


def like(value: Any, array: Array) -> Array:
    """``value`` (a NumPy array, a number or a list) as an array on the device of ``array``."""
    found = value if isinstance(value, np.ndarray) else np.asarray(value)
    return found if isinstance(array, np.ndarray) else of(array).put(found)
