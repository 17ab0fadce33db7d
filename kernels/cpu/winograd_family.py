"""Winograd's algorithms for 3x3 windows as data: which pixels a tile reads and writes, and by which transforms.

==================  =======  ========  ======  ==========================================
family              reads    writes    points  instead of
==================  =======  ========  ======  ==========================================
SIDE_BY_SIDE        6x6      4x4       36      144 products: stride 1
STRIDED             9x9      4x4       81      144: stride 2
SPREAD              5x5      8x8       81      144: the input gradient of stride 2
==================  =======  ========  ======  ==========================================

A transformed line of weights has 6 values in each. Points from the sixth of a line on all belong to the last of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cpu.lanes import LANES
from minidl.kernels.cpu.plan import IntArray, Source, Window, ceil_div
from minidl.kernels.cpu.winograd_blocks import Picture, Tiles, into_block, out_of_block
from minidl.kernels.cpu.winograd_strided import (
    EVEN,
    POINTS,
    READS,
    spread_input_line,
    spread_output_line,
    strided_gradient_line,
    strided_input_line,
    strided_output_line,
    strided_weight_gradient_line,
    strided_weight_line,
)
from minidl.kernels.cpu.winograd_tiles import (
    OUTPUT,
    TILE,
    gradient_line,
    input_line,
    on_tile,
    output_line,
    weight_gradient_line,
    weight_line,
)

LINE = 6  # values of a transformed line of weights
MATRICES = LINE * LINE  # of transformed weights


@dataclass(frozen=True, eq=False)
class Family:
    """One of the algorithms; see winograd_blocks.py for its functions."""

    name: str
    points: int  # of a line: a tile has points * points products
    # Cycles of one core with two 16-lane multiply-adds in each, measured on AMD Zen 5. Only their ratios matter.
    direct: float  # products per cycle of the direct convolution
    input_cost: float  # cycles of transforming a channel of a tile's inputs
    output_cost: float  # and a channel of its sums back
    transform_inputs: Any
    transform_weight: Any
    finish_block: Any
    # For the gradient of the weights: products per cycle of the direct one, cycles of transforming a channel of a
    # tile's output gradients, and bytes of sums, and of operands of a block of tiles, that may wait in the caches.
    direct_weight: float = 0.0
    gradient_cost: float = 0.0
    sum_bytes: int = 0
    operand_bytes: int = 0
    transform_gradients: Any = None
    weight_gradient_back: Any = None


SIDE_BY_SIDE = Family(
    "side by side",
    TILE,
    27.0,
    28.0,
    12.0,
    into_block(input_line, TILE, TILE, OUTPUT),  # B' d B
    on_tile(weight_line, 3, LINE),  # G g G'
    out_of_block(output_line, TILE, OUTPUT),  # A' m A
    27.0,
    12.0,
    256 << 10,
    148 << 10,
    into_block(gradient_line, OUTPUT, TILE, OUTPUT),  # A gy A'
    on_tile(weight_gradient_line, LINE, 3),  # G' m G
)
STRIDED = Family(
    "strided",
    POINTS,
    26.0,
    52.0,
    22.0,
    into_block(strided_input_line, READS, POINTS, READS - 1),
    on_tile(strided_weight_line, 3, LINE),
    out_of_block(strided_output_line, POINTS, OUTPUT),
    24.0,
    36.0,
    1280 << 10,
    512 << 10,
    into_block(strided_gradient_line, OUTPUT, POINTS, OUTPUT),
    on_tile(strided_weight_gradient_line, LINE, 3),
)
SPREAD = Family(
    "spread",
    POINTS,
    24.5,
    36.0,
    40.0,
    into_block(spread_input_line, EVEN, POINTS, OUTPUT),
    STRIDED.transform_weight,
    out_of_block(spread_output_line, POINTS, 2 * OUTPUT),
)


@functools.cache
def points_in_order(points: int) -> IntArray:
    """The points of a tile, each with its matrix of weights, (points * points, 2): those of one matrix together."""
    rows, cols = np.divmod(np.arange(points * points), points)
    matrices = np.minimum(rows, LINE - 1) * LINE + np.minimum(cols, LINE - 1)
    order = np.argsort(matrices, kind="stable")
    return np.stack([order, matrices[order]], axis=1)


class Cut(NamedTuple):
    """A convolution cut into tiles: of the image that is read, and of the one that is written."""

    family: Family
    tiles: Tiles
    read: Picture
    written: Picture

    @property
    def scratch(self) -> int:
        """Elements of the scratch memory that the transforms of a strip or of a tile need."""
        points, read = self.family.points, self.read
        strip = points * ((self.tiles.across - 1) * read.step + read.size)
        return max(strip, points**2) * LANES

    @property
    def products(self) -> int:
        """Multiplications of the definition: 9 for each pixel of the smaller image, channel and output."""
        read, written = self.read, self.written
        pixels = min(read.height * read.width, written.height * written.width)
        return self.tiles.images * pixels * 9 * read.channels * written.channels


def cut(family: Family, images: int, read: Picture, written: Picture) -> Cut:
    """Tiles enough for every pixel of the written image."""
    down = ceil_div(written.height + written.top, written.step)
    across = ceil_div(written.width + written.left, written.step)
    return Cut(family, Tiles(images, down, across), read, written)


def whole_vectors(source: Source, outputs: int) -> bool:
    """float32, whole vectors of channels and outputs, one group."""
    vectors = source.channels % LANES == 0 == outputs % LANES
    return source.itemsize == 4 and source.pixel == source.channels and vectors


THREE_BY_THREE = tuple((r, c) for r in range(3) for c in range(3))


@functools.lru_cache(maxsize=4096)
def cut_forward(source: Source, window: Window, outputs: int) -> Cut | None:
    """A convolution, or an input gradient of stride 1, as tiles; None where none of the families computes it."""
    family = {(1, 1): SIDE_BY_SIDE, (2, 2): STRIDED}.get((window.stride_h, window.stride_w))
    if family is None or window.taps != THREE_BY_THREE or not whole_vectors(source, outputs):
        return None
    size, step = (TILE, OUTPUT) if family is SIDE_BY_SIDE else (READS, READS - 1)
    pads = window.pad_top, window.pad_left
    read = Picture(source.height, source.width, source.channels, *pads, size, step)
    return cut(family, source.images, read, Picture(window.rows, window.cols, outputs, 0, 0, OUTPUT, OUTPUT))


@functools.lru_cache(maxsize=4096)
def cut_spread(source: Source, window: Window, input_hw: tuple[int, int], outputs: int) -> Cut | None:
    """The input gradient of a convolution of stride 2 as tiles; None where SPREAD does not compute it.

    Args:
        source: the output gradient.
        window: of the forward convolution.
        input_hw, outputs: height, width and channels of the input.

    A tile starts with a pixel of the odd phase, whose window has its middle there. Where the padding is even, the
    image starts with a pixel of the even phase, the second of a tile's.
    """
    strides = (window.stride_h, window.stride_w)
    if strides != (2, 2) or window.taps != THREE_BY_THREE or not whole_vectors(source, outputs):
        return None
    pads = window.pad_top, window.pad_left
    top, left = (1 - pad % 2 for pad in pads)
    # The first pixel of a tile, -top, is read by the window (pad - top - 1) / 2, at its middle tap.
    reads = tuple(-(pad - first - 1) // 2 for pad, first in zip(pads, (top, left), strict=True))
    read = Picture(source.height, source.width, source.channels, reads[0], reads[1], EVEN, OUTPUT)
    written = Picture(*input_hw, outputs, top, left, 2 * OUTPUT, 2 * OUTPUT)
    return cut(SPREAD, source.images, read, written)
