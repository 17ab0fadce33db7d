"""Tables of a convolution by addresses: where each output pixel reads an image at each tap, and where it is written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minidl.kernels.cpu.plan import IntArray, Phase, Source, depth_blocks

DEPTH = 384  # the reduction is cut into blocks of about this length


class Tables(NamedTuple):
    """What the kernel looks up.

    A segment is a stretch of the reduction, channels of one tap: its first table entry, the byte of its first channel
    in a pixel, its length, and its row in a panel. A block is some segments; the phases' blocks follow each other.
    """

    phases: IntArray  # for each: its pixels, its first place, its first block and past its last
    offsets: npt.NDArray[
        np.int32
    ]  # (tap of a phase, pixel): bytes in a source image; negative in the padding
    places: IntArray  # (pixel of a phase): element in an output image
    segments: IntArray
    blocks: IntArray  # first segment of each, with their number at the end


class Target(NamedTuple):
    """The image that is written: ``height`` x ``width`` pixels of ``pixel`` elements, each phase's ``stride`` apart."""

    height: int
    width: int
    pixel: int
    stride: tuple[int, int]


def source_offsets(source: Source, phase: Phase) -> IntArray:
    """(taps, pixels): bytes from an image's start to what an output pixel reads at a tap; -1 in the padding."""
    w = phase.window
    if w is None:
        return np.empty((0, 0), np.int64)
    r, c = np.array(w.taps).T
    rows = (np.arange(w.rows) * w.stride_h - w.pad_top)[None, :] + r[:, None]
    cols = (np.arange(w.cols) * w.stride_w - w.pad_left)[None, :] + c[:, None]
    inside = ((rows >= 0) & (rows < source.height))[:, :, None] & ((cols >= 0) & (cols < source.width))[
        :, None
    ]
    offsets = (rows[:, :, None] * source.width + cols[:, None]) * (source.pixel * source.itemsize)
    return np.where(inside, offsets, -1).reshape(len(w.taps), -1)


def target_places(target: Target, phase: Phase) -> IntArray:
    """(pixels,): elements from an image's start to each output pixel of a phase."""
    rows = np.arange(phase.row, target.height, target.stride[0])
    cols = np.arange(phase.col, target.width, target.stride[1])
    return ((rows[:, None] * target.width + cols) * target.pixel).reshape(-1)


def lay_tables(source: Source, phases: tuple[Phase, ...], target: Target) -> Tables:
    """The tables of a convolution; the taps of the phases follow each other in a panel."""
    rows: list[tuple[int, int, int, int]] = []
    offsets: list[IntArray] = []
    places: list[IntArray] = []
    segments: list[IntArray] = []
    blocks = [np.zeros(1, np.int64)]
    for phase in phases:
        place = target_places(target, phase)
        own = source_offsets(source, phase)
        pieces, starts = tap_blocks(len(own), source.channels)
        before = sum(map(len, segments)), sum(map(len, blocks)) - 1
        taken = sum(t.size for t in offsets)
        depth = sum(int(piece[:, 2].sum()) for piece in segments)
        pieces[:, 0] = taken + pieces[:, 0] * place.size
        pieces[:, 1] *= source.itemsize
        pieces[:, 3] += depth
        rows.append((place.size, sum(p.size for p in places), before[1], before[1] + len(starts)))
        segments.append(pieces)
        blocks.append(starts + before[0])
        offsets.append(own.reshape(-1))
        places.append(place)
    return Tables(
        np.array(rows, np.int64),
        np.concatenate(offsets).astype(np.int32),
        np.concatenate(places),
        np.concatenate(segments),
        np.concatenate(blocks),
    )


def tap_blocks(taps: int, channels: int) -> tuple[IntArray, IntArray]:
    """Cut the reduction over (tap, channel) into blocks.

    Returns:
        segments (n, 4): tap, first channel, length, place in the reduction; and past the last segment of each block,
        of which there is one where there are no taps.
    """
    if not taps:
        return np.empty((0, 4), np.int64), np.zeros(1, np.int64)
    stretches, starts = depth_blocks([(0, channels)] * taps, DEPTH)
    length, place = stretches[:, 1], stretches[:, 2]
    return np.stack([place // channels, place % channels, length, place], axis=1), starts[1:]
