"""Graphics cards, as ``torch.cuda``: is there one, wait for it, what memory it holds, how it multiplies float32.

``model.to("cuda")`` and ``tensor.to("cuda")`` do the rest. Everything here takes a device's name, so that it works for
``"emulated"`` too.
"""

from __future__ import annotations

import importlib.util

from minidl.kernels import devices
from minidl.kernels.cuda.tiling import float32_precision

__all__ = [
    "Stream",
    "current_stream",
    "device_count",
    "empty_cache",
    "float32_precision",
    "is_available",
    "memory_stats",
    "stream",
    "synchronize",
]


class Stream:
    """An order of work of its own on a device, as ``torch.cuda.Stream``: kernels of one stream run one after the other,
    those of two streams may run side by side.

    What another stream makes must be waited for, and an array that a stream reads must stay alive until that stream
    has been waited for: its memory may serve a new array as soon as nothing in Python refers to it. ::

        side = minidl.cuda.Stream()
        side.wait_stream(minidl.cuda.current_stream())  # x is ready there
        with minidl.cuda.stream(side):
            y = model(x)
        minidl.cuda.current_stream().wait_stream(side)  # y is ready here

    The emulated device and the processor do everything in order, whatever the stream.
    """

    def __init__(self, device: str = "cuda") -> None:
        self.device = devices.canonical(device)
        self._stream = devices.place(device).stream()

    def __enter__(self) -> Stream:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)

    def synchronize(self) -> None:
        """Wait, in Python, until everything started on it has ended."""
        self._stream.synchronize()

    def wait_stream(self, other: Stream) -> None:
        """What is started on this stream from now on waits for what was started on ``other`` until now.

        Raises:
            TypeError: ``other`` is no :class:`Stream`.
        """
        if not isinstance(other, Stream):
            raise TypeError(f"wait_stream: other expects a minidl.cuda.Stream, got {type(other).__name__}")
        self._stream.wait_event(other._stream.record())


def current_stream(device: str = "cuda") -> Stream:
    """The stream on which work is started now."""
    current = Stream.__new__(Stream)
    current.device = devices.canonical(device)
    current._stream = devices.place(device).stream(current=True)
    return current


def stream(of: Stream) -> Stream:
    """Start work on a stream: ``with minidl.cuda.stream(side): ...``."""
    return of


def device_count() -> int:
    """How many graphics cards can be used; 0 without CuPy or without a driver."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    try:
        import cupy
    except ImportError:  # it does not fit this machine: to("cuda") says why
        return 0
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


def is_available() -> bool:
    """Whether ``tensor.to("cuda")`` works here."""
    return device_count() > 0


def synchronize(device: str = "cuda") -> None:
    """Wait until everything that was started on the device has ended (calls return before the card is done)."""
    devices.place(device).synchronize()


def memory_stats(device: str = "cuda") -> dict[str, int]:
    """Bytes of array memory on the device: ``in_use`` by arrays, ``cached`` for reuse; of a card also what is free."""
    return devices.place(device).memory_stats()


def empty_cache(device: str = "cuda") -> None:
    """Give memory kept for reuse back to the device."""
    devices.place(device).empty_cache()
