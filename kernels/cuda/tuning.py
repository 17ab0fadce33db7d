"""The tiling of each product by timing, where time means something: each candidate runs a few times when a shape is met
for the first time, and the fastest is kept, on disk too.

The table of a graphics card is a file of its own in the cache folder, named by the card and a hash of the kernels'
sources. ``MINIDL_TUNE=0`` leaves the choice to the rule (:func:`minidl.kernels.cuda.tiling.choose`): then results do
not depend, in their last bits, on how fast a card happened to be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

from minidl.kernels import folders
from minidl.kernels.cuda import compiler
from minidl.kernels.cuda.device import Device
from minidl.kernels.cuda.tiling import Tiling

_tables: dict[str, dict[str, Tiling]] = {}


def _file(device: Device) -> Path | None:
    folder = folders.writable("cuda")
    if folder is None:
        return None
    sources = hashlib.sha256(json.dumps(compiler.sources()).encode()).hexdigest()[:12]
    name = re.sub(r"\W+", "-", f"{device.model}-{device.compute_capability}")
    return folder / f"tiles-{name}-{sources}.json"


def _tiling(bm: int, bn: int, wm: int, wn: int, stages: int, blocks: int, wgmma: int) -> Tiling:
    return Tiling(bm, bn, wm, wn, stages, blocks, bool(wgmma))


def _load(device: Device) -> dict[str, Tiling]:
    path = _file(device)
    try:
        entries = json.loads(path.read_text(encoding="utf8")) if path else {}
        return {str(key): _tiling(*map(int, values)) for key, values in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # not there, or damaged: measure again


def _save(device: Device, table: dict[str, Tiling]) -> None:
    path = _file(device)
    if path is None:
        return
    try:
        folders.write_atomically(path, json.dumps({k: astuple(t) for k, t in table.items()}).encode())
    except OSError:
        return  # a full disk is no reason to fail


def pick(
    device: Device, key: str, default: Tiling, candidates: Sequence[Tiling], run: Callable[[Tiling], None]
) -> Tiling:
    """The fastest of ``candidates`` for the product that ``key`` names; ``default`` on a device without a clock, or
    when there is nothing to choose. ``run`` launches the product; running it again must change nothing."""
    if len(candidates) < 2 or os.environ.get("MINIDL_TUNE", "1") == "0" or not device.has_clock:
        return default
    table = _tables.setdefault(device.name, {})
    if not table:
        table.update(_load(device))
    found = table.get(key)
    if found not in candidates:
        times = {tile: device.elapsed(lambda tile=tile: run(tile)) for tile in candidates}  # type: ignore[misc]
        found = min(candidates, key=lambda tile: times[tile])
        table[key] = found
        _save(device, table)
    assert found is not None
    return found
