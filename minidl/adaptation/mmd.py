"""Maximum mean discrepancy: the distributions of the features become the same, seen through a kernel.

Long, Cao, Wang and Jordan: Learning transferable features with deep adaptation networks, 2015; Gretton et al.: A
kernel two-sample test, 2012 (eq. 5, the biased estimate, which is a squared distance and never negative):

    MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t)

over all pairs of source features s and target features t, with k the mean of Gaussians

    k(x, y) = 1/K sum_j exp(-|x - y|^2 / (b g_j)),     g = 1/4, 1/2, 1, 2, 4

and b the mean squared distance of the pairs of the joint batch: a constant, no gradient flows through it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import minidl
from minidl.adaptation.alignment import Alignment, Both, check_features
from minidl.kernels import devices
from minidl.tensor import Tensor

__all__ = ["SCALES", "MaximumMeanDiscrepancy", "mmd_loss", "squared_distances"]

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The bandwidths of the Gaussians, in units of the mean squared distance."""


def squared_distances(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 for all rows of x (n, F), as (n, n); rounding never makes one negative."""
    squares = (x * x).sum(1, keepdim=True)
    return (squares + squares.transpose(0, 1) - 2.0 * (x @ x.transpose(0, 1))).clamp(min=0.0)


def mmd_loss(
    source: Tensor, target: Tensor, scales: Sequence[float] = SCALES, bandwidth: float | None = None
) -> Tensor:
    """MMD^2 as above, a scalar, of features (n, F) and (m, F). `bandwidth` is b; None computes it."""
    check_features("mmd_loss", source, target)
    n, m = source.shape[0], target.shape[0]
    distances = squared_distances(minidl.cat([source, target]))
    if bandwidth is None:
        pairs = (n + m) * (n + m - 1)
        total = float(devices.host(distances.data).sum(dtype=np.float64))
        bandwidth = total / pairs or 1.0  # 1 where all rows are equal
    # MMD^2 = w^T K w with w = 1/n for the source rows and -1/m for the target rows
    rows = np.concatenate([np.full(n, 1.0 / n), np.full(m, -1.0 / m)]).astype(source.dtype)
    signs = minidl.Tensor(np.outer(rows, rows) / len(scales)).to(source.device)
    terms = [(minidl.exp(distances * (-1.0 / (bandwidth * scale))) * signs).sum() for scale in scales]
    return minidl.stack(terms).sum()


class MaximumMeanDiscrepancy(Alignment):
    """`weight` times MMD^2 of the features that enter the classifier."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, both: Both, progress: float) -> Tensor:
        return mmd_loss(both.source_features, both.target_features) * self.weight

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
