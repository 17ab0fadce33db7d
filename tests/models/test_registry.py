"""create, list_models, options as text, and the preprocessing that belongs to a network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl import models, nn, weights
from minidl.errors import MinidlError
from minidl.models import registry
from minidl.models.config import CIFAR10, IMAGENET

SMALL: dict[str, Any] = {"layers": [1, 1], "widths": [4, 8]}


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    yield


def test_a_model_can_be_built_again_from_what_it_notes_about_itself() -> None:
    model = models.create("resnet20", 7, in_channels=1, **SMALL, shortcut="projection")
    noted = json.loads(json.dumps(model.options))
    again = models.create(model.name, num_classes=model.num_classes, **noted)
    shapes = {name: array.shape for name, array in model.state_dict().items()}
    assert {name: array.shape for name, array in again.state_dict().items()} == shapes
    assert again.pretrained_cfg == model.pretrained_cfg and again.options == model.options


def test_a_file_with_other_classes_gets_a_new_classifier_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = models.create("resnet20", 4, **SMALL)
    file = tmp_path / "weights.safetensors"
    weights.save(source.state_dict(), file)
    with caplog.at_level(logging.INFO, "minidl.models"):
        model = models.create("resnet20", 3, weights=file, **SMALL)
    assert model.num_classes == 3 and model.replaced_classifier == (4, 3)
    assert "classifier has 4 classes, replaced by a new one with 3" in caplog.text
    assert np.array_equal(model.conv1.weight.data, source.conv1.weight.data)
    same = models.create("resnet20", weights=file, **SMALL)
    assert same.num_classes == 4 and same.replaced_classifier is None
    assert np.array_equal(same.classifier.weight.data, source.classifier.weight.data)


def test_weights_of_another_model_are_refused_with_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    weights.save(models.create("resnet20", 4, **SMALL).state_dict(), file)
    with pytest.raises(nn.StateDictError) as caught:
        models.create("resnet20", weights=file)
    assert str(caught.value).startswith(f"{file} does not fit model resnet20: ")
    assert "layer3.0.conv1.weight" in caught.value.missing and "conv1.weight" in caught.value.mismatched
    with pytest.raises(nn.StateDictError, match="the state dict does not fit model resnet20"):
        models.create("resnet20", weights={"linear.weight": np.zeros((4, 64), dtype=np.float32)})
    with pytest.raises((MinidlError, OSError), match="absent"):
        models.create("resnet20", weights=tmp_path / "absent.pth")


def test_unknown_names_and_options_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'resnet21'; did you mean .*resnet20"):
        models.create("resnet21")
    with pytest.raises(
        TypeError, match="model resnet20: unknown option 'width'; known: block, layers, widths"
    ):
        models.create("resnet20", width=3)
    with pytest.raises(TypeError, match="model resnet20: options must be JSON values"):
        models.create("resnet20", widths=(np.int64(16), 32, 64))


def test_a_new_architecture_is_registered_by_a_decorator(clean_registry: None) -> None:
    @models.register("tiny", CIFAR10.replace(num_classes=5), "a test", block="basic", stem="cifar", **SMALL)
    def tiny(**options: Any) -> models.Model:
        return models.ResNet(**options)

    assert models.list_models("tiny") == ["tiny"] and models.architecture("tiny").description == "a test"
    with pytest.raises(ValueError, match="'tiny' is already registered"):
        models.register("tiny", CIFAR10)(tiny)


def test_options_are_read_from_text() -> None:
    texts = [
        "widths=32,64",
        "layers=[1, 2]",
        "stem=cifar",
        "pool-ceil-mode=True",
        "dropout=0.5",
        "stem_width=null",
    ]
    assert models.parse_options(texts) == {
        "widths": [32, 64],
        "layers": [1, 2],
        "stem": "cifar",
        "pool_ceil_mode": True,
        "dropout": 0.5,
        "stem_width": None,
    }
    assert models.parse_options(["stride_in=1x1", "name="]) == {"stride_in": "1x1", "name": ""}
    for wrong in (["widths"], ["=3"], ["a b=3"]):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            models.parse_options(wrong)
    with pytest.raises(ValueError, match="stem is given twice"):
        models.parse_options(["stem=cifar", "stem=imagenet"])


def test_preprocessing_follows_the_options_and_the_overrides() -> None:
    thin = models.architecture("resnet50_thin").config
    assert (thin.channel_order, thin.scale, thin.mean, thin.std) == ("bgr", 1.0, (104, 117, 123), (1, 1, 1))
    gray = models.create("resnet20", 3, in_channels=1, **SMALL, pretrained_cfg={"resize": 40}).pretrained_cfg
    assert gray.input_size == (1, 32, 32) and gray.resize == 40 and gray.mean == (pytest.approx(0.449),)
    own = models.create("resnet20", **SMALL, pretrained_cfg=CIFAR10.replace(channel_order="bgr"))
    assert own.pretrained_cfg.channel_order == "bgr" and own.pretrained_cfg.classifier == "linear"


def test_a_configuration_survives_json() -> None:
    text = json.dumps(IMAGENET.to_dict())
    assert models.PretrainedConfig.from_dict(json.loads(text)) == IMAGENET


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5]}, "mean must have 3 numbers"),
        ({"std": [1, 0, 1]}, "std must be above 0"),
        ({"std": "1,1,1"}, "std must be a list of numbers"),
        ({"mean": [0.1, float("nan"), 0]}, "mean must be a list of numbers"),
        ({"input_size": [3, 224]}, "input_size must be three positive integers"),
        ({"input_size": [3, 224.0, 224]}, "input_size must be a list of numbers .int."),
        ({"scale": 0}, "scale must be a positive number, got 0"),
        ({"resize": 0}, "resize must be a positive integer"),
        ({"num_classes": True}, "num_classes must be 0 or a positive integer, got True"),
        ({"channel_order": "gbr"}, "channel_order must be one of rgb, bgr, got 'gbr'"),
        ({"interpolation": 3}, "interpolation must be one of nearest"),
        ({"classifier": ""}, "classifier must be the name of a layer"),
        ({"crop": 1}, "preprocessing has unknown crop; known: mean, std"),
    ],
)
def test_a_wrong_configuration_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(models.ConfigError, match=message) as caught:
        IMAGENET.replace(**change)
    assert isinstance(caught.value, MinidlError) and isinstance(caught.value, ValueError)


def test_a_configuration_without_a_field_is_refused() -> None:
    with pytest.raises(models.ConfigError, match="missing mean, resize"):
        values = IMAGENET.to_dict()
        models.PretrainedConfig.from_dict({k: values[k] for k in values if k not in ("mean", "resize")})
    with pytest.raises(models.ConfigError, match="must be a dictionary, got list"):
        models.PretrainedConfig.from_dict([])
