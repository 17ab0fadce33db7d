"""Domain-adversarial training: features from which a second network cannot tell the domain.

Ganin et al.: Domain-adversarial training of neural networks, 2016. A domain classifier d learns to tell source
(0) from target (1) from the features f; between the two stands the gradient reversal R, which is the identity
forward and multiplies the gradient by -strength backward (eq. 14 and 15):

    loss = H(y, p(x))  +  mean over both domains of BCE(domain, d(R(f)))

so one backward pass makes d better and f worse for d. The strength rises with the progress p of the training,
lest the noise of an untrained d disturbs the features (sec. 5.2.2):

    strength(p) = 2 / (1 + exp(-10 p)) - 1
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl
from minidl import nn
from minidl.adaptation.alignment import Alignment, Both, check_features
from minidl.autograd import Function
from minidl.kernels import devices
from minidl.nn import functional as F
from minidl.tensor import Tensor

__all__ = ["DomainAdversary", "GradientReversal", "reversal_strength", "reverse_gradient"]


class GradientReversal(Function):
    """The identity, whose gradient is multiplied by -strength."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def forward(self, x: Any) -> Any:
        return x.copy()  # an operator's output is an array of its own

    def backward(self, grad: Tensor) -> Tensor:
        return grad * -self.strength


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """x, behind which gradients change their sign and are multiplied by `strength`."""
    return GradientReversal(strength)(x)


def reversal_strength(progress: float, gamma: float = 10.0) -> float:
    """The schedule above: 0 at progress 0, nearly 1 at progress 1."""
    return 2.0 / (1.0 + math.exp(-gamma * progress)) - 1.0


class DomainAdversary(Alignment):
    """A domain classifier (F - hidden - hidden - 1, ReLU) behind a gradient reversal.

    `features` is F; `weight` multiplies the strength of the reversal, not what the domain classifier itself
    learns from. `accuracy` is how often it was right in the last batch: near 1/2 when the domains cannot be
    told apart.
    """

    def __init__(self, features: int, weight: float = 1.0, hidden: int = 256) -> None:
        super().__init__()
        self.weight = weight
        self.accuracy = 0.5
        self.classifier = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, both: Both, progress: float) -> Tensor:
        source, target = both.source_features, both.target_features
        check_features("DomainAdversary", source, target)
        strength = self.weight * reversal_strength(progress)
        logits = self.classifier(reverse_gradient(minidl.cat([source, target]), strength)).flatten()
        truth = np.repeat([0.0, 1.0], [source.shape[0], target.shape[0]]).astype(source.dtype)
        self.accuracy = float(((devices.host(logits.data) > 0) == (truth > 0.5)).mean())
        aim = minidl.Tensor(truth).to(logits.device)
        losses = F.binary_cross_entropy_with_logits(logits, aim, reduction="none")
        n = source.shape[0]  # each domain counts the same, whatever its share of the batch
        return (losses[:n].mean() + losses[n:].mean()) * 0.5

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
