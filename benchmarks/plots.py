"""Results as pictures: networks as bars of seconds, convolutions beside their limits. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report
from benchmarks.timing import Timing
from minidl.training.plots import have_matplotlib, new_figure, save_figure

COLORS = {
    "minidl": "#1b6ca8",
    "torch NCHW": "#f4c095",
    "torch NHWC": "#ee964b",
    "torch.compile": "#d1603d",
    "ONNX Runtime": "#9aa5b1",
    "OpenVINO": "#66717e",
}


def _networks(data: dict[str, Any], path: Path) -> None:
    rows = data["networks"]
    figure = new_figure(10, 0.9 * len(rows) + 1.5)
    axes = figure.subplots()
    height = 0.8 / len(COLORS)
    for n, (name, color) in enumerate(COLORS.items()):
        places = [
            i + (n - (len(COLORS) - 1) / 2) * height for i, row in enumerate(rows) if name in row["seconds"]
        ]
        values = [report.median(row) / report.median(row, name) for row in rows if name in row["seconds"]]
        axes.barh(places, values, height, color=color, label=name)
    axes.set_yticks(range(len(rows)), [row["network"] for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("speed, minidl = 1 (longer is faster)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _save(figure, data, path)


def _convolutions(data: dict[str, Any], path: Path) -> None:
    names = list(dict.fromkeys(row["convolution"] for row in data["convolution"]))
    figure = new_figure(13, 0.24 * len(names) + 1.8)
    all_axes = figure.subplots(1, 3, sharey=True)
    for axes, direction in zip(all_axes, report.DIRECTIONS, strict=True):
        rows = [r for r in data["convolution"] if r["direction"] == direction and report.torch_modes(r)]
        places = np.array([names.index(r["convolution"]) for r in rows])
        theirs = [Timing(r["seconds"]).fastest(report.torch_modes(r)) for r in rows]
        for label, chosen, color, shift in (
            ("minidl", ["minidl"] * len(rows), COLORS["minidl"], -0.2),
            ("PyTorch's better layout", theirs, COLORS["torch NHWC"], 0.2),
        ):
            shares = [
                100 * r["gflop"] / report.median(r, c) / r["limit"] for r, c in zip(rows, chosen, strict=True)
            ]
            axes.barh(places + shift, shares, 0.4, color=color, label=label)
        axes.axvline(100, color="black", linewidth=0.8)
        axes.set_title(direction)
        axes.set_xlabel("% of the multiply-add limit, direct FLOPs")
    all_axes[0].set_yticks(range(len(names)), names, fontsize=7)
    all_axes[0].invert_yaxis()
    figure.legend(
        *all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    _save(figure, data, path)


def _save(figure: Any, data: dict[str, Any], path: Path) -> None:
    figure.suptitle(machine.line(data["machine"]), fontsize=6)
    save_figure(figure, path)


def write(data: dict[str, Any], folder: Path) -> list[Path]:
    """Write networks.png and convolution.png, as far as there are results beside PyTorch's; returns their paths.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if not have_matplotlib():
        raise ImportError("pictures need matplotlib: pip install 'minidl[cli]'")
    written = []
    if data.get("networks"):
        written.append(folder / "networks.png")
        _networks(data, written[-1])
    if any(report.speed_ups(data, d) for d in report.DIRECTIONS):
        written.append(folder / "convolution.png")
        _convolutions(data, written[-1])
    return written
