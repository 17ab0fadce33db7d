"""The CPU back end: explicit vectors, packed matrix products and threads, compiled by Numba.

Numba is imported with the first use of :class:`CPUBackend`, not with this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.kernels.cpu.backend import CPUBackend

__all__ = ["CPUBackend"]


def __getattr__(name: str) -> Any:
    if name == "CPUBackend":
        from minidl.kernels.cpu.backend import CPUBackend

        return CPUBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
