"""Graphics cards, as ``torch.cuda``: is there one, wait for it, what memory it holds, how it multiplies float32.

``model.to("cuda")`` and ``tensor.to("cuda")`` do the rest. Everything here takes a device's name, so that it works for
``"emulated"`` too.
"""

from __future__ import annotations

import importlib.util

from minidl.kernels import devices
from minidl.kernels.cuda.tiling import float32_precision

__all__ = ["device_count", "empty_cache", "float32_precision", "is_available", "memory_stats", "synchronize"]


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
