"""Draws the pictures of docs/convolution.md: ``python docs/pictures/draw.py`` (needs matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "minidl", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
)
from matplotlib import patches, pyplot  # noqa: E402

HERE = Path(__file__).parent
BLUE, LIGHT, ORANGE, GREY, RED = "#2e86c1", "#d6eaf8", "#f5b041", "#e5e8e8", "#c0392b"


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A blank drawing of width x height units, y downwards."""
    figure, axes = pyplot.subplots(figsize=(width / 2.2, height / 2.2), layout="constrained")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def box(axes: Any, x: float, y: float, w: float, h: float, fill: str, text: str = "", **more: Any) -> None:
    """A filled rectangle with a text in its middle."""
    axes.add_patch(patches.Rectangle((x, y), w, h, facecolor=fill, edgecolor="#34495e", linewidth=0.7))
    if text:
        axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", **{"fontsize": 8, **more})


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], color: str = "#34495e") -> None:
    """A thin arrow."""
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def save(figure: Any, name: str) -> None:
    """Write one SVG file, the same bytes each time."""
    figure.savefig(HERE / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def layout() -> None:
    """Channels-last memory, and the addresses of a window."""
    figure, axes = canvas(20, 8.6)
    axes.text(
        0.2,
        0.5,
        "one padded image (H + 2, W + 2, C) in memory: the C numbers of a pixel, pixel after pixel, row after row",
    )
    for r in range(5):
        for c in range(7):
            inside = 1 <= r <= 3 and 1 <= c <= 5
            window = r <= 2 and 2 <= c <= 4
            color = ORANGE if window else LIGHT if inside else GREY
            box(
                axes, 0.3 + c * 1.3, 1.0 + r * 1.1, 1.3, 1.1, color, "0" if not inside else f"{r - 1},{c - 1}"
            )
    axes.text(0.3, 7.1, "orange: the window of output pixel (0, 1); grey: padding", color="#34495e")
    x0 = 10.2
    for r in range(3):
        y = 1.4 + r * 2.0
        axes.text(
            x0, y - 0.2, f"row {r} of the window, at  address(i, j) + {r} * pitch: three pixels, 3*C numbers"
        )
        for c in range(3):
            box(axes, x0 + c * 3.1, y, 3.1, 0.9, ORANGE, f"tap ({r},{c})", fontsize=8)
    axes.text(
        x0,
        7.1,
        "the reduction walks along three runs of neighbouring numbers",
        color="#34495e",
    )
    axes.text(x0, 7.8, "the next output pixel reads the same, stride*C numbers further on", color="#34495e")
    save(figure, "layout")


def im2col() -> None:
    """What im2col copies."""
    figure, axes = canvas(20, 7.4)
    for r in range(4):
        for c in range(5):
            box(axes, 0.3 + c, 1.2 + r, 1, 1, ORANGE if (r, c) == (1, 2) else LIGHT)
    axes.text(0.3, 0.8, "image: each pixel once")
    arrow(axes, (5.6, 3.2), (7.0, 3.2))
    for r in range(5):
        for c in range(9):
            hit = r + c == 6 and c in (2, 3, 4, 5, 6)
            box(axes, 7.3 + c * 0.75, 1.2 + r * 0.8, 0.75, 0.8, ORANGE if hit else LIGHT)
    axes.text(7.3, 0.8, "columns (OH*OW, KH*KW*C): each pixel nine times")
    axes.text(14.3, 3.4, "@", fontsize=14)
    for r in range(9):
        box(axes, 15.2, 1.2 + r * 0.5, 1.5, 0.5, GREY)
    axes.text(14.6, 6.3, "weights (KH*KW*C, O)")
    axes.text(17.1, 3.4, "=", fontsize=14)
    for r in range(5):
        box(axes, 17.9, 1.2 + r * 0.8, 1.5, 0.8, BLUE)
    axes.text(17.4, 0.8, "y (OH*OW, O)")
    save(figure, "im2col")


def register_tile() -> None:
    """The micro-kernel's registers."""
    figure, axes = canvas(20, 10.6)
    axes.text(
        5.2, 0.6, "b[k, 0:16]              b[k, 16:32]          2 vector loads: 2 registers", fontsize=9
    )
    for v in range(2):
        box(axes, 5.0 + v * 4.2, 0.9, 4.0, 0.8, GREY, "w  w  w  w  w  w  w  w  ...")
    for r in range(14):
        y = 2.2 + r * 0.56
        box(axes, 1.6, y, 2.6, 0.48, ORANGE, f"a[{r}, k] in all lanes", fontsize=6.5)
        for v in range(2):
            box(
                axes,
                5.0 + v * 4.2,
                y,
                4.0,
                0.48,
                BLUE,
                f"sums of pixel {r}, channels {v * 16}..{v * 16 + 15}",
                fontsize=6.5,
                color="white",
            )
    lines = [
        "32 registers of AVX-512:",
        "28 hold sums (14 pixels x 2 vectors),",
        "2 the row of b, 1 the broadcast of a.",
        "",
        "For each k: 2 + 14 loads, 28 multiply-adds.",
        "",
        "2 units x 4 cycles of latency: at least",
        "8 independent sums must be under way;",
        "there are 28.",
        "",
        "AVX2 has 16 registers: 6 pixels x 2.",
    ]
    for k, line in enumerate(lines):
        axes.text(14.0, 2.6 + k * 0.65, line)
    save(figure, "register-tile")


def caches() -> None:
    """Which operand lives where."""
    figure, axes = canvas(20, 6.8)
    rows = [
        ("registers, 2 KiB", "the sums of one tile, 14 x 32", "one tile at a time", BLUE),
        (
            "L1 cache, 32-48 KiB",
            "a panel of weights, the pixels of the tile",
            "for all tiles of the chunk",
            ORANGE,
        ),
        (
            "L2 cache, 1-2 MiB",
            "the slab: padded source pixels of a chunk",
            "for all panels and taps",
            LIGHT,
        ),
        ("memory", "images, packed weights, outputs", "each read or written about once", GREY),
    ]
    for k, (place, what, reuse, color) in enumerate(rows):
        width = 7.0 + 1.2 * k
        box(axes, 8.6 - width / 2, 0.4 + k * 1.55, width, 1.2, color, what, fontsize=7.5)
        axes.text(0.1, 1.0 + k * 1.55, place, va="center", fontsize=8.5)
        axes.text(19.9, 1.0 + k * 1.55, reuse, va="center", ha="right", fontsize=7.5, style="italic")
    save(figure, "caches")


def winograd() -> None:
    """A patch through F(2x2, 3x3)."""
    figure, axes = canvas(20, 6.4)
    for r in range(4):
        for c in range(4):
            box(axes, 0.4 + c * 0.9, 1.2 + r * 0.9, 0.9, 0.9, LIGHT)
            box(axes, 6.0 + c * 0.9, 1.2 + r * 0.9, 0.9, 0.9, ORANGE, f"V{r * 4 + c}", fontsize=7)
            box(
                axes,
                11.6 + c * 0.9,
                1.2 + r * 0.9,
                0.9,
                0.9,
                BLUE,
                f"M{r * 4 + c}",
                fontsize=7,
                color="white",
            )
    for r in range(2):
        for c in range(2):
            box(axes, 17.4 + c * 0.9, 2.1 + r * 0.9, 0.9, 0.9, GREY, "y")
    axes.text(0.4, 0.8, "4 x 4 pixels of x")
    axes.text(6.0, 0.8, "transformed, per channel")
    axes.text(11.6, 0.8, "one product each, over channels")
    axes.text(17.0, 0.8, "2 x 2 outputs")
    for x, text in ((4.2, "B'xB"), (9.8, "V @ U"), (15.4, "A'MA")):
        arrow(axes, (x, 3.0), (x + 1.5, 3.0))
        axes.text(x + 0.75, 2.6, text, ha="center")
    axes.text(
        0.4,
        5.6,
        "16 multiplications for each patch and pair of channels instead of 36; the next patch starts 2 pixels on",
    )
    save(figure, "winograd")


if __name__ == "__main__":
    for draw in (layout, im2col, register_tile, caches, winograd):
        draw()
