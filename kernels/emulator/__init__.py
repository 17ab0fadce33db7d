"""The emulated device: runs the PTX that NVRTC makes on the processor, and checks every memory access.

It needs no graphics card and no driver: only NVRTC (extra ``minidl[emulator]``) and the host's C++ compiler.

    device = EmulatedDevice()
    add = device.compile("elementwise.cu")["add_float"]
    device.launch(add, 4, 256, (a, b, c, 1000))

:mod:`.ptx` takes PTX apart, :mod:`.translate` writes it as C++ (instructions: :mod:`.arithmetic`, :mod:`.memory`,
:mod:`.warps`, :mod:`.warpgroups`), :mod:`.build` compiles that, and ``runtime/`` runs each CUDA thread as a fiber.
:mod:`.array` has arrays that behave as CuPy's, :mod:`.poison` what lies in memory that nobody wrote,
:mod:`.recording` what a captured step is here. docs/gpu-without-a-gpu.md shows how to use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.kernels.emulator.device import EmulatedDevice, KernelFault, Traffic

__all__ = ["EmulatedDevice", "KernelFault", "Traffic"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from minidl.kernels.emulator import device

        return getattr(device, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
