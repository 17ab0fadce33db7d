"""Pictures of a run: curves and confusion matrix through matplotlib, a sheet of predicted images through
Pillow.

matplotlib is an extra (`pip install "minidl[cli]"`); `draw_curves` and `draw_confusion` return False
without it.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.training.metrics import Evaluation
from minidl.training.reporting import EpochRow, printable

if TYPE_CHECKING:
    from PIL import Image

NO_MATPLOTLIB = (
    'no curves or confusion matrix were drawn: matplotlib is not installed (pip install "minidl[cli]")'
)
MAX_NUMBERED = 25
"""With more classes than this the cells of the confusion matrix carry no numbers."""
MAX_NAMED = 80
"""With more classes than this not every row and column of the confusion matrix is named."""

BLUE, ORANGE, GREEN, RED, GREY = "#3465a4", "#e07b00", "#2e8b57", "#c0392b", "#777777"


def have_matplotlib() -> bool:
    """Whether curves and confusion matrix can be drawn."""
    return find_spec("matplotlib") is not None


def draw_curves(history: Sequence[EpochRow], path: str | os.PathLike[str]) -> bool:
    """Draw loss, and accuracy where there is one, over the epochs into a PNG file; False when matplotlib is
    not installed.
    """
    if not have_matplotlib():
        return False
    validated = [row for row in history if row.val_loss is not None]
    curves: list[tuple[str, list[float | None], list[float | None]]]
    curves = [("loss", [r.train_loss for r in history], [r.val_loss for r in validated])]
    if history and history[0].train_accuracy is not None:
        accuracies = [r.train_accuracy for r in history], [r.val_accuracy for r in validated]
        curves = [("loss (nats)", *curves[0][1:]), ("accuracy", *accuracies)]
    figure = new_figure(4.5 * len(curves), 3.6)
    epochs = [row.epoch for row in history]
    mark = "o" if len(epochs) < 25 else ""
    for axes, (title, train, val) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True
    ):
        axes.plot(epochs, train, color=BLUE, marker=mark, markersize=3, label="training")
        if validated:
            axes.plot(
                [r.epoch for r in validated], val, color=ORANGE, marker=mark, markersize=3, label="validation"
            )
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
        axes.xaxis.get_major_locator().set_params(integer=True)
        if title == "accuracy":
            axes.yaxis.set_major_formatter(lambda value, position: f"{100 * value:.4g} %")
    save_figure(figure, path)
    return True


def draw_confusion(evaluation: Evaluation, path: str | os.PathLike[str], title: str = "") -> bool:
    """Draw the confusion matrix into a PNG file, rows shaded by recall; False when matplotlib is not
    installed.
    """
    if not have_matplotlib():
        return False
    counts, names = evaluation.confusion, [_shortened(name) for name in evaluation.classes]
    size = min(max(3.2, 1.8 + 0.5 * len(names)), 16.0)
    figure = new_figure(size + 1.0, size)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(
        title or f"{evaluation.correct:,} of {evaluation.total:,} right ({100 * evaluation.accuracy:.1f} %)"
    )
    font = 9 if len(names) <= MAX_NUMBERED else max(5.0, 250 / len(names))
    named = range(0, len(names), -(-len(names) // MAX_NAMED))
    for axis in (axes.xaxis, axes.yaxis):
        # a dollar sign would start a formula
        axis.set_ticks(named, [names[i].replace("$", r"\$") for i in named], fontsize=font)
    axes.tick_params(axis="x", rotation=45)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
    if len(names) <= MAX_NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=font)
    save_figure(figure, path)
    return True


@dataclass(frozen=True)
class Shown:
    """One image of the sheet: a Pillow image or a uint8 array (H, W, 1 or 3), what it is and what it was
    taken for.
    """

    image: Any
    truth: str | None
    predicted: str
    probability: float


def draw_predictions(samples: Sequence[Shown], path: str | os.PathLike[str], columns: int = 4) -> None:
    """Draw images with the predicted class and its probability into a PNG file, green when right and red
    when wrong.
    """
    from PIL import Image, ImageDraw, ImageFont

    from minidl.weights.files import atomic_write

    tile, text, gap = 176, 38, 8
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (gap + columns * (tile + gap), gap + rows * (tile + text + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font: Any = ImageFont.load_default(14)
    for number, sample in enumerate(samples):
        x = gap + number % columns * (tile + gap)
        y = gap + number // columns * (tile + text + gap)
        right = sample.truth is None or sample.truth == sample.predicted
        color = GREEN if right else RED
        draw.rectangle((x, y, x + tile - 1, y + tile - 1), outline=color, width=3)
        picture = _fitted(sample.image, tile - 6)
        sheet.paste(picture, (x + (tile - picture.width) // 2, y + (tile - picture.height) // 2))
        _line(
            draw, (x, y + tile + 2), f"{sample.predicted} {100 * sample.probability:.0f} %", color, font, tile
        )
        if not right:
            _line(draw, (x, y + tile + 19), f"is {sample.truth}", GREY, font, tile)
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def choose_samples(logits: np.ndarray, labels: np.ndarray, count: int = 12, wrong: int = 4) -> list[int]:
    """Indices for a sheet: up to `wrong` mistakes (the most confident ones), the rest right ones spread
    over the classes.
    """
    predictions = logits.argmax(axis=1)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = shifted.max(axis=1) / shifted.sum(axis=1)
    mistakes = np.flatnonzero(predictions != labels)
    mistakes = mistakes[np.argsort(-confidence[mistakes], kind="stable")][:wrong]
    hits = np.flatnonzero(predictions == labels)
    # the first of every class, then the second of every class, ...
    turn = np.zeros(len(hits), np.int64)
    for label in np.unique(labels[hits]):
        members = labels[hits] == label
        turn[members] = np.arange(members.sum())
    hits = hits[np.lexsort((labels[hits], turn))][: count - len(mistakes)]
    return [int(i) for i in (*hits, *mistakes)]


def _fitted(image: Any, size: int) -> Image.Image:
    from PIL import Image

    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    image = image.convert("RGB")
    scale = size / max(image.size)
    target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # small images are enlarged without smoothing, so that what the network saw can be seen
    return image.resize(target, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC)


def _line(draw: Any, at: tuple[int, int], text: str, color: str, font: Any, width: int) -> None:
    text = printable(text)
    while len(text) > 1 and draw.textlength(text, font=font) > width:
        text = text[:-2].rstrip() + "…"
    draw.text(at, text, fill=color, font=font)


def _shortened(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 18 else name[:17] + "…"


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of this size in inches."""
    # the object interface: pyplot would choose a window system and keep global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure into a PNG file, all or nothing."""
    from minidl.weights.files import atomic_write

    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a class name in a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="png")
    with atomic_write(Path(path)) as file:
        file.write(buffer.getvalue())
