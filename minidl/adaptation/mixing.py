"""Domain mixup: target images shine through the labelled ones, which keep their labels.

Zhang et al.: mixup, 2018; Xu et al.: Adversarial domain adaptation with domain mixup, 2020, mix across domains.
Here the labelled image x keeps its label; the target image u, any of the batch, is clutter that looks like the
target:

    x' = s (1 - r) x + r u,     r uniform in 0 .. share,     s = 1, or with `signs` 1 and -1 alike often

in normalised pixels. s = -1 shows the negative of x (RandAugment calls it Invert): what is bright and what is dark
says nothing then, and the network has to go by shapes.
"""

from __future__ import annotations

import numpy as np

from minidl.tensor import Tensor

__all__ = ["mix_domains"]


def mix_domains(
    source: Tensor, target: Tensor, rng: np.random.Generator, share: float = 0.5, signs: bool = False
) -> Tensor:
    """Source images (n, C, H, W) mixed as above with images drawn from target (m, C, H, W); draws from `rng`.

    Raises ValueError for shapes that do not fit or a share outside of 0 .. 1.
    """
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(f"mix_domains: images differ in shape: source {source.shape}, target {target.shape}")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"mix_domains: share must lie between 0 and 1, got {share}")
    n = source.shape[0]
    r = rng.uniform(0.0, share, (n, 1, 1, 1)).astype(source.dtype)
    other = rng.integers(0, target.shape[0], n)
    s = np.where(rng.random((n, 1, 1, 1)) < 0.5, -1.0, 1.0) if signs else np.ones((n, 1, 1, 1))
    # channels last in memory, as all images are
    x, u = (images.transpose(0, 2, 3, 1) for images in (source.data, target.data[other]))
    mixed = (s.astype(source.dtype) * (1 - r)) * x + r * u
    return Tensor(mixed.transpose(0, 3, 1, 2))
