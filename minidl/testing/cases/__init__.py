"""The operator table: one list of entries for each family, each with a fixture file of PyTorch's results."""

from __future__ import annotations

from minidl.testing.cases import activations, first, losses, math, neural, points, shape
from minidl.testing.cases.entry import Entry

FAMILIES: dict[str, list[Entry]] = {
    "first": first.TABLE,
    "math": math.TABLE,
    "shape": shape.TABLE,
    "neural": neural.TABLE,
    "activations": activations.TABLE,
    "losses": losses.TABLE,
    "points": points.TABLE,
}
TABLE: list[Entry] = [entry for table in FAMILIES.values() for entry in table]

__all__ = ["FAMILIES", "TABLE", "Entry"]
