"""NVRTC, NVIDIA's compiler as a library, through ctypes: CUDA C++ in, PTX and machine code out. It needs no driver.

The library comes with the package ``nvidia-cuda-nvrtc`` (extra ``minidl[emulator]``), with CuPy's CUDA toolkit packages
or with an installed toolkit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidl.kernels.cuda.device import CUDAError

MISSING = (
    "NVRTC, the CUDA compiler library, was not found: install minidl[emulator] to run kernels on the emulated device, "
    "minidl[cuda13] or minidl[cuda12] to run them on a graphics card"
)


def _candidates() -> list[Path]:
    """NVRTC in the packages of the environment, newest first, then in an installed toolkit."""
    pattern = "nvrtc64_*.dll" if sys.platform == "win32" else "libnvrtc.so.*"
    places: list[Path] = []
    spec = importlib.util.find_spec("nvidia")
    for base in (spec.submodule_search_locations or []) if spec else []:
        places += sorted(Path(base).glob("cu*/lib"), reverse=True) + sorted(Path(base).glob("cu*/bin/x86_64"))
        places += [Path(base) / "cuda_nvrtc" / "lib", Path(base) / "cuda_nvrtc" / "bin"]
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        if os.environ.get(variable):
            places += [Path(os.environ[variable]) / folder for folder in ("lib64", "lib", "bin")]
    places.append(Path("/usr/local/cuda/lib64"))
    return [f for place in places for f in sorted(place.glob(pattern), reverse=True) if "alt" not in f.name]


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        ImportError: it is not installed.
    """
    for path in _candidates():
        # It does not look beside itself for its second half, so that is loaded first.
        pattern = "nvrtc-builtins64_*.dll" if sys.platform == "win32" else "libnvrtc-builtins.so.*"
        for builtins in sorted(path.parent.glob(pattern)):
            ctypes.CDLL(str(builtins), getattr(ctypes, "RTLD_GLOBAL", 0))
        return ctypes.CDLL(str(path))
    name = ctypes.util.find_library("nvrtc")
    if name is None:
        raise ImportError(MISSING)
    return ctypes.CDLL(name)


def available() -> bool:
    """Whether the library is there."""
    try:
        library()
    except (ImportError, OSError):
        return False
    return True


@functools.cache
def version() -> tuple[int, int]:
    """NVRTC's version, (13, 0) for example."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


@functools.cache
def architectures() -> tuple[int, ...]:
    """The architectures that this NVRTC makes code for: (75, 80, ...)."""
    count = ctypes.c_int()
    library().nvrtcGetNumSupportedArchs(ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    library().nvrtcGetSupportedArchs(numbers)
    return tuple(numbers)


@dataclass(frozen=True)
class Output:
    """What NVRTC made: PTX, machine code (empty for a virtual architecture), its log, each instance's symbol."""

    ptx: str
    cubin: bytes
    log: str
    symbols: dict[str, str]


def run(
    code: str,
    name: str,
    headers: Mapping[str, str],
    options: Sequence[str],
    instances: Sequence[str] = (),
) -> Output:
    """Compile ``code``, called ``name`` in messages; ``headers`` are the files that it may include.

    Raises:
        CUDAError: it does not compile; the message is NVRTC's log.
        ImportError: NVRTC is not installed.
    """
    lib = library()
    lib.nvrtcGetErrorString.restype = ctypes.c_char_p
    program = ctypes.c_void_p()

    def check(code: int, what: str) -> None:
        if code:
            raise CUDAError(f"{name}: {what}: {lib.nvrtcGetErrorString(code).decode()}")

    def text_array(values: Sequence[str]) -> Any:
        return (ctypes.c_char_p * max(len(values), 1))(*[v.encode() for v in values])

    def fetch(what: str) -> bytes:
        size = ctypes.c_size_t()
        check(getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
        buffer = ctypes.create_string_buffer(size.value)
        check(getattr(lib, f"nvrtcGet{what}")(program, buffer), what)
        return buffer.raw

    check(
        lib.nvrtcCreateProgram(
            ctypes.byref(program),
            code.encode(),
            name.encode(),
            len(headers),
            text_array(list(headers.values())),
            text_array(list(headers)),
        ),
        "creating the program",
    )
    try:
        for instance in instances:
            check(lib.nvrtcAddNameExpression(program, instance.encode()), instance)
        failed = lib.nvrtcCompileProgram(program, len(options), text_array(options))
        log = fetch("ProgramLog").rstrip(b"\0").decode(errors="replace")
        if failed:
            raise CUDAError(log.strip() or lib.nvrtcGetErrorString(failed).decode())
        symbols = {}
        for instance in instances:
            symbol = ctypes.c_char_p()
            check(lib.nvrtcGetLoweredName(program, instance.encode(), ctypes.byref(symbol)), instance)
            symbols[instance] = (symbol.value or b"").decode()
        real = any(option.startswith("--gpu-architecture=sm_") for option in options)
        ptx = fetch("PTX").rstrip(b"\0").decode()
        return Output(ptx, fetch("CUBIN") if real else b"", log, symbols)
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))
