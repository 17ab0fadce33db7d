"""Fair timing on a noisy machine: contestants take turns, ratios are taken turn by turn, medians are
reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SETTLE = 0.01  # seconds between contestants, in which the last one's idle threads stop spinning


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

    def fastest(self, names: Sequence[str]) -> str:
        """The contestant with the smallest median."""
        return min(names, key=self.median)


def interleave(
    contestants: Mapping[str, Callable[[], object]], turns: int, warmup: int = 2, min_seconds: float = 0.0
) -> Timing:
    """Run every contestant once per turn, after ``warmup`` uncounted turns.

    The order is reversed every other turn, so that nobody always comes after the same neighbour.

    Args:
        contestants: what to time, by name.
        turns: counted turns.
        warmup: uncounted turns, at least one.
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
    names = list(contestants)
    for turn in range(turns):
        for name in names if turn % 2 == 0 else reversed(names):
            run = contestants[name]
            time.sleep(SETTLE)
            started = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / calls[name])
    return Timing(seconds)
