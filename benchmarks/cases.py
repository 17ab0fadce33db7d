"""The networks that are compared, and the data they all get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

AUTOENCODER = "conv_autoencoder"
AUTOENCODER_OPTIONS: dict[str, Any] = {"channels": [32, 64, 128], "loss": "mse"}


@dataclass(frozen=True)
class Network:
    """A network, its input and the part of it that is timed."""

    model: str
    batch: int
    size: int
    training: bool

    @property
    def name(self) -> str:
        """A row title."""
        what = "training step" if self.training else "inference"
        return f"{self.model}, batch {self.batch} at {self.size}x{self.size}, {what}"


class Contestant(NamedTuple):
    """One call of the timed work, which returns logits or the loss; and the gradients that it left."""

    run: Callable[[], Any]
    gradients: Callable[[], dict[str, np.ndarray]] | None = None


NETWORKS = [
    Network("resnet18", 16, 224, True),
    Network("resnet50", 16, 224, True),
    Network("resnet20", 128, 32, True),
    Network(AUTOENCODER, 128, 32, True),
    Network("resnet18", 16, 224, False),
    Network("resnet50", 16, 224, False),
    Network("resnet18", 1, 224, False),
    Network("resnet50", 1, 224, False),
    Network("resnet20", 128, 32, False),
]
QUICK = [
    Network("resnet18", 8, 128, True),
    Network("resnet20", 128, 32, True),
    Network(AUTOENCODER, 128, 32, True),
    Network("resnet18", 8, 128, False),
    Network("resnet18", 1, 224, False),
]


def data_of(case: Network) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, S, S), channels-last in memory, and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((case.batch, case.size, case.size, 3), np.float32).transpose(0, 3, 1, 2)
    return images, rng.integers(0, 10, case.batch)
