from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minidl.data import pixels
from minidl.data.transforms import (
    INTERPOLATIONS,
    CenterCrop,
    Compose,
    Fit,
    Pad,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    Shrink,
)
from minidl.errors import MinidlError
from tests.minidl.data.conftest import picture


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def both(height: int, width: int) -> list[object]:
    """The same picture as a Pillow image and as an array."""
    image = picture(height, width)
    return [image, np.asarray(image)]


def values(image: object) -> np.ndarray:
    return pixels.as_array(image)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((375, 500), (256, 341)), ((500, 375), (341, 256)), ((333, 500), (256, 384)), ((300, 300), (256, 256))],
)
def test_resize_rounds_the_long_side_down(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    for image in both(*size):
        assert pixels.size_of(Resize(256)(image)) == wanted


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_resize_follows_the_documented_formula(height: int, width: int, size: int) -> None:
    from minidl.data.transforms import short_side_size

    short, long = min(height, width), max(height, width)
    scaled = int(size * long / short)
    assert short_side_size(height, width, size) == ((scaled, size) if height > width else (size, scaled))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_resize_is_exactly_pillows_resize(interpolation: str) -> None:
    image = picture(120, 90)
    method = Image.Resampling[interpolation.upper()]
    wanted = np.asarray(image.resize((30, 40), method))
    for form in (image, np.asarray(image)):
        assert np.array_equal(values(Resize(30, interpolation)(form)), wanted)
        assert np.array_equal(values(Resize((40, 30), interpolation)(form)), wanted)


def test_resize_antialiases() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = Image.fromarray(board.astype(np.uint8))
    assert np.abs(values(Resize(16)(image)).astype(int) - 127).max() <= 2


def test_resize_to_the_same_size_gives_the_image_itself() -> None:
    for image in both(24, 32):
        assert Resize(24)(image) is image


def test_a_grayscale_array_survives_resize() -> None:
    gray = np.arange(28 * 28, dtype=np.uint32).reshape(28, 28, 1).astype(np.uint8)
    assert values(Resize(32)(gray)).shape == (32, 32, 1)


def test_shrink_leaves_small_images_alone() -> None:
    for image in both(24, 32):
        assert Shrink(24)(image) is image
        assert pixels.size_of(Shrink(12)(image)) == (12, 16)


@pytest.mark.parametrize(
    ("side", "crop", "start"), [(257, 224, 16), (255, 224, 16), (341, 224, 58), (226, 224, 1)]
)
def test_center_crop_rounds_half_to_even(side: int, crop: int, start: int) -> None:
    assert start == round((side - crop) / 2.0)
    for image in both(side, 224):
        cut = CenterCrop(crop)(image)
        assert np.array_equal(values(cut), values(image)[start : start + crop])


def test_center_crop_pads_smaller_images_more_at_the_end() -> None:
    for image in both(25, 40):
        cut = values(CenterCrop((32, 32), fill=7)(image))
        assert cut.shape == (32, 32, 3)
        assert np.array_equal(cut[3:28], values(image)[:, 4:36])
        assert (cut[:3] == 7).all() and (cut[28:] == 7).all()


def test_fit_pads_nearly_right_sizes_and_resizes_others() -> None:
    small = np.full((28, 28, 1), 200, np.uint8)
    fitted = values(Fit(32)(small))
    assert fitted.shape == (32, 32, 1) and (fitted[2:30, 2:30] == 200).all() and not fitted[:2].any()
    for size in ((16, 16), (20, 31), (64, 48), (500, 375), (33, 32), (5, 300)):
        for image in both(*size):
            result = values(Fit(32)(image))
            assert result.shape == (32, 32, 3) and result.min() > 0
    exact = np.zeros((32, 32, 3), np.uint8)
    assert Fit(32)(exact) is exact


def test_pad_puts_the_image_where_it_says() -> None:
    for image in both(4, 5):
        padded = values(Pad((1, 2, 3, 4), fill=9)(image)).copy()
        assert padded.shape == (10, 9, 3)
        assert np.array_equal(padded[2:6, 1:6], values(image))
        padded[2:6, 1:6] = 9
        assert (padded == 9).all()
        assert values(Pad(2)(image)).shape == (8, 9, 3)


def test_random_crop_reaches_every_position_and_no_other() -> None:
    image = np.arange(1, 37, dtype=np.uint8).reshape(6, 6, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 6, x : x + 6].tobytes() for y in range(5) for x in range(5)}
    generator = rng()
    crop = RandomCrop(6, padding=2)
    seen = {np.ascontiguousarray(values(crop(image, generator))).tobytes() for _ in range(600)}
    assert seen == windows


