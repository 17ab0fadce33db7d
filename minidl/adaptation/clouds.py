"""The features of both domains as clouds of points in the plane."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from minidl.adaptation.report import DomainReport, Look
from minidl.errors import MinidlError
from minidl.training import plots
from minidl.training.reporting import printable

__all__ = ["EMBEDDINGS", "draw_classes", "draw_clouds", "embed", "principal_components"]

EMBEDDINGS = ("pca", "tsne")
NO_SCIKIT_LEARN = 't-SNE needs scikit-learn, which is not installed (pip install "minidl[semi]")'
POINTS = 500
"""So many points of each domain are drawn."""


def principal_components(x: np.ndarray, count: int = 2) -> np.ndarray:
    """The projections (N, count) of the rows of x (N, F) on their first principal components, float64.

    The sign of a component is such that its largest loading is positive, so one cloud has one picture.
    """
    centred = np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:count]
    largest = np.abs(axes).argmax(axis=1)
    axes *= np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)[:, None]
    found = centred @ axes.T
    return np.pad(found, ((0, 0), (0, count - found.shape[1])))  # fewer features than asked for


def embed(x: np.ndarray, embedding: str, seed: int = 0) -> np.ndarray:
    """Points (N, 2) in the plane for the rows of x (N, F): "pca", or "tsne" (van der Maaten and Hinton, 2008) by
    scikit-learn. Raises ValueError for another name and MinidlError without scikit-learn.
    """
    if embedding not in EMBEDDINGS:
        raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}, got {embedding!r}")
    if embedding == "pca":
        return principal_components(x)
    check_embedding(embedding)
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(1.0, (len(x) - 1) / 3.0))
    points: np.ndarray = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)
    return points


def check_embedding(embedding: str) -> None:
    """Raise MinidlError when `embedding` needs scikit-learn and it is not installed."""
    if embedding == "tsne":
        try:
            import sklearn.manifold  # noqa: F401
        except ImportError as error:
            raise MinidlError(NO_SCIKIT_LEARN) from error


def draw_clouds(
    source: tuple[Look, Look],
    target: tuple[Look, Look],
    classes: Sequence[str],
    path: str | os.PathLike[str],
    embedding: str = "pca",
    labelled: bool = True,
) -> bool:
    """Draw both domains before (left) and after (right) into a PNG file: above by domain, below by class (dots
    source, crosses target; predicted classes unless `labelled`). False when matplotlib is not installed.
    """
    if not plots.have_matplotlib():
        return False
    colours = 10 if len(classes) <= 10 else 20
    palette = f"tab{colours}"
    figure = plots.new_figure(10.0, 9.0)
    axes = figure.subplots(2, 2)
    for column, title in enumerate(("before", "after")):
        pair = source[column].sample(POINTS), target[column].sample(POINTS)
        points = embed(np.concatenate([pair[0].features, pair[1].features]), embedding)
        n = len(pair[0].labels)
        domains = axes[0, column]
        for name, color, part in (
            ("source", plots.BLUE, points[:n]),
            ("target", plots.ORANGE, points[n:]),
        ):
            domains.scatter(part[:, 0], part[:, 1], s=7, color=color, alpha=0.6, label=name)
        domains.set_title(f"{title}, by domain")
        domains.legend()
        kinds = pair[0].labels, pair[1].labels if labelled else pair[1].predictions
        by_class = axes[1, column]
        for part, kind, mark in ((points[:n], kinds[0], "."), (points[n:], kinds[1], "x")):
            by_class.scatter(
                part[:, 0],
                part[:, 1],
                s=14,
                c=kind,
                cmap=palette,
                vmin=0,
                vmax=max(colours, len(classes)) - 1,
                marker=mark,
                linewidths=0.8,
                alpha=0.7,
            )
        by_class.set_title(f"{title}, by class (. source, x target{'' if labelled else ', as predicted'})")
        for each in (domains, by_class):
            each.set_xticks([])
            each.set_yticks([])
    plots.save_figure(figure, path)
    return True


def draw_classes(report: DomainReport, path: str | os.PathLike[str]) -> bool:
    """Draw the recall of every class on the target before and after into a PNG file (without labels: how many
    images each class is given). False when matplotlib is not installed.
    """
    if not plots.have_matplotlib():
        return False
    rows = report.per_class()[: plots.MAX_NAMED]
    figure = plots.new_figure(max(5.0, 1.5 + 0.7 * len(rows)), 3.8)
    axes = figure.subplots()
    at = np.arange(len(rows))
    known = report.target is not None
    for shift, name, color, values in (
        (-0.2, "before", plots.GREY, [row[1] if known else row[3] for row in rows]),
        (0.2, "after", plots.GREEN, [row[2] if known else row[4] for row in rows]),
    ):
        axes.bar(at + shift, values, 0.4, color=color, label=name)
    axes.set_xticks(at, [printable(row[0]).replace("$", r"\$")[:18] for row in rows], rotation=45, ha="right")
    axes.set_title("share of each class recognised in the target" if known else "target images by class")
    if known:
        axes.set_ylim(0.0, 1.0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    plots.save_figure(figure, path)
    return True
