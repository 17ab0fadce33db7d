"""What the tests of the emulated device need of the machine."""

from __future__ import annotations

import pytest

from minidl.kernels.cuda import nvrtc
from minidl.kernels.emulator import build

emulator = pytest.mark.skipif(
    not (nvrtc.available() and build.available()),
    reason=nvrtc.MISSING if not nvrtc.available() else build.MISSING,
)
