"""Fair timing on a noisy machine: contestants take turns, ratios are taken turn by turn, medians are
reported."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each contestant in each turn."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of one contestant."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """How many times faster ``name`` is than ``other``: median of the turn-by-turn ratios, and their
        quartiles."""
        ratios = sorted(b / a for a, b in zip(self.seconds[name], self.seconds[other], strict=True))
        if len(ratios) < 4:
            return statistics.median(ratios), ratios[0], ratios[-1]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high

    def fastest(self, names: list[str]) -> str:
        """The contestant with the smallest median."""
        return min(names, key=self.median)


def interleave(
    contestants: Mapping[str, Callable[[], object]], turns: int, warmup: int = 2, min_seconds: float = 0.0
) -> Timing:
    """Run every contestant once per turn, after ``warmup`` uncounted turns.

    Args:
        contestants: what to time, by name.
        turns: counted turns.
        min_seconds: a contestant is called several times in its turn until this much time has passed (short
            kernels).
    """
    calls = dict.fromkeys(contestants, 1)
    for _ in range(max(warmup, 1)):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            once = time.perf_counter() - started
            calls[name] = max(1, min(1000, int(min_seconds / max(once, 1e-7))))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            started = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / calls[name])
    return Timing(seconds)


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


def describe_machine(threads: int) -> str:
    """One line: processor, threads, versions."""
    import numba
    import numpy

    import minidl

    parts = [
        processor(),
        f"{threads} of {os.cpu_count()} threads",
        platform.platform(terse=True),
        f"Python {platform.python_version()}",
        f"minidl {minidl.__version__}",
        f"numpy {numpy.__version__}",
        f"numba {numba.__version__}",
    ]
    try:
        import torch

        parts.append(f"torch {torch.__version__}")
    except ImportError:
        parts.append("torch not installed")
    return ", ".join(parts)