def test_transforms_treat_arrays_and_pillow_images_alike() -> None:
    image = picture(20, 26)
    for transform in (
        RandomCrop((18, 24), padding=4),
        RandomCrop(16, padding=4, fill=99),
        RandomResizedCrop(12),
        RandomHorizontalFlip(),
        RandomVerticalFlip(),
        RandomRotation(30),
        CenterCrop(30),
        Resize(10),
    ):
        for seed in range(4):
            one, other = transform(image, rng(seed)), transform(np.asarray(image), rng(seed))
            assert np.array_equal(values(one), values(other)), transform


def test_random_crop_refuses_an_image_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="an image of 20 x 30 with padding 1 is smaller than 32 x 32"):
        RandomCrop(32, padding=1)(picture(20, 30), rng())


def reference_part(rows: int, columns: int, transform: RandomResizedCrop, generator: np.random.Generator):  # type: ignore[no-untyped-def]
    """torchvision's published algorithm, written from its documentation with the same draws."""
    low, high = np.log(transform.ratio)
    for _ in range(10):
        target = (
            rows
            * columns
            * (transform.scale[0] + (transform.scale[1] - transform.scale[0]) * generator.random())
        )
        aspect = math.exp(low + (high - low) * generator.random())
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= columns and 0 < h <= rows:
            i = math.floor(generator.random() * (rows - h + 1))
            return i, math.floor(generator.random() * (columns - w + 1)), h, w
    given_ratio = columns / rows
    if given_ratio < min(transform.ratio):
        w, h = columns, round(columns / min(transform.ratio))
    elif given_ratio > max(transform.ratio):
        h, w = rows, round(rows * max(transform.ratio))
    else:
        w, h = columns, rows
    return (rows - h) // 2, (columns - w) // 2, h, w


@pytest.mark.parametrize("size", [(375, 500), (20, 600), (600, 20), (7, 7)])
def test_random_resized_crop_takes_the_documented_part(size: tuple[int, int]) -> None:
    transform = RandomResizedCrop(224)
    for seed in range(50):
        part = transform.part(*size, rng(seed))
        assert part == reference_part(*size, transform, rng(seed))
        top, left, height, width = part
        assert top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1]


def test_random_resized_crop_cuts_before_it_resizes() -> None:
    image = picture(60, 80)
    transform = RandomResizedCrop((10, 12))
    top, left, height, width = transform.part(60, 80, rng(5))
    wanted = image.crop((left, top, left + width, top + height)).resize((12, 10), Image.Resampling.BILINEAR)
    assert np.array_equal(values(transform(image, rng(5))), np.asarray(wanted))


def test_random_resized_crop_statistics_match_its_parameters() -> None:
    transform = RandomResizedCrop(32, scale=(0.2, 0.4), ratio=(0.8, 1.25))
    generator = rng(1)
    parts = np.array([transform.part(400, 400, generator) for _ in range(2000)])
    share = parts[:, 2] * parts[:, 3] / 160000
    aspect = parts[:, 3] / parts[:, 2]
    assert 0.19 < share.min() < 0.21 and 0.39 < share.max() < 0.41 and abs(share.mean() - 0.3) < 0.005
    assert aspect.min() > 0.78 and aspect.max() < 1.28 and abs(np.log(aspect).mean()) < 0.01


