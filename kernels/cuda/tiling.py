"""How the matrix kernels cut their work into blocks: the tiles there are, and which one a shape gets.

A block makes ``bm`` x ``bn`` of the result, a warp of 32 threads ``wm`` x ``wn`` of that, with ``stages`` slices of the
reduced index in shared memory. Larger tiles read less for each product, smaller ones fill more multiprocessors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from minidl.kernels.cuda.device import Device

if TYPE_CHECKING:
    from collections.abc import Iterator

PRECISIONS = {"strict": "FMA", "tf32x3": "TENSOR3", "tf32": "TENSOR"}
_precision: ContextVar[str] = ContextVar("minidl_cuda_float32_precision", default="strict")
_forced: ContextVar[Tiling | None] = ContextVar("minidl_cuda_tiling", default=None)


@dataclass(frozen=True)
class Tiling:
    """One way to cut; ``blocks`` is how many of its blocks one multiprocessor should hold. ``wgmma``: by the
    instructions of warpgroups (four warps that take 64 rows together), which only sm_90a has."""

    bm: int
    bn: int
    wm: int
    wn: int
    stages: int
    blocks: int
    wgmma: bool = False

    @property
    def slice_bytes(self) -> int:
        """Bytes of the reduced index in one slice (tile.cuh, warpgroup.cuh)."""
        return 128 if self.wgmma else 64

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.bm // self.wm * (self.bn // self.wn) * 32

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: the slices, or later, in the same place, each warp's slab of results."""
        slab = 16 * (self.wn + 8) * 4
        return max(self.stages * (self.bm + self.bn) * self.slice_bytes, self.threads // 32 * slab)

    def arithmetic(self, math: str) -> str:
        """How its kernels multiply what ``math`` names, as a template argument."""
        return "WARPGROUP" if self.wgmma else math

    def arguments(self) -> str:
        """As template arguments."""
        return f"{self.bm}, {self.bn}, {self.wm}, {self.wn}, {self.stages}, {self.blocks}"


# What a lane holds in registers decides: 64 accumulators, and beside them the fragments of one step.
TILINGS: dict[str, tuple[Tiling, ...]] = {
    "TENSOR": (
        Tiling(128, 128, 64, 32, 4, 2),
        Tiling(128, 64, 64, 32, 4, 2),
        Tiling(64, 64, 32, 32, 4, 3),
    ),
    "TENSOR3": (Tiling(128, 64, 64, 32, 4, 2), Tiling(64, 64, 32, 32, 4, 3)),
    "FMA": (Tiling(128, 128, 64, 32, 4, 1), Tiling(128, 64, 64, 32, 4, 2), Tiling(64, 64, 32, 32, 4, 2)),
    "WARPGROUP": (
        Tiling(128, 256, 16, 256, 4, 1, wgmma=True),
        Tiling(128, 128, 16, 128, 3, 2, wgmma=True),
        Tiling(128, 64, 16, 64, 4, 2, wgmma=True),
    ),
}
NARROW = Tiling(64, 64, 32, 32, 4, 3)
"""The tiling of operands that are copied less than 8 bytes at a time: the copies decide then, so a small tile does."""
MIN_SLICES = 8
"""A split takes at least this many slices of the reduced index: shorter ones only fill and drain the pipeline."""
MMA_SYNC_RATE = 0.63
"""What the warps' own matrix instructions reach of the rate of wgmma where there is both (Luo et al., "Benchmarking and
Dissecting the Nvidia Hopper GPU Architecture", 2024)."""


@contextmanager
def float32_precision(name: str) -> Iterator[None]:
    """How the matrix kernels multiply float32 inside a ``with`` block (in this thread).

    ``"strict"``: float32 products and sums. ``"tf32x3"``: each factor as the sum of two tf32 numbers, three products on
    the tensor cores, about 21 bits (infinities become NaN). ``"tf32"``: factors rounded to 10 bits of mantissa.
    Needs compute capability 8.0; older devices compute strictly.

    Raises:
        ValueError: there is no precision of that name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"float32_precision: name expects one of {', '.join(PRECISIONS)}, got {name!r}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def get_float32_precision() -> str:
    """The present :func:`float32_precision` of this thread."""
    return _precision.get()


@contextmanager
def force(tile: Tiling) -> Iterator[None]:
    """Use this tiling for every product in a ``with`` block (in this thread): for tests and measurements."""
    token = _forced.set(tile)
    try:
        yield
    finally:
        _forced.reset(token)


def arithmetic(device: Device, element: str) -> str:
    """FMA, TENSOR or TENSOR3 for this element type on this device."""
    if element == "f16":
        return "TENSOR"
    if device.compute_capability < 80:
        return "FMA"
    return "TENSOR" if element == "bf16" else PRECISIONS[_precision.get()]


def staged(tile: Tiling, compute_capability: int) -> Tiling:
    """The tiling as an architecture takes it. Before 8.0 copies do not overlap, so two stages do, and they pass through
    registers, so one block less must fit."""
    return tile if compute_capability >= 80 else replace(tile, stages=2, blocks=max(tile.blocks - 1, 1))


def fit(device: Device, tile: Tiling) -> Tiling:
    """The tiling with as many stages as are of use on the device and fit its shared memory."""
    tile = staged(tile, device.compute_capability)
    while (
        tile.stages > (3 if tile.wgmma else 2)
        and tile.stages * (tile.bm + tile.bn) * tile.slice_bytes > device.shared_limit
    ):
        tile = replace(tile, stages=tile.stages - 1)
    return tile


def has_wgmma(architecture: str) -> bool:
    """Whether NVRTC makes the instructions of warpgroups for it: neither for sm_90 without the a nor for later ones."""
    return architecture.endswith("_90a")


def table(math: str, itemsize: int, width: int, across: bool, architecture: str) -> tuple[Tiling, ...]:
    """The tilings whose registers suffice: narrow copies, and fragments read element by element (32-bit operands
    across k), take those of the largest tile on tensor cores.

    wgmma reads neither. For it float32 is rounded in shared memory, which only large tiles make up for
    (``benchmarks.cuda_roofline``).
    """
    if math != "TENSOR":
        return TILINGS[math]
    if width * itemsize < 16 or (across and itemsize == 4):
        return TILINGS["TENSOR3"]
    offered = TILINGS["WARPGROUP"] if has_wgmma(architecture) else ()
    return TILINGS["TENSOR"] + (offered[:2] if itemsize == 4 else offered)


def candidates(
    device: Device, math: str, itemsize: int, width: int, across: bool = False
) -> tuple[Tiling, ...]:
    """The tilings that a product may get, as the device takes them.

    ``itemsize``: bytes of an element; ``width``: how many of them one copy into shared memory moves; ``across``: an
    operand lies across k.
    """
    forced = _forced.get()
    if forced is not None:
        return (fit(device, forced),)
    if width * itemsize < 8:
        return (fit(device, NARROW),)
    return tuple(fit(device, tile) for tile in table(math, itemsize, width, across, device.architecture))


def choose(device: Device, table: Sequence[Tiling], m: int, n: int, copies: int, splits: bool) -> Tiling:
    """The tiling for ``copies`` products of m x n results, by a rule that depends on the shapes alone.

    A block's work is its results plus its border: multiplying grows with bm * bn, loading with bm + bn. Where the
    reduced index can be split there are always blocks enough, and the total work counts; else it is the number of waves
    (rounds of all multiprocessors) times a block's work.
    """

    def cost(t: Tiling) -> float:
        count = -(-m // t.bm) * -(-n // t.bn) * copies
        work = (t.bm * t.bn + 32 * (t.bm + t.bn)) * (MMA_SYNC_RATE if t.wgmma else 1)
        return work * (count if splits else -(-count // (device.multiprocessors * t.blocks)) * t.blocks)

    return min(table, key=cost)


def split(device: Device, tile: Tiling, tiles: int, length: int, itemsize: int) -> tuple[int, int]:
    """How a reduced index of ``length`` is cut where there are only ``tiles`` blocks' worth of results: the number of
    splits and their length (a multiple of a slice). One wave of all multiprocessors is aimed at."""
    slices = max(-(-length * itemsize // tile.slice_bytes), 1)
    wanted = min(max(device.multiprocessors * tile.blocks // tiles, 1), max(slices // MIN_SLICES, 1))
    each = -(-slices // wanted) * (tile.slice_bytes // itemsize)
    return max(-(-length // each), 1), each
