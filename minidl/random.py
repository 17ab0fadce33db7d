"""The library's own source of random numbers: one seeded generator, whose state can be saved and restored
exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.kernels import capturing, devices

__all__ = ["drawn", "generator", "get_state", "manual_seed", "set_state"]

_generator = np.random.Generator(np.random.PCG64(0))


def manual_seed(seed: int) -> None:
    """Restart the generator used for initial weights and dropout; one seed gives the same numbers on every
    machine."""
    global _generator
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"manual_seed: seed must be an int >= 0, got {seed!r}")
    _generator = np.random.Generator(np.random.PCG64(int(seed)))


def generator() -> np.random.Generator:
    """The generator that initialisers and dropout draw from."""
    capturing.refuse(
        "random numbers drawn", "pass them as an argument: a replay would have the same ones again"
    )
    return _generator


def drawn(make: Callable[[], np.ndarray], device: str) -> Any:
    """What ``make`` takes from the generator, on a device; in a step that is captured there, anew for each replay."""
    capture = capturing.active()
    if capture is not None and capture.place.name == device:
        return capture.feed(make)
    return devices.move(make(), device)


def get_state() -> dict[str, Any]:
    """The generator's state as a JSON-able dictionary."""
    return dict(_generator.bit_generator.state)


def set_state(state: dict[str, Any]) -> None:
    """Go back to a state that :func:`get_state` returned."""
    _generator.bit_generator.state = state
