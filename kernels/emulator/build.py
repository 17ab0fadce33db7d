"""The host's C++ compiler: the runtime once, then one library for each translated PTX file, kept on disk.

The libraries are named by a hash of what went in, as in :mod:`minidl.kernels.cuda.compiler`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from importlib import resources
from pathlib import Path

from minidl.kernels import folders
from minidl.kernels.cuda.device import CUDAError

MISSING = (
    "the emulated device needs a C++ compiler (g++ or clang++, or the one that CXX names); none was found"
)


@functools.cache
def compiler() -> str:
    """The path of the C++ compiler.

    Raises:
        ImportError: there is none, or the system is one that the runtime does not know.
    """
    if platform.system() != "Linux":
        raise ImportError(
            "the emulated device works on Linux; on Windows use WSL, on macOS a Linux container"
        )
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise ImportError(MISSING)


def available() -> bool:
    """Whether there is a C++ compiler, on a system where the runtime works."""
    try:
        return bool(compiler())
    except ImportError:
        return False


@functools.cache
def flags() -> tuple[str, ...]:
    """Instructions that this processor has and that the translation gains from: fused multiply-add above all."""
    base = (
        "-std=c++17",
        "-fPIC",
        "-shared",
        "-w",
        "-fno-strict-aliasing",
        "-ffp-contract=off",
        "-fno-math-errno",
    )
    if platform.machine() not in ("x86_64", "AMD64"):
        return base
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace")
        features = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    except OSError:
        features = []
    return (*base, *(f"-m{name}" for name in ("avx2", "fma") if name in features))


def headers() -> dict[str, str]:
    """The runtime's files."""
    folder = resources.files("minidl.kernels.emulator") / "runtime"
    return {e.name: e.read_text(encoding="utf8") for e in folder.iterdir() if e.name.endswith((".h", ".cpp"))}


@functools.cache
def _version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _temporary() -> Path:
    """Where libraries go when there is no cache folder: gone when the process ends."""
    return Path(_keep_folder().name)


@functools.cache
def _keep_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="minidl-emulator-")


def library(code: str, optimise: str, name: str) -> Path:
    """``code`` as a shared library: from the disk if it is there, else compiled.

    Raises:
        CUDAError: the C++ compiler refuses it, which is a fault of the translation.
        ImportError: there is no compiler.
    """
    files = headers()
    key = "\0".join([code, optimise, *flags(), _version(), *(f"{n}\0{t}" for n, t in sorted(files.items()))])
    folder = folders.writable("emulator") or _temporary()
    path = folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for file, text in files.items():
            (Path(work) / file).write_text(text, encoding="utf8")
        source = Path(work) / "unit.cpp"
        source.write_text(code, encoding="utf8")
        out = Path(work) / "unit.so"
        command = [compiler(), *flags(), optimise, str(source), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CUDAError(f"{name}: the C++ compiler refuses the translated kernel:\n{done.stderr[:4000]}")
        out.replace(path)
    return path


_loading = threading.Lock()


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime, compiled at its first use. Its symbols are visible to the kernels' libraries."""
    with _loading:
        code = headers()["runtime.cpp"]
        return ctypes.CDLL(str(library(code, "-O2", "runtime")), ctypes.RTLD_GLOBAL)
