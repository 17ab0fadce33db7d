"""A small convolutional critic and its loss with a gradient penalty (Gulrajani et al. 2017, "Improved Training of
Wasserstein GANs"), in text that runs in minidl and in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

SHAPES = {
    "w1": (6, 3, 3, 3),
    "b1": (6,),
    "w2": (8, 6, 4, 4),
    "b2": (8,),
    "g": (8,),
    "h": (8,),
    "w3": (1, 32),
    "b3": (1,),
}


def inputs() -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Real and generated images (N, C, H, W), the mixing factor of each pair, and the critic's parameters."""
    rng = np.random.default_rng(11)
    images = [rng.standard_normal((4, 3, 8, 8)), rng.standard_normal((4, 3, 8, 8)) * 0.7 + 0.2]
    parameters = {k: rng.standard_normal(s) * 0.3 for k, s in SHAPES.items()}
    return [*images, rng.random((4, 1, 1, 1))], parameters


def critic(F: Any, p: dict[str, Any], x: Any) -> Any:
    """A score for each image (N,)."""
    h = F.leaky_relu(F.conv2d(x, p["w1"], p["b1"], padding=1), 0.2)
    h = F.conv2d(h, p["w2"], p["b2"], stride=2, padding=1)
    h = F.silu(F.group_norm(h, 2, p["g"], p["h"]))
    h = F.avg_pool2d(h, 2)
    return F.linear(h.flatten(1), p["w3"], p["b3"]).flatten()


def losses(m: Any, F: Any, p: dict[str, Any], real: Any, fake: Any, mix: Any) -> tuple[Any, Any]:
    """The critic's loss, and how far its gradient's norm is from 1 between real and generated images."""
    loss = critic(F, p, fake).mean() - critic(F, p, real).mean()
    between = (real * mix + fake * (1 - mix)).requires_grad_()
    scores = critic(F, p, between)
    (g,) = m.grad(scores, between, m.ones_like(scores), create_graph=True)
    norms = ((g * g).sum((1, 2, 3)) + 1e-12).sqrt()
    return loss, ((norms - 1) ** 2).mean()
