"""Pictures of what was learned without labels: rows of images, and a plane of points."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from minidl.training.plots import GREY, have_matplotlib, new_figure, save_figure
from minidl.training.reporting import printable

TILE = 56
"""Least side of an image in a sheet, in pixels; smaller ones are enlarged by a whole factor."""
MAX_COLOURS = 20


def draw_rows(rows: Sequence[np.ndarray], path: str | os.PathLike[str], gap: int = 2) -> None:
    """Draw rows of images, each uint8 (N, H, W, 1 or 3) of one size, below one another into a PNG file."""
    from PIL import Image

    from minidl.weights.files import atomic_write

    height, width = rows[0].shape[1:3]
    factor = max(1, TILE // max(height, width))
    columns = max(len(row) for row in rows)
    sheet = np.full(
        (len(rows) * (height * factor + gap) + gap, columns * (width * factor + gap) + gap, 3), 255, np.uint8
    )
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = gap + y * (height * factor + gap), gap + x * (width * factor + gap)
            tile = image.repeat(factor, axis=0).repeat(factor, axis=1)
            sheet[top : top + height * factor, left : left + width * factor] = tile
    with atomic_write(path) as file:
        Image.fromarray(sheet).save(file, "PNG")


def principal_plane(points: np.ndarray) -> np.ndarray:
    """The coordinates (N, 2) of points (N, D) along their two principal components, the widest first.

    The sign of an axis is the one that makes its largest weight positive.
    """
    centred = np.asarray(points, np.float64) - points.mean(axis=0)
    if min(centred.shape) < 2:
        return np.concatenate([centred[:, :1], np.zeros((len(centred), 1))], axis=1)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    signs = np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])
    return np.asarray(centred @ (axes * np.where(signs == 0, 1, signs)[:, None]).T)


def draw_plane(
    points: np.ndarray, targets: np.ndarray, classes: Sequence[str], path: str | os.PathLike[str]
) -> bool:
    """Draw points (N, D) in their principal plane, coloured by class, into a PNG file; False when matplotlib is
    not installed.
    """
    if not have_matplotlib():
        return False
    from matplotlib import colormaps

    plane = principal_plane(points)
    several = 1 < len(classes) <= MAX_COLOURS
    figure = new_figure(8.0 if several else 6.4, 6.0)
    axes = figure.subplots()
    if several:
        colours = colormaps["tab10" if len(classes) <= 10 else "tab20"]
        for number, name in enumerate(classes):
            mine = plane[targets == number]
            axes.scatter(mine[:, 0], mine[:, 1], s=6, color=colours(number), label=printable(name), alpha=0.7)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    else:
        axes.scatter(plane[:, 0], plane[:, 1], s=6, color=GREY, alpha=0.7)
    axes.set_title(f"codes of {len(points):,} images")
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    axes.grid(alpha=0.3)
    save_figure(figure, path)
    return True
