"""The transforms that a network's `pretrained_cfg` asks for, and the usual augmentation for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from minidl.data.color import ColorJitter, Cutout, Normalize, RandomErasing
from minidl.data.transforms import (
    CenterCrop,
    Compose,
    Fit,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    Shrink,
)

Level = Literal["none", "light", "basic", "strong"]
SMALL_INPUT = 64
"""Networks with an input of at most this many pixels a side get CIFAR's augmentation instead of ImageNet's.
"""


def _input_size(cfg: Mapping[str, Any]) -> tuple[int, int, int]:
    size = cfg.get("input_size")
    if not isinstance(size, (tuple, list)) or len(size) != 3 or size[0] not in (1, 3) or min(size[1:]) < 1:
        raise ValueError(f"pretrained_cfg: input_size must be (1 or 3, height, width), got {size!r}")
    return int(size[0]), int(size[1]), int(size[2])


def _fields(cfg: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = cfg if isinstance(cfg, Mapping) else cfg.to_dict()
    return fields


def _normalize(cfg: Mapping[str, Any], channels: int) -> Normalize:
    for name in ("mean", "std"):
        if name not in cfg:
            raise ValueError(f"pretrained_cfg: {name} is missing")
    return Normalize(
        mean=cfg["mean"],
        std=cfg["std"],
        scale=float(cfg.get("scale", 1.0 / 255.0)),
        channel_order=cfg.get("channel_order", "rgb"),
        channels=channels,
    )


def eval_transform(cfg: Any) -> Compose:
    """The preprocessing for evaluation: resize the short side to `resize`, cut `input_size` from the
    middle, normalise.

    `cfg` is a model's `pretrained_cfg` or a mapping that holds `mean`, `std`, `input_size` (C, H, W) and
    optionally `scale` (1/255), `channel_order` ("rgb"), `resize` (the input's long side) and
    `interpolation` ("bilinear"). Inputs of at most 64 pixels whose `resize` does not exceed the input use
    `Fit`, which pads 28 x 28 images for a 32 x 32 network. Grayscale images are repeated for a network of 3
    channels. Raises ValueError naming the field that is missing or wrong.
    """
    cfg = _fields(cfg)
    channels, height, width = _input_size(cfg)
    interpolation = cfg.get("interpolation") or "bilinear"
    size = cfg.get("resize") or max(height, width)
    steps: list[Callable[..., Any]]
    if max(height, width) <= SMALL_INPUT and size <= min(height, width):
        steps = [Fit((height, width), interpolation)]
    else:
        steps = [Resize(int(size), interpolation), CenterCrop((height, width))]
    return Compose([*steps, _normalize(cfg, channels)])


def train_transform(cfg: Any, level: Level = "basic") -> Compose:
    """The preprocessing for training; `cfg` as for `eval_transform`, `level` is how strongly images are
    varied.

    | level | inputs of at most 64 pixels | larger inputs |
    | --- | --- | --- |
    | none | as for evaluation | as for evaluation |
    | light | flip | RandomResizedCrop of 50..100 % of the area, flip |
    | basic | RandomCrop with 1/8 padding, flip | RandomResizedCrop of 8..100 % of the area, flip |
    | strong | basic, colour jitter, Cutout of half the side | basic, colour jitter, RandomErasing |

    Larger inputs first shrink photos to a short side of at most twice the input, so that huge photos cost
    their decoding only, and so that a cache of decoded images stays small.
    """
    if level not in get_args(Level):
        raise ValueError(f"train_transform: level must be one of {', '.join(get_args(Level))}, got {level!r}")
    if level == "none":
        return eval_transform(cfg)
    cfg = _fields(cfg)
    channels, height, width = _input_size(cfg)
    interpolation = cfg.get("interpolation") or "bilinear"
    steps: list[Callable[..., Any]]
    if max(height, width) <= SMALL_INPUT:
        steps = [Fit((height, width), interpolation)]
        if level != "light":
            steps.append(RandomCrop((height, width), padding=max(1, max(height, width) // 8)))
        steps.append(RandomHorizontalFlip())
        if level == "strong":
            steps += [ColorJitter(0.2, 0.2, 0.2, 0.02), Cutout(max(1, min(height, width) // 2))]
    else:
        scale = (0.5, 1.0) if level == "light" else (0.08, 1.0)
        steps = [
            Shrink(2 * max(height, width), interpolation),
            RandomResizedCrop((height, width), scale=scale, interpolation=interpolation),
            RandomHorizontalFlip(),
        ]
        if level == "strong":
            steps += [ColorJitter(0.4, 0.4, 0.4, 0.1), RandomErasing(0.25)]
    return Compose([*steps, _normalize(cfg, channels)])
