"""Fixtures: real data where the environment names them, small synthetic images otherwise."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real test data; skips when MINIDL_TEST_DATA does not name it."""
    place = os.environ.get("MINIDL_TEST_DATA")
    if not place:
        pytest.skip("set MINIDL_TEST_DATA to the folder of real test data")
    return Path(place)


def picture(height: int = 24, width: int = 32, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth picture with a different value at every pixel, so that any shift or flip shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    slopes = rng.uniform(40, 90, (3, 2))
    planes = [127 + a * np.sin(y / height * 3) + b * np.cos(x / width * 2) for a, b in slopes]
    pixels = np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The content of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes `count` small JPEG files into each of the folders named, under a root."""

    def make(*folders: str, count: int = 5, root: str = "photos") -> Path:
        for number, folder in enumerate(folders):
            place = tmp_path / root / folder
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (place / f"{index}.jpg").write_bytes(encoded(picture(seed=100 * number + index), "JPEG"))
        return tmp_path / root

    return make
