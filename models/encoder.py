"""The encoders of the autoencoders, and the classifiers that are made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minidl import nn
from minidl.models.base import Model
from minidl.models.config import PretrainedConfig
from minidl.models.registry import register
from minidl.tensor import Parameter, Tensor

__all__ = ["ConvEncoder", "DenseEncoder", "EncoderClassifier", "conv_encoder", "dense_encoder"]

UNIT_CLASSIFIER = PretrainedConfig(
    mean=(0.0,) * 3, std=(1.0,) * 3, input_size=(3, 32, 32), resize=32, num_classes=10
)
"""Preprocessing of the classifiers with an autoencoder's encoder: pixels in 0..1."""


class EncoderClassifier(Model):
    """An encoder for images of one size (C, H, W), dropout and a linear classifier `fc` of its flattened code."""

    def __init__(
        self,
        encoder: nn.Sequential,
        features: int,
        input_size: Sequence[int],
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.options = {}
        self.pretrained_cfg = UNIT_CLASSIFIER.with_input(input_size)
        self.encoder, self.num_features, self.classifier_name = encoder, features, "fc"
        self.dropout = nn.Dropout(dropout)
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(x)
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(x.flatten(1)))

    def reset_classifier(self, num_classes: int) -> None:
        if num_classes != 0:
            count(type(self).__name__, "num_classes", num_classes)
        layer = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        dtype = next(self.encoder.parameters()).dtype
        self.add_module(self.classifier_name, layer.to(dtype).train(self.training))
        self.num_classes = num_classes

    def layer_groups(self) -> list[tuple[str, list[Parameter]]]:
        groups: list[tuple[str, list[Parameter]]] = []
        for name, layer in self.encoder.named_children():
            parameters = list(layer.parameters())
            if isinstance(layer, nn.BatchNorm2d):
                groups[-1][1].extend(parameters)  # of the convolution before it
            elif parameters:
                groups.append((f"encoder.{name}", parameters))
        head = list(self.classifier.parameters())
        return [*groups, (self.classifier_name, head)] if head else groups


class DenseEncoder(EncoderClassifier):
    """The classifier with a DenseAutoencoder's encoder.

    Args:
        input_size: (C, H, W).
        widths, latent: as of the autoencoder.
        num_classes: outputs; 0 leaves the code as the output.
        dropout: probability before the classifier.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        widths: Sequence[int] = (512, 256),
        latent: int = 64,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        size = image_size("DenseEncoder", input_size)
        encoder = dense_encoder(size, counts("DenseEncoder", "widths", widths), latent)
        super().__init__(encoder, latent, size, num_classes, dropout)


class ConvEncoder(EncoderClassifier):
    """The classifier with a convolutional or variational autoencoder's encoder.

    Args:
        input_size: (C, H, W).
        channels, latent, batch_norm: as of the ConvAutoencoder.
        hidden: as of the VariationalAutoencoder; a dense layer with ReLU instead of `latent`.
        num_classes: outputs; 0 leaves the flattened code as the output.
        dropout: probability before the classifier.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        channels: Sequence[int] = (32, 64),
        latent: int | None = None,
        batch_norm: bool = False,
        hidden: int | None = None,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        if latent is not None and hidden is not None:
            raise ValueError("ConvEncoder: give latent or hidden, not both")
        size = image_size("ConvEncoder", input_size)
        steps = counts("ConvEncoder", "channels", channels)
        for name, value in (("latent", latent), ("hidden", hidden)):
            if value is not None:
                count("ConvEncoder", name, value)
        encoder, sizes = conv_encoder(size, steps, batch_norm, latent, hidden)
        features = latent or hidden or steps[-1] * math.prod(sizes[-1])
        super().__init__(encoder, features, size, num_classes, dropout)


def dense_encoder(size: tuple[int, int, int], widths: Sequence[int], latent: int) -> nn.Sequential:
    """Images (C, H, W) flattened, Linear and ReLU for each of `widths`, and Linear to `latent` numbers."""
    count("dense_encoder", "latent", latent)
    layers = nn.Sequential(nn.Flatten())
    before = math.prod(size)
    for width in widths:
        layers.append(nn.Linear(before, width)).append(nn.ReLU())
        before = width
    return layers.append(nn.Linear(before, latent))


def conv_encoder(
    size: tuple[int, int, int],
    channels: Sequence[int],
    batch_norm: bool = False,
    latent: int | None = None,
    hidden: int | None = None,
) -> tuple[nn.Sequential, list[tuple[int, int]]]:
    """Images (C, H, W) through a 3x3 convolution of stride 2, an optional batch norm and a ReLU for each of
    `channels`, and then through a dense layer to `latent` numbers, or to `hidden` with a ReLU, if either is given.

    Returns the layers, and (H, W) of the image and of each convolution's output.
    """
    layers = nn.Sequential()
    before = size[0]
    for after in channels:
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU())
        before = after
    sizes = halved(size[1:], len(channels))
    dense = hidden if latent is None else latent
    if dense is not None:
        layers.append(nn.Flatten()).append(nn.Linear(before * math.prod(sizes[-1]), dense))
    if hidden is not None:
        layers.append(nn.ReLU())
    return layers, sizes


def halved(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """(H, W) and what `times` convolutions of stride 2 (kernel 3, padding 1) make of it: halves, rounded up."""
    sizes = [size]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def image_size(owner: str, size: Any) -> tuple[int, int, int]:
    """(C, H, W) from a sequence; ValueError naming `owner` unless it is three positive integers."""
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise ValueError(f"{owner}: input_size must be three positive integers (C, H, W), got {size!r}")
    channels, height, width = (count(owner, "input_size", value) for value in size)
    return channels, height, width


def count(owner: str, name: str, value: Any) -> int:
    """`value`; ValueError naming `owner` and `name` unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{owner}: {name} must be a positive integer, got {value!r}")
    return value


def counts(owner: str, name: str, values: Any) -> tuple[int, ...]:
    """`values` as a tuple; ValueError unless it is a list of positive integers."""
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{owner}: {name} must be a list of positive integers, got {values!r}")
    return tuple(count(owner, name, value) for value in values)


register("dense_encoder", UNIT_CLASSIFIER, "Classifier with the encoder of dense_autoencoder")(DenseEncoder)
register("conv_encoder", UNIT_CLASSIFIER, "Classifier with the encoder of conv_autoencoder")(ConvEncoder)
