"""The autoencoders that are compared with PyTorch's, and their weights and images, which are made from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.models.parity_cases import rng_of

CASES: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
    "dense": ("dense_autoencoder", (1, 5, 6), {"widths": [7], "latent": 3, "loss": "mse"}),
    "conv": ("conv_autoencoder", (3, 7, 10), {"channels": [4, 6, 5]}),
    "conv_mse": ("conv_autoencoder", (1, 9, 8), {"channels": [4, 6], "loss": "mse"}),
    "conv_latent": ("conv_autoencoder", (2, 6, 6), {"channels": [4, 6], "latent": 5}),
    "variational": (
        "variational_autoencoder",
        (1, 9, 6),
        {"channels": [4, 6], "hidden": 8, "latent": 3, "beta": 2.5},
    ),
}
"""Name: (architecture, input size, options)."""
BATCH = 4
CURVE_STEPS, CURVE_LR = 40, 0.01
"""Adam steps of the case "conv" on its images in float32, and their learning rate."""


def state(case: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights of a case in float64, of a size that keeps the sigmoid out of saturation."""
    return {
        name: rng_of(case, name).standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        for name, shape in shapes.items()
    }


def images(case: str) -> np.ndarray:
    """Images (4, C, H, W) in 0..1, float64."""
    return rng_of(case, "images").random((BATCH, *CASES[case][1]))


def noise(case: str) -> np.ndarray:
    """The normal numbers (4, latent) that a variational autoencoder draws its codes with."""
    return rng_of(case, "noise").standard_normal((BATCH, CASES[case][2]["latent"]))
