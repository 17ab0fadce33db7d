"""Information maximisation: predictions on target images that are sure one by one and varied together.

Liang, Hu and Feng: Do we really need to access the source data? (SHOT), 2020, eq. 3; Wang et al.: TENT, 2021, is
its first term. With the predictions p(x) over C classes of a batch of target images,

    loss = mean H(p(x)) - H(mean p(x)),     H(q) = -sum_c q_c log q_c

The second term keeps the first from giving everything to one class. It assumes that the classes are about
equally frequent in the target.
"""

from __future__ import annotations

import minidl
from minidl.adaptation.alignment import Alignment, Both
from minidl.nn import functional as F
from minidl.tensor import Tensor

__all__ = ["InformationMaximisation", "information_loss"]


def information_loss(logits: Tensor) -> Tensor:
    """The loss above, a scalar between -log C and 0 in nats, of logits (m, C)."""
    if logits.ndim != 2 or not logits.shape[0]:
        raise ValueError(f"information_loss: logits must be (m, C) with m at least 1, got {logits.shape}")
    log_p = F.log_softmax(logits, 1)
    p = minidl.exp(log_p)
    entropy = -(p * log_p).sum(1).mean()
    together = p.mean(0)
    tiny = 1e-12 if logits.dtype.itemsize > 4 else 1e-7  # a class that nothing is given to costs 0, not NaN
    return entropy + (together * minidl.log(together + tiny)).sum()


class InformationMaximisation(Alignment):
    """`weight` times the loss of the target logits."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, both: Both, progress: float) -> Tensor:
        return information_loss(both.target_logits) * self.weight

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
