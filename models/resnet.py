"""ResNet: one class for the ImageNet networks, the CIFAR networks of the paper, and variants by options.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2016 (sec. 4.1 ImageNet, sec. 4.2
CIFAR-10). Parameter names are torchvision's (conv1, bn1, layer1.0.conv1, ..., layer1.0.downsample.0, fc); the
CIFAR networks name their classifier `linear`, as the published weights do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import nn
from minidl.models.base import Model
from minidl.models.config import CIFAR10, IMAGENET
from minidl.models.registry import register
from minidl.models.resnet_blocks import EXPANSION, make_block
from minidl.nn import init as initialise
from minidl.tensor import Parameter, Tensor

__all__ = ["ResNet"]


class ResNet(Model):
    """A residual network built from options, all of them JSON values.

    Args:
        block: "basic" (two 3x3 convolutions) or "bottleneck" (1x1, 3x3, 1x1).
        layers: number of blocks of each stage; every stage but the first halves the resolution.
        widths: channels of the 3x3 convolutions of each stage (a stage gives widths[i] * expansion channels).
        num_classes: outputs; 0 leaves the classifier out.
        in_channels: channels of the images.
        stem: "imagenet" (7x7 convolution of stride 2, then 3x3 max-pooling of stride 2) or "cifar" (3x3 of
            stride 1).
        stem_width: channels of the stem; None takes widths[0].
        expansion: output channels of a block over its width; None is 1 for basic, 4 for bottleneck blocks.
        stride_in: the convolution of a bottleneck that carries the stride: "3x3" (v1.5, torchvision) or "1x1"
            (the paper and Caffe).
        shortcut: where the shape changes: "projection" (1x1 convolution and batch norm, option B of the
            paper) or "pad" (every second pixel, zeros for the new channels in equal parts before and after:
            option A).
        pool_padding, pool_ceil_mode: of the stem's max-pooling: 1 and False in torchvision, 0 and True in
            Caffe.
        classifier_name: name of the last layer.
        dropout: probability before the classifier.
        zero_init_residual: the last batch norm of each block starts at weight 0.
        init: "default": convolutions normal with variance 2/fan_out (torchvision); "uniform": every layer's
            own (PyTorch's default).
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
        stem_width: int | None = None,
        expansion: int | None = None,
        stride_in: str = "3x3",
        shortcut: str = "projection",
        pool_padding: int = 1,
        pool_ceil_mode: bool = False,
        classifier_name: str = "fc",
        dropout: float = 0.0,
        zero_init_residual: bool = False,
        init: str = "default",
    ) -> None:
        super().__init__()
        _one_of("block", block, tuple(EXPANSION))
        _one_of("stem", stem, ("imagenet", "cifar"))
        _one_of("stride_in", stride_in, ("3x3", "1x1"))
        _one_of("shortcut", shortcut, ("projection", "pad"))
        _one_of("init", init, ("default", "uniform"))
        layers, widths = _counts("layers", layers), _counts("widths", widths)
        if len(layers) != len(widths):
            raise ValueError(f"ResNet: layers {layers} and widths {widths} must have one number per stage")
        if not isinstance(classifier_name, str) or not classifier_name.isidentifier():
            raise ValueError(f"ResNet: classifier_name must be a Python name, got {classifier_name!r}")
        if hasattr(type(self), classifier_name):
            raise ValueError(f"ResNet: classifier_name {classifier_name!r} is taken by a method; use 'fc'")
        stem_width = widths[0] if stem_width is None else _count("stem_width", stem_width)
        expansion = EXPANSION[block] if expansion is None else _count("expansion", expansion)

        self.options = {"block": block, "layers": layers, "widths": widths}
        self.pretrained_cfg = (IMAGENET if stem == "imagenet" else CIFAR10).with_channels(in_channels)
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, stem_width, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(stem_width)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, pool_padding, ceil_mode=pool_ceil_mode)
        else:
            self.conv1 = nn.Conv2d(in_channels, stem_width, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(stem_width)
            self.maxpool = nn.Identity()

        self._stages = [f"layer{i + 1}" for i in range(len(layers))]
        channels = stem_width
        for i, (name, count, width) in enumerate(zip(self._stages, layers, widths, strict=True)):
            stage = nn.Sequential()
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(make_block(block, channels, width, expansion, stride, stride_in, shortcut))
                channels = width * expansion
            self.add_module(name, stage)

        self.num_features = channels
        self.classifier_name = classifier_name
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self._initialise(init, zero_init_residual)
        self.reset_classifier(num_classes)

    def _initialise(self, kind: str, zero_init_residual: bool) -> None:
        for module in self.modules():
            if kind == "default" and isinstance(module, nn.Conv2d):
                initialise.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            last = getattr(module, "last_norm", None)
            if zero_init_residual and last is not None:
                initialise.zeros_(last.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x), relu=True))
        for name in self._stages:
            x = getattr(self, name)(x)
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.avgpool(x).flatten(1)))

    def reset_classifier(self, num_classes: int) -> None:
        if num_classes != 0:
            _count("num_classes", num_classes)
        layer = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        dtype = self.conv1.weight.dtype
        self.add_module(self.classifier_name, layer.to(dtype).train(self.training))
        self.num_classes = num_classes

    def layer_groups(self) -> list[tuple[str, list[Parameter]]]:
        groups = [("stem", [*self.conv1.parameters(), *self.bn1.parameters()])]
        groups += [(name, list(getattr(self, name).parameters())) for name in self._stages]
        head = list(self.classifier.parameters())
        return [*groups, (self.classifier_name, head)] if head else groups


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"ResNet: {name} must be one of {', '.join(known)}, got {value!r}")


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"ResNet: {name} must be a positive integer, got {value!r}")
    return value


def _counts(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"ResNet: {name} must be a list of positive integers, got {values!r}")
    return tuple(_count(name, value) for value in values)


for _depth, _block, _layers in (
    (18, "basic", (2, 2, 2, 2)),
    (34, "basic", (3, 4, 6, 3)),
    (50, "bottleneck", (3, 4, 6, 3)),
    (101, "bottleneck", (3, 4, 23, 3)),
    (152, "bottleneck", (3, 8, 36, 3)),
):
    register(
        f"resnet{_depth}",
        IMAGENET,
        f"ResNet-{_depth} for ImageNet, torchvision's names and stride (v1.5)",
        block=_block,
        layers=_layers,
    )(ResNet)

# Half the width, with Caffe's stride, pooling and raw BGR pixels.
register(
    "resnet50_thin",
    IMAGENET.replace(
        mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), scale=1.0, channel_order="bgr", num_classes=2
    ),
    "ResNet-50 of half the width with Caffe's stride, pooling and BGR input",
    widths=(32, 64, 128, 256),
    stem_width=64,
    stride_in="1x1",
    pool_padding=0,
    pool_ceil_mode=True,
)(ResNet)

for _n in (3, 5, 7, 9, 18):
    register(
        f"resnet{6 * _n + 2}",
        CIFAR10,
        f"ResNet-{6 * _n + 2} for CIFAR-10 (sec. 4.2 of the paper), zero-padded shortcuts",
        block="basic",
        layers=(_n, _n, _n),
        widths=(16, 32, 64),
        stem="cifar",
        shortcut="pad",
        classifier_name="linear",
    )(ResNet)