def test_flips_mirror_and_never_or_always_obey_p() -> None:
    for image in both(5, 7):
        whole = values(image)
        assert np.array_equal(values(RandomHorizontalFlip(1.0)(image, rng())), whole[:, ::-1])
        assert np.array_equal(values(RandomVerticalFlip(1.0)(image, rng())), whole[::-1])
        assert RandomHorizontalFlip(0.0)(image, rng()) is image
    coin = rng()
    image = np.array([[[1], [2]]], np.uint8)
    flipped = sum(int(values(RandomHorizontalFlip()(image, coin))[0, 0, 0]) == 2 for _ in range(1000))
    assert 430 < flipped < 570


def test_rotation_turns_counter_clockwise() -> None:
    image = picture(20, 20)
    turned = RandomRotation((90, 90), interpolation="nearest")(image, rng())
    assert np.array_equal(values(turned), np.rot90(values(image)))
    grown = RandomRotation((45, 45), expand=True, fill=5)(image, rng())
    assert min(pixels.size_of(grown)) > 26 and values(grown)[0, 0].tolist() == [5, 5, 5]


def test_no_transform_writes_to_its_input() -> None:
    image = np.asarray(picture(40, 40)).copy()
    kept = image.copy()
    chain = [
        RandomCrop(32, 4),
        RandomResizedCrop(30),
        RandomRotation(10),
        RandomHorizontalFlip(1.0),
        Fit(64),
        Pad(3),
    ]
    for transform in chain:
        transform(image, rng())
        assert np.array_equal(image, kept)


def test_compose_splits_where_randomness_or_floats_begin() -> None:
    from minidl.data.color import ToArray

    chain = Compose([Resize(32), CenterCrop(28), RandomHorizontalFlip(), ToArray()])
    fixed, rest = chain.divide()
    assert fixed.transforms == (Resize(32), CenterCrop(28)) and len(rest.transforms) == 2
    assert chain.random and not fixed.random
    fixed, rest = Compose([Resize(32), ToArray()]).divide()
    assert len(fixed.transforms) == 1 and len(rest.transforms) == 1
    fixed, rest = Compose([lambda image, rng: image]).divide()
    assert len(fixed.transforms) == 0
    assert "Resize(size=32" in repr(chain)


def test_a_random_transform_without_generator_says_so() -> None:
    with pytest.raises(ValueError, match="RandomCrop: a random transform needs"):
        Compose([RandomCrop(3)])(picture())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Resize(0), "Resize: size"),
        (lambda: Resize((2, 3, 4)), "Resize: size"),  # type: ignore[arg-type]
        (lambda: Resize(8, "sinc"), "interpolation must be one of"),
        (lambda: CenterCrop(-1), "CenterCrop: size"),
        (lambda: RandomCrop(8, padding=-1), "padding must be"),
        (lambda: Pad((1, 2)), "Pad: padding"),  # type: ignore[arg-type]
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.1)), "scale must be"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), "ratio must be"),
        (lambda: RandomHorizontalFlip(1.5), "p must be between 0 and 1"),
        (lambda: RandomRotation(3, "box"), "interpolation must be nearest, bilinear or bicubic"),
        (lambda: RandomRotation(-3), "degrees must be"),
        (lambda: Resize(8)(np.zeros((4, 4), np.uint8)), r"\(H, W, C\)"),
        (lambda: CenterCrop(8)(np.zeros((3, 4, 4, 1), np.uint8)), r"\(H, W, C\)"),
        (lambda: RandomCrop(2)(np.zeros((4, 4), np.uint8), rng()), r"\(H, W, C\)"),
    ],
)
def test_wrong_arguments_are_refused_with_their_name(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_a_thread_of_an_image_is_refused_instead_of_growing_without_bound() -> None:
    with pytest.raises(MinidlError, match="an image of 1 x 60000 pixels would grow to 256 x 15360000"):
        Resize(256)(np.zeros((60000, 1, 3), np.uint8))


def test_float_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match="must be uint8, got float32"):
        Resize(8)(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]
