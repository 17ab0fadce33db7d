from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from minidl.data.color import ColorJitter, Cutout, Grayscale, Normalize, RandomErasing, ToArray
from tests.minidl.data.conftest import picture


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def both(height: int = 20, width: int = 30) -> list[object]:
    image = picture(height, width)
    return [image, np.asarray(image)]


def test_normalize_gives_the_formula_in_channels_last_memory() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for image in both():
        result = Normalize(mean, std)(image)
        assert result.dtype == np.float32 and result.shape == (3, 20, 30)
        assert result.transpose(1, 2, 0).flags.c_contiguous
        wanted = (np.asarray(image).astype(np.float64) / 255 - mean) / std
        assert np.abs(result.transpose(1, 2, 0) - wanted).max() < 1e-6


def test_normalize_bgr_minus_mean_is_exact() -> None:
    for image in both():
        result = Normalize((104, 117, 123), (1, 1, 1), scale=1, channel_order="bgr")(image)
        wanted = np.asarray(image).astype(np.float32)[:, :, ::-1] - np.array([104, 117, 123], np.float32)
        assert np.array_equal(result.transpose(1, 2, 0), wanted)


def test_normalize_takes_mirrored_views_and_images_of_several_widths() -> None:
    image = np.asarray(picture(8, 8))
    transform = ToArray()
    assert np.array_equal(transform(image[:, ::-1]), transform(image)[:, :, ::-1])
    assert np.array_equal(transform(image[::-1]), transform(image)[:, ::-1])
    assert np.array_equal(transform(image[:, 2:5]), transform(image)[:, :, 2:5])


def test_grayscale_is_repeated_for_three_channels_and_colour_becomes_luma_for_one() -> None:
    gray = picture(6, 5, mode="L")
    for image in (gray, np.asarray(gray)[:, :, None]):
        result = Normalize((0.1, 0.2, 0.3), (1, 1, 1))(image)
        assert result.shape == (3, 6, 5)
        assert np.allclose(result[0] + 0.1, result[2] + 0.3)
        assert Normalize((0.5,), (0.5,))(image).shape == (1, 6, 5)
    for image in both(6, 5):
        result = Normalize((0.0,), (1.0,), channels=1)(image)
        assert np.array_equal(np.round(result[0] * 255), np.asarray(picture(6, 5).convert("L")))
        assert Normalize((0.5,), (0.5,))(image).shape == (3, 6, 5)


def test_to_array_spans_zero_to_one() -> None:
    image = np.array([[[0], [255]]], np.uint8)
    assert ToArray()(image).tolist() == [[[0.0, 1.0]]]


def test_every_byte_value_is_correctly_scaled() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.abs(ToArray()(image).ravel() - np.arange(256) / 255).max() < 1e-7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channel_order": "gbr"}, "channel_order"),
        ({"channels": 2}, "channels must be"),
        ({"mean": (1, 2)}, "mean needs"),
        ({"mean": (1, 2, 3), "std": (1, 2)}, "std needs 1 or 3 values, got 2"),
        ({"mean": (1, 2, 3), "channels": 1}, "mean needs 1 or 1 values, got 3"),
        ({"std": (0.0,)}, "must be positive"),
        ({"scale": 0}, "must be positive"),
    ],
)
def test_normalize_refuses_wrong_arguments(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Normalize(**arguments)  # type: ignore[arg-type]


def test_grayscale_is_pillows_luma() -> None:
    for image in both():
        wanted = np.asarray(picture(20, 30).convert("L"))
        assert np.array_equal(np.asarray(Grayscale()(image)), wanted)
        assert np.array_equal(np.asarray(Grayscale(3)(image))[:, :, 1], wanted)


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_color_jitter_applies_each_property_within_its_range(name: str, enhancer: type) -> None:
    image = picture()
    jitter = ColorJitter(**{name: 0.4})
    candidates = [np.asarray(enhancer(image).enhance(f)) for f in np.linspace(0.6, 1.4, 161)]
    for seed in range(5):
        result = np.asarray(jitter(image, rng(seed))).astype(int)
        assert min(np.abs(result - candidate).max() for candidate in candidates) <= 2
        assert np.array_equal(result, np.asarray(jitter(np.asarray(image), rng(seed))))


def test_color_jitter_turns_hue_around_the_circle() -> None:
    image = Image.new("RGB", (4, 4), (200, 40, 40))
    seen = {ColorJitter(hue=0.5)(image, rng(seed)).getpixel((0, 0)) for seed in range(40)}  # type: ignore[union-attr]
    assert len(seen) > 30
    assert any(green > 150 for _, green, _ in seen) and any(blue > 150 for _, _, blue in seen)  # type: ignore[misc]
    for red, green, blue in seen:  # type: ignore[misc]
        assert abs(max(red, green, blue) - 200) <= 2 and abs(min(red, green, blue) - 40) <= 2


def test_color_jitter_order_is_random() -> None:
    image = picture()
    results = {np.asarray(ColorJitter(0.8, 0.8, 0.8, 0.2)(image, rng(seed))).tobytes() for seed in range(10)}
    assert len(results) == 10
    unchanged = ColorJitter()(image, rng())
    assert np.array_equal(np.asarray(unchanged), np.asarray(image))


def test_color_jitter_leaves_grayscale_gray() -> None:
    result = ColorJitter(0.4, 0.4, 0.4, 0.2)(picture(mode="L"), rng())
    assert np.asarray(result).ndim == 2


def test_cutout_covers_a_square_that_may_leave_the_image() -> None:
    image = np.full((32, 32, 3), 9, np.uint8)
    sizes = set()
    for seed in range(200):
        result = Cutout(16)(image, rng(seed))
        covered = (result == 0).all(axis=2)
        rows, columns = covered.any(axis=1), covered.any(axis=0)
        assert covered.sum() == rows.sum() * columns.sum()
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert max(sizes) == (16, 16) and min(min(size) for size in sizes) == 8
    assert (image == 9).all()


def test_random_erasing_covers_a_rectangle_with_its_probability() -> None:
    shares = []
    for seed in range(300):
        for image in (np.full((40, 50, 3), 9, np.uint8),):
            result = np.asarray(RandomErasing(0.5, fill=3)(image, rng(seed)))
            covered = (result == 3).all(axis=2)
            assert covered.sum() == covered.any(axis=1).sum() * covered.any(axis=0).sum()
            shares.append(covered.mean())
    erased = [share for share in shares if share]
    assert 110 < len(erased) < 190 and min(erased) > 0.015 and max(erased) < 0.36
    image = picture()
    assert RandomErasing(0.0)(image, rng()) is image


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ColorJitter(brightness=-1), "brightness must be at least 0"),
        (lambda: ColorJitter(hue=0.6), "hue must be 0..0.5"),
        (lambda: Grayscale(2), "channels must be 1 or 3"),
        (lambda: Cutout(0), "size must be"),
        (lambda: RandomErasing(2.0), "p must be"),
        (lambda: RandomErasing(scale=(0.5, 0.2)), "scale must be"),
        (lambda: ColorJitter(0.1)(picture(), None), "needs a numpy.random.Generator"),
    ],
)
def test_wrong_arguments_are_refused_with_their_name(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()
