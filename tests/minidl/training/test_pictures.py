"""Pictures are valid files with the right content; without matplotlib there is one sentence and no error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidl.training import EpochRow, plots, score

HISTORY = [EpochRow(n, 0.1, 1.0 / n, 0.5, 1.1 / n, 0.4 + n / 10, 1.0) for n in (1, 2, 3)]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


def test_curves_and_confusion_matrix_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plots.draw_curves(HISTORY, tmp_path / "curves.png")
    assert size(tmp_path / "curves.png")[0] > 500
    logits = np.eye(3)[[0, 1, 2, 0]]
    result = score(logits, np.array([0, 1, 2, 1]), ["a", "b", "a class with a very long name"])
    assert plots.draw_confusion(result, tmp_path / "confusion.png")
    assert min(size(tmp_path / "confusion.png")) > 300


def test_a_run_without_validation_and_many_classes_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plots.draw_curves([EpochRow(1, 0.1, 1.0, 0.5, None, None, 1.0)], tmp_path / "curves.png")
    logits = np.eye(60)
    assert plots.draw_confusion(
        score(logits, np.arange(60), [f"class {i}" for i in range(60)]), tmp_path / "c.png"
    )


def test_without_matplotlib_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "have_matplotlib", lambda: False)
    assert not plots.draw_curves(HISTORY, tmp_path / "curves.png")
    assert not plots.draw_confusion(score(np.eye(2), np.arange(2), ["a", "b"]), tmp_path / "confusion.png")
    assert not list(tmp_path.iterdir())
    assert "pip install" in plots.NO_MATPLOTLIB


def test_the_sheet_frames_right_answers_in_green_and_wrong_ones_in_red(tmp_path: Path) -> None:
    grey = np.full((8, 8, 1), 90, np.uint8)
    photo = Image.new("RGB", (300, 200), "blue")
    shown = [
        plots.Shown(grey, "cat", "cat", 0.9),
        plots.Shown(photo, "cat", "a dog of an uncommonly long name", 0.51),
        plots.Shown(photo, None, "cat", 1.0),
    ]
    plots.draw_predictions(shown, tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    green, red = ((pixels == color).all(axis=2) for color in ((0x2E, 0x8B, 0x57), (0xC0, 0x39, 0x2B)))
    half = pixels.shape[1] // 2
    assert green[:, :half].any() and red[:, half:].any() and not red[:, :half].any()


def test_samples_for_the_sheet_show_every_class_and_the_most_confident_mistakes() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2] * 10)
    logits = np.eye(3)[labels] * 3.0
    logits[3] = [0, 9, 0]
    logits[15] = [4, 0, 0]
    chosen = plots.choose_samples(logits, labels, count=8, wrong=1)
    assert len(chosen) == len(set(chosen)) == 8
    assert chosen[-1] == 3
    assert set(labels[chosen[:-1]].tolist()) == {0, 1, 2}


def test_the_sheet_can_hold_fewer_images_than_asked_for() -> None:
    assert plots.choose_samples(np.eye(2), np.array([0, 1])) == [0, 1]
