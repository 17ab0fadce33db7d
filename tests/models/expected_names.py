"""Names and shapes of ResNets, written down from the paper's tables and torchvision's naming, not from models/."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def norm(prefix: str, channels: int) -> Shapes:
    per_channel = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{part}": (channels,) for part in per_channel} | {f"{prefix}.num_batches_tracked": ()}


def basic(prefix: str, inputs: int, width: int) -> Shapes:
    return {
        f"{prefix}.conv1.weight": (width, inputs, 3, 3),
        **norm(f"{prefix}.bn1", width),
        f"{prefix}.conv2.weight": (width, width, 3, 3),
        **norm(f"{prefix}.bn2", width),
    }


def bottleneck(prefix: str, inputs: int, width: int) -> Shapes:
    return {
        f"{prefix}.conv1.weight": (width, inputs, 1, 1),
        **norm(f"{prefix}.bn1", width),
        f"{prefix}.conv2.weight": (width, width, 3, 3),
        **norm(f"{prefix}.bn2", width),
        f"{prefix}.conv3.weight": (4 * width, width, 1, 1),
        **norm(f"{prefix}.bn3", 4 * width),
    }


def imagenet_resnet(kind: str, blocks: list[int], widths: list[int], classes: int) -> Shapes:
    """torchvision.models.resnet: a projection where the resolution or the number of channels changes."""
    expansion = {"basic": 1, "bottleneck": 4}[kind]
    names: Shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    channels = 64
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        for i in range(count):
            prefix = f"layer{stage}.{i}"
            names |= (basic if kind == "basic" else bottleneck)(prefix, channels, width)
            if i == 0 and (stage > 1 or channels != expansion * width):
                names[f"{prefix}.downsample.0.weight"] = (expansion * width, channels, 1, 1)
                names |= norm(f"{prefix}.downsample.1", expansion * width)
            channels = expansion * width
    return names | {"fc.weight": (classes, channels), "fc.bias": (classes,)}


def cifar_resnet(n: int, classes: int = 10) -> Shapes:
    """The paper's sec. 4.2: 6n+2 layers, three stages of n blocks with 16, 32, 64 channels, no projections."""
    names: Shapes = {"conv1.weight": (16, 3, 3, 3), **norm("bn1", 16)}
    channels = 16
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for i in range(n):
            names |= basic(f"layer{stage}.{i}", channels, width)
            channels = width
    return names | {"linear.weight": (classes, 64), "linear.bias": (classes,)}
