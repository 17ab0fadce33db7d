"""The images of the domain-adaptation experiments."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.adaptation import SHIFTS, table
from benchmarks.domain_shifts import blend, centred, noise_patches
from minidl.adaptation import AdaptSettings


def test_an_image_is_blended_as_in_mnist_m() -> None:
    image = np.full((1, 32, 32, 1), 200, np.uint8)
    photos = np.zeros((1, 32, 32, 3), np.uint8)
    photos[..., 0], photos[..., 1] = 250, 30
    assert blend(image, photos, np.random.default_rng(0))[0, 5, 5].tolist() == [50, 170, 200]


def test_black_pixels_show_the_photo_mirrored_or_not() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    shown = blend(np.zeros((20, 32, 32, 1), np.uint8), photo, rng)
    straight = [np.array_equal(x, photo[0]) for x in shown]
    mirrored = [np.array_equal(x, photo[0, :, ::-1]) for x in shown]
    assert all(a or b for a, b in zip(straight, mirrored, strict=True)) and any(straight) and any(mirrored)


def test_small_images_stand_in_the_middle() -> None:
    found = centred(np.full((2, 28, 28), 9, np.uint8))
    assert found.shape == (2, 32, 32, 1) and found.sum() == 2 * 28 * 28 * 9
    assert (found[:, 2:30, 2:30] == 9).all()


def test_noise_patches_are_smooth() -> None:
    patches = noise_patches(50, np.random.default_rng(0)).astype(np.float64)
    assert np.abs(np.diff(patches, axis=2)).mean() < 0.5 * patches.std()


@pytest.mark.parametrize("name", SHIFTS)
def test_every_recipe_is_a_valid_setting_and_the_table_has_a_row_for_each(name: str) -> None:
    shift = SHIFTS[name]
    for recipe in shift.recipes:
        AdaptSettings(**{**shift.common, **recipe.settings, "weights": "x"})
    run = {"target": [0.5, 0.75], "source": [0.9, 0.8], "cpu_seconds": 3.0}
    results = {f"{recipe.name}/{seed}": run for recipe in shift.recipes for seed in (0, 1)}
    rows = [line for line in table(shift, results) if line.startswith("| ")][2:]
    assert len(rows) == len(shift.recipes)
    assert all("| 75.00 ± 0.00 | 25.00 ± 0.00 |" in row for row in rows)
