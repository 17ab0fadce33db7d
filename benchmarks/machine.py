"""The machine: its name, its versions, and how fast it could be at best.

Two limits frame every kernel (the roofline of Williams, Waterman & Patterson 2009): multiply-adds on registers, and
bytes from and to memory. Both are measured with minidl's own kernels, on the threads that the benchmark uses.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

LIBRARIES = ("minidl", "numpy", "numba", "llvmlite", "torch", "onnxruntime", "openvino")
SPINS = 10_000  # of 64 steps of multiply-adds: about two milliseconds
STREAM = 1 << 25  # numbers in each array of the memory test: 128 MiB, more than any cache


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.machine()


def versions() -> dict[str, str]:
    """The installed libraries that take part, by name."""
    import minidl

    found = {"minidl": minidl.__version__}
    for name in LIBRARIES:
        try:
            found.setdefault(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(threads: int) -> dict[str, Any]:
    """Processor, vectors, threads, system and versions."""
    from minidl.kernels.cpu.simd import target

    return {
        "processor": processor(),
        "vectors": f"{32 * target().float_lanes} bits",
        "threads": threads,
        "cpus": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions(),
    }


def line(machine: dict[str, Any]) -> str:
    """The description as one line."""
    parts = [
        machine["processor"],
        f"vectors of {machine['vectors']}",
        f"{machine['threads']} of {machine['cpus']} threads",
        machine["system"],
        f"Python {machine['python']}",
        *(f"{name} {version}" for name, version in machine["versions"].items()),
    ]
    return ", ".join(parts)


def multiply_adds(threads: int) -> tuple[Callable[[], None], float]:
    """A function that runs multiply-adds on registers and the L1 cache, on every thread, and the GFLOP of one call.

    It uses the register tile of the convolutions. To be interleaved with what it is the limit of.
    """
    from minidl.kernels.cpu import simd
    from minidl.kernels.cpu.plan import tile_shapes
    from minidl.kernels.cpu.runtime import kernel, launch

    shape = tile_shapes()[0]
    tile = simd.tile("float32", shape.rows, shape.vectors)
    zero, fma, store, cols = tile.zero, tile.fma, tile.store, tile.cols
    depth, repeats, size = 64, SPINS, tile.rows * tile.cols

    @kernel(variant=tile.name)
    def spin(a: Any, b: Any, c: Any, part: int, parts: int) -> None:
        for _ in range(repeats):
            acc = zero()
            for k in range(depth):
                acc = fma(acc, a, k, depth, b, k * cols)
            store(acc, c, part * size, cols)

    a = np.ones(tile.rows * depth, np.float32)
    b = np.ones(depth * cols, np.float32)
    c = np.zeros(threads * size, np.float32)
    return lambda: launch(spin, a, b, c, parts=threads), 2 * size * depth * repeats * threads / 1e9


def load() -> float | None:
    """How many processes wanted a processor in the last minute; None where the system does not tell (Windows)."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def best_rate(run: Callable[[], object], amount: float, seconds: float = 0.5) -> float:
    """``amount`` per second at the best of the calls that ``seconds`` hold, after one that may compile.

    Threads that have just started may share a processor for a tenth of a second before the system spreads them.
    """
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        run()
        best = min(best, time.perf_counter() - started)
    return amount / best


def multiply_add_limit(threads: int) -> float:
    """GFLOP/s of :func:`multiply_adds` on ``threads`` threads."""
    return best_rate(*multiply_adds(threads))


def bandwidth(threads: int) -> float:
    """GB/s of a = b + 3 c on arrays that no cache holds: the triad of McCalpin's STREAM, which counts three arrays."""
    from minidl.kernels.cpu import memory
    from minidl.kernels.cpu.lanes import LANES, drain, fma, load, splat, stream
    from minidl.kernels.cpu.runtime import kernel, launch, share

    @kernel
    def triad(a: Any, b: Any, c: Any, part: int, parts: int) -> None:
        first, last = share(a.size // LANES, part, parts)
        three = splat(np.float32(3))
        for i in range(first * LANES, last * LANES, LANES):
            stream(a, i, fma(three, load(c, i), load(b, i)))
        drain()

    a, b, c = (memory.empty(STREAM, np.float32) for _ in range(3))  # streamed: aligned
    for array in (a, b, c):
        array[:] = 1
    return best_rate(lambda: launch(triad, a, b, c, parts=threads), 3 * a.nbytes / 1e9)
