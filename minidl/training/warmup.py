"""Compile the kernels before they are needed: one small step of every kind of work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import minidl
from minidl import models, nn, optim
from minidl.nn import functional as F
from minidl.replays import Replays
from minidl.training.reporting import Reporter

IMAGES = 2


def _images(size: int, channels: int = 3) -> minidl.Tensor:
    shape = (IMAGES, size, size, channels)
    pixels = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return minidl.Tensor(pixels.transpose(0, 3, 1, 2))


def _network(block: str, stem: str, size: int) -> tuple[nn.Module, minidl.Tensor]:
    """A ResNet with one block of each width, and images of the size its kernels are chosen for."""
    widths = (16, 32, 64) if stem == "cifar" else (64, 128, 256, 512)
    return models.ResNet(block, (1,) * len(widths), widths, 2, stem=stem), _images(size)


def _train(model: nn.Module, images: minidl.Tensor) -> None:
    F.cross_entropy(model(images), np.arange(IMAGES) % 2, label_smoothing=0.1).backward()


def _infer(model: nn.Module, images: minidl.Tensor) -> None:
    model.eval()
    with minidl.no_grad():
        model(images)
        replays = Replays(minidl.fuse(model), warmup=1, quiet=True)
        for _ in range(2):
            replays((images,), {}, [images])


def _optimize(kind: Callable[..., Any], **options: Any) -> None:
    parameter = nn.Parameter(np.ones((64, 64), np.float32))
    optimizer = kind([parameter], lr=1e-3, **options)
    (parameter * parameter).sum().backward()
    optimizer.step()


def _other_layers() -> None:
    """What networks other than ResNets are made of."""
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(16, 16, 2, stride=2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 2),
    )
    _train(model, _images(16, 16))
    _infer(model, _images(16, 16))


def steps() -> Sequence[tuple[str, Callable[[], None]]]:
    """The pieces of work, each with what it is for."""
    pieces: list[tuple[str, Callable[[], None]]] = []
    for title, block, stem, size in (
        ("ResNets of basic blocks", "basic", "imagenet", 224),
        ("ResNets of bottlenecks", "bottleneck", "imagenet", 224),
        ("ResNets for small images", "basic", "cifar", 32),
    ):
        model, images = _network(block, stem, size)
        pieces.append((f"{title}: training", lambda m=model, x=images: _train(m, x)))  # type: ignore[misc]
        pieces.append((f"{title}: inference", lambda m=model, x=images: _infer(m, x)))  # type: ignore[misc]
    pieces.append(("other layers", _other_layers))
    pieces.append(("SGD", lambda: _optimize(optim.SGD, momentum=0.9)))
    pieces.append(("Adam", lambda: _optimize(optim.Adam)))
    pieces.append(("AdamW", lambda: _optimize(optim.AdamW)))
    pieces.append(("RMSprop", lambda: _optimize(optim.RMSprop)))
    return pieces


def warm_up(reporter: Reporter | None = None) -> None:
    """Run one small step of every kind, so that every kernel it takes is compiled and kept on disk."""
    from minidl.kernels.cpu.runtime import all_parallel

    reporter = reporter or Reporter()
    pieces = steps()
    reporter.begin("compiling", len(pieces))
    try:
        with all_parallel():
            for done, (title, run) in enumerate(pieces, 1):
                started = time.perf_counter()
                run()
                reporter.log(f"{title}: {time.perf_counter() - started:.1f} s")
                reporter.advance(done)
    finally:
        reporter.end()
