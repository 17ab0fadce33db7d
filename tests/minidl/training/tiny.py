"""A data set and a network so small that a whole run takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

OPTIONS = {"layers": [1, 1, 1], "widths": [4, 8, 8]}
MODEL_ARGUMENTS = [
    "--model",
    "resnet20",
    "--model-option",
    "layers=[1,1,1]",
    "--model-option",
    "widths=[4,8,8]",
]


def write_photos(
    root: Path, train: int = 12, val: int = 6, classes: tuple[str, ...] = ("blue", "red")
) -> Path:
    """ROOT/train/CLASS/*.png and ROOT/val/CLASS/*.png: noise with one channel brighter for each class."""
    rng = np.random.default_rng(5)
    for part, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, (20, 24, 3))
                pixels[..., number % 3] += 40
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
    return root
