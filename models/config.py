"""PretrainedConfig: how images must be prepared for a network's weights, and what its classifier is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minidl.errors import MinidlError

__all__ = ["CIFAR10", "IMAGENET", "INTERPOLATIONS", "ConfigError", "PretrainedConfig"]

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CHANNEL_ORDERS = ("rgb", "bgr")


class ConfigError(MinidlError, ValueError):
    """A description of preprocessing that cannot be: names the field, what was expected and what came."""


@dataclass(frozen=True)
class PretrainedConfig:
    """Preprocessing of the input and the shape of the classifier that weights were trained with.

    An image is resized (short side `resize`), cropped to `input_size`, put into `channel_order`, multiplied
    by `scale`, and then (x - mean) / std per channel.

    Attributes:
        mean, std: one number per channel, in channel_order and in the units of the scaled input.
        scale: factor on the 0..255 pixels: 1/255, or 1 for networks fed with raw pixels.
        channel_order: "rgb" or "bgr".
        input_size: (channels, height, width).
        resize: short side in pixels before the crop; equal to the crop when nothing is cut off.
        interpolation: one of INTERPOLATIONS, antialiased.
        classifier: prefix of the classifier's parameters ("fc").
        num_classes: outputs of the classifier the weights come with; 0 when they come without one.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]
    resize: int
    num_classes: int
    scale: float = 1 / 255
    channel_order: str = "rgb"
    interpolation: str = "bilinear"
    classifier: str = "fc"

    def __post_init__(self) -> None:
        size = self._numbers("input_size", int)
        if len(size) != 3 or min(size) < 1:
            raise ConfigError(
                f"input_size must be three positive integers (C, H, W), got {self.input_size!r}"
            )
        for name in ("mean", "std"):
            values = self._numbers(name, float)
            if len(values) != size[0]:
                raise ConfigError(
                    f"{name} must have {size[0]} numbers like input_size's channels, got {values}"
                )
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ConfigError(f"std must be above 0, got {self.std}")
        object.__setattr__(self, "input_size", size)
        for name, least, kind in (
            ("resize", 1, "a positive integer"),
            ("num_classes", 0, "0 or a positive integer"),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be {kind}, got {value!r}")
        scale = self.scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ConfigError(f"scale must be a positive number, got {scale!r}")
        object.__setattr__(self, "scale", float(scale))
        for name, known in (("channel_order", CHANNEL_ORDERS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not isinstance(self.classifier, str) or not self.classifier:
            raise ConfigError(f"classifier must be the name of a layer, got {self.classifier!r}")

    def _numbers(self, name: str, kind: type) -> tuple[Any, ...]:
        value = getattr(self, name)
        allowed = int if kind is int else (int, float)
        if not isinstance(value, list | tuple) or any(
            isinstance(v, bool) or not isinstance(v, allowed) or not math.isfinite(v) for v in value
        ):
            raise ConfigError(f"{name} must be a list of numbers ({kind.__name__}), got {value!r}")
        return tuple(kind(v) for v in value)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: tuples become lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainedConfig:
        """Reads what `to_dict` gave; ConfigError names fields that are missing, unknown or wrong."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"preprocessing must be a dictionary, got {type(values).__name__}")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = [str(name) for name in values if name not in fields]
        missing = [
            name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in values
        ]
        if unknown or missing:
            parts = [f"unknown {', '.join(unknown)}"] if unknown else []
            parts += [f"missing {', '.join(missing)}"] if missing else []
            raise ConfigError(f"preprocessing has {' and '.join(parts)}; known: {', '.join(fields)}")
        return cls(**values)

    def replace(self, **changes: Any) -> PretrainedConfig:
        """A copy with some fields changed; unknown names and wrong values raise ConfigError."""
        return self.from_dict({**self.to_dict(), **changes})

    def with_channels(self, channels: int) -> PretrainedConfig:
        """The same for another number of input channels: mean and std become averages."""
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"in_channels must be a positive integer, got {channels!r}")
        if channels == self.input_size[0]:
            return self
        average = {n: [sum(getattr(self, n)) / self.input_size[0]] * channels for n in ("mean", "std")}
        return self.replace(input_size=[channels, *self.input_size[1:]], **average)

    def with_input(self, size: Sequence[int]) -> PretrainedConfig:
        """The same for images of another size (C, H, W), whose short side is not cut."""
        if len(size) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
            raise ValueError(f"input_size must be three positive integers (C, H, W), got {size!r}")
        return self.with_channels(size[0]).replace(input_size=list(size), resize=min(size[1:]))


IMAGENET = PretrainedConfig(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    input_size=(3, 224, 224),
    resize=256,
    num_classes=1000,
)
"""Preprocessing of torchvision's ImageNet weights."""

CIFAR10 = PretrainedConfig(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    input_size=(3, 32, 32),
    resize=32,
    num_classes=10,
    classifier="linear",
)
"""Preprocessing of the published CIFAR-10 ResNets: whole 32x32 images, normalised by ImageNet's statistics.
"""
