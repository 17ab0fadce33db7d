"""Deep CORAL: the second moments of the features become the same in both domains.

Sun and Saenko: Deep CORAL: correlation alignment for deep domain adaptation, 2016. With the covariances C_S and
C_T of F features over a batch of each domain (eq. 1 to 3),

    loss = |C_S - C_T|^2 / (4 F^2),     C = (X^T X - (1^T X)^T (1^T X) / n) / (n - 1)

where |.|^2 is the sum of squares. The gradient reaches both domains through the features.
"""

from __future__ import annotations

from minidl.adaptation.alignment import Alignment, Both, check_features
from minidl.tensor import Tensor

__all__ = ["DeepCoral", "coral_loss", "covariance"]


def covariance(x: Tensor) -> Tensor:
    """The covariance (F, F) of the columns of x (n, F), with n - 1 in the denominator; n must be at least 2."""
    centred = x - x.mean(0, keepdim=True)  # the formula above, without its cancellation
    return centred.transpose(0, 1) @ centred / (x.shape[0] - 1)


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """The loss above, a scalar, of features (n, F) and (m, F)."""
    check_features("coral_loss", source, target)
    difference = covariance(source) - covariance(target)
    return (difference * difference).sum() / (4.0 * source.shape[1] ** 2)


class DeepCoral(Alignment):
    """`weight` times the CORAL loss of the features that enter the classifier."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, both: Both, progress: float) -> Tensor:
        return coral_loss(both.source_features, both.target_features) * self.weight

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
