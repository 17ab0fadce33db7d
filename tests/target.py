"""Where the tests of devices and of CUDA kernels run: ``pytest --device`` sets it before anything is collected."""

from __future__ import annotations

import pytest

from minidl.kernels.cuda import nvrtc
from minidl.kernels.emulator import build

name = "emulated"


def needs_device() -> pytest.MarkDecorator:
    """Skips tests where the emulated device is wanted and lacks what it needs; a card that was asked for must be
    there."""
    missing = nvrtc.MISSING if not nvrtc.available() else build.MISSING
    absent = name == "emulated" and not (nvrtc.available() and build.available())
    return pytest.mark.skipif(absent, reason=missing)
