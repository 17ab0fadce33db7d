from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from minidl.data import eval_transform, train_transform
from tests.minidl.data.conftest import picture

IMAGENET: dict[str, Any] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "scale": 1 / 255,
    "channel_order": "rgb",
    "input_size": (3, 224, 224),
    "resize": 256,
    "interpolation": "bilinear",
}
CIFAR = {**IMAGENET, "input_size": (3, 32, 32), "resize": 32}
CAFFE = {**IMAGENET, "mean": (104, 117, 123), "std": (1, 1, 1), "scale": 1, "channel_order": "bgr"}
LEVELS = ("none", "light", "basic", "strong")


def test_evaluation_follows_the_published_imagenet_preprocessing() -> None:
    image = picture(375, 500)
    resized = image.resize((341, 256), Image.Resampling.BILINEAR)
    left = round((341 - 224) / 2)
    cut = np.asarray(resized.crop((left, 16, left + 224, 240))).astype(np.float64)
    wanted = (cut / 255 - IMAGENET["mean"]) / IMAGENET["std"]
    assert np.abs(eval_transform(IMAGENET)(image).transpose(1, 2, 0) - wanted).max() < 1e-6
    caffe = cut[:, :, ::-1] - (104, 117, 123)
    assert np.array_equal(eval_transform(CAFFE)(image).transpose(1, 2, 0), caffe)


@pytest.mark.parametrize(
    "cfg", [IMAGENET, CIFAR, CAFFE, {**IMAGENET, "input_size": (3, 96, 128), "resize": None}]
)
@pytest.mark.parametrize("level", LEVELS)
def test_every_image_comes_out_in_the_input_size(cfg: dict[str, Any], level: Any) -> None:
    transform = train_transform(cfg, level)
    images = [picture(h, w) for h, w in ((375, 500), (28, 28), (32, 32), (1, 1), (900, 40))]
    images += [picture(28, 28, mode="L"), np.zeros((28, 28, 1), np.uint8), np.zeros((32, 32, 3), np.uint8)]  # type: ignore[list-item]
    for number, image in enumerate(images):
        result = transform(image, np.random.default_rng(number))
        assert result.shape == cfg["input_size"] and result.dtype == np.float32
        assert result.transpose(1, 2, 0).flags.c_contiguous


def test_a_models_configuration_is_taken_as_it_is() -> None:
    from minidl import models

    model = models.create("resnet18")
    assert eval_transform(model.pretrained_cfg) == eval_transform(IMAGENET)
    assert train_transform(model.pretrained_cfg, "light") == train_transform(IMAGENET, "light")


def test_evaluation_of_an_image_of_the_input_size_only_normalises() -> None:
    image = np.asarray(picture(32, 32))
    wanted = (image / 255 - CIFAR["mean"]) / CIFAR["std"]
    assert np.abs(eval_transform(CIFAR)(image).transpose(1, 2, 0) - wanted).max() < 1e-6


def test_a_small_image_is_padded_for_a_small_network() -> None:
    cfg = {**CIFAR, "mean": (0, 0, 0), "std": (1, 1, 1)}
    result = eval_transform(cfg)(np.full((28, 28, 1), 255, np.uint8))
    assert (result[:, 2:30, 2:30] == 1).all() and not result[:, :2].any()


def test_a_network_of_one_channel_gets_luma() -> None:
    cfg = {"mean": (0.5,), "std": (0.5,), "input_size": (1, 28, 28)}
    result = eval_transform(cfg)(picture(28, 28))
    wanted = np.asarray(picture(28, 28).convert("L")) / 255 * 2 - 1
    assert np.abs(result[0] - wanted).max() < 1e-6


def test_levels_choose_the_augmentation_by_the_input_size() -> None:
    names = {
        (size, level): [type(step).__name__ for step in train_transform(cfg, level).transforms]
        for size, cfg in (("small", CIFAR), ("large", IMAGENET))
        for level in LEVELS
    }
    assert names["small", "none"] == ["Fit", "Normalize"]
    assert names["small", "light"] == ["Fit", "RandomHorizontalFlip", "Normalize"]
    assert names["small", "basic"] == ["Fit", "RandomCrop", "RandomHorizontalFlip", "Normalize"]
    assert names["small", "strong"][3:] == ["ColorJitter", "Cutout", "Normalize"]
    assert names["large", "none"] == ["Resize", "CenterCrop", "Normalize"]
    assert names["large", "basic"] == ["Shrink", "RandomResizedCrop", "RandomHorizontalFlip", "Normalize"]
    assert names["large", "strong"][3:] == ["ColorJitter", "RandomErasing", "Normalize"]


def test_missing_or_wrong_fields_are_named() -> None:
    for change, words in (
        ({"input_size": None}, "input_size must be"),
        ({"input_size": (2, 32, 32)}, "input_size must be"),
        ({"interpolation": "magic"}, "interpolation must be"),
        ({"channel_order": "xyz"}, "channel_order must be"),
        ({"mean": (1, 2)}, "mean needs"),
    ):
        for make in (eval_transform, train_transform):
            with pytest.raises(ValueError, match=words):
                make({**IMAGENET, **change})
    for name in ("mean", "std", "input_size"):
        with pytest.raises(ValueError, match=name):
            eval_transform({key: value for key, value in IMAGENET.items() if key != name})
    with pytest.raises(ValueError, match="level must be one of none, light, basic, strong"):
        train_transform(IMAGENET, "wild")  # type: ignore[arg-type]
