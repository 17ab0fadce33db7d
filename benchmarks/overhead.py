"""What the engine itself costs: chains of small operators, microseconds for each, beside PyTorch's.

    python -m benchmarks --only overhead

Arrays of four numbers: nearly all of the time is bookkeeping. Forward records the graph, backward walks it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

LENGTH = 1000

CHAINS: dict[str, Callable[[Any, Any], Any]] = {
    "y + b": lambda y, b: y + b,
    "y + 1.5": lambda y, b: y + 1.5,
    "y * b": lambda y, b: y * b,
    "relu(y)": lambda y, b: y.relu(),
    "tanh(y)": lambda y, b: y.tanh(),
    "y.reshape": lambda y, b: y.reshape(2, 2) if y.ndim == 1 else y.reshape(4),
}


def _once(step: Callable[[Any, Any], Any], x: Any, b: Any) -> tuple[float, float]:
    """Microseconds for each operator of a chain, forward and backward."""
    start = time.perf_counter()
    y = x
    for _ in range(LENGTH):
        y = step(y, b)
    loss = y.sum()
    middle = time.perf_counter()
    loss.backward()
    end = time.perf_counter()
    x.grad = None
    return 1e6 * (middle - start) / LENGTH, 1e6 * (end - middle) / LENGTH


def measure(turns: int = 40) -> list[dict[str, Any]]:
    """The quickest of the turns, in which minidl and PyTorch (where installed) alternate: what else runs on the
    machine can only add."""
    import minidl

    array = np.array([0.1, -0.2, 0.3, 0.4], np.float32)
    sides = {"minidl": (minidl.Tensor(array, requires_grad=True), minidl.Tensor(array))}
    if find_spec("torch") is not None:
        import torch

        sides["torch"] = (torch.tensor(array, requires_grad=True), torch.tensor(array))  # type: ignore[assignment]
    rows = []
    for name, step in CHAINS.items():
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for turn in range(turns + 2):
            for side, (x, b) in sides.items():
                result = _once(step, x, b)
                if turn >= 2:
                    found[side].append(result)
        row: dict[str, Any] = {"chain": name}
        for side, results in found.items():
            for part, values in zip(("forward", "backward"), zip(*results, strict=True), strict=True):
                row[f"{side} {part}"] = min(values)
        if "torch" in found:
            ours, theirs = (sum(row[f"{side} {part}"] for part in ("forward", "backward")) for side in sides)
            row["ratio"] = ours / theirs
        rows.append(row)
    return rows
